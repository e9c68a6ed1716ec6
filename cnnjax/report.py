"""What an evaluation leaves in its directory.

    report.html             a page with all the rest, in one file
    results.json            the numbers; it is written last, and tells that all of this is there
    predictions.csv         of a classifier: a row for each example, with its most probable classes,
                            or with the probability of each class if it may show several
    classes.csv             a row for each class, with the numbers that it has, the worst first
    confusion.csv, figures/   see figures.py
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import atomic, data, evaluate, figures, page, tables, trained, user_network
from cnnjax.data import ranks
from cnnjax.errors import UserError
from cnnjax.page import Share
from cnnjax.tasks import multilabel
from cnnjax.trained import Trained

PAGE, RESULTS = 'report.html', 'results.json'
PREDICTIONS, CLASSES = 'predictions.csv', 'classes.csv'
CONFUSED = 12  # The most pairs of classes in the page's list of confusions.
LABELS = {'loss': 'cross-entropy', 'top5_error': 'top-5 error',
          'ece': 'calibration error', 'mean_iou': 'mean IoU', 'mean_dice': 'mean Dice', 'ap': 'AP',
          'ap50': 'AP50', 'ap75': 'AP75', 'iou': 'IoU', 'dice': 'Dice', 'voc_map': 'VOC mAP',
          'absent': 'absent classes', 'micro_f1': 'micro F1', 'macro_f1': 'macro F1',
          'voc07_map': 'VOC 2007 mAP', 'frequency_weighted_iou': 'frequency weighted IoU'}
CHARTS = ('confusion', 'precision_recall', 'reliability')  # side by side
CAPTIONS = {  # in the order of the page
    'confusion': 'Each row has the examples of one class, and where they went, in percent.',
    'precision_recall': 'The precision at each recall, class by class.',
    'reliability': 'The probabilities of a calibrated network are the shares of its answers that '
                   'are right: its bars end at the dashed line, and nothing is hatched. Below, how '
                   'many answers there are.',
    'worst': 'The {kind} whose predictions agree least with the truth.',
    'predictions': 'Examples spread evenly over the set.',
    'curves': 'Loss and error during the training.'}
ANSWERS = {
    'worst': 'The mistakes that the network was surest of.',
    'predictions': CAPTIONS['predictions']}
TAGGED = {
    'worst': 'The {kind} with the largest cross-entropy: their classes and those that were found.',
    'predictions': CAPTIONS['predictions']}
TITLES = {'confusion': 'Confusions', 'precision_recall': 'Precision and recall',
          'reliability': 'Calibration', 'worst': 'Worst {kind}', 'predictions': 'Examples',
          'curves': 'Training'}


def write(directory: str | Path, network: Trained, examples: data.Resident | data.Stream,
          results: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Writes the report of an evaluation. Of several processes only the first calls it.

    Args:
      examples: those of the evaluation.
      results: what evaluate.evaluate found.
      about: what was evaluated, {'source': ..., 'checkpoint': ..., 'dataset': ..., 'split': ...,
        'views': see views.described}.
    """
    directory, classes = Path(directory), examples.classes
    (directory / RESULTS).unlink(missing_ok=True)
    kind = ranks.plural(network.image_shape)
    drawn = figures.evaluation(
        directory, network, examples, results,
        f'{trained.called(network, about["source"])} on {about["dataset"]}, {about["split"]} set')
    if (directory / 'figures' / 'curves.png').exists():  # A training has drawn them.
        drawn.append('curves')
    table = predictions if 'top' in results else tagged_predictions if 'tags' in results else None
    if table:
        names = data.names(examples.examples) or [f'example {i}' for i in range(len(examples))]
        atomic.write_text(directory / PREDICTIONS, table(names, classes, results))
    header, rows = by_class(classes, results, kind)
    if rows:
        atomic.write_text(directory / CLASSES, tables.comma_separated(header, rows))
    name = user_network.short(network.name) or type(network.net).__name__
    sections = figure_sections(directory, drawn, results, kind)
    training = [sections.pop('curves')] if 'curves' in sections else []
    charts = [sections.pop(name) for name in CHARTS if name in sections]
    atomic.write_text(directory / PAGE, page.whole(
        f'{name} on {about["dataset"]}, {about["split"]}',
        page.facts(facts(classes, results, kind)), page.beside(*charts), *sections.values(),
        *confusion_section(classes, results, kind), *class_section(header, rows), *training,
        lead=f'{about["source"]}, checkpoint: {about["checkpoint"]}'
             + (f', views: {about["views"]}' if 'top' in results else '')))
    atomic.write_json(directory / RESULTS, {**about, **evaluate.numbers(results)})


def complete(directory: str | Path, **about: Any) -> bool:
    """Whether a report was written wholly in the directory, about this as far as it says."""
    try:
        found = atomic.read_json(Path(directory) / RESULTS)
    except UserError:  # It is damaged, and will be written again.
        return False
    return (isinstance(found, dict) and (Path(directory) / PAGE).exists()
            and all(found.get(name, value) == value for name, value in about.items()))


