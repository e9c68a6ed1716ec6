"""The speed of this library beside that of PyTorch, if it is installed.

This file has the rows, the tables and the picture. reading.py measures both sides, training.py,
runs.py and images.py ours; torch_steps.py, torch_networks.py and torch_detectors.py are PyTorch's
side, and timing.py takes the times.
"""

import functools
import os
import platform
import re
from pathlib import Path

import jax
import jaxlib
from tqdm import tqdm

from cnnjax import atomic, fonts, limits, plots, tables, workdir
from cnnjax.errors import UserError
from experiments.benchmark import images, reading, runs, training
from experiments.benchmark.timing import SIZES, Setting, Unmeasured, best, compare, cores

# The functions that measure a row of each kind. They take (network, batch, setting) in NETWORKS,
# and (size, batch, setting) in IMAGES.
NETWORKS = {'train': training.training, 'infer': training.inference, 'loop': runs.loop,
            'compile': runs.compilation}
IMAGES = {'style': images.optimization(images.style),
          'visualization': images.optimization(images.visualization),
          'units': images.optimization(images.units), **reading.ROWS}
TITLES = {'train': 'Training steps', 'infer': 'Inference', 'loop': "The training's loop",
          'compile': 'Time to the first step', **dict.fromkeys(IMAGES, 'Optimizing images'),
          **dict.fromkeys(reading.ROWS, 'Reading images')}
INSTRUCTIONS = ('avx512f', 'avx2', 'avx', 'asimd', 'neon')  # the best first
EXHAUSTED = re.compile(r'RESOURCE_EXHAUSTED|out of memory', re.I)
# Inference is measured with single images and with batches of this size, {accelerator: size}.
LARGE = {False: 8, True: 256}
LIMITS = {'rounds': limits.Whole(1), 'seconds': limits.Number(0), 'steps_per_call': limits.Whole(),
          'dtype': ('', 'float32', 'bfloat16')}


