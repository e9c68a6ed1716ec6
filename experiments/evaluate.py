"""The errors of a trained network over every example of a set, each exactly once."""

from cnnjax import cluster, parallel, train, trained, workdir
from cnnjax.errors import UserError
from experiments import codes, fields


def run(config, directory):
    """Evaluates config.source and writes results.json.

    The data is that of the run unless config.dataset names another; published weights have none.
    Raises UserError where its classes or its images do not fit the network.
    """
    fields.check_minimum(config, batch_size=1, devices=0)
    network = trained.load(config.source, config.checkpoint, config.network)
    if network.config is None and config.dataset is None:
        raise UserError(f"source='{config.source}' is no run, so it has no data set: give dataset")
    own = codes.training(network)
    own.unlock()
    if network.config is None:
        own.image_size = network.image_shape[0]
    own.test_split = config.split or own.test_split
    for field in ('dataset', 'data_dir', 'stream', 'bad_images'):
        if config[field] is not None:
            own[field] = config[field]
    if own.stream and not own.image_size:
        raise UserError('stream=True: the run took its images as large as they are, and such are '
                        'not streamed: leave stream out')
    dataset = train.load(own, own.test_split)
    numbers = tuple(map(str, range(len(dataset.classes))))  # all that a file of weights may know
    if network.classes not in (dataset.classes, numbers):
        raise UserError(f'{own.dataset} has the classes {", ".join(dataset.classes[:5])} ..., the '
                        f'network {", ".join(network.classes[:5])} ...')
    if tuple(dataset.image_shape) != network.image_shape:
        raise UserError(f'{own.dataset} has images of {tuple(dataset.image_shape)}, the network '
                        f'was trained on {network.image_shape}')
    fields.check_memory(min(config.batch_size, len(dataset)) * codes.widest(network),
                        batch_size=config.batch_size)
    mesh = parallel.data_mesh(config.devices)
    evaluate = train.evaluator(network.net, network.normalize, dataset, mesh,
                               batch_size=config.batch_size)
    results = evaluate(parallel.replicate(network.variables, mesh))
    if not cluster.first():
        return
    for name, value in results.items():
        shown = f'{100 * value:.2f} %' if name.endswith('error') else f'{value:g}'
        print(f'{name:>20}  {shown}')
    workdir.write_json(f'{directory}/results.json', {
        'source': str(config.source), 'checkpoint': config.checkpoint, 'dataset': own.dataset,
        'split': own.test_split, **results})
