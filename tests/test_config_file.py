"""Config files: one line for each mistake, and the fields that --help explains."""

import pytest

from cnnjax import config_file
from cnnjax.errors import UserError

START = '''
import ml_collections
def get_config(what='a'):
    config = ml_collections.ConfigDict()
'''


@pytest.mark.parametrize(('source', 'message'), [
    ('def get_config():\n    return (', 'line 2: SyntaxError'),
    ('def get_config():\n    return confg', "line 2: NameError: name 'confg' is not defined"),
    ('import no_such_module\ndef get_config(): pass', 'line 1: ModuleNotFoundError: No module'),
    ('def get_config():\n    return open("/none/x")', 'line 2: FileNotFoundError'),
    ('def get_config():\n    return 1 / 0', 'line 2: ZeroDivisionError: division by zero'),
    ('def get_config():\n    raise ValueError("no such recipe")', '^no such recipe$'),
    ('def get_config(): pass', r'get_config\(\) returns None, not an ml_collections.ConfigDict'),
    ('def get_config(): return {"experiment": "train"}', 'returns {.*not an ml_collections'),
    ('def get_config(a): pass', "missing a required argument: 'a'"),
    ('get_config = 3', 'has no function get_config'),
    ('get_config: int', 'has no function get_config'),
    ('learning_rate = 0.1', 'has no function get_config'),
    ('raise SystemExit(3)  # get_config', 'line 1: SystemExit: 3'),
    (START + '    return config', "its config has no field 'experiment'"),
])
def test_a_mistake_in_a_config_file_is_told_with_its_line(tmp_path, source, message):
    path = tmp_path / 'mine.py'
    path.write_text(source)
    with pytest.raises(UserError, match=message) as refused:
        config_file.load(str(path))
    assert len(str(refused.value).splitlines()) == 1
    assert 'mine.py' in str(refused.value) or 'recipe' in message


def test_an_argument_may_hold_a_colon(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(START + "    config.experiment = what\n    return config")
    assert config_file.load(f'{path}:a:b').experiment == 'a:b'
    assert config_file.load(str(path)).experiment == 'a'


SOURCE = """import ml_collections

def get_config(kind='a'):
    config = ml_collections.ConfigDict()
    config.experiment = 'mine'
    # What the network is.
    config.model = model = ml_collections.ConfigDict()
    model.name = 'x'  # its name
    config.size = (1, 2)  # in pixels,
    #                       height and width
    # Of the solver.
    config.rate = 0.5  # how fast
    if kind == 'b':
        config.rate = 2.0  # faster
    return config
"""


def test_fields_of_a_source():
    found = {(field.name, field.value): field[2:] for field in config_file.fields(SOURCE)}
    assert found == {
        ('experiment', "'mine'"): ('', ''),
        ('model.name', "'x'"): ('its name', 'What the network is.'),
        ('size', '(1, 2)'): ('in pixels, height and width', ''),
        ('rate', '0.5'): ('how fast', 'Of the solver.'), ('rate', '2.0'): ('faster', '')}


@pytest.mark.parametrize(('kind', 'rate'), [('a', '0.5  how fast'), ('b', '2.0  faster')])
def test_the_fields_of_a_config_with_what_its_source_says(tmp_path, monkeypatch, kind, rate):
    monkeypatch.setenv('COLUMNS', '80')
    path = tmp_path / 'mine.py'
    path.write_text('"""Mine.\n\nAnd more.\n"""\n' + SOURCE)
    told = config_file.explain(f'{path}:{kind}', config_file.load(f'{path}:{kind}'))
    words = [' '.join(line.split()) for line in told.splitlines() if line.strip()]
    assert words[:3] == ['Mine.', 'And more.', 'Fields:']
    assert 'What the network is.' in words
    assert '--config.model.name=x its name' in words
    assert '--config.size=1,2 in pixels, height and width' in words
    assert f'--config.rate={" ".join(rate.split())}' in words


@pytest.mark.parametrize('name', config_file.paths())
def test_every_field_of_every_config_is_explained(name, monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    file = str(config_file.FOLDER / f'{name}.py')
    config = config_file.load(file)
    told = config_file.explain(file, config)
    for field in config_file.flat(config):
        start = told.index(f'--config.{field}=')
        said = told[start:].partition('\n  --config')[0].split(maxsplit=1)
        assert len(said) == 2 or field.startswith('paper.'), field


def test_a_recipe_adds_to_what_base_says():
    file = str(config_file.FOLDER / 'cifar.py:resnet110')
    told = ' '.join(config_file.explain(file, config_file.load(file)).split())
    assert '--config.warmup=400.0 the length of the warm-up; the paper: until the training' in told
    file = str(config_file.FOLDER / 'cifar.py:resnet20')
    told = ' '.join(config_file.explain(file, config_file.load(file)).split())
    assert '--config.warmup=0.0 the length of the warm-up --config' in told
