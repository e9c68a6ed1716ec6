"""The layers of a network as a table and as a picture of the architecture."""

import math
from pathlib import Path

from cnnjax import atomic, diagram, limits, models, summary, workdir
from cnnjax.data import ranks
from cnnjax.errors import UserError

LARGEST = 32768  # The most pixels on a side of an image, and the most channels.
LIMITS = {'num_classes': limits.Whole(), 'depth': limits.Whole(), 'picture_depth': limits.Whole(),
          'image_shape': limits.Whole(1, LARGEST)}


def run(config, directory):
    """Writes summary.txt, summary.json and figures/architecture.png.

    Raises UserError if the network is unknown, or the images do not fit it.
    """
    check(config)
    net = models.create(**config.model, num_classes=config.num_classes or None)
    try:
        whole = summary.summarize(net, config.image_shape)
    except (ArithmeticError, TypeError, ValueError) as error:  # A layer raises it.
        raise UserError(f'image_shape={config.image_shape} does not fit {config.model.name}: '
                        f'{error}') from error
    text = summary.table(summary.fold(whole, config.depth)._replace(name=config.model.name))
    print(text)
    directory = Path(directory)
    workdir.write_config(directory, config)
    atomic.write_json(directory / 'summary.json', {
        'model': {name: value for name, value in config.model.items() if value is not None},
        'image_shape': whole.image_shape, 'parameters': whole.params,
        'multiply_adds': whole.multiply_adds, 'layers': [entry(row) for row in whole.rows]})
    atomic.write_text(directory / 'summary.txt', text + '\n')
    figure = directory / 'figures' / 'architecture.png'
    drawn = summary.fold(whole, config.picture_depth)
    diagram.draw(drawn._replace(name=config.model.name), figure)
    print(f'picture: {figure}')


def check(config):
    """Raises UserError if a value of the config makes no sense."""
    limits.check(config, LIMITS)
    if len(config.image_shape) not in (0, *ranks.NAMES):
        raise UserError(f'image_shape={config.image_shape}: give height, width and channels, of a '
                        "sequence its length and channels, of a volume depth, height, width and "
                        "channels, or () for the paper's images")


def entry(row):
    """A row for JSON. JSON has no infinity, so a receptive field of the whole image is 'all'."""
    field = row.size and {'size': ['all' if math.isinf(size) else size for size in row.size],
                          'stride': row.stride, 'offset': row.offset}
    return {'name': row.name, 'shape': row.shape, 'receptive_field': field,
            'parameters': row.params, 'multiply_adds': row.multiply_adds, 'inputs': row.inputs}
