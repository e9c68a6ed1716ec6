"""The time of each convolution in a training step, beside PyTorch's."""

import dataclasses
import functools
import math
import os
import statistics
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cnnjax import atomic, convolution, data, limits, models, plots, tables, train, workdir
from configs import base

CLOCKS = {'wall': time.perf_counter, 'processor': time.process_time}
PARTS = {'forward': 'forward', 'dx': 'input gradient', 'dw': 'kernel gradient'}
LIMITS = {'image_size': limits.Whole(1), 'batch_size': limits.Whole(1), 'rounds': limits.Whole(1),
          'step_rounds': limits.Whole(), 'clock': tuple(CLOCKS), 'dtype': ('float32', 'bfloat16')}


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A layer's convolution: its input [N, H, W, C] and its arguments, two numbers each."""

    input: tuple
    features: int
    size: tuple
    strides: tuple
    padding: tuple
    dilation: tuple
    groups: int
    first: bool  # whether it reads the images, which need no gradient

    @property
    def kernel(self):
        return (*self.size, self.input[-1] // self.groups, self.features)

    def apply(self, x, kernel):
        return convolution.conv_general_dilated(
            x, kernel, self.strides, [(p, p) for p in self.padding], None, self.dilation,
            convolution.LAYOUT, self.groups)

    def output(self):
        return jax.eval_shape(self.apply, *(jax.ShapeDtypeStruct(shape, jnp.float32)
                                      for shape in (self.input, self.kernel))).shape

    def flops(self):
        """The floating-point operations of each of PARTS, those on the padding included."""
        return 2 * math.prod(self.output()) * math.prod(self.kernel[:3])

    def title(self):
        _, height, width, channels = self.input
        text = f'{height}x{width}x{channels}, {"x".join(map(str, self.size))}'
        text += f'/{self.strides[0]}' if self.strides[0] > 1 else ''
        text += f', {self.groups} groups' if self.groups > 1 else ''
        return f'{text} to {self.features}'


def run(config, directory):
    """Writes the three files that configs/convolution_speed.py names.

    Raises:
      UserError: the network, clock or type is unknown, or sizes do not fit.
    """
    limits.check(config, LIMITS)
    net = models.create(config.network, dtype=config.dtype)
    images = config.batch_size, config.image_size, config.image_size, net.image_shape[-1]
    counts = convolutions(net, images)
    torch = load_torch()
    directory = Path(directory)
    rows = []
    for conv, count in tqdm(counts.items(), unit='shape', disable=None):
        sides = {'cnnjax': ours(conv, config.dtype)}
        if torch:
            sides['torch'] = theirs(torch, conv, config.dtype)
        rows.append({**dataclasses.asdict(conv), 'title': conv.title(), 'count': count,
                     'flops': conv.flops(), **measure(sides, config)})
    whole = training_step(images, config) if config.step_rounds else None
    results = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__,
               'torch': torch and torch.__version__, 'clock': config.clock, 'step': whole,
               'sums': sums(rows), 'rows': rows}
    workdir.write_config(directory, config)
    atomic.write_json(directory / 'convolution_speed.json', results)
    atomic.write_text(directory / 'convolution_speed.md', table(results))
    draw(results, config, directory / 'figures' / 'convolution_speed.png')
    print(table(results), end='')


def convolutions(net, images):
    """{Convolution: the number of layers that have it}, in the order of the forward pass."""
    counts = {}

    def record(next_method, arguments, options, context):
        module = context.module
        # Only flax's own method counts: layers.Conv calls it from one of the same name.
        if context.orig_method.func is nn.Conv.__call__.__wrapped__:
            x = arguments[0]
            pair = [sides[0] for sides in np.broadcast_to(
                np.array(module.padding, int).reshape(-1, 1), (2, 2))]
            conv = Convolution(
                x.shape, module.features, _pair(module.kernel_size), _pair(module.strides),
                tuple(map(int, pair)), _pair(module.kernel_dilation), module.feature_group_count,
                x.shape == images)
            counts[conv] = counts.get(conv, 0) + 1
        return next_method(*arguments, **options)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *images[1:])))
        counts.clear()
        jax.eval_shape(functools.partial(net.apply, train=True, mutable=['batch_stats'], rngs={
            name: jax.random.key(0) for name in ('dropout', 'drop_path')}),
            variables, jax.ShapeDtypeStruct(images, jnp.float32))
    return counts