def run(config, directory):
    """Measures every row of config.rows and writes results.json, results.md and
    figures/benchmark.png."""
    limits.check(config, LIMITS)
    accelerator = jax.default_backend() != 'cpu'
    rows = [row for name in limits.names(config.rows) for row in parse(name, accelerator)]
    if not rows:
        raise UserError('rows is empty: give at least one, such as train_resnet20')
    before = earlier(config.compare_to)
    torch = load_torch(config)
    dtype = config.dtype or ('bfloat16' if accelerator else 'float32')
    setting = Setting(
        torch, dtype, config.steps_per_call or (100 if accelerator else 1),
        config.compile_mode if accelerator else '',
        functools.partial(compare, rounds=config.rounds, seconds=config.seconds),
        functools.cache(functools.partial(best, dtype, *SIZES[accelerator])), set())
    results = {'label': config.label, 'machine': machine(torch, dtype), 'rows': {}, 'missing': {}}
    directory = Path(directory)
    workdir.write_config(directory, config)
    if torch and os.getloadavg()[0] > cores() / 4:
        print(f'other processes use this machine (load {os.getloadavg()[0]:.1f}): the threads of '
              'PyTorch then wait for each other, and the ratios mean nothing', flush=True)
    for name, measure, what, batch in tqdm(rows, desc='rows', unit='row', disable=None):
        found = attempt(functools.partial(measure, what, batch, setting))
        if isinstance(found, str):
            results['missing'][name] = found
            print(f'{name}: not measured: {found}', flush=True)
            continue
        results['rows'][name] = found
        if 'missing' in found:
            results['missing'][name] = 'in PyTorch: ' + found.pop('missing')
        print(line(name, found), flush=True)
        if setting.best.cache_info().currsize:
            results['best'] = setting.best()
        peak = (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
        results['peak_bytes_in_use'] = peak  # the peak of the run so far
        # Written after every row, so that an interrupted run keeps what it has measured.
        atomic.write_json(directory / 'results.json', results)
    atomic.write_json(directory / 'results.json', results)
    text = report(results, before)
    atomic.write_text(directory / 'results.md', text)
    print(text, end='')
    if any('ratios' in row for row in results['rows'].values()):
        draw(results, directory / 'figures' / 'benchmark.png')
        print(f'picture: {directory / "figures" / "benchmark.png"}')


def parse(row, accelerator):
    """'train_resnet20:64' -> [(name, what measures it, network or size, batch)].

    Without a batch, the row takes the network's usual one; inference then has two rows, one of them
    with single images.
    """
    name, colon, number = row.partition(':')
    kind, _, what = name.partition('_')
    if colon and not (number.isdigit() and 0 < int(number) < 2 ** 20):
        raise UserError(f"rows: '{row}': after the colon stands the batch, a whole number")
    batch = int(number or 0)
    if kind in NETWORKS and what in training.NETWORKS:
        batches = [batch or training.batch_of(what, accelerator)]
        if kind == 'infer':
            batches = [batch] if batch else [1, LARGE[accelerator]]
            return [(f'{name}:{batch}', NETWORKS[kind], what, batch) for batch in batches]
        return [(row, NETWORKS[kind], what, batches[0])]
    if kind in IMAGES and re.fullmatch('[1-9][0-9]{0,3}', what):
        if colon and kind not in reading.ROWS:
            raise UserError(f"rows: '{row}' has no batch: leave out :{number}")
        return [(row, IMAGES[kind], int(what), batch or reading.BATCH)]
    raise UserError(f"rows: '{row}' is none of {', '.join(NETWORKS)} with a network, such as "
                    f"train_resnet20 ({', '.join(training.NETWORKS)}), and none of "
                    f"{', '.join(IMAGES)} with a size, such as style_256")


def attempt(measure):
    """What `measure` returns or, if it fails, the reason in words."""
    try:
        return measure()
    except (Unmeasured, UserError) as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:  # jax and torch raise the latter
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or EXHAUSTED.search(str(error)):
            return f'out of memory: take a smaller batch ({reason})'
        return reason


def load_torch(config):
    """The module torch_steps; None if torch is not installed."""
    if not config.torch:
        return None
    try:
        from experiments.benchmark import torch_steps
    except ImportError:
        print('torch is not installed: cnnjax alone is measured (pip install torch==2.13.0)')
        return None
    accelerator = jax.default_backend() != 'cpu'
    if accelerator and not (jax.default_backend() == 'gpu'
                            and torch_steps.torch.cuda.is_available()):
        print(f'torch does not run on {jax.devices()[0].device_kind} here: cnnjax alone is '
              'measured')
        return None
    if accelerator and not {'XLA_PYTHON_CLIENT_PREALLOCATE',
                       'XLA_PYTHON_CLIENT_MEM_FRACTION'} & os.environ.keys():
        raise UserError('jax takes three quarters of the memory at its start, and torch needs '
                        'some: set XLA_PYTHON_CLIENT_PREALLOCATE=false')
    torch_steps.prepare()
    return torch_steps


def machine(torch, dtype):
    """A description of the machine without its host name."""
    try:
        known = Path('/proc/cpuinfo').read_text().split()
    except OSError:
        known = ()
    return {'device': jax.devices()[0].device_kind, 'processor': platform.machine(),
            'cores': cores(), 'instructions': next((name for name in INSTRUCTIONS
                                                    if name in known), None),
            'dtype': dtype, 'jax': jax.__version__, 'jaxlib': jaxlib.__version__,
            'torch': torch and torch.version, 'xla_flags': os.environ.get('XLA_FLAGS', '')}


def earlier(path):
    """The results of an earlier run; {} if no path is given."""
    if not path:
        return {}
    found = atomic.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get('rows'), dict):
        raise UserError(f"compare_to='{path}' is no results.json of this benchmark")
    return found


def line(name, row):
    """The line that is printed when a row has been measured."""
    if 'cold' in row:
        return f'{name}: {row["cold"]:.1f} s, with the programs kept {row["warm"]:.1f} s'
    ratios = ''.join(f'  {side} {ratio:.2f}x' for side, ratio in row['ratios'].items())
    return f'{name}: {milliseconds(row["cnnjax"])} ms{ratios}'


