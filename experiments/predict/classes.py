"""The classes of pictures, as a table on the terminal and in files."""

from cnnjax import atomic, page, predict, predict_classes, tables
from cnnjax.data import threads
from experiments.predict.found import PICTURED, Found, thumbnail

SHOWN = 20  # The most pictures in the table on the terminal.
BESIDE = 3  # The most classes of a picture in it.


def predictor(config, network, paths):
    """A function from (directory, names) to the Founds of the pictures; it writes all files but
    the page. Raises UserError if the network has no such classes or views."""
    predict_classes.check(network)

    def run(directory, names):
        unreadable = {}
        found = predict_classes.classes(network, paths, config.top, batch_size=config.batch_size,
                                        devices=config.devices, unreadable=unreadable)
        for error in unreadable.values():
            print(f'skipped: {error}')
        made = [Found(name, path, error=unreadable[i]) if i in unreadable else answered(
            name, path, found[i]) for i, (name, path) in enumerate(zip(names, paths, strict=True))]
        seen = [one for one in made if not one.error]
        if config.draw:
            pictured = seen[:PICTURED]
            threads.mapped(lambda i: pictured[i].record.update(thumbnail=thumbnail(
                directory, pictured[i].name, predict.opened(network, pictured[i].path))),
                len(pictured), 'thumbnails')
        if seen:
            write(directory, seen)
        return made

    return run


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