def _pair(value):
    return (value or 1,) * 2 if isinstance(value, int | None) else tuple(value)


def load_torch():
    """PyTorch, or None."""
    try:
        import torch
    except ImportError:
        print('torch is not installed: cnnjax alone is measured (pip install torch==2.13.0)')
        return None
    if os.environ.get('OMP_WAIT_POLICY', '').lower() != 'passive':
        print("PyTorch's threads turn on after their work and slow down what is timed next: "
              'OMP_WAIT_POLICY=passive python launch.py ... ends that')
    return torch


def arrays(conv):
    """Random x, kernel and gradient of the output, of unit variance."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32)
            for shape in (conv.input, conv.kernel, conv.output())]


def ours(conv, dtype):
    """{part: a function that computes it as the training step does, and waits for it}"""
    x, kernel, g = (jnp.asarray(array, dtype) for array in arrays(conv))
    forward = jax.jit(conv.apply)
    _, pull = jax.jit(functools.partial(jax.vjp, conv.apply))(x, kernel)
    gradients = [jax.jit(lambda pull, g, i=i: pull(g)[i]) for i in (0, 1)]
    parts = {'forward': lambda: forward(x, kernel), 'dx': lambda: gradients[0](pull, g),
             'dw': lambda: gradients[1](pull, g)}
    if conv.first:
        del parts['dx']
    return {part: functools.partial(_finish, call) for part, call in parts.items()}


def _finish(call):
    return call().block_until_ready()


def theirs(torch, conv, dtype):
    """The same as `ours` in PyTorch, channels last."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    x, kernel, g = (torch.from_numpy(array).permute(order).to(
        device, getattr(torch, dtype), memory_format=torch.channels_last)
        for array, order in zip(arrays(conv), [(0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)],
                                strict=True))
    geometry = conv.strides, conv.padding, conv.dilation

    def backward(*mask):
        return torch.ops.aten.convolution_backward(
            g, x, kernel, None, *map(list, geometry), False, [0, 0], conv.groups, [*mask, False])

    def waits(call):
        def timed():
            call()
            if device == 'cuda':
                torch.cuda.synchronize()
        return timed

    parts = {'forward': lambda: torch.nn.functional.conv2d(x, kernel, None, *geometry, conv.groups),
             'dx': lambda: backward(True, False), 'dw': lambda: backward(False, True)}
    if conv.first:
        del parts['dx']
    return {part: waits(call) for part, call in parts.items()}


def measure(sides, config):
    """{side: {part: {'median', 'quartiles'}}} in seconds.

    All take turns, in another order each round, so that other work on the machine slows down all of
    them. Each runs once before it is timed, so that it does not pay for the one before."""
    calls = [(side, part) for side, parts in sides.items() for part in parts]
    seconds = {call: [] for call in calls}
    rng, clock = np.random.default_rng(0), CLOCKS[config.clock]
    for side, part in calls:
        sides[side][part]()
    for _ in range(config.rounds):
        for i in rng.permutation(len(calls)):
            side, part = calls[i]
            sides[side][part]()
            start = clock()
            sides[side][part]()
            seconds[side, part].append(clock() - start)
    return {side: {part: statistic(seconds[side, part]) for part in parts}
            for side, parts in sides.items()}


def statistic(seconds):
    return {'median': statistics.median(seconds),
            'quartiles': np.percentile(seconds, (25, 75)).tolist()}


def training_step(images, config):
    """Seconds of the whole step with momentum SGD, on one device, for images [N, H, W, C]."""
    recipe = base.get_config()
    recipe.update_from_flattened_dict({
        'model.name': config.network, 'dtype': config.dtype, 'batch_size': images[0], 'steps': 1,
        'schedule': 'constant'})
    rng = np.random.default_rng(0)
    batch = {'image': rng.integers(0, 256, images, np.uint8),
             'label': np.arange(images[0], dtype=np.int32) % 2}
    made = train.build(recipe, range(models.create(config.network).num_classes),
                       {field: array[:1] for field, array in batch.items()},
                       data.Normalization(np.float32([0.5]), np.float32([0.25])), images[0])
    update = jax.jit(functools.partial(made.step, axis=None), donate_argnums=0)
    state = made.init(jax.random.key(0))
    batch = jax.device_put(batch | {'position': np.arange(images[0], dtype=np.int32)})
    clock, seconds = CLOCKS[config.clock], []
    for _ in range(1 + config.step_rounds):
        start = clock()
        state, _ = jax.block_until_ready(update(state, {}, batch, jax.random.key(0)))
        seconds.append(clock() - start)
    return statistic(seconds[1:])


