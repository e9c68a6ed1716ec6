"""How a training scales: the collectives of the compiled step, and a model of their time."""

import math
import numbers
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cnnjax import (
    atomic,
    collectives,
    data,
    limits,
    memory,
    models,
    parallel,
    plots,
    summary,
    tables,
    train,
    workdir,
)
from cnnjax.collectives import Link
from cnnjax.errors import UserError
from configs import base
from experiments.benchmark.interconnects import CLUSTERS, PUBLISHED, UNLIMITED, Cluster

LARGEST = 1e12  # The most milliseconds, and the most GB/s.
LIMITS = {'algorithm': tuple(collectives.ALGORITHMS), 'dtype': ('float32', 'bfloat16')} | {
    name: limits.Whole(1) for name in ('measured_batch', 'measured_steps', 'message',
                                       'compiled_batch', 'compiled_devices', 'devices',
                                       'own_per_node')} | {
    name: limits.Number(0) for name in ('own_inside_latency', 'own_between_latency', 'backward')}


class Step(NamedTuple):
    """The training step of a network on one device."""

    images: int
    seconds: float


def run(config, directory):
    """Writes scaling.json, scaling.md and figures/scaling.png.

    Raises UserError if a field does not fit.
    """
    check(config)
    clusters = {name: cluster(config, name) for name in limits.names(config.clusters)}
    measured = {name: measure(config, name) for name in tqdm(
        limits.names(config.measured), desc='measuring', unit='network', disable=None)}
    steps = listed(config) | measured
    loads = {name: load(name) for name in dict.fromkeys(
        (*steps, *(row.model for row in PUBLISHED)))}
    programs = compiled(config)
    rows = [row for name, step in steps.items()
            for row in predictions(config, name, loads[name], step, clusters)]
    published = [compare(config, row, loads[row.model]) for row in PUBLISHED]
    directory = Path(directory)
    workdir.write_config(directory, config)
    atomic.write_json(directory / 'scaling.json', {
        'device': jax.devices()[0].device_kind, 'jax': jax.__version__, 'programs': programs,
        'loads': loads, 'steps': {name: step._asdict() for name, step in steps.items()},
        'measured': list(measured),
        'clusters': {name: where._asdict() for name, where in clusters.items()},
        'predictions': rows, 'published': published})
    text = '\n'.join([*program_table(config, programs), *load_table(steps, loads, measured),
                      *(line for name, where in clusters.items() for line in
                        prediction_table(config, where, steps, [
                            row for row in rows if row['cluster'] == name])),
                      *published_table(published)])
    atomic.write_text(directory / 'scaling.md', text)
    print(text, end='')
    draw(config, rows, clusters, steps, directory / 'figures' / 'scaling.png')
    print(f'picture: {directory / "figures" / "scaling.png"}')


def check(config):
    limits.check(config, LIMITS)
    for field in ('utilization', 'backward'):
        if not config[field] <= 1:
            raise UserError(f'{field}={config[field]} is a share: take 1 or less')
    for field in ('utilization', 'own_inside', 'own_between'):
        value = config[field]
        if not (isinstance(value, numbers.Real) and 0 < value <= LARGEST):
            raise UserError(f'{field}={config[field]}: take more than 0, at most {LARGEST:g}')
    for field in ('compiled', 'compiled_devices', 'parallel', 'steps', 'devices', 'clusters'):
        given = config[field]
        if not (limits.names(given) if isinstance(given, str) else given):
            raise UserError(f'{field} is empty: give at least one')
    for field, names in (('compiled', (config.compiled,)), ('steps', listed(config)),
                         ('measured', limits.names(config.measured))):
        try:
            for name in names:
                models.create(name)
        except UserError as error:
            raise UserError(f'{field}: {error}') from None
    for kind in limits.names(config.parallel):
        limits.check({'parallel': kind}, {'parallel': parallel.KINDS})


def listed(config):
    """{network: Step} of config.steps."""
    steps = {}
    for text in limits.names(config.steps):
        name, *values = text.split(':')
        try:
            images, milliseconds = int(values[0]), float(values[1])
        except (IndexError, ValueError):
            images = milliseconds = 0
        if not (len(values) == 2 and images > 0 and 0 < milliseconds <= LARGEST):
            raise UserError(f"steps: '{text}' is no network:images:milliseconds, such as "
                            'resnet50:256:33.0')
        steps[name] = Step(images, milliseconds / 1000)
    return steps


def cluster(config, name):
    """The Cluster of this name, with the speed of its links multiplied by config.utilization."""
    if name == 'own':
        found = Cluster('own', config.own_per_node,
                        Link(1e9 * config.own_inside, 1e-6 * config.own_inside_latency),
                        Link(1e9 * config.own_between, 1e-6 * config.own_between_latency),
                        UNLIMITED)
    elif name in CLUSTERS:
        found = CLUSTERS[name]
    else:
        raise UserError(f"clusters: '{name}' is none of {', '.join(CLUSTERS)}, own")
    inside, between = (link and link._replace(bandwidth=config.utilization * link.bandwidth)
                       for link in (found.inside, found.between))
    return found._replace(inside=inside, between=between)


