"""Writes the features of a data set in a trained network, and fits a linear classifier on them."""

import warnings
from pathlib import Path

import numpy as np

from cnnjax import atomic, features, limits, trained, workdir
from cnnjax.errors import UserError
from cnnjax.images import selection
from configs import base

LIMITS = features.LIMITS | {'iterations': limits.Whole(1),
                            'inverse_regularization': limits.Number(above=0)}


def run(config, directory):
    """Writes features.npz and, with the test error of each layer's classifier, results.json.

    Raises UserError if the images do not fit the network, or a layer does not exist.
    """
    limits.check(config, LIMITS)
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'extracting features')
    taps = selection.entries(network, config.taps)
    extract = features.extractor(network, taps, config)
    arrays, classes = {}, None
    for name in ('train', 'test'):
        stream = features.load(config, config[f'{name}_split'], network, base.get_config())
        if classes not in (None, stream.classes):
            raise UserError(f"train_split='{config.train_split}' has the classes "
                            f"{', '.join(classes)}, test_split='{config.test_split}' has "
                            f"{', '.join(stream.classes)}: give both the same, in the same order")
        classes = stream.classes
        arrays |= {f'{name}/{key}': value for key, value in extract(stream, name).items()}
        if name == 'train' and np.ptp(arrays['train/label']) == 0:
            only = classes[arrays['train/label'][0]]
            raise UserError(f"train_split='{config.train_split}' of {config.dataset} has images of "
                            f"one class, '{only}': there is nothing to tell apart")
    directory = Path(directory)
    workdir.write_config(directory, config)
    path = directory / 'features.npz'
    with atomic.replacing(path) as unfinished, unfinished.open('wb') as file:
        np.savez_compressed(file, classes=np.array(classes), source=np.array(config.source),
                            **arrays)
    print(f'features: {path}')
    results = {}
    for tap in taps:
        results[tap] = classify(arrays, tap, config)
        print(f'{tap:>20}  {results[tap]["features"]:,} features  '
              f'train error {100 * results[tap]["train_error"]:.2f} %  '
              f'test error {100 * results[tap]["test_error"]:.2f} %')
    atomic.write_json(directory / 'results.json', {
        'source': config.source, 'checkpoint': config.checkpoint, 'dataset': config.dataset,
        'train': len(arrays['train/label']), 'test': len(arrays['test/label']), 'taps': results})


def classify(arrays, tap, config):
    """The errors of logistic regression on standardized features."""
    from sklearn import exceptions, linear_model, pipeline, preprocessing  # slow

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
