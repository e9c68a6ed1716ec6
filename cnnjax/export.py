"""A trained network as a program that needs JAX alone: StableHLO with its weights and all else.

    exported = export.export(trained.load('runs/quickstart'))
    export.save(exported, 'exports/digits')  # digits.jax_export and digits.json, its description
    network = export.load('exports/digits.jax_export')
    network(images)['probabilities'], network.classes

The program is that of `jax.export` (https://docs.jax.dev/en/latest/export/export.html). It takes
batches of any size, and images of other heights and widths where the network does.
"""

import hashlib
import importlib.metadata
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from cnnjax import atomic, convolution, models, predict, tasks
from cnnjax.errors import UserError
from cnnjax.network import Network

SUFFIX = '.jax_export'
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')  # JAX's names of what a program can be compiled for
DEFAULT = ('cpu', 'cuda', 'tpu')
TYPES = {'uint8': 'from 0 to 255', 'float32': 'from 0 to 1'}  # the numbers of an image
STRIDE = 32  # The pixels from one place to the next in the last maps of most networks.
# The largest difference between a program and its network, by the type of the activations, relative
# to the largest output. Only rounding may differ.
TOLERANCE = {'float32': 1e-4, 'bfloat16': 5e-2, 'float16': 1e-2}
MEANINGS = {
    'logits': 'the scores of the classes',
    'probabilities': 'of the classes, from 0 to 1',
    'mask': 'the index of the class with the highest score at each pixel',
    'boxes': 'left, top, right and bottom in pixels of the image, by falling score',
    'labels': 'the index of the class; -1 where there are fewer boxes',
    'scores': 'from 0 to 1',
    'stylized': 'the image in the style of the network, in [0, 1]',
}


