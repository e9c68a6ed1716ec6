"""Figures of a run's examples: of its first batch, and of what a trained network makes of a set.

    figures/first_batch.png   examples with their targets, as the first step sees them
    figures/predictions.png   examples of the test set, with the true and the predicted targets
    figures/worst.png         the same, of the images with the lowest IoU or F1, or of the wrong
                              classes that a classifier was surest of
    figures/confusion.png     which classes are taken for which; confusion.csv has the numbers
    figures/reliability.png   of a classifier: how often it is right, by how sure it is
    figures/precision_recall.png   of a detector: the precision at each recall, class by class

The last three are in charts.py.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cnnjax import charts, data, fonts, overlays, plots, reports, tasks, thumbnails
from cnnjax.data import ranks
from cnnjax.images.pictures import mosaic
from cnnjax.tasks import detect, multilabel
from cnnjax.tasks.task import Task
from cnnjax.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 8  # The most examples in a figure.
CLASSIFIED = 24  # The most examples in a figure of a classifier.
# The things that a confusion matrix counts; of labels they are the examples.
COUNTED = {'mask': 'pixels', 'boxes': 'objects'}
MEASURES = {'image_iou': 'mean IoU', 'image_f1': 'F1'}  # What is written below an image.
CHOSEN = {'predictions': 'examples spread evenly over the set',
          'worst': 'the predictions that agree least with the truth'}
Row = tuple[str, Sequence[np.ndarray]]  # A text and the pictures above it, uint8 [H, W, 3].


def first_batch(directory: str | Path, run: str, task: Task, classes: Sequence[str],
                normalize: data.Normalization, seen: Mapping[str, jax.Array]) -> None:
    """Draws the first of the augmented examples `seen` by the first step of a run, with its name.
    """
    # Without the frame of their picture, images are drawn whole.
    examples = {name: np.asarray(values) for name, values in seen.items() if name != 'frame'}
    images = examples['image']
    examples['image'] = (normalize.undone(images) if images.ndim == 4 else
                         thumbnails.of(normalize.inverse(images)))
    path, title = Path(directory) / reports.FIRST_BATCH, f'{run}: the first batch'
    if task.draw is None:  # The truth is a name, and needs no figure of matplotlib, which is slow.
        tiles = [overlays.captioned(image, _truth(examples, i, classes)) / 255
                 for i, image in enumerate(examples['image'])]
        picture = np.round(255 * mosaic(tiles)).astype(np.uint8)
        overlays.write(path, overlays.entitled(picture, title))
        return
    rows = [('', pictures) for pictures in zip(
        *_image(examples), _drawn(task, examples, classes), strict=True)]
    panels(path, rows, ('image', 'truth')[-len(rows[0][1]):], _colors(examples, classes), groups=4,
           title=title)


def evaluation(directory: str | Path, network: Trained, examples: data.Resident | data.Stream,
               results: Mapping[str, Any], title: str = '') -> list[str]:
    """Draws what a network makes of a set, and returns the names of the figures.

    Args:
      results: those of evaluate.evaluate on the same examples.
      title: says of which network and set the figures are.
    """
    directory, drawn = Path(directory), []
    task, kind = tasks.create(network.task, network.net), ranks.plural(network.image_shape)
    if 'top' in results or 'tags' in results:
        drawn += answers(directory, examples, results, title)
    elif task.predict is not None and task.draw is not None:
        drawn += targets(directory, network, task, examples, results, title)
    if 'calibration' in results:
        drawn.append(charts.reliability(directory, results['calibration'], kind, title))
    if 'precision' in results:
        drawn.append(charts.precision_recall(directory, results['precision'], examples.classes,
                                             title))
    if 'confusion' in results:
        drawn.append(charts.confusion(directory, results['confusion'], examples.classes,
                                      COUNTED.get(tasks.target(network.task), kind), title))
    return drawn


def targets(directory: Path, network: Trained, task: Task, examples: data.Resident | data.Stream,
            results: Mapping[str, Any], title: str = '') -> list[str]:
    """Draws examples, and the worst ones, with their true and their predicted targets."""
    measure = next(name for name in MEASURES if name in results)
    values, classes = results[measure], examples.classes
    found = _predictor(task, network)
    for name, places in (('predictions', data.spread(len(examples), SHOWN)),
                         ('worst', np.argsort(values, stable=True)[:SHOWN])):
        some = _taken(examples, places)
        drawn = zip(places, *_image(some), _drawn(task, some, classes),
                    _drawn(task, some | found(some), classes), strict=True)
        rows = [(_said(place, MEASURES[measure], values[place]), pictures)
                for place, *pictures in drawn]
        panels(directory / 'figures' / f'{name}.png', rows,
               ('image', 'truth', 'prediction')[-len(rows[0][1]):], _colors(some, classes),
               title=_joined(title, CHOSEN[name]))
    return ['predictions', 'worst']


def answers(directory: Path, examples: data.Resident | data.Stream,
            results: Mapping[str, Any], title: str = '') -> list[str]:
    """Draws examples of a classification, and the mistakes that it was surest of."""
    tagged = 'tags' in results
    worst, say = (_tagged if tagged else _classified)(examples.classes, results)
    chosen_as = CHOSEN | {'worst': 'the largest cross-entropies' if tagged else
                          'the mistakes that it was surest of'}
    chosen = {'predictions': data.spread(len(examples), CLASSIFIED), 'worst': worst[:CLASSIFIED]}
    (directory / 'figures' / 'worst.png').unlink(missing_ok=True)
    chosen = {name: places for name, places in chosen.items() if len(places)}
    for name, places in chosen.items():
        images = thumbnails.of(_taken(examples, places)['image'])
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        panels(directory / 'figures' / f'{name}.png',
               [(say(i), [image]) for i, image in zip(places, images, strict=True)], ('',),
               groups=6, title=_joined(title, chosen_as[name]))
    return list(chosen)


def _joined(title, shown):
    return f'{title}: {shown}' if title else shown


def _classified(classes, results):
    """The places of the mistakes of a classification, the surest first, and a function from a place
    to its truth and its answer as a text."""
    sure, wrong = results['probabilities'][:, 0], np.flatnonzero(results['wrong'])
    return wrong[np.argsort(-sure[wrong], stable=True)], lambda i: (
        f'truth: {fonts.short(classes[results["label"][i]])}\n'
        f'answer: {fonts.short(classes[results["top"][i, 0]])}\nprobability: {sure[i]:.3f}')


def _tagged(classes, results):
    """The same where an image has any number of classes; the largest cross-entropies come first."""
    found, tags = results['probabilities'], results['tags'] > 0
    right = np.where(tags, found, 1 - found)
    wrong = np.flatnonzero(((found >= multilabel.LEAST) != tags).any(1))
    losses = -np.log(np.maximum(right, np.finfo(right.dtype).tiny)).sum(1)

    def named(shown):
        return fonts.short(', '.join(classes[i] for i in np.flatnonzero(shown)) or 'none', 60)

    return wrong[np.argsort(-losses[wrong], stable=True)], lambda i: (
        f'truth: {named(tags[i])}\nfound: {named(found[i] >= multilabel.LEAST)}')


def _truth(examples, i, classes):
    """The name of the class of image i; with several, or a mixture of two, the names of all."""
    if 'tags' in examples:
        return ', '.join(classes[tag] for tag in np.flatnonzero(examples['tags'][i])) or 'none'
    name = classes[examples['label'][i]]
    if 'share' not in examples:
        return name
    share, other = float(examples['share'][i]), classes[examples['other_label'][i]]
    return f'{share:.0%} {name}, {1 - share:.0%} {other}'


def _said(place, measure, value):
    """What is written below an image; a measure of nothing is NaN."""
    return f'image {place}' if np.isnan(value) else f'image {place}, {measure} {value:.2f}'


def _predictor(task, network):
    """A function from examples to what the network finds in them, one at a time: the images of a
    U-Net may be as large as the memory allows."""
    @jax.jit
    def predict(variables, image, inputs):
        return task.predict(network._replace(variables=variables)(image, **inputs))

    def found(examples):
        inputs = detect.inputs(network.net, examples)
        each = [jax.device_get(predict(network.variables, image[None], {
            name: values[i:i + 1] for name, values in inputs.items()}))
            for i, image in enumerate(examples['image'])]
        return {key: np.concatenate([one[key] for one in each]) for key in each[0]}

    return found


def _taken(examples, places):
    """The examples at these places of a data.Resident or data.Stream, as arrays."""
    if examples.data:
        return {name: values[places] for name, values in examples.data.items()}
    batch, = examples.subset(places).test_batches(len(places))
    return batch


def _image(examples):
    """A column of the images, uint8 [N, H, W, 3], where the colours of masks hide them, as a list;
    without masks an empty one."""
    images = examples['image']
    return [np.broadcast_to(images, (*images.shape[:3], 3))] if 'mask' in examples else []


def _colors(examples, classes):
    """The names of the classes whose colours need a legend. Those of boxes stand beside them."""
    return classes if 'mask' in examples else ()


def _drawn(task, examples, classes):
    """The pictures of examples with their targets."""
    return [task.draw({name: values[i] for name, values in examples.items()}, classes)
            for i in range(len(examples['image']))]


def panels(path: str | os.PathLike[str], rows: Sequence[Row], titles: Sequence[str],
           classes: Sequence[str] = (), groups: int = 2, title: str = '') -> None:
    """Draws rows of pictures, `groups` of them side by side, with a title above and the colours of
    the classes, if there are any, below them."""
    from matplotlib.figure import Figure  # here, because the import takes half a second

    groups = min(groups, len(rows))
    shapes = np.array([picture.shape[:2] for _, pictures in rows for picture in pictures])
    # All lengths are in inches: the longer side of each picture is 1.6.
    height, width = (1.6 * shapes / shapes.max(1, keepdims=True)).max(0)
    gap, heading = 0.06, 0.24 if any(titles) else 0.06
    lines = max(text.count('\n') + 1 if text else 0 for text, _ in rows)
    step = height + (0.12 + 0.14 * lines if lines else gap)
    group = len(titles) * (width + gap) + 3 * gap
    shown = [*enumerate(classes)][:charts.NAMED]
    columns = max(int(groups * group / 1.3), 1)
    legend = 0.21 * -(-(len(shown) + 1) // columns) + 0.1 if shown else 0
    above = plots.title_height(title, groups * group) + heading
    size = groups * group - 2 * gap, above + -(-len(rows) // groups) * step + legend
    figure = Figure(figsize=size, dpi=200)
    plots.entitle(figure, title)
    for i, (text, pictures) in enumerate(rows):
        top, left = size[1] - above - i // groups * step, gap + i % groups * group
        for j, picture in enumerate(pictures):
            axes = figure.add_axes(((left + j * (width + gap)) / size[0], (top - height) / size[1],
                                    width / size[0], height / size[1]))
            axes.imshow(picture, interpolation='nearest' if max(picture.shape) < 300 else None)
            axes.set_axis_off()
            if i < groups:
                axes.set_title(titles[j], fontsize=9, pad=4)
        fonts.fit(figure.text((left + (group - 4 * gap) / 2) / size[0],
                              (top - height - 0.04) / size[1], text, fontsize=8, ha='center',
                              va='top'), group - 2 * gap)
    if shown:
        _legend(figure, shown, columns)
    plots.save(figure, path)


def _legend(figure: 'Figure', classes, columns):
    """Class 0 has no colour: its pixels are those of the picture."""
    from matplotlib.patches import Patch

    palette = overlays.colors() / 255
    patches = [Patch(facecolor=palette[i] if i else 'none', edgecolor='0.5', linewidth=0.6)
               for i, _ in classes]
    ignored = Patch(facecolor=palette[-1], edgecolor=palette[-1] / 2, hatch='//////', linewidth=0)
    figure.legend([*patches, ignored], [*(fonts.short(name) for _, name in classes), 'ignored'],
                  fontsize=8, ncols=columns, frameon=False, loc='lower center', borderpad=0.1,
                  handlelength=1.2, handleheight=1.0, columnspacing=1.4)
