"""Training: begins or resumes the run that a config describes, and runs it."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cnnjax import (
    checkpoint,
    class_weights,
    cluster,
    data,
    dataset,
    dataset_json,
    distillation,
    early_stopping,
    figures,
    loop,
    lsuv,
    models,
    parallel,
    reports,
    resume,
    step,
    trackers,
    trained,
    transfer,
    user_network,
    views,
    workdir,
)
from cnnjax.errors import UserError
from cnnjax.evaluate import evaluator
from cnnjax.progress import Profile, Progress
from cnnjax.step import TrainState
from cnnjax.training import Training, build
from cnnjax.training_config import check


def normalization(config: ConfigDict, directory: str | Path, recorded: dataset_json.Dataset | None,
                  train_set: data.Resident | data.Stream,
                  source: trained.Trained | None) -> data.Normalization:
    """The data.Normalization of a run: the one it began with, else that of the weights it starts
    from, else that of the data."""
    if source:
        normalize = source.normalize
        if config.whiten and normalize.whitening is None:
            raise UserError(f'whiten=True: the weights of init_from={config.init_from} have a '
                            'normalization of their own: leave it out')
        transfer.check_images(normalize, train_set.image_shape, config.init_from)
    else:
        normalize = data.normalization(train_set.data and train_set.data['image'], config.mean,
                                       config.std, config.whiten)
    if normalize.whitening is not None:  # Machines may round the eigenvectors in other ways.
        normalize = multihost_utils.broadcast_one_to_all(normalize)
    if recorded:
        return dataset_json.normalization(directory, recorded, train_set.image_shape, normalize)
    return normalize


def train(config: ConfigDict, directory: str | Path,
          sources: Mapping[str, data.Source] | None = None) -> dict[str, Any]:
    """Trains in `directory` what `config` (see configs/base.py) describes, or resumes it there.

    A resumed training ends with the same bits as one that was never interrupted. Returns the last
    row of metrics.jsonl. All processes of a run call this (see cluster.connect); a signal to stop
    (cluster.Preemption) saves a checkpoint and ends the process.

    Args:
      sources: your own data, instead of config.dataset: {split: data.Source} for
        config.train_split, config.test_split and, if it is set, config.val_split; see
        data.from_arrays.

    Raises:
      UserError: a field does not fit, `directory` holds another run or a run on other data, or the
        loss is no longer finite. Checkpoints are kept.
    """
    directory = Path(directory)
    if sources is not None:
        config = config.copy_and_resolve_references()
        config.dataset = data.FROM_PYTHON
    check(config)
    if config.dtype == 'float16':  # only networks that were trained elsewhere may use it
        raise UserError("dtype='float16': its smallest gradients become 0, and the loss is not "
                        "scaled against that; take 'bfloat16', which has the range of float32")
    trackers.check(config.log)
    source = starting_weights(config)
    teacher, config = distillation.load(config)
    config = transfer.inherit(config, source)
    views.check(views.Views.of(config), config.task, dataset.crops(config))
    mesh = parallel.data_mesh(config.devices)
    parallel.check_batch(config.batch_size, mesh, config.accumulate)
    recorded = dataset_json.of_run(directory)
    try:
        sets = dataset.load_sets(config, directory, recorded, sources)
    except data.Missing as error:
        return resume.finished_without_data(config, directory, recorded, error)
    normalize = normalization(config, directory, recorded, sets.train, source)
    training = build(class_weights.resolved(config, sets), sets.train.classes, sets.train.shapes,
                     normalize, len(sets.train), source, teacher=teacher)
    for examples in filter(None, (sets.test, sets.val)):
        training.check_evaluation(examples.shapes)
        normalize.fitting(examples.image_shape)
    if config.crops == 'dense':
        normalize.check_pointwise("crops='dense'")
    views.check_network(views.Views.of(config), training.net, sets.test.crops,
                        sets.test.image_shape[-1])
    with (cluster.Preemption() as preemption,
          checkpoint.Checkpoints(directory / 'checkpoints', config.keep) as checkpoints):
        start = checkpoints.latest() or 0
        cluster.agree(**{'steps done': start})
        past = checkpoints.past(start) if start else {}
        resume.check_config(directory, config, training.plan, start, past)
        state = initial_state(config, training, source, mesh, new=not start)
        if not start and config.init == 'lsuv':
            state = with_unit_variance(config, training, sets.train, state, mesh)
        if start:
            state = checkpoints.restore(start, state)
        record(config, directory, None if start and recorded else sets, normalize)
        reports.recover(directory, past)
        errors = early_stopping.errors(past, training.plan.eval_every)
        if (start == training.plan.steps
                or early_stopping.due(errors, training.plan.patience)):
            return resume.finished(directory, start)
        batches = sets.train.train_batches(
            config.batch_size, config.seed, start, (jax.process_index(), jax.process_count()),
            config.repeats)
        feed = batches if start else first_drawn(config, directory, training, sets.train,
                                                 normalize, batches)
        update = updater(config, training, sets.train, mesh)
        judged = sets.val or sets.test  # A test set beside a validation set is measured at the end.
        evaluate = evaluator(training.task, training.net, normalize, judged, mesh,
                             batch_size=config.eval_batch_size, kind=config.parallel,
                             teach=training.teach if config.hint_layer
                             or config.task == 'stylize' else None)
        with (trackers.Tracker(directory, config, anew=not start) as tracker,
              reports.Metrics(directory, start, config, past, tracker=tracker) as metrics,
              Progress(training.plan, config.batch_size, start) as progress,
              contextlib.closing(batches), Profile(directory, config.profile) as profile):
            if not start:
                metrics.first_batch()
            services = loop.Services(checkpoints, metrics, progress, profile, preemption, errors)
            return loop.run(state, feed, update, evaluate, training.plan, services,
                            name='val' if sets.val else 'test')


def starting_weights(config: ConfigDict) -> trained.Trained | None:
    """The network of config.init_from, the same in all processes; None if the field is empty."""
    source = None
    if config.init_from:
        name = config.model.name
        others = getattr(models.create(**config.model), 'adopts', ()) if name else ()
        source = trained.load(config.init_from, name=name, others=others)
    cluster.agree(weights=source and trained.fingerprint(source))
    return source


def record(config: ConfigDict, directory: Path, sets: dataset.Sets | None,
           normalize: data.Normalization) -> None:
    """Writes what a run begins with: its config, its environment and, of new `sets`, the data."""
    if not cluster.first():
        return
    workdir.write_config(directory, config)
    workdir.write_environment(directory, user_network.digest(config.model.name))
    if sets:
        dataset_json.write(directory, sets.splits, sets.train.image_shape, normalize)
        if config.split:
            data.splits.write(directory, sets.splits)


def initial_state(config: ConfigDict, training: Training, source: trained.Trained | None,
                  mesh: Mesh, new: bool = True) -> TrainState:
    """The state before the first step, on all devices: random, except for the weights of `source`,
    the trained.Trained of config.init_from. A `new` run prints a line about them."""
    state = training.init(run_keys(config)[0])
    if source:
        fresh = {'params': state.params, 'batch_stats': state.batch_stats}
        start = transfer.adopted(training.net, source, config.init_from)
        same = source.classes == training.classes  # otherwise the last layer is random
        random = frozenset() if same else training.head
        said = ('the last layer is kept, its classes are those of the data' if same else
                'the last layer is new, for the classes of the data')
        if hasattr(training.net, 'adopt'):
            random |= transfer.layers(fresh) - transfer.layers(start.variables)
            said = (f'new layers: {", ".join(sorted(random)) or "none"}; the others are those of '
                    f'its {source.name}')
        if new and cluster.first():
            print(f"init_from='{config.init_from}': {said}", flush=True)
        state = state._replace(**transfer.carry_over(
            fresh, start.variables, random, config.init_from))
    return parallel.replicate(state, mesh)


def with_unit_variance(config: ConfigDict, training: Training,
                       train_set: data.Resident | data.Stream, state: TrainState,
                       mesh: Mesh) -> TrainState:
    """The state before the first step with the weights of LSUV (lsuv.py), for the images of that
    step of all devices and processes."""
    key, steps_key = run_keys(config)
    with contextlib.closing(train_set.train_batches(
            config.batch_size, config.seed, 0, (0, 1), config.repeats)) as batches:
        batch: Any = next(batches)
    arrays: Any = train_set.data or {}

    @jax.jit
    def images(key):
        return training.mix(key, training.augment(key, batch['position'], step.fetch(
            arrays, batch)), None)['image']

    variables = jax.device_get({'params': state.params, 'batch_stats': state.batch_stats})
    params = lsuv.initialized(training.net, variables, key, images(step.keys(steps_key, 0)[0]))
    params = multihost_utils.broadcast_one_to_all(params)  # Machines may round in other ways.
    return state._replace(params=parallel.replicate(params, mesh))


def run_keys(config: ConfigDict) -> jax.Array:
    """The key of the initialization and that of all steps."""
    return jax.random.split(jax.random.key(config.seed))


def first_drawn(config: ConfigDict, directory: Path, training: Training,
                train_set: data.Resident | data.Stream, normalize: data.Normalization,
                batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same batches, of which the first is drawn as the first step sees it."""
    if not cluster.first():
        return batches
    first = next(batches)
    # An example is mixed with the one before it, the first with the last, which is not drawn.
    places = np.arange(-1, min(figures.SHOWN, len(first['position'])))
    some = {name: values[places] for name, values in first.items()}
    arrays: Any = train_set.data or {}

    @jax.jit
    def seen(key, examples):
        examples = training.mix(key, training.augment(key, some['position'], examples))
        return {name: values[1:] for name, values in examples.items()}

    figures.first_batch(
        directory, reports.called(directory, config), training.task, train_set.classes, normalize,
        seen(step.keys(run_keys(config)[1], 0)[0], step.fetch(arrays, some)))
    return itertools.chain([first], batches)


def updater(config: ConfigDict, training: Training, train_set: data.Resident | data.Stream,
            mesh: Mesh) -> loop.Update:
    """The loop.Update of a run. A program has config.steps_per_call steps. If that is 0, it has one
    on the CPU or if batches are streamed, otherwise the steps up to a report, at most 100."""
    size = config.steps_per_call
    if not size:
        alone = config.stream or jax.default_backend() == 'cpu'
        size = 1 if alone else min(training.plan.until_due(0), 100)
    mapped = parallel.parallelize(training.step if size == 1 else training.steps, mesh,
                                  config.parallel)
    resident = parallel.replicate(step.shared(
        train_set.data, training.teach and training.teach.variables), mesh)
    key = parallel.replicate(run_keys(config)[1], mesh)

    def call(state, batches):
        if size == 1:
            return mapped(state, resident, *batches, key)
        padded = [*batches, *[batches[-1]] * (size - len(batches))]
        stacked = {name: np.stack([batch[name] for batch in padded], 1) for name in batches[0]}
        return mapped(state, resident, stacked, (key, np.int32(len(batches))))

    return loop.Update(size, call)
