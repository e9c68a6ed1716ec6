"""Reproducing a paper's row: it resumes, and its table has every number and the sources."""

import json
import re
from pathlib import Path

import pytest

from cnnjax import models, reports, workdir
from cnnjax.errors import UserError
from configs import cifar, detect, imagenet, mnist, segment
from configs import reproduce as recipes
from experiments import reproduce, train

PAPERS = [(family, network) for family, module in
          (('cifar', cifar), ('detect', detect), ('imagenet', imagenet), ('mnist', mnist),
           ('segment', segment)) for network in module.PAPER]


def load(recipe, **changed):
    config = recipes.get_config(recipe)
    config.update_from_flattened_dict(
        {name.replace('__', '.'): value for name, value in changed.items()})
    return config.lock()


def row(**errors):
    return {'step': 64_000, 'epoch': 164.1, 'train/error': 0.0,
            **{f'test/{name}': value for name, value in errors.items()}}


def test_every_field_is_read():
    source = Path(reproduce.__file__).read_text()
    assert set(recipes.get_config()) == {'experiment', 'name', 'seeds', 'recipe', 'paper'}
    for field in ('name', 'seeds', 'recipe', 'paper'):
        assert f'config.{field}' in source


def test_seeds_one_after_another_also_when_killed_between_them(tmp_path, monkeypatch, capsys):
    """Without training: tests/test_jobs.py runs it whole, killed within a seed."""
    config = load('quickstart', seeds=2, recipe__seed=3, recipe__epochs=1.0)
    made = []

    def run(recipe, directory):
        if recipe.seed == 4 and len(made) == 1:
            raise KeyboardInterrupt
        made.append((directory.name, recipe.seed, recipe.epochs))
        with reports.Metrics(directory, 0) as metrics:
            metrics.write(row(error=recipe.seed / 100, top5_error=0.0))

    monkeypatch.setattr(train, 'run', run)
    with pytest.raises(KeyboardInterrupt):
        reproduce.run(config, tmp_path)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['errors']['error']['seeds'] == {'3': 3}
    assert 'with the seed 3 alone.' in (tmp_path / 'results.md').read_text()

    reproduce.run(config, tmp_path)
    assert made == [('seed3', 3, 1.0), ('seed3', 3, 1.0), ('seed4', 4, 1.0)]
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['error'] == pytest.approx(0.035)
    error = results['errors']['error']
    assert error['standard_deviation'] == pytest.approx(0.5 ** 0.5)
    assert error['seeds'] == {'3': 3, '4': 4}
    text = (tmp_path / 'results.md').read_text()
    assert text in capsys.readouterr().out
    assert '| error |  | 3.50 ± 0.71 |  | 3.00, 4.00 |' in text
    assert 'the seeds 3 to 4: mean ± standard deviation of 2 runs' in text
    assert '(its denominator is 2 - 1)' in text
    assert 'no error is known on digits+' in text
    assert 'Not the recipe: epochs=1.0.' in text
    with pytest.raises(UserError, match='seeds=0'):
        reproduce.run(load('quickstart', seeds=0), tmp_path)
    with pytest.raises(UserError, match="recipe.experiment='dream': only a training has"):
        reproduce.run(load('quickstart', recipe__experiment='dream'), tmp_path)


def test_the_table_of_a_fractalnet():
    config = load('cifar/fractalnet20', seeds=3)
    text = reproduce.markdown(reproduce.compare(config, {
        seed: row(error=0.05 + seed / 1000, **{'column3/error': 0.06, 'column1/error': 0.2})
        for seed in range(3)}))
    assert '# cifar/fractalnet20: test error on cifar10+, in %' in text
    assert '| error | 4.60 | 5.10 ± 0.10 | +0.50 | 5.00, 5.10, 5.20 |' in text
    assert '| column3/error | 4.68 | 6.00 ± 0.00 | +1.32 |' in text
    assert 'column1' not in text  # nothing is published
    assert 'Paper: Larsson et al. 2016, Table 1' in text
    assert '(64000, 164.1 epochs), not that of the best epoch' in text
    chosen = reproduce.markdown(reproduce.compare(config, {
        0: row(error=0.05, val_error=0.04), 1: row(error=0.05, val_error=0.04)}))
    assert 'with the best of the checkpoints, by its validation error, with the seeds' in chosen
    assert '| error | 4.60 | 5.00 ± 0.00 |' in chosen
    assert 'Not the recipe' not in text


