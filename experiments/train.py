"""Trains a network from a config: checkpoints, metrics, figures and a test error in the workdir."""

import re
from pathlib import Path

from cnnjax import (
    cluster,
    data,
    dataset,
    evaluate,
    plots,
    report,
    reports,
    train,
    trained,
    user_network,
    views,
    workdir,
)


def run(config, directory):
    """Trains, or resumes, the run in `directory`, prints its test errors and reports on them."""
    before = reports.read_metrics(directory)
    last = train.train(config, directory)
    config = workdir.read_config(directory)  # includes the fields it inherited
    reported = before[-1:] == [last] and report.complete(directory)
    cluster.agree(reported=reported)
    if cluster.first():
        draw_curves(config, directory, last)
    if not reported:
        evaluated(config, directory)
    reports.finish(directory, config, anew=not reported)


def draw_curves(config, directory, last):
    """Draws the curves of the run, and prints the test errors in its last row."""
    rows = reports.read_metrics(directory)
    figure = Path(directory) / 'figures' / 'curves.png'
    plots.curves(rows, figure, f'{user_network.short(config.model.name)} on {config.dataset}: '
                               f'{100 * last["test/error"]:.2f} % test error')
    print(f'curves: {figure}')
    for name, value in last.items():
        if re.search('^test/(.*error|mean_iou|iou/.*|ap|ap50|ap50/.*)$', name):
            print(f'test {name.removeprefix("test/")}: {100 * value:.2f} %')


def evaluated(config, directory):
    """Evaluates the finished run once more, and writes the report, if the data is still there."""
    network = trained.load(directory, 'latest')
    try:
        source = dataset.source(config, config.test_split)
    except data.Missing as error:
        cluster.agree(data='missing')
        if cluster.first():
            print(f'no report: {error}')
        return
    cluster.agree(data=data.identity(source).summary(), weights=trained.fingerprint(network))
    examples = dataset.prepare(config, data.matched(source, network.classes))
    results = evaluate.evaluate(network, examples, batch_size=config.eval_batch_size,
                                devices=config.devices)
    own = views.Views.of(network.evaluation)
    seen = own.described(config.test_shorter_side)
    if cluster.first():
        report.write(directory, network, examples, results, {
            'source': str(directory), 'checkpoint': 'latest', 'dataset': config.dataset,
            'split': config.test_split, 'views': seen})
        if not own.single:
            print(f'test error of {seen}: {100 * results["error"]:.2f} %')
        print(f'report: {Path(directory) / report.PAGE}')
