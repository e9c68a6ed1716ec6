"""The benchmark's rows about whole trainings: the loop around the step, and the time to the first
step."""

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cnnjax import parallel, reports, train
from experiments.benchmark import training
from experiments.benchmark.timing import Unmeasured

ROOT = Path(__file__).parents[2]


def pictures(directory, name, train_images, test_images):
    """A folder of random PNG files of two classes for the network of that name, as
    dataset='folder' reads it: with masks, or in a folder for each class."""
    rng, side = np.random.default_rng(0), training.NETWORKS[name].side
    masks = training.target(name) == 'mask'
    for split, count in (('train', train_images), ('test', test_images)):
        for i in range(max(count, 2)):
            folder = 'images' if masks else f'{i % 2:04d}'
            arrays = {folder: rng.integers(0, 256, (side, side, 3), np.uint8)}
            if masks:
                arrays['masks'] = rng.integers(0, 2, (side, side), np.uint8)
            for folder, array in arrays.items():
                path = Path(directory) / split / folder / f'{i:06d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    if masks:
        (Path(directory) / 'classes.txt').write_text('0\n1')


def loop(name, batch, setting):
    """The cost of the loop: a short training by train.train, beside the bare step."""
    network, arrays = training.NETWORKS[name], training.examples(name, batch)
    made = training.made_of(name, batch, setting.dtype, arrays)
    state = made.training.init(jax.random.key(0))
    resident = parallel.replicate(arrays, parallel.data_mesh(1))
    bare = training.Step(made, state, resident, setting.steps_per_call)
    result = setting.measure({'cnnjax': bare}, f'loop_{name}', chance=network.chance)
    every = max(setting.steps_per_call, min(100, result['cnnjax']['steps']), 5)
    with tempfile.TemporaryDirectory() as directory:
        pictures(directory, name, 2 * batch, 2)
        config = training.recipe(name, batch, setting.dtype, {
            'dataset': 'folder', 'data_dir': directory, 'train_split': 'train',
            'test_split': 'test', 'image_size': network.side, 'steps': 4 * every, 'drops': (),
            'warmup': 0.0, 'report_every': every, 'eval_every': 0.0, 'checkpoint_every': 0.0,
            'eval_batch_size': 2})
        with contextlib.redirect_stdout(io.StringIO()):  # hides its reports
            train.train(config, Path(directory) / 'run')
        rows = reports.read_metrics(Path(directory) / 'run')
    taken = [batch / row['images_per_second'] for row in rows[1:]]
    result['loop'] = {'seconds': statistics.median(taken), 'steps': every,
                      'quartiles': np.percentile(taken, (25, 75)).tolist()}
    result['ratios']['loop'] = result['loop']['seconds'] / result['cnnjax']['seconds']
    return result | {'batch': batch}


def compilation(name, batch, setting):
    """Seconds from the command to the end of a training's first step, without and with the compiled
    programs of an earlier start."""
    network, result = training.NETWORKS[name], {'batch': batch}
    file, colon, argument = network.config.partition(':')
    with tempfile.TemporaryDirectory() as directory:
        pictures(Path(directory) / 'data', name, batch, 2)
        fields = {'dataset': 'folder', 'data_dir': f'{directory}/data', 'train_split': 'train',
                  'test_split': 'test', 'image_size': network.side, 'batch_size': batch,
                  'steps': 1, 'warmup': 0.0, 'drops': (), 'eval_batch_size': 2, 'devices': 1,
                  'stream': False, 'dtype': setting.dtype, **network.changes}
        for run in ('cold', 'warm'):
            command = [sys.executable, str(ROOT / 'launch.py'), f'--workdir={directory}/{run}',
                       f'--config={ROOT}/configs/{file}.py{colon}{argument}',
                       *(f'--config.{field}={value}' for field, value in fields.items())]
            result[run] = first_step(command, f'{directory}/programs')
    return result


def first_step(command, programs):
    """Seconds until a training prints that its first step is done; the training then goes on to its
    end.

    Raises Unmeasured, with the output, if it never prints that.
    """
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': programs}
    start, seconds, said = time.perf_counter(), None, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment) as process:
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith('first step after'):
                seconds = time.perf_counter() - start
    if seconds is None or process.returncode:
        raise Unmeasured('the training ended: ' + (said[-1] if said else 'it said nothing'))
    return seconds