class Exported(NamedTuple):
    """A program that can be called, and the description of it that is written beside it."""

    program: jax.export.Exported
    about: dict[str, Any]  # see `describe`
    call: Callable[..., dict[str, jax.Array]]  # the program, compiled once for each size of images

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the outputs."""
        return tuple(self.about['classes'])

    def __call__(self, *inputs: Any) -> dict[str, jax.Array]:
        """{output: array} for images [N, H, W, C], of the type and the sizes in `about['inputs']`;
        see MEANINGS. A network that judges proposals takes boxes [N, P, 4] as well.

        Raises:
          UserError: inputs of another type or size, or a platform that it is not for.
        """
        here = jax.export.default_export_platform()
        if here not in self.program.platforms:
            raise UserError(f'the program is for {", ".join(self.program.platforms)}, and JAX runs '
                            f'on {here} here: export it with platforms={here}')
        try:
            return self.call(*inputs)
        except (ValueError, TypeError) as error:
            shapes = ', '.join(f'{np.asarray(each).dtype} {list(np.shape(each))}'
                               for each in inputs)
            raise UserError(f'{shapes}: the network takes {self.takes()}') from error

    def takes(self) -> str:
        """A text of the inputs: 'images uint8 [b, 32*h, 32*w, 3] from h=4, w=4'."""
        text = ' and '.join(f'{name} {each["type"]} [{", ".join(map(str, each["shape"]))}]'
                            for name, each in self.about['inputs'].items())
        if sizes := self.about['sizes']:
            text += ' from h={}, w={}'.format(*sizes['least'])
        return text


class Sizes(NamedTuple):
    """The heights and widths that images may have: step * h + offset pixels, h from `least` on."""

    step: int
    offset: tuple[int, int]  # height and width
    least: tuple[int, int]  # height and width


def export(network: Network, *, dtype: str = 'uint8', multiple: int | None = None,
           platforms: Sequence[str] = DEFAULT) -> Exported:
    """The network as a program.

    Args:
      dtype: the type of its images: 'uint8', or 'float32' from 0 to 1.
      multiple: height and width may be any multiples of so many pixels, from about half of the
        training images' on; 0: they are those of the training images. None: multiples of the
        largest power of two up to 32 that divides these, or what the network's own rule `fits`
        allows (see models); where there are none, or the network takes no other sizes, as with 0.
      platforms: some of PLATFORMS. Where there are several ways to compute something, the program
        has the one that is fast on the machine that exports it; all run everywhere.

    Raises:
      UserError: the network does not work at a free batch size, or at that `multiple`; or there is
        no such platform.
    """
    if not platforms or set(platforms) - set(PLATFORMS):
        raise UserError(f'platforms={tuple(platforms)}: give some of {", ".join(PLATFORMS)}')
    if len(network.image_shape) == 2 and dtype == 'uint8':
        raise UserError("dtype='uint8': sequences are floats; take dtype='float32'")
    run, problem = _program(network), None
    for sizes in _sizes(network, multiple):
        try:
            program = jax.export.export(jax.jit(run), platforms=platforms)(
                *_inputs(network, dtype, sizes))
        except Exception as error:  # A user's own network may raise any error.
            problem = error
            continue
        return Exported(program, describe(network, program, sizes), jax.jit(program.call))
    where = f'with multiple={multiple}' if multiple else 'with a free batch size'
    raise UserError(f'{network.name or "the network"} cannot be exported {where}: '
                    f'{str(problem).splitlines()[0]}') from problem


def _program(network):
    """images[, proposals] -> {output: array}"""
    extra = _proposals(network)
    understand: Any = tasks.create(network.task, network.net).predict

    def run(images, *proposals):
        outputs: Any = network(images, **dict(zip(extra, proposals, strict=True)))
        logits = ({} if network.task in ('detect', 'stylize') else
                  {'logits': outputs.astype(jnp.float32)})
        return logits | understand(outputs)

    return run


def _proposals(network):
    """The names of further inputs: a network may judge boxes that are given."""
    return [name for name in getattr(network.net, 'inputs', ()) if name == 'proposals']


def _sizes(network, multiple) -> Iterator[Sizes | None]:
    """The Sizes to try, the best first; None: those of the training images."""
    sides, fits = network.image_shape[:2], models.fits(network.net)
    if len(network.image_shape) != 3:  # A sequence has one side, a volume three.
        if multiple:
            network.of_images(f'multiple={multiple}')
        yield None
        return
    step, own = multiple, 1
    if all(map(fits, sides)):  # Sizes that fit are as far apart as the next are from these.
        own = next(n for n in itertools.count(1) if all(fits(side + n) for side in sides))
    if multiple is None:
        step = own if own > 1 else math.gcd(STRIDE, *sides)
        # A mean image has one size. And with any size a trace may take forever.
        step = 0 if step == 1 or np.ndim(network.normalize.mean) > 1 else step
    if step:
        down, across = (side % step if own > 1 else 0 for side in sides)
        for share in (2, 1):  # Some networks have more to choose from in larger images.
            least = (max(math.ceil((side / share - offset) / step), 1)
                     for side, offset in zip(sides, (down, across), strict=True))
            yield Sizes(step, (down, across), (next(least), next(least)))
    if not multiple:
        yield None


def _inputs(network, dtype, sizes):
    """The shapes and types of the program's inputs."""
    shape, constraints = ', '.join(map(str, ('b', *network.image_shape))), []
    if sizes:
        step, (down, across), (high, wide) = sizes
        shape = f'b, {step}*h + {down}, {step}*w + {across}, {network.image_shape[-1]}'
        constraints = [f'h >= {high}', f'w >= {wide}']
    scope = jax.export.SymbolicScope(constraints)
    shapes = [(shape, dtype), *(('b, p, 4', 'float32') for _ in _proposals(network))]
    return [jax.ShapeDtypeStruct(jax.export.symbolic_shape(text, scope=scope), kind)
            for text, kind in shapes]


