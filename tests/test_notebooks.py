"""The notebooks run from top to bottom at a tiny size; they are kept with small pictures."""

import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parent.parent / 'docs' / 'notebooks'
# What replaces the values of the cell of parameters; {} is the test's own directory.
SMALL = {
    'train_and_look_inside': {'EPOCHS': 1, 'WIDTH': 4, 'STEPS': 2, 'RUN': '{}/digits'},
    'your_own_photographs': {'EPOCHS': 1, 'RUNS': '{}'},
    'style_dream_inversion': {
        'SIZES': (48,), 'STYLE_STEPS': (2,), 'DREAM_SIZE': 56, 'DREAM_OCTAVES': 1, 'DREAM_STEPS': 1,
        'INVERT_STEPS': (2, 1), 'UNIT_STEPS': 2, 'INVERT_LAYERS': 'relu1_2,relu3_3', 'RUNS': '{}'}}


def cells(name, kind):
    """[(the tags, the text)] of the cells of that kind."""
    found = json.loads((FOLDER / f'{name}.ipynb').read_text())['cells']
    return [(cell['metadata'].get('tags', []), ''.join(cell['source']))
            for cell in found if cell['cell_type'] == kind]


def test_all_notebooks_are_tested():
    assert {path.stem for path in FOLDER.glob('*.ipynb')} == set(SMALL)


@pytest.mark.parametrize('name', SMALL)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'photos/face').mkdir(parents=True)
    for stray in ('.DS_Store', 'notes.txt'):  # files beside the pictures of a class
        (tmp_path / 'photos/face' / stray).write_text('no picture')
    variables = {'__name__': '__main__'}
    try:
        for number, (tags, text) in enumerate(cells(name, 'code')):
            exec(compile(text, f'{name}, code cell {number}', 'exec'), variables)
            if 'parameters' in tags:
                small = {key: value.format(tmp_path) if isinstance(value, str) else value
                         for key, value in SMALL[name].items()}
                assert small.keys() < variables.keys()
                variables |= small
        assert len(plt.get_fignums()) >= 4
    finally:
        plt.close('all')


@pytest.mark.parametrize('name', SMALL)
def test_a_notebook_is_kept_as_it_ran(name):
    """Whole, with its pictures, and with nothing of the machine that ran it."""
    text = (FOLDER / f'{name}.ipynb').read_text()
    assert len(text) < 500_000
    outputs = [output for cell in json.loads(text)['cells'] for output in cell.get('outputs', ())]
    kinds = [kind for output in outputs for kind in output.get('data', ())]
    assert len(kinds) >= 4
    assert set(kinds) <= {'image/png', 'image/jpeg'}
    said = ''.join(''.join(output.get('text', ())) for output in outputs)
    assert {output['output_type'] for output in outputs} <= {'stream', 'display_data'}
    assert {output.get('name', 'stdout') for output in outputs} == {'stdout'}
    assert not re.search('/(home|root|tmp|work|content)/', said)
    for _, prose in cells(name, 'markdown'):
        for link in re.findall(r'\]\(([^)#]+)[^)]*\)', prose):
            assert link.startswith('https://') or (FOLDER / link).exists(), link
    assert 'Colab' in cells(name, 'markdown')[0][1]
    (tags, setup), *_ = cells(name, 'code')
    assert tags == ['setup']
    assert setup == cells('train_and_look_inside', 'code')[0][1]  # the same in all