def milliseconds(times):
    """A text such as '12.3 (12.1 to 12.9)'; '' for None."""
    if times is None:
        return ''
    values = [1e3 * value for value in (times['seconds'], *times['quartiles'])]
    digits = 0 if values[0] >= 100 else 1 if values[0] >= 10 else 2
    return '{:.{d}f} ({:.{d}f} to {:.{d}f})'.format(*values, d=digits)


def markdown(heads, rows):
    """A table without columns that are empty in all rows, followed by an empty line."""
    kept = [i for i, _ in enumerate(heads) if any(row[i] for row in rows)]
    lines = [[row[i] for i in kept] for row in (heads, *rows)]
    return tables.markdown(lines[0], lines[1:]) + '\n' if rows else ''


def ratio(row, side, digits=2):
    return f'{row["ratios"][side]:.{digits}f}' if side in row.get('ratios', {}) else ''


def gain(name, row, before):
    """The time before divided by the time now: above 1, the step became faster."""
    old = before.get('rows', {}).get(name, {})
    if 'cnnjax' not in old or old.get('batch') != row.get('batch'):
        return ''
    return f'{old["cnnjax"]["seconds"] / row["cnnjax"]["seconds"]:.2f}'


def described(results):
    """The run's label and machine, in a line."""
    about = results['machine']
    head = [f'{about["device"]}, {about["cores"]} cores ({about["processor"]}'
            + (f', {about["instructions"]}' if about['instructions'] else '') + ')',
            about['dtype'], f'jax {about["jax"]}']
    head += [f'PyTorch {about["torch"]}'] if about['torch'] else []
    head += [f'XLA_FLAGS="{about["xla_flags"]}"'] if about['xla_flags'] else []
    return (f'{results["label"]}: ' if results['label'] else '') + ', '.join(head)


def report(results, before):
    """The report in Markdown: the machine, the times beside PyTorch's, what a step needs, and the
    rest."""
    rows, text = results['rows'], f'{described(results)}.\n\n'
    timed = {name: row for name, row in rows.items() if 'cnnjax' in row and 'loop' not in row}
    label = before.get('label') or 'before'
    text += markdown(
        ('step', 'batch', 'images/s', 'cnnjax, ms', 'PyTorch, ms', 'torch.compile, ms', 'plain, ms',
         'PyTorch / cnnjax', 'torch.compile / cnnjax', 'plain / cnnjax', f'{label} / now'),
        [(name, str(row.get('batch', '')),
          f'{row["batch"] / row["cnnjax"]["seconds"]:.4g}' if 'batch' in row else '',
          *(milliseconds(row.get(side)) for side in ('cnnjax', *SIDES)),
          *(ratio(row, side) for side in SIDES), gain(name, row, before))
         for name, row in timed.items()])
    text += needs(results)
    text += markdown(
        ('loop', 'batch', 'step alone, ms', 'step of a training, ms', 'training / alone'),
        [(name, str(row['batch']), milliseconds(row['cnnjax']), milliseconds(row['loop']),
          ratio(row, 'loop')) for name, row in rows.items() if 'loop' in row])
    text += markdown(
        ('start', 'batch', 'to the first step, s', 'with programs kept, s'),
        [(name, str(row['batch']), f'{row["cold"]:.1f}', f'{row["warm"]:.1f}')
         for name, row in rows.items() if 'cold' in row])
    missing = [f'- {name}: {why}' for name, why in results['missing'].items()]
    text += '\n'.join(['Not measured:', '', *missing] if missing else [])
    return text.rstrip('\n') + '\n'


