"""Trains a network from a config: checkpoints, metrics, curves and a test error in the workdir."""

from pathlib import Path

from cnnjax import cluster, plots, reports, train, user_network, workdir


def run(config, directory):
    """Trains, or resumes, the run in `directory`, draws its curves and prints its test errors."""
    last = train.train(config, directory)
    if not cluster.first():
        return
    rows = reports.read_metrics(directory)
    config = workdir.read_config(directory)  # includes the fields it inherited
    figure = Path(directory) / 'figures' / 'curves.png'
    plots.curves(rows, figure, f'{user_network.short(config.model.name)} on {config.dataset}: '
                               f'{100 * last["test/error"]:.2f} % test error')
    print(f'curves: {figure}')
    for name, value in last.items():
        if name.startswith('test/') and name.endswith('error'):
            print(f'test {name.removeprefix("test/")}: {100 * value:.2f} %')
