"""Kills a training at random moments, starts it again, and compares its results, bit for bit, with
those of an uninterrupted training. So many times, for a recipe:

    python tests/kill.py 50 segment.py:coins
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cnnjax import checkpoint, data, reports

ROOT = Path(__file__).parent.parent
REPORT, CHECKPOINT = 3, 5
FIELDS = ['--config.eval_every=10', f'--config.checkpoint_every={CHECKPOINT}',
          f'--config.report_every={REPORT}', '--config.batch_size=16']
SMALL = {'quickstart.py': ['--config.model.widths=4,4,4'],
         'segment.py:coins': ['--config.model.widths=2,4', '--config.crop_size=16',
                              '--config.schedule=constant', '--config.weight_map=5'],
         'detect.py:scenes': ['--config.dataset=folder', '--config.data_dir={root}/scenes',
                              '--config.image_size=32', '--config.fit=letterbox',
                              '--config.stream=True', '--config.shorter_side=24,32',
                              '--config.mean=0.5', '--config.std=0.25', '--config.flip=True',
                              '--config.batch_size=4', '--config.model.widths=4,4,4',
                              '--config.model.hidden=8']}
TIMED = 'images_per_second'
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = (0, 0.02, 0.1, 600)  # Seconds from a signal to SIGKILL, as schedulers wait.


class Killed(BaseException):
    """In the place of kill -9."""


def dying_after(step):
    """Metrics.write that, in the place of the real one, dies once it has written the row of a step.
    """
    real = reports.Metrics.write

    def write(self, row):
        real(self, row)
        if row['step'] == step:
            raise Killed

    return write


def rows(directory):
    """The rows of metrics.jsonl without what depends on the time."""
    return [{name: value for name, value in row.items() if name != TIMED}
            for row in reports.read_metrics(directory)]


def saved(directory, step):
    with checkpoint.Checkpoints(Path(directory) / 'checkpoints', read_only=True) as checkpoints:
        return checkpoints.variables(step)


def assert_same_run(a, b, step):
    """That the parameters after `step` and the rows of two runs are the same."""
    for x, y in zip(jax.tree.leaves(saved(a, step)), jax.tree.leaves(saved(b, step)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert rows(a) == rows(b)


def draw(root):
    """Writes a folder of few scenes of digits with their boxes, in the form of YOLO."""
    for split, count in (('train', 48), ('test', 16)):
        source = data.load('digit_scenes', split, target='boxes')
        for kind in ('images', 'labels'):
            (root / split / kind).mkdir(parents=True)
        (root / 'classes.txt').write_text('\n'.join(source.classes))
        for i in range(count):
            example = source.examples[i]
            Image.fromarray(example['image']).save(root / split / 'images' / f'{i}.png')
            (root / split / 'labels' / f'{i}.txt').write_text(''.join(
                f'{label} {(x1 + x2) / 128} {(y1 + y2) / 128} {(x2 - x1) / 64} {(y2 - y1) / 64}\n'
                for label, (x1, y1, x2, y2) in zip(example['labels'], example['boxes'], strict=True)
                if label >= 0))


def start(directory, recipe, steps):
    small = [field.format(root=Path(directory).parent) for field in SMALL[recipe]]
    return subprocess.Popen(
        [sys.executable, 'launch.py', f'--config=configs/{recipe}', *FIELDS, *small,
         f'--config.steps={steps}', f'--workdir={directory}'], cwd=ROOT, text=True,
        env={**os.environ, 'XLA_FLAGS': ''}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(directory, recipe, steps):
    run = start(directory, recipe, steps)
    output, _ = run.communicate()
    assert run.returncode == 0, output


def kill(directory, recipe, steps, number, after):
    """Starts a run and sends it a signal, some time after `after` more rows are written.

    Returns whether it was still running then, and its output.
    """
    path = Path(directory) / 'metrics.jsonl'

    def written():
        return len(path.read_text().splitlines()) if path.exists() else 0

    run = start(directory, recipe, steps)
    # The time before the first row is start-up: imports, data and compilation.
    wanted = written() + after
    while after and written() < wanted and run.poll() is None:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.2 if after else 5))
    run.send_signal(number)
    try:
        output, _ = run.communicate(timeout=random.choice(PATIENCE))
    except subprocess.TimeoutExpired:
        run.kill()
        output, _ = run.communicate()
    assert run.returncode in (-number, 128 + number, -signal.SIGKILL, 0), output
    return run.returncode != 0, output


def check(root, kills, recipe):
    """Whether a run killed so many times leaves the same as one that is not."""
    steps = 100 * kills
    draw(root / 'scenes')
    finish(root / 'whole', recipe, steps)
    for _ in range(kills):
        number = random.choice(SIGNALS)
        killed, output = kill(root / 'parts', recipe, steps, number, random.choice((0, 1, 3, 9)))
        done = (rows(root / 'parts') or [{'step': 0}])[-1]['step']
        print(f'{number.name if killed else "finished":>8} after {done} steps', flush=True)
        assert 'Traceback' not in output, output
    finish(root / 'parts', recipe, steps)
    assert_same_run(root / 'parts', root / 'whole', steps)
    assert [row['step'] for row in rows(root / 'parts')] == [
        step for step in range(1, steps + 1) if step % REPORT == 0 or step % CHECKPOINT == 0]


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as directory:
        check(Path(directory), int(sys.argv[1]), *(sys.argv[2:] or ['quickstart.py']))
    print('nothing was lost')
