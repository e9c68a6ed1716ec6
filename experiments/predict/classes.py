"""The classes of pictures, as a table on the terminal and in files."""

import numpy as np

from cnnjax import atomic, page, predict, predict_classes, tables, thumbnails
from cnnjax.data import threads
from experiments.predict.found import PICTURED, Found, thumbnail

SHOWN = 20  # The most pictures in the table on the terminal.
BESIDE = 3  # The most classes of a picture in it.


def predictor(config, network, shown):
    """A function from (directory, names) to the Founds of `shown`, {path: file or array}; it writes
    all files but the page. Raises UserError if the network has no such classes or views."""
    predict_classes.check(network)

    def run(directory, names):
        unreadable = {}
        found = predict_classes.classes(
            network, list(shown.values()), config.top, batch_size=config.batch_size,
            devices=config.devices, unreadable=unreadable)
        for error in unreadable.values():
            print(f'skipped: {error}')
        made = [Found(name, path, error=unreadable[i]) if i in unreadable else answered(
            name, path, found[i]) for i, (name, path) in enumerate(zip(names, shown, strict=True))]
        seen = [one for one in made if not one.error]
        if config.draw:
            pictured = seen[:PICTURED]
            picture = pictures(network, [shown[one.path] for one in pictured])
            threads.mapped(lambda i: pictured[i].record.update(thumbnail=thumbnail(
                directory, pictured[i].name, picture(i))), len(pictured), 'thumbnails')
        if seen:
            write(directory, seen)
        return made

    return run


def pictures(network, shown):
    """A function from a place in a list of files or arrays to the picture of what is there."""
    if shown and len(network.image_shape) != 3:
        return thumbnails.of(np.stack(shown)).__getitem__  # on one scale

    def picture(i):
        image = predict.opened(network, shown[i])
        return predict.rounded(image) if isinstance(image, np.ndarray) else image

    return picture


def answered(name, path, prediction):
    """A Found with the Prediction of a picture."""
    classes, probabilities = prediction
    return Found(name, path, {'classes': classes, 'probabilities': probabilities}, prediction, [
        (label, page.Share(share)) for label, share in zip(classes, probabilities, strict=True)])


def write(directory, found):
    """Writes predictions.csv with a row for each picture, and prints the first ones."""
    count = len(found[0].values.classes)
    atomic.write_text(directory / 'predictions.csv', tables.comma_separated(
        ['name', 'file', 'prediction', 'probability',
         *(f'{what}{i}' for i in range(2, count + 1) for what in ('class', 'probability'))],
        ([one.name, one.path, *(cell for label, share in one.rows
                                for cell in (label, f'{share:.6f}'))] for one in found)))
    rows = [(one.path, *(f'{label} {100 * share:.1f} %' for label, share in one.rows[:BESIDE]))
            for one in found[:SHOWN]]
    print(tables.markdown(('picture', 'prediction', *('or',) * (min(count, BESIDE) - 1)), rows,
                          left=1 + BESIDE), end='')
    if len(found) > SHOWN:
        print(f'and {len(found) - SHOWN:,} more')
