"""The commands in the README and docs/ work: flags parse, files exist, CI runs the tests."""

import ast
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import cnnjax
import experiments
from cnnjax import models
from configs import imagenet
from configs.recipes.tables import TABLES

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path.read_text()
         for path in (*sorted(ROOT.glob('*.md')), *sorted(ROOT.glob('docs/*.md')))}


def blocks(page, language):
    return re.findall(rf'```{language}\n(.*?)```', PAGES[page], re.DOTALL)


def commands(page):
    return [line for block in blocks(page, 'bash') for line in block.splitlines()]


LAUNCHES = dict.fromkeys(line[line.index('launch.py'):] for page in PAGES
                         for line in commands(page) if 'launch.py' in line)
# Each command is parsed in a forked process, since a process parses flags only once.
PARSE = """
import json, os, sys
import launch
for command in json.load(sys.stdin):
    if not os.fork():
        sys.argv = command
        launch.parse(sys.argv)
        print(launch.CONFIG.value.experiment, flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f'{command} is refused')
"""


def test_ci_calls_exactly_the_test_command():
    command, = (line for line in commands('README.md') if 'pytest' in line)
    assert command in (ROOT / '.ci' / 'run').read_text().splitlines()


def test_launch_commands_parse():
    assert len(LAUNCHES) > 20
    done = subprocess.run([sys.executable, '-c', PARSE], cwd=ROOT, text=True, capture_output=True,
                          input=json.dumps([shlex.split(command) for command in LAUNCHES]))
    assert not done.returncode, done.stderr
    for name in set(done.stdout.split()):
        experiments.find(name)


@pytest.mark.parametrize('page', PAGES)
def test_what_a_page_names_exists(page):
    """Configs, networks and what it links to; its Python lines are Python."""
    text = re.sub(r'https?://[^\s)]*', '', PAGES[page])
    made = re.findall(r'```python\n# (\S+\.py)', text)  # files that the reader writes
    for path in re.findall(r'\bconfigs/\w+\.py', text):
        assert (ROOT / path).exists() or path in made, path
    for link in re.findall(r'\]\(([^)#]+)[^)]*\)', text):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    for name in re.findall(r'\b(?:resnet|vgg|densenet|fractalnet)\w*\d\w*', text):
        assert name in models.names() or name in imagenet.RECIPES or name in TABLES
    for block in blocks(page, 'python'):
        ast.parse(block)


def test_a_package_index_shows_no_link_that_leads_nowhere(monkeypatch):
    given = {}
    monkeypatch.setitem(sys.modules, 'setuptools', SimpleNamespace(setup=given.update))
    runpy.run_path(str(ROOT / 'setup.py'))
    text = given['long_description']
    assert 'What it can do' in text
    assert all(link.startswith('https://') for link in re.findall(r'\]\(([^)]*)\)', text))
    assert '<!--' not in text


def test_one_version():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
    assert project['tool']['setuptools']['dynamic']['version'] == {'attr': 'cnnjax.__version__'}
    assert f'\nversion: {cnnjax.__version__}\n' in (ROOT / 'CITATION.cff').read_text()
    assert cnnjax.__version__ in PAGES['CHANGELOG.md']
