"""The relative errors of our networks against what make.py computed: compare.py full.npz"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from cnnjax import weights
from tests.golden import make


def names():
    """{our name of a network, or 'case/' and a case's: {tensor: shape}}."""
    with np.load(make.GOLDEN) as golden:
        names = json.loads(golden['names'].tobytes())
    return {name: {key: tuple(shape) for key, shape in shapes.items()}
            for name, shapes in names.items()}


def network(name, shapes, **fields):
    """The `Weights` with the tensors of make.py."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'weights.safetensors'
        safetensors.numpy.save_file(
            {key: make.tensor(key, shape) for key, shape in shapes.items() if shape}, path)
        return weights.load(name, path, **fields)


def logits(network, mode, size):
    def apply(variables, images):
        (logits, taps), _ = network.net.apply(
            variables, images, train=mode == 'train',
            mutable=['batch_stats'] if mode == 'train' else [])
        sides = getattr(network.net, 'auxiliary', {}) if mode == 'train' else ()
        return make.sampled(jnp.concatenate([logits, *(taps[name] for name in sides)], -1))
    return jax.jit(apply)(network.variables, make.images(mode, size))


def error(ours, theirs):
    """The largest difference, over the largest logit."""
    return np.abs(np.float64(ours) - theirs).max() / np.abs(theirs).max()


def main(path):
    shapes = names()
    with np.load(path) as golden:
        keys = sorted({tuple(key.split('/')[:3]) for key in golden.files})
        print('relative errors: ours and torch to float64, ours to torch')
        networks = {}
        for name, mode, size in keys:
            if name not in networks:
                networks = {name: network(name, shapes[name], **make.undropped(name))}
            single, double = (golden[f'{name}/{mode}/{size}{end}'] for end in ('', '/double'))
            ours = logits(networks[name], mode, int(size))
            errors = error(ours, double), error(single, double), error(ours, single)
            print(f'{name:18} {mode:5} {size}', *(f'{value:.1e}' for value in errors), flush=True)


if __name__ == '__main__':
    jax.config.update('jax_platforms', 'cpu')
    main(sys.argv[1])