def sums(rows):
    """{side: {part: seconds of all layers in a step}}"""
    return {side: {part: sum(row['count'] * row[side][part]['median'] for row in rows
                             if part in row[side]) for part in PARTS}
            for side in ('cnnjax', 'torch') if side in rows[0]}


def table(results):
    """The results as Markdown."""
    sides = list(results['sums'])
    header = ['convolution', 'layers', 'GFLOP']
    for title in PARTS.values():
        header += [f'{title}, ms', 'GFLOP/s']
        header += ['PyTorch, ms', 'ratio'] if 'torch' in sides else []
    lines = []
    for row in results['rows']:
        cells = [row['title'], str(row['count']), f'{row["flops"] / 1e9:.3g}']
        for part in PARTS:
            if part not in row['cnnjax']:
                cells += [''] * (2 * len(sides))
                continue
            times = row['cnnjax'][part]
            low, high = (1e3 * second for second in times['quartiles'])
            cells += [f'{1e3 * times["median"]:.2f} ({low:.2f} to {high:.2f})',
                      f'{row["flops"] / times["median"] / 1e9:.0f}']
            if 'torch' in sides:
                other = row['torch'][part]['median']
                cells += [f'{1e3 * other:.2f}', f'{times["median"] / other:.2f}']
        lines.append(cells)
    return tables.markdown(header, lines) + '\n' + shares(results)


def shares(results):
    """A table of the time that the whole step spends on each part, and what PyTorch's speed would
    save."""
    own, whole = results['sums']['cnnjax'], results['step']
    total = sum(own.values())
    header, lines = ['part of a step', 'ms'], [
        [f'convolutions, {title}', f'{1e3 * own[part]:.1f}'] for part, title in PARTS.items()]
    lines.append(['all convolutions', f'{1e3 * total:.1f}'])
    if whole:
        seconds = whole['median']
        lines += [['the rest', f'{1e3 * (seconds - total):.1f}'], ['step', f'{1e3 * seconds:.1f}']]
        header.append('share')
        for line in lines:
            line.append(f'{float(line[1]) / (1e3 * seconds):.0%}')
    if other := results['sums'].get('torch'):
        header += ['PyTorch, ms', 'saved at its speed, ms']
        for line, seconds in zip(lines, [*other.values(), sum(other.values())], strict=False):
            line += [f'{1e3 * seconds:.1f}', f'{float(line[1]) - 1e3 * seconds:.1f}']
        for line in lines[4:]:
            line += ['', '']
    return tables.markdown(header, lines)


def draw(results, config, path):
    """Draws bars for each shape, ours above PyTorch's: the time of all its layers in a step."""
    from matplotlib.figure import Figure

    rows, sides = results['rows'], list(results['sums'])
    colors = {'cnnjax': ('#08519c', '#3182bd', '#9ecae1'),
              'torch': ('#a63603', '#e6550d', '#fdae6b')}
    figure = Figure(figsize=(9, 1.3 + 0.6 * len(rows)), layout='constrained', dpi=200)
    axes, height = figure.subplots(), 0.8 / len(sides)
    for i, side in enumerate(sides):
        left, places = np.zeros(len(rows)), np.arange(len(rows)) + (i - (len(sides) - 1) / 2) * 0.4
        for (part, title), color in zip(PARTS.items(), colors[side], strict=True):
            widths = np.array([1e3 * row['count'] * row[side][part]['median']
                               if part in row[side] else 0 for row in rows])
            name = {'cnnjax': 'cnnjax', 'torch': 'PyTorch'}[side]
            axes.barh(places, widths, 0.92 * height, left, color=color, label=f'{name}, {title}')
            left = left + widths
    axes.set_yticks(range(len(rows)), [f'{row["count"]} x  {row["title"]}' for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel=f'ms of a step ({config.clock} time)',
             title=f'Convolutions of {config.network}, {config.batch_size} images of '
                   f'{config.image_size} x {config.image_size}, {config.dtype}')
    axes.grid(axis='x', alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    plots.save(figure, path)