def predictions(names: Sequence[str], classes: Sequence[str],
                results: Mapping[str, Any]) -> str:
    """A table as CSV with a row for each example of a classification, in the order of the set."""
    count = results['top'].shape[1]
    rows = zip(names, *(results[name].tolist() for name in (
        'label', 'true_probability', 'top', 'probabilities')), strict=True)
    return tables.comma_separated(
        ['name', 'truth', 'prediction', 'probability', 'true_probability',
         *(f'{what}{i}' for i in range(2, count + 1) for what in ('class', 'probability'))],
        ([name, classes[label], classes[top[0]], f'{found[0]:.6f}', f'{true:.6f}',
          *(cell for place, value in zip(top[1:], found[1:], strict=True)
            for cell in (classes[place], f'{value:.6f}'))]
         for name, label, true, top, found in rows))


def tagged_predictions(names: Sequence[str], classes: Sequence[str],
                       results: Mapping[str, Any]) -> str:
    """The same of images with any number of classes, with the probability of each class."""
    def named(tags):
        return '|'.join(label for label, tag in zip(classes, tags, strict=True) if tag)

    return tables.comma_separated(
        ['name', 'truth', 'prediction', *classes],
        ([name, named(tags), named(values >= multilabel.LEAST),
          *(f'{value:.6f}' for value in values)]
         for name, tags, values in zip(names, results['tags'], results['probabilities'],
                                       strict=True)))


def by_class(classes: Sequence[str], results: Mapping[str, Any],
             kind: str = 'images') -> tuple[list[str], list[list[Any]]]:
    """The header and the rows of a table of the classes that have numbers, the worst first.

    Of a classification these are how many examples it has, which are of that `kind`, how many of
    them are 'wrong', their share ('error'), the mean 'probability' of the true class, and the class
    that it is 'taken for' most. Otherwise they are the results 'measure/<class>'.
    """
    if 'top' in results:
        size, labels = len(classes), results['label']
        counts, wrong, probability = (np.bincount(labels, weights, size) for weights in (
            None, results['wrong'].astype(float), results['true_probability'].astype(float)))
        errors = wrong / np.maximum(counts, 1)
        most = dict(reversed([(truth, found) for truth, found, _ in confusions(results)]))
        return (['class', kind, 'wrong', 'error', 'probability', 'taken for'],
                [[classes[i], int(counts[i]), int(wrong[i]), Share(errors[i]),
                  float(probability[i] / counts[i]), classes[most[i]] if i in most else '']
                 for i in np.argsort(-errors, stable=True).tolist() if counts[i]])
    measures = list(dict.fromkeys(
        name.partition('/')[0] for name in results if name.partition('/')[2] in classes))
    rows = [[label, *(Share(results[f'{measure}/{label}']) for measure in measures)]
            for label in classes if measures and f'{measures[0]}/{label}' in results]
    return ['class', *measures], sorted(rows, key=lambda row: row[1])


def confusions(results: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """(truth, prediction, how many images) of a classification, the most frequent first."""
    wrong = results['wrong']
    pairs, counts = np.unique(np.stack([results['label'], results['top'][:, 0]], 1)[wrong],
                              axis=0, return_counts=True)
    order = np.argsort(-counts, stable=True)
    return [(*pair, count) for pair, count in zip(pairs[order].tolist(), counts[order].tolist(),
                                                  strict=True)]


def facts(classes: Sequence[str], results: Mapping[str, Any],
          kind: str = 'images') -> dict[str, str]:
    """The numbers of the whole set, with the names that people read; the error is first."""
    found = {name: value for name, value in evaluate.numbers(results).items()
             if name.partition('/')[2] not in classes}
    found = {'error': found.pop('error'), **found}
    shown = {}
    for name, value in found.items():
        spelled = re.sub('^(ap|ar|voc)', lambda start: start[0].upper(), name).replace('_', ' ')
        percent = name.endswith(('error', 'ece'))
        shown[kind if name == 'count' else LABELS.get(name, spelled)] = (
            f'{value:,}' if isinstance(value, int) else f'{100 * value:.2f} %' if percent else
            f'{value:.4f}' if abs(value) < 1 else f'{value:.4g}')
    return shown


def figure_sections(directory: Path, drawn: Sequence[str],
                    results: Mapping[str, Any], kind: str) -> dict[str, str]:
    """{figure: the section of the page} of those that were drawn."""
    captions = CAPTIONS | (ANSWERS if 'top' in results else TAGGED if 'tags' in results else {})
    titles = TITLES | ({'worst': 'Surest mistakes'} if 'top' in results else {})
    return {name: page.section(titles[name].format(kind=kind), page.figure(
        directory / 'figures' / f'{name}.png', captions[name].format(kind=kind)))
        for name in captions if name in drawn}


def confusion_section(classes: Sequence[str], results: Mapping[str, Any],
                      kind: str) -> list[str]:
    """The section of the page with the classes that a classifier takes for each other."""
    if 'top' not in results or not (pairs := confusions(results)):
        return []
    counts = np.bincount(results['label'], minlength=len(classes))
    return [page.section('Most frequent confusions', page.table(
        ['truth', 'taken for', kind, 'share of the class'],
        [[classes[truth], classes[found], count, Share(count / counts[truth])]
         for truth, found, count in pairs[:CONFUSED]]), remark=f'{len(pairs):,} in all')]


def class_section(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The section of the page with the classes."""
    if not rows:
        return []
    return [page.section('Classes', page.table([LABELS.get(name, name) for name in header], rows),
                         remark=f'{len(rows):,}, the worst first')]
