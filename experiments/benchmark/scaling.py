"""How a training scales: the collectives of the compiled step, and a model of their time."""

import math
import numbers
import statistics
import time
from pathlib import Path

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

LARGEST = 1e12  # The most seconds, and the most GB/s.
LIMITS = {'algorithm': tuple(collectives.ALGORITHMS), 'dtype': ('float32', 'bfloat16')} | {
    name: limits.Whole(1) for name in ('batch_size', 'measured_batch', 'measured_steps', 'message',
                                       'compiled_batch', 'compiled_devices', 'devices',
                                       'own_per_node')} | {
    name: limits.Number(0) for name in ('own_inside_latency', 'own_between_latency', 'backward')}


def run(config, directory):
    """Writes scaling.json, scaling.md and figures/scaling.png.

    Raises UserError if a field does not fit.
    """
    check(config)
    clusters = {name: cluster(config, name) for name in limits.names(config.clusters)}
    measured = {name: measure(config, name) for name in tqdm(
        limits.names(config.measured), desc='measuring', unit='network', disable=None)}
    loads = {name: load(name) for name in dict.fromkeys(
        (*limits.names(config.models), *measured, *(row.model for row in PUBLISHED)))}
    programs = compiled(config)
    rows = [row for name in dict.fromkeys((*limits.names(config.models), *measured))
            for seconds in ((measured[name],) if name in measured else config.step_seconds)
            for row in predictions(config, name, loads[name], seconds, clusters)]
    published = [compare(config, row, loads[row.model]) for row in PUBLISHED]
    directory = Path(directory)
    workdir.write_config(directory, config)
    atomic.write_json(directory / 'scaling.json', {
        'device': jax.devices()[0].device_kind, 'jax': jax.__version__, 'programs': programs,
        'loads': loads, 'measured': measured,
        'clusters': {name: where._asdict() for name, where in clusters.items()},
        'predictions': rows, 'published': published})
    text = '\n'.join([*program_table(config, programs), *load_table(config, loads, measured),
                      *(line for name, where in clusters.items() for line in
                        prediction_table(config, where, [row for row in rows
                                                         if row['cluster'] == name], measured)),
                      *published_table(published)])
    atomic.write_text(directory / 'scaling.md', text)
    print(text, end='')
    draw(config, rows, clusters, measured, directory / 'figures' / 'scaling.png')
    print(f'picture: {directory / "figures" / "scaling.png"}')


def check(config):
    limits.check(config, LIMITS)
    for field in ('utilization', 'backward'):
        if not config[field] <= 1:
            raise UserError(f'{field}={config[field]} is a share: take 1 or less')
    for field in ('step_seconds', 'utilization', 'own_inside', 'own_between'):
        values = config[field] if isinstance(config[field], (tuple, list)) else (config[field],)
        if not all(isinstance(value, numbers.Real) and 0 < value <= LARGEST for value in values):
            raise UserError(f'{field}={config[field]}: take more than 0, at most {LARGEST:g}')
    for field in ('compiled', 'compiled_devices', 'parallel', 'models', 'devices', 'clusters',
                  'step_seconds'):
        given = config[field]
        if not (limits.names(given) if isinstance(given, str) else given):
            raise UserError(f'{field} is empty: give at least one')
    for field in ('compiled', 'models', 'measured'):
        try:
            for name in limits.names(config[field]):
                models.create(name)
        except UserError as error:
            raise UserError(f'{field}: {error}') from None
    for kind in limits.names(config.parallel):
        limits.check({'parallel': kind}, {'parallel': parallel.KINDS})


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
    """Median seconds of a step on one device of this machine, without compilation."""
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
    return statistics.median(times[1:])


def reduction(config, size, devices, where):
    """Seconds of the all-reduce of `size` bytes, in messages as large as the compiler makes."""
    return collectives.two_levels(
        size, devices, where.inside or where.between, where.between, where.per_node,
        math.ceil(size / config.message), collectives.ALGORITHMS[config.algorithm])


