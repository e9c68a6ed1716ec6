"""Trains a recipe with several seeds, and compares its test errors with the paper's.

    seed0/, seed1/, ...  the trainings, each a workdir of the experiment 'train'
    results.json         the errors of all seeds, their mean and standard deviation, the paper's
    results.md           the same as a table
"""

import statistics
from pathlib import Path

from cnnjax import atomic, cluster, limits, report, reports, tables, views, workdir
from cnnjax.errors import UserError
from configs import reproduce as published
from experiments import train

LIMITS = {'seeds': limits.Whole(1)}


def run(config, directory):
    """Trains the seeds that are not finished, one after another, and writes the results after each.
    """
    check(config)
    directory = Path(directory)
    rows = {}
    for seed in range(config.recipe.seed, config.recipe.seed + config.seeds):
        recipe = config.recipe.copy_and_resolve_references()
        recipe.seed = seed
        run_directory = directory / f'seed{seed}'
        if cluster.first():
            print(run_directory, flush=True)
        with workdir.claim(run_directory, recipe):
            train.run(recipe, run_directory)
        if cluster.first():
            rows[seed] = measured(recipe, run_directory)
            results = compare(config, rows)
            workdir.write_config(directory, config)
            atomic.write_json(directory / 'results.json', results)
            atomic.write_text(directory / 'results.md', markdown(results))
    if cluster.first():
        print(f'\n{markdown(results)}\ntable: {directory / "results.md"}')


def check(config):
    """Raises UserError for mistakes that would otherwise show only after a training."""
    limits.check(config, LIMITS)
    if config.recipe.experiment != 'train':
        raise UserError(f"recipe.experiment='{config.recipe.experiment}': only a training has "
                        'errors to compare; leave it out')
    try:
        published.get_config(config.name)
    except ValueError as error:
        raise UserError(f"name='{config.name}': {error}") from error
    if config.recipe.seed + config.seeds > 2 ** 32:
        raise UserError(f'seeds={config.seeds}: with recipe.seed={config.recipe.seed} the last one '
                        'is larger than a seed can be')


def measured(recipe, directory):
    """The last row of a run's metrics.jsonl, with its test errors as the recipe measures them."""
    errors = reports.test_errors(directory)
    if 'error' not in errors:
        raise UserError(f'{directory} has no {report.RESULTS}, because its test set was not there '
                        'when it was finished: start again where it is')
    return reports.read_metrics(directory)[-1] | {
        f'test/{name}': value for name, value in errors.items()}


def setting(recipe):
    """The key in PAPER: 'cifar10'; 'cifar10+' with flips or translations; 'cifar10++' if their
    borders are reflected."""
    augmented = bool(recipe.flip or recipe.padding)
    reflected = bool(recipe.padding and recipe.padding_mode == 'reflect')
    return recipe.dataset + '+' * (augmented + reflected)


def compare(config, rows):
    """The contents of results.json, in %, from `rows`, {seed: last row of metrics.jsonl}."""
    where = setting(config.recipe)
    errors = {}
    for name in next(iter(rows.values())):
        if not name.startswith('test/') or not name.endswith('error'):
            continue
        values = {seed: 100 * row[name] for seed, row in rows.items()}
        name = name.removeprefix('test/')
        mean = statistics.fmean(values.values())
        paper = config.paper.get(name, {}).get(where)
        errors[name] = {
            'paper': paper, 'mean': mean,
            'standard_deviation': statistics.stdev(values.values()) if len(rows) > 1 else None,
            'difference': None if paper is None else mean - paper, 'seeds': values}
    original = published.get_config(config.name).recipe
    original.seed = config.recipe.seed  # The table lists the seeds anyway.
    row = next(iter(rows.values()))
    return {
        'recipe': config.name, 'setting': where, 'network': config.recipe.model.name,
        'validated': 'test/val_error' in row, 'steps': row['step'], 'epochs': row['epoch'],
        'changed': {name: values[1] for name, values in
                    workdir.differences(original, config.recipe).items()},
        'source': config.paper.get('source'), 'measured': published_as(config.paper),
        'views': views.described(config.recipe) if (
            'views' in config.paper or not views.Views.of(config.recipe).single) else '',
        'error': errors['error']['mean'] / 100, 'errors': errors}


def published_as(paper):
    """How the paper measured its errors, or None."""
    known = [views.described(paper.views)] if 'views' in paper else []
    return ', '.join([*known, *filter(None, [paper.get('measured')])]) or None


def markdown(results):
    """A table of the main error and the published ones, and how they were measured."""
    rows = []
    for name, error in results['errors'].items():
        if name != 'error' and error['paper'] is None:
            continue
        paper = difference = ''
        if error['paper'] is not None:
            paper, difference = f'{error["paper"]:.2f}', f'{error["difference"]:+.2f}'
        ours = f'{error["mean"]:.2f}'
        if error['standard_deviation'] is not None:
            ours += f' ± {error["standard_deviation"]:.2f}'
        seeds = ', '.join(f'{value:.2f}' for value in error['seeds'].values())
        rows.append((name, paper, ours, difference, seeds))
    lines = [f'# {results["recipe"]}: test error on {results["setting"]}, in %', '',
             tables.markdown(('', 'paper', 'ours', 'difference', 'seeds'), rows)]
    seeds = list(results['errors']['error']['seeds'])
    chosen = ('with the best of the checkpoints, by its validation error' if results['validated']
              else 'not that of the best epoch')
    lines += [f'Ours: the error after the last step ({results["steps"]}, '
              f'{results["epochs"]:.4g} epochs), {chosen}, with '
              + (f'the seeds {seeds[0]} to {seeds[-1]}: mean ± standard deviation of {len(seeds)} '
                 f'runs (its denominator is {len(seeds)} - 1).' if len(seeds) > 1
                 else f'the seed {seeds[0]} alone.')
              + (f' Measured on {results["views"]}.' if results['views'] else '')]
    if any(error['paper'] is not None for error in results['errors'].values()):
        measured = f'; {results["measured"]}' if results['measured'] else ''
        lines += ['', f'Paper: {results["source"]}{measured}. The difference is in points.']
    else:
        lines += ['', f'Paper: no error is known on {results["setting"]}.']
    if results['changed']:
        lines += ['', 'Not the recipe: ' + ', '.join(
            f'{name}={value}' for name, value in results['changed'].items()) + '.']
    return '\n'.join(lines) + '\n'
