"""Writes what a trained network makes of a data set, and fits a linear classifier on it."""

import difflib
import math
import warnings
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import parallel, summary, train, trained, transfer, workdir
from cnnjax.errors import UserError
from configs import base


def run(config, directory):
    """Writes features.npz and results.json: the test error of every tap's classifier.

    Raises UserError where the images do not fit the network, or a tap does not exist.
    """
    network = trained.load(config.source, config.checkpoint)
    taps = chosen(network, config.taps)
    mesh = parallel.data_mesh(config.devices)
    batch_size = mesh.size * math.ceil(config.batch_size / mesh.size)

    def step(variables, _, batch, key, axis):
        del key, axis  # nothing is random, nothing is summed over devices
        activations = network._replace(variables=variables).taps(batch['image'])
        return {}, {tap: feature(activations[tap], config.pool) for tap in taps}

    compute = parallel.parallelize(step, mesh, 'jit', donate=False)  # results of all devices
    variables = parallel.replicate(network.variables, mesh)
    arrays, classes = {}, None
    for name in ('train', 'test'):
        stream = load(config, config[f'{name}_split'], network)
        if classes not in (None, stream.classes):
            raise UserError('the training and the test set have different classes')
        classes = stream.classes
        found = extract(compute, variables, stream, batch_size, name)
        arrays |= {f'{name}/{key}': value for key, value in found.items()}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / 'features.npz'
    np.savez_compressed(path, classes=np.array(classes), source=np.array(config.source), **arrays)
    print(f'features: {path}')
    results = {}
    for tap in taps:
        results[tap] = classify(arrays, tap, config)
        print(f'{tap:>20}  {results[tap]["features"]:,} features  '
              f'train error {100 * results[tap]["train_error"]:.2f} %  '
              f'test error {100 * results[tap]["test_error"]:.2f} %')
    workdir.write_json(directory / 'results.json', {
        'source': config.source, 'checkpoint': config.checkpoint, 'dataset': config.dataset,
        'train': len(arrays['train/label']), 'test': len(arrays['test/label']), 'taps': results})


def chosen(network, taps):
    """The names of the taps 'conv4_6,pool' or, if none, of the last before the classifier."""
    rows = summary.summarize(network.net, network.image_shape).rows
    head = transfer.head(network.net, network.image_shape)
    known = [row.name for row in rows if row.shape is not None]
    if not taps:
        last = next(i for i, row in enumerate(rows) if row.name in head)
        return rows[last].inputs[:1]
    taps = tuple(name.strip() for name in taps.split(','))
    for tap in taps:
        if tap not in known:
            close = difflib.get_close_matches(tap, known, n=3, cutoff=0.5)
            raise UserError(f"taps: the network has no '{tap}'"
                            + (f'; did you mean {" or ".join(close)}?' if close else ''))
    return taps


def load(config, split, network):
    """The images, decoded when needed, cut as for an evaluation of the network."""
    own = (network.config or base.get_config()).copy_and_resolve_references()
    with own.unlocked():
        own.update(dataset=config.dataset, bad_images=config.bad_images, stream=True,
                   loader_threads=config.loader_threads, image_size=network.image_shape[0])
        own.data_dir = config.data_dir
    stream = train.load(own, split)
    if tuple(stream.image_shape) != tuple(network.image_shape):
        raise UserError(f'{config.dataset} has images of {tuple(stream.image_shape)}, the network '
                        f'was trained on {tuple(network.image_shape)}')
    return stream


def feature(activation, pool):
    """[N, ..., C] -> [N, features]"""
    if pool and activation.ndim > 2:
        activation = activation.mean(tuple(range(1, activation.ndim - 1)))
    return activation.reshape(len(activation), -1).astype('float32')


def extract(compute, variables, stream, batch_size, name):
    """{tap: [N, features], 'label': [N]} of a set, every example once."""
    parts = []
    with tqdm(total=len(stream), unit='image', desc=name, disable=None) as progress:
        for batch in stream.test_batches(batch_size):
            real = batch['weight'] > 0
            _, found = compute(variables, {}, batch, jax.random.key(0))
            parts.append({tap: np.asarray(value)[real] for tap, value in found.items()}
                         | {'label': batch['label'][real]})
            progress.update(real.sum())
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    assert len(found['label']) == len(stream), f'{len(found["label"])} of {len(stream)} examples'
    return found


def classify(arrays, tap, config):
    """The errors of logistic regression on standardized features."""
    from sklearn import exceptions, linear_model, pipeline, preprocessing  # here: it takes seconds

    classifier = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(C=config.inverse_regularization,
                                        max_iter=config.iterations))
    with warnings.catch_warnings():
        warnings.simplefilter('error', exceptions.ConvergenceWarning)
        try:
            classifier.fit(arrays[f'train/{tap}'], arrays['train/label'])
        except exceptions.ConvergenceWarning as error:
            raise UserError(f'{tap}: the classifier has not converged after {config.iterations} '
                            'iterations: give more, or a smaller inverse_regularization (the '
                            'features are written)') from error
    errors = {f'{name}_error': 1 - classifier.score(arrays[f'{name}/{tap}'],
                                                    arrays[f'{name}/label'])
              for name in ('train', 'test')}
    return {'features': arrays[f'train/{tap}'].shape[1], **errors}