def predictions(config, name, reduced, alone, clusters):
    """The rows of one network: dicts of step time, efficiency and images/s, without overlap of the
    reduction and the backward pass, and with as much overlap as possible."""
    rows = []
    for key, where in clusters.items():
        for devices in config.devices:
            if devices > where.most:
                continue
            row = {'model': name, 'step_seconds': alone, 'cluster': key, 'devices': devices,
                   'reduction_seconds': reduction(config, reduced['bytes'], devices, where)}
            for overlap, label in ((False, 'sequential'), (True, 'overlapped')):
                seconds = collectives.step_seconds(alone, row['reduction_seconds'],
                                                   config.backward, overlap)
                row[label] = {'seconds': seconds, 'efficiency': alone / seconds,
                              'images_per_second': devices * config.batch_size / seconds}
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


def load_table(config, loads, measured):
    names = dict.fromkeys((*limits.names(config.models), *measured))
    return ['## What a step reduces', '', tables.markdown(
        ('network', 'parameters', 'batch statistics', 'metrics', 'arrays', 'MB',
         'ms on one device'),
        [(name, f'{loads[name]["parameters"]:,}', f'{loads[name]["statistics"]:,}',
          loads[name]['metrics'], loads[name]['arrays'], f'{loads[name]["bytes"] / 1e6:.1f}',
          f'{1e3 * measured[name]:.0f} (measured: {config.measured_batch} images, '
          f'{jax.devices()[0].device_kind})' if name in measured else
          ', '.join(f'{1e3 * seconds:g}' for seconds in config.step_seconds) + ' (assumed)')
         for name in names])]


def prediction_table(config, where, rows, measured):
    def cell(row):
        low, high = (100 * row[label]['efficiency'] for label in ('sequential', 'overlapped'))
        return f'{low:.0f}' if round(low) == round(high) else f'{low:.0f}-{high:.0f}'

    counts = [devices for devices in config.devices if devices <= where.most]
    lines = []
    for name, alone in dict.fromkeys((row['model'], row['step_seconds']) for row in rows):
        own = {row['devices']: cell(row) for row in rows
               if (row['model'], row['step_seconds']) == (name, alone)}
        lines.append((name, f'{1e3 * alone:.0f}' + (' (measured)' if name in measured else ''),
                      *(own[devices] for devices in counts)))
    return [f'## {where.title}', '', 'Efficiency in %: without overlap - with all that fits.', '',
            tables.markdown(('network', 'ms on one device', *counts), lines)]


def published_table(published):
    return ['## Predicted and measured efficiency', '', tables.markdown(
        ('measurement', 'devices', 'without overlap', 'with overlap', 'measured'),
        [(row['what'], f'{row["before"]} -> {row["devices"]}', f'{100 * row["sequential"]:.0f} %',
          f'{100 * row["overlapped"]:.0f} %', f'{100 * row["efficiency"]:.0f} %')
         for row in published])]


def draw(config, rows, clusters, measured, path):
    """Draws efficiency against devices, in a panel per cluster, for the middle step time."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    middle = sorted(config.step_seconds)[len(config.step_seconds) // 2]
    names = limits.names(config.models)
    measured = [name for name in measured if name in names]
    shown = [row for row in rows if row['model'] in names
             and (row['model'] in measured or row['step_seconds'] == middle)]
    styles = {'sequential': ('-', 'reduction after the backward pass'),
              'overlapped': (':', 'reduction during the backward pass')}
    lowest = min((row[label]['efficiency'] for row in shown for label in styles), default=1)
    columns = min(len(clusters), 2)
    lines = math.ceil(len(clusters) / columns)
    figure = Figure(figsize=(5.0 * columns, 2.5 * lines + 1), layout='constrained', dpi=200)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (key, where) in zip(panels.flat, clusters.items(), strict=False):
        for i, name in enumerate(names):
            own = [row for row in shown if row['cluster'] == key and row['model'] == name]
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
    step_time = f'{1e3 * middle:g} ms per step on one device' + (
        f' ({", ".join(measured)}: as measured)' if measured else '')
    figure.legend(handles=[Line2D([], [], color='0.3', linewidth=2, linestyle=style, label=label)
                           for style, label in styles.values()], ncols=2, frameon=False,
                  loc='outside upper center', title=step_time, title_fontsize=11)
    figure.legend(handles=[Line2D([], [], color=f'C{i}', linewidth=2, label=name)
                           for i, name in enumerate(names)], ncols=len(names), frameon=False,
                  loc='outside lower center')
    plots.save(figure, path)
