"""What convolution and pooling are: slides, and the numbers on them beside those of lax.

Every part computes its numbers, compares them with lax, JAX's gradients, SciPy or a distribution,
and draws its slide. A number that differs is an error.
"""

from pathlib import Path

import jax
import numpy as np

from cnnjax import atomic, limits, workdir
from cnnjax.errors import UserError
from cnnjax.images import pictures
from experiments.convolution import (
    checks,
    dimensions,
    gradients,
    kernels,
    matrices,
    pooling,
    receptive_fields,
    sizes,
)

LIMITS = {'image': limits.Names(), 'size': limits.Whole(16, 1024), 'seed': limits.SEED,
          'kernel': limits.Number(some=True), 'matrix_size': limits.Whole(2, 16),
          'dimensions': limits.Whole(2, 10 ** 5, some=True), 'pairs': limits.Whole(100, 10 ** 5)}
PARTS = {'Sizes': sizes, 'Kernels': kernels, 'Matrices': matrices, 'Gradients': gradients,
         'Pooling': pooling, 'Receptive fields': receptive_fields,
         'Random vectors': dimensions}


def run(config, directory):
    """Writes results.json, results.md and the figures that configs/convolution.py names.

    Raises:
      UserError: a field makes no sense.
      ArithmeticError: a number differs from what it must equal.
    """
    check(config)
    directory = Path(directory)
    workdir.write_config(directory, config)
    # On an accelerator float64 may be missing, and float32 rounded.
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend='cpu')[0]):
        rows = {name: part.part(config, directory / 'figures') for name, part in PARTS.items()}
    atomic.write_json(directory / 'results.json', {
        name: checks.numbers(part) for name, part in rows.items()})
    atomic.write_text(directory / 'results.md', '\n'.join(
        f'## {name}\n\n{checks.table(part)}' for name, part in rows.items()))
    for name, part in rows.items():
        print(f'{name}: {len(part)} numbers agree; the largest difference is '
              f'{max(row.difference for row in part):.2g}')
    print(f'figures: {directory / "figures"}')


def check(config):
    """Raises UserError if a field makes no sense."""
    limits.check(config, LIMITS)
    side = round(len(config.kernel) ** 0.5)
    if side ** 2 != len(config.kernel) or side % 2 == 0:
        raise UserError(f'kernel={config.kernel} has {len(config.kernel)} numbers: give those of a '
                        'square with a middle, such as 9 or 25')
    if not np.any(config.kernel):
        raise UserError(f'kernel={config.kernel} is zero: give another number')
    if side > config.matrix_size:
        raise UserError(f'kernel={config.kernel} has a side of {side}: take a matrix_size of at '
                        f'least {side}, not {config.matrix_size}')
    pictures.read(config.image)
