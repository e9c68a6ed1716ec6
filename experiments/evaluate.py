"""The error of a trained network on a set, counting each example exactly once."""

import os
from pathlib import Path

import jax

from cnnjax import (
    cluster,
    data,
    dataset,
    dataset_json,
    evaluate,
    features,
    limits,
    memory,
    report,
    train,
    trained,
    user_network,
    views,
    workdir,
)
from cnnjax.errors import UserError
from configs import base

# These fields may choose another set. `split` is the name of a split here.
DATA = [field for field in dataset.FIELDS if field not in ('task', 'split')]
LIMITS = {field: features.LIMITS[field] for field in ('batch_size', 'devices')}


def run(config, directory):
    """Evaluates config.source, prints the results and writes their report.

    The data is that of the run, and must not have changed, unless the config names another;
    published weights have no data of their own. Raises UserError if the classes or the images do
    not fit the network.
    """
    limits.check(config, LIMITS)
    networks = loaded(config)
    network = networks[0]
    if network.config is None and config.dataset is None:
        raise UserError(f"source='{config.source}' is no run, so it has no data set: give dataset")
    own = training(config, network)
    same = network.config is not None and not any(config[field] for field in DATA)
    trained_in = Path(os.path.expanduser(sources(config)[0]))
    source = dataset.source(own, own.test_split, trained_in if same else None)
    told = data.identity(source)
    cluster.agree(data=told.summary(), weights=[*map(trained.fingerprint, networks)])
    if same:
        dataset_json.check(trained_in, dataset_json.read(trained_in), {own.test_split: told})
    source = by_name(source, network, config, own.dataset)
    sets = [prepared(config, each, source, own.dataset) for each in networks]
    options = {'batch_size': config.batch_size, 'devices': config.devices}
    results = (evaluate.evaluate(network, sets[0], **options) if len(networks) == 1 else
               evaluate.fused(networks, sets, **options))
    if not cluster.first():
        return
    workdir.write_config(directory, config)
    seen = ' + '.join(dict.fromkeys(views.described(each.evaluation) for each in networks))
    name = ' + '.join(user_network.short(each.name) for each in networks)
    report.write(directory, network._replace(name=name), sets[0], results, {
        'source': str(config.source), 'checkpoint': config.checkpoint, 'dataset': own.dataset,
        'split': own.test_split, 'views': seen})
    results = evaluate.numbers(results)
    width = max(20, *map(len, results))
    for name, value in results.items():
        shown = f'{100 * value:.2f} %' if name.endswith('error') else f'{value:g}'
        print(f'{name:>{width}}  {shown}')
    if network.task == 'classify':
        print(f'{"views":>{width}}  {seen}')
    print(f'report: {Path(directory) / report.PAGE}')


def sources(config):
    """The sources that config.source names, of which several are an ensemble."""
    if os.path.exists(os.path.expanduser(config.source)):
        return [config.source]
    return limits.names(config.source) or [config.source]


def loaded(config):
    """The networks of config.source, with the views that the config gives."""
    given = {field: config[field] for field in views.LIMITS if config[field] is not None}
    networks = [trained.load(source, config.checkpoint, config.name) for source in sources(config)]
    return [network._replace(evaluation=network.evaluation | given) for network in networks]


def prepared(config, network, source, name):
    """The data set `name` as the network sees it."""
    examples = dataset.prepare(training(config, network), source)
    side = network.evaluation.get('image_size')
    expected = (side, side, network.image_shape[-1]) if side else network.image_shape
    if network.task == 'classify' and tuple(examples.image_shape) != expected:
        raise UserError(f'{name} has images of {tuple(examples.image_shape)}, the network '
                        f'was trained for {expected}')
    # Maps of scores and boxes may fit images of other sizes; a call tells where they do not.
    jax.eval_shape(network, examples.shapes['image'])
    memory.check(min(config.batch_size, len(examples)) * features.largest(network),
                 batch_size=config.batch_size)
    return examples


def training(config, network):
    """The config of a training whose test set is evaluated: the network's own, changed by the
    fields that are set in this evaluation's config."""
    own = network.training(base.get_config())
    train.check(own)
    own.unlock()
    if 'image_size' not in network.evaluation:  # Published weights, of images, do not tell it.
        own.image_size = network.image_shape[0]
    own.test_split = config.split or own.test_split
    for field in ('stream', *DATA):
        if config[field] is not None:
            own[field] = config[field]
    # A set other than the run's must not inherit what only the run's has.
    shipped, other = own.dataset in data.SHIPPED, own.dataset not in ('folder', 'csv')
    folder = own.dataset == 'folder'
    if config.split == data.splits.ALL:
        own.split = '1'
    elif config.dataset or config.data_dir and (Path(config.data_dir) / own.test_split).is_dir():
        own.split = ''
    for field, lacks, value in (
            ('data_dir', shipped, None), ('bad_images', other, 'error'),
            ('mask_values', not folder, ()), ('class_folders', not folder, 'first'),
            ('label_separator', own.dataset != 'csv', '|'),
            ('bad_boxes', shipped, 'error'), ('annotations', other, ''),
            ('proposals', config.dataset or config.data_dir, '')):
        if config[field] is None and lacks:
            own[field] = value
    if own.stream and not own.image_size:
        raise UserError('stream=True: the run took its images as large as they are, and such are '
                        'not streamed: leave stream out')
    return own


def by_name(source, network, config, name):
    """The data set `name` with its labels in the order of the network's classes."""
    classes = network.classes
    if config.classes == 'dataset':
        classes = source.classes
    elif config.classes:
        classes = given(config.classes)
    if config.classes and (len(classes) != len(network.classes)
                           or len(set(classes)) != len(classes)):
        raise UserError(f"classes='{config.classes}' has {len(set(classes))} different names, the "
                        f'network has {len(network.classes)} outputs: give a name to each')
    try:
        found = data.matched(source, classes)
    except UserError as error:
        numbers = tuple(map(str, range(len(classes))))
        reason = (f': {config.source} tells only their numbers'
                  if network.config is None and classes == numbers else '')
        raise UserError(f'dataset={name}: {error}{reason}. Where they are the same under other '
                        "names, give the network's with classes='cat,dog', a file with a name a "
                        "line, or 'dataset' if it counts them as the data does") from None
    if found is not source and cluster.first():
        print(f'{name} has ' + ('the classes of the network in another order'
                                if len(source.classes) == len(classes) else
                                f'{len(source.classes)} of the {len(classes)} classes of the '
                                'network') + ': its labels are matched by name')
    return found


def given(text):
    """The class names in the text 'cat,dog', or in a file with one name per line."""
    path = Path(os.path.expanduser(text))
    if ',' in text or not path.is_file():
        return tuple(name.strip() for name in text.split(','))
    try:
        return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise UserError(f"classes='{text}' is not a readable text file: {error}") from None