def describe(network: Network, program: jax.export.Exported, sizes: Sizes | None) -> dict[str, Any]:
    """What a user of the program needs to know, for a JSON file."""
    names = ['images', *_proposals(network)]
    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    crops = predict.crops(network)
    return {
        'network': network.name, 'task': network.task, 'classes': list(network.classes),
        'inputs': {name: _aval(aval) for name, aval in zip(names, program.in_avals, strict=True)},
        'values': (TYPES[str(program.in_avals[0].dtype)] if len(network.image_shape) == 3
                   else 'as in the training'),
        'sizes': sizes._asdict() if sizes else None,
        'outputs': {name: _aval(aval) | {'meaning': MEANINGS[name]}
                    for name, aval in outputs.items()},
        'image_shape': list(network.image_shape),
        'preprocessing': {
            'mode': {1: 'L', 3: 'RGB'}.get(network.image_shape[-1]), 'fit': crops.fit,
            'shorter_side': crops.test_shorter_side or crops.size or None,
            'crop': crops.size or None,
            'interpolation': crops.interpolation, 'border': crops.border,
            'border_mode': crops.border_mode, 'mean_color': network.normalize.color.tolist()
        } if len(network.image_shape) == 3 else None,
        'platforms': list(program.platforms),
        'calling_convention_version': program.calling_convention_version,
        'versions': {name: importlib.metadata.version(name)
                     for name in ('cnnjax', 'jax', 'jaxlib')}}


def _aval(aval):
    return {'shape': [n if isinstance(n, int) else str(n) for n in aval.shape],
            'type': str(aval.dtype)}


def save(exported: Exported, path: str | os.PathLike[str],
         check: Callable[[Exported], Any] = lambda loaded: None) -> Path:
    """Writes the program and, with the suffix .json, its description. Returns the program's path.

    Args:
      path: the file; its suffix becomes .jax_export.
      check: is called with what was written, loaded again; if it raises an error, no file is left.
    """
    path = Path(path).with_suffix(SUFFIX)
    content = bytes(exported.program.serialize())
    about = exported.about | {'sha256': hashlib.sha256(content).hexdigest()}
    with atomic.replacing(path) as unfinished:
        unfinished.write_bytes(content)
        check(_read(unfinished, about))
        atomic.write_json(path.with_suffix('.json'), about)
    return path


def load(path: str | os.PathLike[str]) -> Exported:
    """What `save` wrote. It needs none of the network's code.

    Raises:
      UserError: there is no such file, it is damaged, or the file beside it describes another.
    """
    path = Path(os.path.expanduser(path)).with_suffix(SUFFIX)
    about = atomic.read_json(path.with_suffix('.json'))
    if not path.is_file() or about is None:
        raise UserError(f'{path} and the .json file beside it: they are not both there')
    return _read(path, about)


def _read(path, about):
    content = path.read_bytes()
    digest = about.get('sha256') if isinstance(about, Mapping) else None
    if digest != hashlib.sha256(content).hexdigest():
        raise UserError(f'{path} is damaged, or the .json file beside it describes another program')
    program = jax.export.deserialize(bytearray(content))
    return Exported(program, about, jax.jit(program.call))


def check(exported: Exported, network: Network, *inputs: Any) -> float:
    """The largest difference between the outputs of a program and of its network, relative to the
    largest output of that name, or to 1 if that is smaller.

    The order of detections depends on the last digit of their scores, so a detector computes its
    convolutions as the program does. A mask depends on that of the logits, so only these count.

    Raises:
      UserError: it is more than rounding.
    """
    with convolution.direct(network.task == 'detect'):
        own = jax.device_get(jax.jit(_program(network))(*inputs))
    found = jax.device_get(exported(*inputs))
    difference = max(float(
        np.abs(np.float64(found[name]) - np.float64(values)).max(initial=0)
        / max(np.abs(values).max(initial=0), 1)) for name, values in own.items() if name != 'mask')
    tolerance = TOLERANCE[jnp.dtype(getattr(network.net, 'dtype', 'float32')).name]
    if not difference <= tolerance:  # NaN too
        raise UserError(f'the exported program differs from the network by {difference:.2g} on '
                        f'images of {list(np.shape(inputs[0]))}, more than {tolerance:g}')
    return difference
