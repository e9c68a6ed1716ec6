"""Trains a network from a config: checkpoints, metrics, figures and a test error in the workdir."""

import re
from pathlib import Path

from cnnjax import (
    cluster,
    data,
    dataset,
    evaluate,
    figures,
    plots,
    reports,
    tasks,
    train,
    trained,
    user_network,
    workdir,
)


def run(config, directory):
    """Trains, or resumes, the run in `directory`, prints its test errors and draws its figures."""
    before = reports.read_metrics(directory)
    last = train.train(config, directory)
    config = workdir.read_config(directory)  # includes the fields it inherited
    drawn = before[-1:] == [last] and (Path(directory) / figures.CONFUSION).exists()
    cluster.agree(drawn=drawn)
    if cluster.first():
        draw_curves(config, directory, last)
    if not drawn and tasks.create(config.task, None).draw:
        draw_examples(config, directory)


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


def draw_examples(config, directory):
    """Draws what the network makes of the test set, if the data of the finished run is still there.
    """
    network = trained.load(directory, 'latest')
    try:
        source = dataset.source(config, config.test_split)
    except data.Missing:
        return
    examples = dataset.prepare(config, data.matched(source, network.classes))
    results = evaluate.evaluate(network, examples, batch_size=config.eval_batch_size,
                                devices=config.devices)
    if cluster.first():
        figures.evaluation(directory, network, examples, results)
