"""The layers of a network as a table and as a picture of the architecture."""

import math
from pathlib import Path

from cnnjax import diagram, models, summary, workdir


def run(config, directory):
    """Writes summary.txt, summary.json and figures/architecture.png."""
    net = models.create(**config.model, num_classes=config.num_classes or None)
    whole = summary.summarize(net, config.image_shape)
    text = summary.table(summary.fold(whole, config.depth)._replace(name=config.model.name))
    print(text)
    directory = Path(directory)
    workdir.write_json(directory / 'summary.json', {
        'model': {name: value for name, value in config.model.items() if value is not None},
        'image_shape': whole.image_shape, 'parameters': whole.params,
        'multiply_adds': whole.multiply_adds, 'layers': [entry(row) for row in whole.rows]})
    (directory / 'summary.txt').write_text(text + '\n')
    figure = directory / 'figures' / 'architecture.png'
    drawn = summary.fold(whole, config.picture_depth)
    diagram.draw(drawn._replace(name=config.model.name), figure)
    print(f'picture: {figure}')


def entry(row):
    """A row for JSON, which has no infinity: a receptive field of the whole image is 'all'."""
    field = row.size and {'size': ['all' if math.isinf(size) else size for size in row.size],
                          'stride': row.stride, 'offset': row.offset}
    return {'name': row.name, 'shape': row.shape, 'receptive_field': field,
            'parameters': row.params, 'multiply_adds': row.multiply_adds, 'inputs': row.inputs}
