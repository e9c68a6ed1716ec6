"""The training loop: data -> network -> optimizer -> step -> devices -> metrics, checkpoints."""

import contextlib
import datetime
import functools
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from cnnjax import (
    checkpoint,
    cluster,
    data,
    dataset,
    limits,
    models,
    optim,
    parallel,
    step,
    trained,
    transfer,
    workdir,
)
from cnnjax.errors import UserError
from cnnjax.limits import Number, Whole

SIDE = 8192  # pixels: a single image with longer sides would take gigabytes
LIMITS = {
    'seed': limits.SEED, 'head_rate': Number(0), 'image_size': Whole(0, SIDE),
    'border': Whole(0, SIDE // 4), 'loader_threads': Whole(1, 1024),
    'loader_workers': Whole(0, 1024),
    'shorter_side': Number(1, SIDE), 'crop_area': Number(0, 1), 'crop_aspect': Number(0),
    'test_shorter_side': Whole(0, SIDE), 'padding': Whole(0, SIDE // 4), 'color': Number(0),
    'color_jitter': Number(0, 1), 'batch_size': Whole(1), 'accumulate': Whole(1),
    'epochs': Number(0), 'steps': Whole(), 'learning_rate': Number(0), 'drops': Number(0),
    'drop_factor': Number(0, 1e300), 'warmup': Number(0), 'warmup_rate': Number(0),
    'momentum': Number(0, below=1), 'weight_decay': Number(0), 'bias_rate': Number(0),
    'label_smoothing': Number(0, 1), 'report_every': Whole(), 'eval_every': Number(0),
    'checkpoint_every': Number(0), 'keep': Whole(1), 'eval_batch_size': Whole(1),
    'steps_per_call': Whole(0, 2 ** 16), 'profile': Whole(), 'parallel': parallel.KINDS}


def check(config):
    """Raises UserError for a value in `config` that no training can have."""
    limits.check(config, {field: limit for field, limit in LIMITS.items()
                          if config[field] is not None})  # image_size: to be inherited
    if config.model.name:  # else it is inherited
        models.create(**config.model, dtype=config.dtype)  # before the data is looked for


class Plan(NamedTuple):
    """What a config's lengths, in epochs or in steps, mean in steps."""

    steps: int
    steps_per_epoch: int
    rate: Callable  # step -> learning rate
    report_every: int
    eval_every: int
    checkpoint_every: int

    def due(self, done, every):
        """Whether something that happens `every` so many steps, and at the end, happens now."""
        return done == self.steps or (every > 0 and done % every == 0)

    def until_due(self, done):
        """How many steps after `done` something happens."""
        return min([self.steps - done, *(
            every - done % every for every in (self.report_every, self.eval_every,
                                               self.checkpoint_every) if every > 0)])


def plan(config, examples):
    """The plan of a training on so many examples.

    Raises:
      UserError: a batch larger than the set, or no length.
    """
    per_epoch = examples // config.batch_size
    if not per_epoch:
        raise UserError(f'batch_size={config.batch_size} is more than the {examples} training '
                        'images: take a smaller one')

    def in_steps(length):
        return round(length if config.steps else length * per_epoch)

    steps = config.steps or in_steps(config.epochs)
    if steps < 1:
        raise UserError(f'epochs={config.epochs} and steps={config.steps}: nothing to train')
    if steps > LIMITS['steps'][1]:
        raise UserError(f'epochs={config.epochs} are {steps:,} steps: take fewer')
    rate = optim.learning_rate(
        config.learning_rate, steps, schedule=config.schedule, factor=config.drop_factor,
        drops=tuple(map(in_steps, config.drops)), warmup=in_steps(config.warmup),
        warmup_shape=config.warmup_shape, warmup_rate=config.warmup_rate)
    every = {name: max(in_steps(config[name]), 1) if config[name] else 0
             for name in ('eval_every', 'checkpoint_every')}
    return Plan(steps, per_epoch, rate, config.report_every, **every)


def load(config, split):
    """The set `split` of config.dataset, resident or streamed as the config says."""
    return prepare(config, data.load(config.dataset, split, config.data_dir, config.bad_images))


def prepare(config, source):
    """A Source resident or streamed, and cut, as the config says."""
    crops = data.Crops(config.image_size, config.crop, config.shorter_side, config.crop_area,
                       config.crop_aspect, config.test_shorter_side, config.border,
                       config.interpolation)
    if config.stream:
        return data.Stream(source, crops, config.loader_threads, config.loader_workers)
    return data.Resident(source, crops)


def load_sets(config, directory, recorded):
    """(training set, test set, {split: Identity}); `recorded` is the dataset.Dataset of the run in
    `directory`, None where none has begun.

    Raises:
      data.Missing: there is no data.
      UserError: it is not what the run was trained on, or not the same in all processes.
    """
    try:
        sources = {split: data.load(config.dataset, split, config.data_dir, config.bad_images)
                   for split in (config.train_split, config.test_split)}
    except data.Missing:
        cluster.agree(data='missing')
        raise
    splits = {split: data.identity(source) for split, source in sources.items()}
    cluster.agree(data={split: identity.summary() for split, identity in splits.items()})
    if recorded:
        dataset.check(directory, recorded, splits)
    return *(prepare(config, sources[split])
             for split in (config.train_split, config.test_split)), splits


def finished_without_data(config, directory, recorded, missing):
    """The last row of a finished run; raises `missing`, the error, for any other."""
    known = recorded and recorded.splits.get(config.train_split)
    if not recorded or not (known or config.steps):
        raise missing
    lengths = plan(config, known.examples if known else config.batch_size)
    with checkpoint.Checkpoints(directory / 'checkpoints', read_only=True) as checkpoints:
        start = checkpoints.latest()
        if start != lengths.steps:
            raise missing
        past = checkpoints.past(start)
    check_config(directory, config, lengths, start, past)
    workdir.recover(directory, past)
    return finished(directory, start,
                    f'; that its data is still the same cannot be told: {missing}')


def evaluator(net, normalize, examples, mesh, *, batch_size, kind='shard_map'):
    """A function of the variables that evaluates them on every one of the examples, each exactly
    once: {'count', 'loss', 'error', 'top5_error' (above five classes), 'column1/error', ...}."""
    if batch_size < 1:
        raise UserError(f'a batch of an evaluation has at least one image, not {batch_size}')
    batch_size = mesh.size * math.ceil(min(batch_size, len(examples)) / mesh.size)
    share = jax.process_index(), jax.process_count()
    compiled = parallel.parallelize(
        functools.partial(step.eval_step, net=net, normalize=normalize), mesh, kind, donate=False)
    resident = parallel.replicate(examples.data or {}, mesh)
    key = jax.random.key(0)  # nothing is random

    def evaluate(variables):
        sums = [compiled(variables, resident, batch, key)[1]
                for batch in examples.test_batches(batch_size, share)]
        totals = {name: float(sum(float(s[name]) for s in sums)) for name in sums[0]}
        count = round(totals.pop('count'))
        assert count == len(examples), f'{count} examples evaluated of {len(examples)}'
        return {'count': count, **{name: total / count for name, total in totals.items()}}

    return evaluate


def train(config, directory):
    """Trains what `config` (see configs/base.py) describes in `directory`, or resumes it there.

    A resumed training ends with the same bits as one that was never interrupted. Returns the last
    row of metrics.jsonl. All processes of a run call this (see cluster.connect); a signal to stop
    (cluster.Preemption) saves a checkpoint and ends the process.

    Raises:
      UserError: something in the config does not fit, `directory` holds another run or one that was
        trained on other data, or the loss is no longer finite; checkpoints stay as they are.
    """
    directory = Path(directory)
    check(config)
    if config.dtype == 'float16':  # a network that was trained elsewhere may compute in it
        raise UserError("dtype='float16': its smallest gradients become 0, and the loss is not "
                        "scaled against that; take 'bfloat16', which has the range of float32")
    source = trained.load(config.init_from, name=config.model.name) if config.init_from else None
    cluster.agree(weights=source and trained.fingerprint(source))
    config = transfer.inherit(config, source)
    mesh = parallel.data_mesh(config.devices)
    parallel.check_batch(config.batch_size, mesh, config.accumulate)
    recorded = dataset.of_run(directory)
    try:
        train_set, test_set, splits = load_sets(config, directory, recorded)
    except data.Missing as error:
        return finished_without_data(config, directory, recorded, error)
    if train_set.classes != test_set.classes:
        raise UserError('the training and the test set have different classes')
    lengths = plan(config, len(train_set))
    if source:
        normalize = source.normalize
        transfer.check_images(normalize, train_set.image_shape, config.init_from)
    else:
        normalize = data.normalization(train_set.data and train_set.data['image'], config.mean,
                                       config.std)
    if recorded:
        normalize = dataset.normalization(directory, recorded, train_set.image_shape, normalize)
    net = models.create(**config.model, num_classes=len(train_set.classes), dtype=config.dtype)
    if source:
        transfer.check_network(net, source, config.init_from)
    frozen = transfer.frozen_layers(net, config.freeze, train_set.image_shape)
    if frozen and not source:
        raise UserError(f"freeze='{config.freeze}' would freeze random weights: give init_from")
    head = ()
    if source or config.head_rate != 1:
        head = transfer.head(net, train_set.image_shape)
    tx = optim.momentum_sgd(
        lengths.rate, momentum=config.momentum, nesterov=config.nesterov,
        weight_decay=config.weight_decay, decay=config.decay, order=config.order,
        bias_rate=config.bias_rate, head_rate=config.head_rate, head=head)
    augment = functools.partial(
        data.augment, normalize=normalize, flip=config.flip, padding=config.padding,
        padding_mode=config.padding_mode, color=config.color,
        color_jitter=config.color_jitter)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    # What does not fit the images is told before anything is written.
    jax.eval_shape(augment, key, np.zeros(1, np.int32), jax.ShapeDtypeStruct(
        (1, *train_set.image_shape), np.uint8))

    with (cluster.Preemption() as preemption,
          checkpoint.Checkpoints(directory / 'checkpoints', config.keep) as checkpoints):
        start = checkpoints.latest() or 0
        cluster.agree(**{'steps done': start})
        past = checkpoints.past(start) if start else {}
        check_config(directory, config, lengths, start, past)
        state = step.create(net, tx, init_key, train_set.image_shape, frozen)
        if source:  # the last layer stays only where the classes are the same
            if not start and cluster.first():
                print(f"init_from='{config.init_from}': the last layer is "
                      + ('kept, its classes are those of the data'
                         if source.classes == train_set.classes else 'new, for the classes of the '
                         'data'), flush=True)
            state = state._replace(**transfer.carry_over(
                {'params': state.params, 'batch_stats': state.batch_stats},
                transfer.variables(net, source),
                () if source.classes == train_set.classes else head, config.init_from))
        state = parallel.replicate(state, mesh)
        if start:
            state = checkpoints.restore(start, state)
        if cluster.first():
            workdir.write_config(directory, config)
            workdir.write_environment(directory)
            if not (start and recorded):
                dataset.write(directory, splits, train_set.image_shape, normalize)
        workdir.recover(directory, past)
        if start == lengths.steps:
            return finished(directory, start)

        size = steps_per_call(config, lengths)
        update = updater(
            size, mesh, config.parallel, net=net, tx=tx, augment=augment,
            smoothing=config.label_smoothing, accumulate=config.accumulate, frozen=frozen)
        evaluate = evaluator(net, normalize, test_set, mesh, batch_size=config.eval_batch_size,
                             kind=config.parallel)
        resident = parallel.replicate(train_set.data or {}, mesh)
        key = parallel.replicate(key, mesh)
        batches = train_set.train_batches(config.batch_size, config.seed, start,
                                          (jax.process_index(), jax.process_count()))
        with (workdir.Metrics(directory, start, config, past) as metrics,
              Progress(lengths, config.batch_size, start) as progress,
              contextlib.closing(batches), Profile(directory, config.profile) as profile):
            return loop(state, update, size, evaluate, resident, key, lengths, checkpoints,
                        metrics, progress, profile, preemption, batches)


def steps_per_call(config, lengths):
    """How many steps are one program: config.steps_per_call or, where that is 0, one on the CPU and
    of streamed batches, else as many as lie between two reports, at most 100."""
    if config.steps_per_call or config.stream or jax.default_backend() == 'cpu':
        return config.steps_per_call or 1
    return min(lengths.until_due(0), 100)


def updater(size, mesh, kind, **arguments):
    """A function (state, data, batches, key) -> (state, metrics) of a list of at most `size`
    batches; see step.train_step and train_steps."""
    kernel = step.train_step if size == 1 else step.train_steps
    mapped = parallel.parallelize(functools.partial(kernel, **arguments), mesh, kind)

    def update(state, data, batches, key):
        if size == 1:
            return mapped(state, data, *batches, key)
        padded = [*batches, *[batches[-1]] * (size - len(batches))]
        stacked = {name: np.stack([batch[name] for batch in padded], 1) for name in batches[0]}
        return mapped(state, data, stacked, (key, np.int32(len(batches))))

    return update


def loop(state, update, size, evaluate, resident, key, lengths, checkpoints, metrics, progress,
         profile, preemption, batches):
    """The steps from state.step to the end. Nothing waits for the devices between two reports."""
    done = start = int(state.step)
    # The values of the calls since the last row, still on the devices.
    pending = [(1, values) for values in metrics.pending]
    while done < lengths.steps:
        profile.step(done - start, state)
        count = min(size, lengths.until_due(done))
        state, values = update(state, resident, list(itertools.islice(batches, count)), key)
        pending.append((count, values))
        if done == start:
            jax.block_until_ready(values)
            progress.compiled(count)
        done += count
        progress.advance(count)
        evaluating = lengths.due(done, lengths.eval_every)
        saving = evaluating or lengths.due(done, lengths.checkpoint_every)
        reporting = saving or lengths.due(done, lengths.report_every)
        stopping = preemption.reached()
        if not (reporting or stopping):
            continue
        # A report never spans a checkpoint: a resumed run writes the same rows.
        pending = [{name: np.ravel(of_all)[i] for name, of_all in values.items()}
                   for count, values in jax.device_get(pending) for i in range(count)]
        for i, values in enumerate(pending, done - len(pending) + 1):
            if not all(map(np.isfinite, values.values())):
                raise UserError(
                    f'step {i}: ' + ', '.join(f'{name} is {v}' for name, v in values.items())
                    + f'. Lower learning_rate (it was {float(lengths.rate(i - 1)):g}) or warm up; '
                    + (f'checkpoint {checkpoints.latest()} in {checkpoints.directory} is intact'
                       if checkpoints.latest() else 'there is no checkpoint before it'))
        error = None
        if reporting:
            row = {'step': done, 'epoch': done / lengths.steps_per_epoch,
                   'learning_rate': float(lengths.rate(done - 1)),
                   **{f'train/{name}': float(np.mean([values[name] for values in pending]))
                      for name in pending[0]}}
            if rate := progress.rate():
                row['images_per_second'] = rate
            pending = []
            if evaluating:
                results = evaluate({'params': state.params, 'batch_stats': state.batch_stats})
                row |= {f'test/{name}': value for name, value in results.items() if name != 'count'}
                error = results['error']
            metrics.write(row)
        if saving or stopping:
            checkpoints.save(done, state, error, metrics.past(pending))
        if reporting:
            progress.report(row)
        if stopping:
            checkpoints.wait()
            progress.print(f'asked to stop: saved after step {done} of {lengths.steps}; the same '
                           'command goes on from there')
            preemption.leave()
    return row


def finished(directory, steps, remark=''):
    """The last row of metrics.jsonl; says that the run is finished.

    Raises:
      UserError: it is not that of the last step, and the checkpoint, of an older version, has no
        copy of it.
    """
    multihost_utils.sync_global_devices('rows')  # the first process may have restored some
    last = (workdir.read_metrics(directory) or [{'step': None}])[-1]
    if last['step'] != steps:
        raise UserError(f'{directory}: this run is finished, after {steps} steps, but the last row '
                        'of metrics.jsonl is lost; configs/evaluate.py tells its error')
    if cluster.first():
        print(f'{directory}: this run is finished, after {steps} steps{remark}', flush=True)
    return last


def check_config(directory, config, lengths, start, past):
    """Raises UserError if the run in `directory`, `start` steps long, was not made with `config`.

    It may get longer or shorter as long as the steps done had the same learning rates. `past` is
    that of its checkpoint.
    """
    rows = [] if start else workdir.read_metrics(directory)
    if rows and cluster.first():
        print(f'{directory} has rows up to step {rows[-1]["step"]} but no checkpoint: the training '
              'begins anew', flush=True)
    if not start and not any('test/error' in row for row in rows):  # what is evaluated is saved
        return
    saved = past['config'] if past else workdir.read_config(directory)
    if saved is None:
        raise UserError(f'{directory} has lost its config.json: take another workdir')
    changed = workdir.differences(saved, config)
    extended = set(changed) <= {'epochs', 'steps'}
    if extended and changed:
        then = plan(saved, lengths.steps_per_epoch * saved.batch_size).rate
        done = np.arange(start)
        extended = start <= lengths.steps and np.array_equal(
            *(np.broadcast_to(np.float32(rate(done)), done.shape)
              for rate in (then, lengths.rate)))
    if changed and not extended:
        workdir.refuse(directory, changed, ': the learning rates of the steps done would differ'
                       if set(changed) <= {'epochs', 'steps'} else '')
    if start > lengths.steps:  # the data has changed, and dataset.json, which would tell, is lost
        raise UserError(f'{directory}: its run has made {start} steps, but {config.epochs:g} '
                        f'epochs of the data as it is now are only {lengths.steps}: restore the '
                        'data, or take another workdir')


class Profile:
    """Traces `steps` steps of a run, after its first ten, for TensorBoard or ui.perfetto.dev, in
    `directory`/profile (https://docs.jax.dev/en/latest/profiling.html); a context manager."""

    FIRST = 10

    def __init__(self, directory, steps):
        self.directory, self.running = directory / 'profile', False
        self.traced = range(self.FIRST, self.FIRST + steps)

    def step(self, done, state):
        """To be called before each step, with the state that the devices are working at."""
        if (done in self.traced) == self.running:
            return
        jax.block_until_ready(state)  # the trace has whole steps
        if self.running:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(self.directory)
        self.running = not self.running

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.running:
            jax.profiler.stop_trace()


class Progress:
    """A progress bar on a terminal, one line per report elsewhere; of the first process."""

    def __init__(self, lengths, batch_size, start):
        self.lengths, self.batch_size, self.done = lengths, batch_size, start
        self.bar = tqdm(total=lengths.steps, initial=start, unit='step',
                        disable=None if cluster.first() else True, dynamic_ncols=True)
        self.start_time = self.time = time.perf_counter()
        self.timed = start
        if start:
            self.print(f'resuming after step {start} of {lengths.steps}')

    def print(self, line):
        if not self.bar.disable:
            self.bar.write(line)
        elif cluster.first():
            print(line, flush=True)

    def compiled(self, count):
        """The first steps are done: speed is measured from here."""
        self.time, self.timed = time.perf_counter(), self.done + count
        self.print(f'first step after {self.time - self.start_time:.1f} s (compilation)')

    def advance(self, count):
        self.done += count
        self.bar.update(count)

    def rate(self):
        """Images per second since the last report, None where there are none to count."""
        now, images = time.perf_counter(), (self.done - self.timed) * self.batch_size
        rate = images / (now - self.time) if images else None
        self.time, self.timed = now, self.done
        return rate

    def report(self, row):
        """Shows a row; the time of evaluation and saving does not count as training."""
        shown = f'epoch {row["epoch"]:.1f}  step {row["step"]}/{self.lengths.steps}  ' \
                f'loss {row["train/loss"]:.4f}  error {100 * row["train/error"]:.2f}%'
        shown += ''.join(f'  {name} {100 * value:.2f}%' for name, value in row.items()
                         if name.startswith('test/') and name.endswith('error'))
        if 'images_per_second' in row:
            shown += f'  {row["images_per_second"]:,.0f} images/s'
            left = (self.lengths.steps - row['step']) * self.batch_size / row['images_per_second']
            shown += f'  {datetime.timedelta(seconds=round(left))} left'
        if self.bar.disable or 'test/error' in row:
            self.print(shown)
        else:
            self.bar.set_postfix_str(shown)
        self.time = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