def needs(results):
    """Tables of the memory and the operations that training steps need, and how near they come to
    the device's best speed."""
    def size(row, side):
        found = row['memory'].get(side)
        return f'{found / 2**20:.0f}' if found else ''

    rows = []
    for name, row in results['rows'].items():
        if 'memory' not in row:
            continue
        speed = [''] * 5
        if 'flops' in row:
            speed = [f'{row["flops"] / 1e9:.4g}',
                     f'{row["flops"] / row["cnnjax"]["seconds"] / 1e9:.4g}',
                     f'{row["share_of_peak"]:.0%}', f'{1e3 * row["bound"]:.4g}',
                     f'{row["efficiency"]:.0%}']
        rows.append((name, *(size(row, side) for side in ('cnnjax', 'cnnjax_plain', 'torch')),
                     *speed))
    if not rows:
        return ''
    text = markdown(('step', 'memory, MiB', 'plain, MiB', 'PyTorch, MiB', 'GFLOP', 'GFLOP/s',
                     'of the peak', 'roofline, ms', 'of the roofline'), rows)
    if 'best' in results:
        text = (f'Peak, of a product of matrices: {results["best"]["flops"] / 1e9:,.0f} GFLOP/s; '
                f'copying: {results["best"]["bytes"] / 1e9:,.0f} GB/s.\n\n') + text
    return text


SIDES = {'torch': ('PyTorch', 'tab:orange'), 'torch_compile': ('torch.compile', 'tab:red'),
         'cnnjax_plain': ('the same network, all of it computed or kept', 'tab:blue')}


def called(name, row):
    """How the picture calls a row: 'resnet20, batch 128' or 'style, 256 pixels'."""
    kind, _, what = name.partition(':')[0].partition('_')
    text = f'{kind}, {what} pixels' if kind in IMAGES else what
    return text + (f', batch {row["batch"]}' if 'batch' in row else '')


def draw(results, path):
    """Draws bars, in groups: the time of each other side divided by ours."""
    from matplotlib.figure import Figure  # imported here because it takes half a second

    groups = {}
    for name, row in results['rows'].items():
        if ratios := {side: value for side, value in row.get('ratios', {}).items()
                      if side in SIDES}:
            groups.setdefault(TITLES[name.partition('_')[0]], []).append(
                (called(name, row), ratios))
    if not groups:
        return
    count = sum(len(rows) for rows in groups.values())
    figure = Figure(figsize=(9, 1.4 + 0.42 * (count + len(groups))), layout='constrained', dpi=150)
    axes = figure.subplots()
    position, places, labels, used, low, high = 0.0, [], [], {}, 1 / 1.5, 1.5
    for title, rows in groups.items():
        axes.text(0.0, position, title, transform=axes.get_yaxis_transform(), weight='bold',
                  va='center', ha='left', size=10)
        position += 1
        for name, ratios in rows:
            height = min(0.8 / len(ratios), 0.5)
            for i, (side, value) in enumerate(ratios.items()):
                y = position + (i - (len(ratios) - 1) / 2) * height
                label, color = SIDES[side]
                bar = axes.barh(y, value - 1, height * 0.92, left=1, color=color)
                used.setdefault(label, bar)
                axes.annotate(f'{value:.2f}', (value, y), (3 if value >= 1 else -3, 0),
                              textcoords='offset points', va='center', size=8,
                              ha='left' if value >= 1 else 'right')
                low, high = min(low, value), max(high, value)
            places.append(position)
            labels.append(name)
            position += 1
    axes.axvline(1, color='black', linewidth=1)
    axes.set_xscale('log')
    axes.set_xlim(low / 1.4, high * 1.4)
    steps = (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 5, 7)
    ticks = [step * 10.0 ** power for power in range(-3, 4) for step in steps]
    ticks = [tick for tick in ticks if low / 1.4 <= tick <= high * 1.4]
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(places, labels)
    axes.set_ylim(position - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.grid(axis='x', alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.set_xlabel('time of the other side / time of cnnjax  (right of 1: cnnjax is faster)')
    figure.legend(used.values(), used.keys(), loc='outside upper center', ncols=3, frameon=False,
                  title=fonts.wrapped(described(results), 8, 10))
    plots.save(figure, path)
