"""FractalNet (Larsson et al. 2016), figures 1 and 2, section 3: https://arxiv.org/abs/1605.07648

f_1(z) = unit(z), f_{C+1}(z) = f_C(f_C(z)) joined with unit(z): a block of C columns, in which
column c (1 the shallowest) is a chain of 2^(c-1) units. Where the paper is silent, as the authors'
released code has it (https://github.com/gustavla/fractalnet): neighbouring joins are one join, the
mean of all columns that end there with equal weight; a block's columns are pooled before its last
join; batch normalization has no scale and bias; and a column run on its own shares the
convolutions with the fractal but has batch statistics of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class Unit(nn.Module):
    """Convolution, dropout, batch normalization, ReLU; one set of batch statistics for the unit
    inside the fractal (`bn`) and one for its column on its own (`bn_column`)."""

    width: int
    dropout: float
    relu: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, alone: bool) -> jax.Array:
        x = layers.conv(self.width, 3, kernel_init=layers.caffe_xavier, dtype=self.dtype,
                        name='conv')(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name='drop')(x)
        norms = {name: layers.BatchNorm(use_running_average=not train, use_scale=False,
                                        use_bias=False, dtype=self.dtype, name=name)
                 for name in ('bn', 'bn_column')}
        if self.is_initializing():  # both statistics are made, whichever this call uses
            norms['bn'](x), norms['bn_column'](x)
        return layers.activated(x, norms['bn_column' if alone else 'bn'], self.relu)


class FractalNet(nn.Module):
    """Fractal blocks, each ended by a 2x2 max-pool, and one full layer. With a `stem`, for large
    images, ResNet's first layers come before, and its global average in place of the last pool.

    Training draws one subnetwork per mini-batch from the rng 'drop_path' (section 3.1): with
    probability `global_drop_path` a single column through the whole network, the only one then
    computed; otherwise the fractal, every input of every join dropped with probability
    `local_drop_path`, but never all. Evaluation takes the whole fractal, or `column` alone.
    In training, `taps` holds the pooled features and the logits only.
    """

    columns: int  # C, how many a block has
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)  # one per block
    dropout: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)  # one rate per block
    local_drop_path: float = 0.15
    global_drop_path: float = 0.5
    stem: int = 0  # the size of ResNet's first kernel, such as 7; 0: there is no such stem
    num_classes: int = 10
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3) if self.stem else (32, 32, 3)

    @property
    def subnetworks(self) -> dict[str, dict[str, int]]:
        """The columns, which an evaluation reports beside the fractal: {name: arguments of
        __call__}."""
        return {f'column{c}': {'column': c} for c in range(1, self.columns + 1)}

    def setup(self) -> None:
        if len(self.dropout) != len(self.widths):
            raise UserError(f'FractalNet: dropout has {len(self.dropout)} rates for '
                            f'{len(self.widths)} blocks (widths)')
        if self.stem and self.widths[0] < 2:
            raise UserError(f'FractalNet: widths={self.widths}: the stem has half as many maps as '
                            'the first block, which needs 2 or more')
        for b, (width, rate) in enumerate(zip(self.widths, self.dropout, strict=True), 1):
            for c in range(1, self.columns + 1):
                for i in range(1, 2 ** (c - 1) + 1):
                    setattr(self, f'block{b}_column{c}_unit{i}',
                            Unit(width, rate, self.relu, self.dtype))
        if self.stem:
            self.conv1 = layers.conv(self.widths[0] // 2, self.stem, 2, use_bias=False,
                                     kernel_init=layers.he_normal, dtype=self.dtype)
            self.bn1 = layers.BatchNorm(dtype=self.dtype)
        self.fc = nn.Dense(self.num_classes, kernel_init=layers.caffe_xavier, dtype=self.dtype)

    def __call__(self, images: jax.Array, train: bool = False,
                 column: int | None = None) -> tuple[jax.Array, layers.Taps]:
        # A stem halves twice, and the last block then does not.
        halvings = len(self.widths) + bool(self.stem)
        layers.check_size(images, 2 ** halvings, 'FractalNet', f'it halves them {halvings} times; '
                          'give fewer widths or larger images')
        if column is not None and not 1 <= column <= self.columns:
            raise UserError(f'FractalNet: there is no column {column}; the columns are 1 to '
                            f'{self.columns}')
        taps, x = {}, images.astype(self.dtype)
        if self.stem:
            x = taps['conv1'] = self.conv1(x)
            x = taps['relu1'] = self.relu(self.bn1(x, use_running_average=not train))
            x = taps['pool'] = self.pool(x, 3, 2, 1)
        if column is not None:
            x = self.column(x, column, train, taps)
        elif train and not self.is_initializing():
            x = self.drop_path(x)
        else:
            x = self.fractal(x, train, taps)
        x = taps['flatten'] = layers.flatten(x)
        logits = taps['fc'] = self.fc(x)
        return logits, taps

    def drop_path(self, x: jax.Array) -> jax.Array:
        """The output of the subnetwork that is drawn for this mini-batch: branch 0 is the fractal,
        the others are its columns."""
        one_column, which = jax.random.split(self.make_rng('drop_path'))
        branch = jnp.where(jax.random.bernoulli(one_column, self.global_drop_path),
                           jax.random.randint(which, (), 1, self.columns + 1), 0)
        branches = [lambda net, x: net.fractal(x, True, {})]
        branches += [lambda net, x, c=c: net.column(x, c, True, {})
                     for c in range(1, self.columns + 1)]
        return nn.switch(branch, branches, self, x)

    def column(self, x: jax.Array, c: int, train: bool, taps: layers.Taps) -> jax.Array:
        """The output of column c of every block, on its own."""
        for b in range(1, len(self.widths) + 1):
            for i in range(1, 2 ** (c - 1) + 1):
                name = f'block{b}_column{c}_unit{i}'
                x = taps[name] = getattr(self, name)(x, train, alone=True)
            x = taps[f'pool{b}'] = self.end(x, b)
        return x

    def end(self, x: jax.Array, b: int) -> jax.Array:
        """The pooled output of block b."""
        if self.stem and b == len(self.widths):
            return layers.global_average_pool(x)
        return self.pool(x, 2, 2)

    def fractal(self, x: jax.Array, train: bool, taps: layers.Taps) -> jax.Array:
        """The output of the whole fractal: columns are joined wherever several end."""
        depth = 2 ** (self.columns - 1)
        for b in range(1, len(self.widths) + 1):
            values = dict.fromkeys(range(1, self.columns + 1), x)
            for t in range(1, depth + 1):
                # Column c's units end at the multiples of depth / 2^(c-1).
                ending = [c for c in values if t * 2 ** (c - 1) % depth == 0]
                for c in ending:
                    name = f'block{b}_column{c}_unit{t * 2 ** (c - 1) // depth}'
                    values[c] = taps[name] = getattr(self, name)(values[c], train, alone=False)
                    if t == depth:
                        values[c] = self.end(values[c], b)
                joined = self.join([values[c] for c in ending], train)
                values |= dict.fromkeys(ending, joined)
                if t == depth:
                    x = taps[f'pool{b}'] = joined
                elif len(ending) > 1:
                    taps[f'block{b}_join{t}'] = joined
        return x

    def join(self, inputs: Sequence[jax.Array], train: bool) -> Any:
        """The mean of the inputs; in training, of those that local drop-path leaves."""
        if len(inputs) == 1:
            return inputs[0]
        if not train:
            return sum(inputs) / len(inputs)
        keep = local_drop_path(self.make_rng('drop_path'), len(inputs), self.local_drop_path)
        keep = keep.astype(self.dtype)
        return sum(weight * x for weight, x in zip(keep / keep.sum(), inputs, strict=True))


def local_drop_path(key: jax.Array, n: int, rate: float) -> jax.Array:
    """Which of a join's n inputs stay, bool [n]: each is dropped with probability `rate`;
    if all would be, one of them, drawn evenly, stays."""
    drop, survivor = jax.random.split(key)
    keep = jax.random.bernoulli(drop, 1 - rate, (n,))
    one = jnp.arange(n) == jax.random.randint(survivor, (), 0, n)
    return jnp.where(keep.any(), keep, one)


SLIM = (16, 32, 64, 128, 128)
RISING = (0.0, 0.1, 0.2, 0.3, 0.4)

#                       columns  width of each block     dropout  stem  classes
COLUMNS = ('columns', 'widths', 'dropout', 'stem', 'num_classes')
TABLE = {
    'fractalnet20':       (3, (64, 128, 256, 512, 512), RISING,   0, 10),
    'fractalnet40':       (4, (64, 128, 256, 512, 512), RISING,   0, 10),
    'fractalnet34':       (4, (128, 256, 512, 1024),    (0.0,) * 4, 7, 1000),  # section 4.2
    # The table of ultra-deep networks; its widths are inferred from the numbers of parameters.
    'fractalnet_slim5':   (1, SLIM,                     RISING,   0, 10),
    'fractalnet_slim10':  (2, SLIM,                     RISING,   0, 10),
    'fractalnet_slim20':  (3, SLIM,                     RISING,   0, 10),
    'fractalnet_slim40':  (4, SLIM,                     RISING,   0, 10),
    'fractalnet_slim80':  (5, SLIM,                     RISING,   0, 10),
    'fractalnet_slim160': (6, SLIM,                     RISING,   0, 10),
}
MODULE = FractalNet