def training(name, images, **fields):
    """The step of a training, and the shapes of its arguments: (step, state, {'image', ...}).

    The network, its images and its classes are the paper's. The batch holds `images` images itself,
    as if they streamed. `fields` are those of configs/base.py.
    """
    recipe = base.get_config()
    recipe.update_from_flattened_dict({
        'model.name': name, 'batch_size': images, 'steps': 1, 'schedule': 'constant', 'flip': True,
        'padding': 4, **fields})
    net = models.create(**recipe.model)
    batch = {'image': jax.ShapeDtypeStruct((images, *net.image_shape), jnp.uint8),
             'label': jax.ShapeDtypeStruct((images,), jnp.int32)}
    shapes = {field: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype)
              for field, array in batch.items()}
    normalize = data.Normalization(np.float32([0.5]), np.float32([1]))
    made = train.build(recipe, range(net.num_classes), shapes, normalize, images)
    state = jax.eval_shape(made.init, jax.random.key(0))
    return made.step, state, batch | {'position': jax.ShapeDtypeStruct((images,), jnp.int32)}


def compile_step(one, state, batch, mesh, kind):
    """The compiled program of one step over the devices of `mesh`."""
    if kind == 'pmap':
        batch = {field: jax.ShapeDtypeStruct((mesh.size, array.shape[0] // mesh.size,
                                              *array.shape[1:]), array.dtype)
                 for field, array in batch.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return parallel.parallelize(one, mesh, kind).lower(state, {}, batch, key).compile()


def compiled(config):
    """The collectives and costs of the compiled step of config.compiled, for each way to run it and
    each number of devices that this machine has."""
    counts = [count for count in config.compiled_devices if count <= jax.device_count()]
    if left := [count for count in config.compiled_devices if count not in counts]:
        print(f'{", ".join(map(str, left))} devices are not there: set XLA_FLAGS='
              f'--xla_force_host_platform_device_count={max(left)} to pretend them')
    result = []
    for kind in limits.names(config.parallel):
        for count in counts:
            one, state, batch = training(config.compiled, count * config.compiled_batch)
            program = compile_step(one, state, batch, parallel.data_mesh(count), kind)
            found = collectives.read(program)
            costs, memory = program.cost_analysis(), program.memory_analysis()
            result.append({
                'parallel': kind, 'devices': count, 'collectives': len(found),
                'kinds': sorted({each.kind for each in found}),
                'in_loops': sum(each.in_loop for each in found),
                'bytes': sum(each.bytes for each in found), 'flops': costs['flops'],
                'temporary_bytes': memory.temp_size_in_bytes})
    return result


def load(name):
    """The bytes that a step of this network reduces, from the shapes of its state alone."""
    _, state, _ = training(name, 1)
    parts = {field: jax.tree.leaves(getattr(state, field)) for field in ('params', 'batch_stats')}
    counts = {field: sum(math.prod(leaf.shape) for leaf in leaves)
              for field, leaves in parts.items()}
    return {'parameters': counts['params'], 'statistics': counts['batch_stats'], 'metrics': 2,
            'arrays': sum(map(len, parts.values())) + 2, 'bytes': 4 * (sum(counts.values()) + 2)}


def measure(config, name):
    """The Step on one device of this machine, the median without compilation."""
    net = models.create(name, dtype=config.dtype)
    memory.check(config.measured_batch * sum(
        math.prod(row.shape) for row in summary.summarize(net).rows if row.shape),
        measured_batch=config.measured_batch)
    one, state, batch = training(name, config.measured_batch, dtype=config.dtype)
    mesh = parallel.data_mesh(1)
    update = parallel.parallelize(one, mesh)
    rng = np.random.default_rng(0)
    state = parallel.replicate(jax.tree.map(
        lambda leaf: rng.normal(scale=0.01, size=leaf.shape).astype(leaf.dtype), state), mesh)
    key = parallel.replicate(jax.random.key(0), mesh)
    batch = {field: rng.integers(2, size=array.shape).astype(array.dtype)
             for field, array in batch.items()}
    times = []
    for _ in range(1 + config.measured_steps):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(update(state, {}, batch, key))
        times.append(time.perf_counter() - start)
    return Step(config.measured_batch, statistics.median(times[1:]))


def reduction(config, size, devices, where):
    """Seconds of the all-reduce of `size` bytes, in messages as large as the compiler makes."""
    return collectives.two_levels(
        size, devices, where.inside or where.between, where.between, where.per_node,
        math.ceil(size / config.message), collectives.ALGORITHMS[config.algorithm])


def predictions(config, name, reduced, step, clusters):
    """The rows of one network: dicts of step time, efficiency and images/s, without overlap of the
    reduction and the backward pass, and with as much overlap as possible."""
    rows = []
    for key, where in clusters.items():
        for devices in config.devices:
            if devices > where.most:
                continue
            row = {'model': name, 'cluster': key, 'devices': devices,
                   'reduction_seconds': reduction(config, reduced['bytes'], devices, where)}
            for overlap, label in ((False, 'sequential'), (True, 'overlapped')):
                seconds = collectives.step_seconds(step.seconds, row['reduction_seconds'],
                                                   config.backward, overlap)
                row[label] = {'seconds': seconds, 'efficiency': step.seconds / seconds,
                              'images_per_second': devices * step.images / seconds}
            rows.append(row)
    return rows


def compare(config, row, reduced):
    """A published efficiency beside those of the model."""
    where = cluster(config, row.cluster)
    before, after = (reduction(config, reduced['bytes'], devices, where)
                     for devices in (row.before, row.devices))
    alone = row.seconds - before
    efficiencies = {}
    for overlap, label in ((False, 'sequential'), (True, 'overlapped')):
        first, then = (collectives.step_seconds(alone, communication, config.backward, overlap)
                       for communication in (before, after))
        efficiencies[label] = first / then
    return {**row._asdict(), 'reduction_seconds': after, **efficiencies}


def program_table(config, programs):
    return [f'## The compiled step of {config.compiled}, {config.compiled_batch} images per device',
            '', tables.markdown(
                ('parallel', 'devices', 'collectives', 'bytes', 'in loops', 'Mflop per device',
                 'temporary MB per device'),
                [(row['parallel'], row['devices'],
                  ' '.join([str(row['collectives']), *row['kinds']]), f'{row["bytes"]:,}',
                  row['in_loops'], f'{row["flops"] / 1e6:,.1f}',
                  f'{row["temporary_bytes"] / 1e6:.1f}') for row in programs])]


def load_table(steps, loads, measured):
    return ['## What a step reduces', '', tables.markdown(
        ('network', 'parameters', 'batch statistics', 'metrics', 'arrays', 'MB',
         'images per device', 'ms on one device'),
        [(name, f'{loads[name]["parameters"]:,}', f'{loads[name]["statistics"]:,}',
          loads[name]['metrics'], loads[name]['arrays'], f'{loads[name]["bytes"] / 1e6:.1f}',
          step.images, f'{1e3 * step.seconds:.3g}' + (
              f' (timed here: {jax.devices()[0].device_kind})' if name in measured else ''))
         for name, step in steps.items()])]


def prediction_table(config, where, steps, rows):
    def cell(row):
        low, high = (100 * row[label]['efficiency'] for label in ('sequential', 'overlapped'))
        return f'{low:.0f}' if round(low) == round(high) else f'{low:.0f}-{high:.0f}'

    return [f'## {where.title}', '', 'Efficiency in %: without overlap - with all that fits.', '',
            tables.markdown(
                ('network', 'ms on one device',
                 *(devices for devices in config.devices if devices <= where.most)),
                [(name, f'{1e3 * step.seconds:.3g}',
                  *(cell(row) for row in rows if row['model'] == name))
                 for name, step in steps.items()])]


def published_table(published):
    return ['## Predicted and measured efficiency', '', tables.markdown(
        ('measurement', 'devices', 'without overlap', 'with overlap', 'measured'),
        [(row['what'], f'{row["before"]} -> {row["devices"]}', f'{100 * row["sequential"]:.0f} %',
          f'{100 * row["overlapped"]:.0f} %', f'{100 * row["efficiency"]:.0f} %')
         for row in published])]


def draw(config, rows, clusters, steps, path):
    """Draws efficiency against devices, in a panel per cluster."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    styles = {'sequential': ('-', 'reduction after the backward pass'),
              'overlapped': (':', 'reduction during the backward pass')}
    lowest = min((row[label]['efficiency'] for row in rows for label in styles), default=1)
    columns = min(len(clusters), 2)
    lines = math.ceil(len(clusters) / columns)
    figure = Figure(figsize=(5.0 * columns, 2.5 * lines + 1), layout='constrained', dpi=200)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (key, where) in zip(panels.flat, clusters.items(), strict=False):
        for i, name in enumerate(steps):
            own = [row for row in rows if row['cluster'] == key and row['model'] == name]
            for label, (style, _) in styles.items():
                axes.plot([row['devices'] for row in own],
                          [100 * row[label]['efficiency'] for row in own], style, color=f'C{i}',
                          linewidth=2, marker='o' if style == '-' else '', markersize=4)
        axes.set_title(where.title, fontsize=11)
        axes.set_xscale('log', base=2)
        axes.set_xticks(config.devices, [f'{devices:g}' for devices in config.devices])
        axes.set_ylim(10 * math.floor(10 * min(lowest, 0.89)), 102)
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    for axes in panels.flat[len(clusters):]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel('efficiency (%)')
    for axes in panels[-1]:
        axes.set_xlabel('devices')
    figure.legend(handles=[Line2D([], [], color='0.3', linewidth=2, linestyle=style, label=label)
                           for style, label in styles.values()], ncols=2, frameon=False,
                  loc='outside upper center')
    figure.legend(handles=[Line2D([], [], color=f'C{i}', linewidth=2,
                                  label=f'{name}, {1e3 * step.seconds:.3g} ms')
                           for i, (name, step) in enumerate(steps.items())],
                  ncols=min(len(steps), 3), frameon=False, loc='outside lower center',
                  title='training step on one device')
    plots.save(figure, path)
