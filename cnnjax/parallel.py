"""One per-device step, mapped over devices.

A step is a pure function `step(state, data, batch, key, axis) -> (state, metrics)`: `state`,
`data` and `key` are the same on every device, the arrays of `batch` are split along their first
axis, and the result must be the same everywhere, which the step ensures by reducing over `axis`.
Of several processes each has its devices' share of the batch, in the order of the processes. Three
ways to run it:

- 'shard_map' and 'pmap' run it on every device, `axis` being 'data': batch statistics are those of
  each device's share, as in the papers. Both give the same bits.
- 'jit' runs it once on the global batch, `axis` being None, and leaves the partition to the
  compiler: batch statistics are those of the whole batch, and nothing depends on the device
  count.
"""

import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cnnjax.errors import UserError

AXIS = 'data'
KINDS = ('shard_map', 'pmap', 'jit')
MESSAGE = 30 * 2 ** 20  # bytes of an all-reduce on GPUs, about; see `mean`


def cache_programs() -> None:
    """Keeps compiled programs, so that a second start need not compile them again.

    They are in the user's cache, at most 10 GiB; $JAX_COMPILATION_CACHE_DIR names another place. A
    user without a home directory, as in some containers, gets no cache.
    """
    config: Any = jax.config  # Its attributes are made as jax is imported.
    cache = Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'))
    if config.jax_compilation_cache_dir is None and cache.is_absolute():
        directory = cache / 'cnnjax' / 'programs'
        jax.config.update('jax_compilation_cache_dir', str(directory))
        jax.config.update('jax_compilation_cache_max_size', 10 * 2 ** 30)
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def data_mesh(devices: int = 0) -> Mesh:
    """A mesh over the first `devices` devices (0: all), for data parallelism. With several
    processes it always has all devices."""
    available = jax.devices()
    if jax.process_count() > 1 and devices not in (0, len(available)):
        raise UserError(f'devices={devices}, but {jax.process_count()} processes train on all of '
                        f'their {len(available)} devices: take 0')
    if not 0 <= devices <= len(available):
        raise UserError(f'devices={devices}, but there are {len(available)}: '
                        f'{", ".join(map(str, available[:4]))}; 0 takes them all')
    return Mesh(np.array(available[:devices or None]), (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies every array of `tree` to all devices; all processes must hold equal arrays."""
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))(tree)


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError unless every device gets the same share of every micro-batch."""
    parts = mesh.size * accumulate
    if batch_size < 1 or batch_size % parts:
        raise UserError(
            f'batch_size={batch_size} does not divide evenly over {mesh.size} device(s)'
            + (f' x accumulate={accumulate}' if accumulate > 1 else '')
            + f'; take a multiple of {parts}, such as {max(round(batch_size / parts), 1) * parts}')


def mean(tree: Any, axis: str) -> Any:
    """The mean of each array of `tree` over the devices of a mapped axis.

    On GPUs the arrays are joined to messages of about MESSAGE bytes, and the compiler updates all
    parameters of a shape in one operation, which reads them from the message. Its own messages it
    takes apart array by array before it updates the parameters one by one (docs/scaling.md).
    """
    if jax.default_backend() != 'gpu':
        return lax.pmean(tree, axis)
    leaves, structure = jax.tree.flatten(tree)
    ends, means = itertools.accumulate(leaf.nbytes for leaf in leaves), []
    for _, message in itertools.groupby(zip(leaves, ends, strict=True),
                                        lambda pair: pair[1] // MESSAGE):
        joined, split = ravel_pytree([_moved(leaf, -1, 0) for leaf, _ in message])
        means += [_moved(leaf, 0, -1) for leaf in split(lax.pmean(joined, axis))]
    return jax.tree.unflatten(structure, means)


def _moved(array, source, destination):
    """A convolution's kernel with an axis moved: cuDNN has the output channels first, and kernels
    in another order would be transposed. Other arrays stay as they are."""
    return jnp.moveaxis(array, source, destination) if array.ndim > 2 else array


def parallelize(step: Callable[..., Any], mesh: Mesh, kind: str = 'shard_map',
                donate: bool = True) -> Callable[..., Any]:
    """Compiles `step` for all devices of `mesh`: (state, data, batch, key) -> (state, metrics).

    `batch` is a dict of host arrays, this process's share. With `donate` the memory of `state` is
    reused for the result.
    """
    donated = (0,) if donate else ()
    shared, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    if kind == 'shard_map':
        # With check_vma, gradients of replicated parameters are summed over the N devices before
        # the step's own pmean, and are N times too large, without any error.
        mapped = jax.jit(jax.shard_map(functools.partial(step, axis=AXIS), mesh=mesh,
                                       in_specs=(P(), P(), P(AXIS), P()), out_specs=P(),
                                       check_vma=False), donate_argnums=donated)
    elif kind == 'pmap':
        mapped = jax.pmap(functools.partial(step, axis=AXIS), AXIS, in_axes=(None, None, 0, None),
                          out_axes=None, devices=list(mesh.devices.flat), donate_argnums=donated)
    elif kind == 'jit':
        mapped = jax.jit(functools.partial(step, axis=None), donate_argnums=donated,
                         in_shardings=(shared, shared, split, shared), out_shardings=shared)
    else:
        raise UserError(f"parallel is 'shard_map', 'pmap' or 'jit', not '{kind}'")

    def run(state, data, batch, key):
        if kind != 'pmap':
            batch = {name: jax.make_array_from_process_local_data(split, value)
                     for name, value in batch.items()}
            return mapped(state, data, batch, key)
        # pmap takes a leading axis of devices, and only those of this process.
        batch = {name: np.reshape(value, (mesh.local_mesh.size, -1, *np.shape(value)[1:]))
                 for name, value in batch.items()}
        state, data, key = multihost_utils.global_array_to_host_local_array(
            (state, data, key), mesh, P())
        results = mapped(state, data, batch, key)
        return multihost_utils.host_local_array_to_global_array(results, mesh, P())

    compiled: Any = run
    compiled.lower = mapped.lower  # jit's method, by which collectives.py gets the program
    return compiled