def test_the_convention_of_the_paper_is_stated():
    config = load('cifar/resnet110')
    text = reproduce.markdown(reproduce.compare(config, {0: row(error=0.0661)}))
    assert '| error | 6.61 | 6.61 | +0.00 | 6.61 |' in text
    assert 'mean of 5 runs, +- 0.16; the best of them 6.43' in text
    assert 'with the seed 0 alone.' in text
    config = load('imagenet/resnet50')
    text = reproduce.markdown(reproduce.compare(config, {0: row(error=0.25, top5_error=0.08)}))
    assert '| top5_error | 7.80 | 8.00 | +0.20 | 8.00 |' in text
    assert 'one crop' in text


def test_errors_are_those_of_the_recipes_views(tmp_path, monkeypatch):
    """During the training they are of one crop; without the others nothing is compared."""
    config, tested = load('imagenet/vgg16', seeds=1), []

    def run(recipe, directory):
        workdir.write_config(directory, recipe)
        with reports.Metrics(directory, 0) as metrics:
            metrics.write(row(error=0.3, top5_error=0.1))
        for results in tested:
            (directory / 'results.json').write_text(json.dumps(results))

    monkeypatch.setattr(train, 'run', run)
    with pytest.raises(UserError, match='seed0 has no results.json, because its test set was not'):
        reproduce.run(config, tmp_path)
    tested.append({'views': 'some', 'error': 0.26, 'top5_error': 0.08, 'loss': 1.0})
    reproduce.run(config, tmp_path)
    text = (tmp_path / 'results.md').read_text()
    assert '| error | 25.60 | 26.00 | +0.40 | 26.00 |' in text
    assert '| top5_error | 8.10 | 8.00 | -0.10 | 8.00 |' in text
    whole = 'the whole picture and its mirror image, shorter side 384'
    assert f'Measured on {whole}.' in text
    assert f'https://arxiv.org/abs/1409.1556; {whole}. The difference' in text


@pytest.mark.parametrize(('fields', 'setting', 'error'), [
    ({}, 'cifar10+', 5.24),
    ({'recipe__dataset': 'cifar100'}, 'cifar100+', 24.42),
    ({'recipe__flip': False, 'recipe__padding': 0}, 'cifar10', 7.00),
    ({'recipe__padding_mode': 'reflect'}, 'cifar10++', None),
    ({'recipe__dataset': 'svhn_cropped', 'recipe__flip': False, 'recipe__padding': 0},
     'svhn_cropped', 1.79),
])
def test_the_papers_error_is_that_of_the_data_set(fields, setting, error):
    config = load('cifar/densenet_l40_k12', **fields)
    results = reproduce.compare(config, {0: row(error=0.1)})
    assert results['setting'] == setting
    assert results['errors']['error']['paper'] == error
    assert set(results['changed']) == {name.removeprefix('recipe__') for name in fields}


@pytest.mark.parametrize(('family', 'network'), PAPERS)
def test_every_published_row_has_a_recipe_and_a_source(family, network):
    config = load(f'{family}/{network}')
    assert config.recipe.model.name in models.names()
    assert re.search(r'\d{4}|https://', config.paper.source)
    values = {name: errors for name, errors in config.paper.items() if name.endswith('error')}
    assert values
    assert all(0 < value < 100 for errors in values.values() for value in errors.values())
    ours = reproduce.setting(config.recipe)
    known = {setting for errors in values.values() for setting in errors}
    assert ours in known or 'cifar10+' not in known or network == 'lenet5_1998'


def test_a_recipe_that_is_not_there():
    with pytest.raises(ValueError, match='cifar, detect, imagenet, mnist, quickstart'):
        recipes.get_config('svhn/resnet20')
    with pytest.raises(ValueError, match="no recipe for 'lenet99'"):
        recipes.get_config('cifar/lenet99')
