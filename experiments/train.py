"""Trains a network from a config: checkpoints, metrics, figures and a test error in the workdir."""

import re
from pathlib import Path

import numpy as np

from cnnjax import (
    cluster,
    curves,
    data,
    dataset,
    evaluate,
    plots,
    predict,
    report,
    reports,
    step,
    train,
    trained,
    views,
    workdir,
)
from cnnjax.images import pictures
from cnnjax.limits import names


def run(config, directory):
    """Trains, or resumes, the run in `directory`, prints its test errors and reports on them."""
    before = reports.read_metrics(directory)
    last = train.train(config, directory)
    config = workdir.read_config(directory)  # includes the fields it inherited
    reported = (before[-1:] == [last]
                and report.complete(directory, steps=last['step'], views=views.described(config)))
    cluster.agree(reported=reported)
    if cluster.first():
        draw_curves(config, directory, last)
    # A stage of hints leaves the last layers as they were: there is no answer to report on. What a
    # style looks like is seen in pictures.
    if config.task == 'stylize' and cluster.first():
        draw_styles(config, directory)
    silent = reported or config.hint_layer or config.task == 'stylize'
    results = None if silent else evaluated(config, directory, last['step'])
    several = not views.Views.of(config).single
    if results and (several or reports.evaluated(last) == 'val') and cluster.first():
        tell({f'test/{name}': value for name, value in results.items()}, 'test',
             f' of {views.described(config)}' * several)
    reports.finish(directory, config, anew=not reported)


def draw_curves(config, directory, last):
    """Draws the curves of the run, and prints the errors in its last row."""
    rows, judged = reports.read_metrics(directory), reports.evaluated(last)
    figure, called = Path(directory) / 'figures' / 'curves.png', curves.SETS[judged]
    curves.training(rows, figure, f'{reports.called(directory, config)}, '
                                  f'{100 * last[f"{judged}/error"]:.2f} % {called} error')
    print(f'curves: {figure}')
    tell(last, judged)


def tell(row, judged, seen=''):
    """Prints the errors of the set 'val' or 'test' in a row; `seen` says of what views they are."""
    if f'{judged}/flicker' in row:
        print(f'{curves.SETS[judged]} flicker: {row[f"{judged}/flicker"]:.3g} times as large as '
              'the change of the frames')
    by_class = 'ap50' if f'{judged}/ap50' in row else 'ap'
    shown = f'{judged}/(.*error|mean_iou|iou/.*|ap|ap50|{by_class}/.*|.*_f1|exact_match)'
    for name, value in row.items():
        if found := re.fullmatch(shown, name):
            print(f'{curves.SETS[judged]} {found[1]}{seen}: {100 * value:.2f} %')


def draw_styles(config, directory):
    """Draws photographs of the test set, and below them what the network makes of them."""
    network = trained.load(directory)
    try:
        source = dataset.source(config, config.test_split, directory)
    except data.Missing as error:
        print(f'no pictures: {error}')
        return
    examples = dataset.prepare(config, source)
    styles = [(f'style: {pictures.stem(path)}', pictures.read(path, config.style_size))
              for path in names(config.styles)]
    batch = next(iter(examples.test_batches(min(len(examples), 4))))
    images = step.fetch(examples.data or {}, batch)['image']
    figure = Path(directory) / 'figures' / 'stylized.png'
    plots.pictures([[*(('photograph', image / np.float32(255)) for image in images), *styles],
                    [('in one pass', predict.stylized(network, image)) for image in images]],
                   figure, f'{reports.called(directory, config)}, {config.test_split} set')
    print(f'photographs and what the network makes of them: {figure}')


def evaluated(config, directory, steps):
    """Evaluates the run that has ended after so many steps on the test set, and writes the report,
    if the data is still there: the network of the last step or, if a validation set chose one, the
    best. Returns the numbers of the results, or None."""
    which = 'best' if dataset.val_split(config) else 'latest'
    network = trained.load(directory, which)
    try:
        source = dataset.source(config, config.test_split, directory)
    except data.Missing as error:
        cluster.agree(data='missing')
        if cluster.first():
            print(f'no report: {error}')
        return None
    cluster.agree(data=data.identity(source).summary(), weights=trained.fingerprint(network))
    examples = dataset.prepare(config, data.matched(source, network.classes))
    results = evaluate.evaluate(network, examples, batch_size=config.eval_batch_size,
                                devices=config.devices)
    if cluster.first():
        report.write(directory, network, examples, results, {
            'source': str(directory), 'checkpoint': which, 'dataset': config.dataset,
            'split': config.test_split, 'views': views.described(config), 'steps': steps})
        print(f'report: {Path(directory) / report.PAGE}')
    return evaluate.numbers(results)
