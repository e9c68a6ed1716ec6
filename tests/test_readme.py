"""The README's commands are real: flags parse, files exist, CI runs the test command."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax import models

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
COMMANDS = [line for block in re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
            for line in block.splitlines()]
LAUNCHES = [line[line.index('launch.py'):] for line in COMMANDS if 'launch.py' in line]
CHECK = """
import sys
from absl import app
import launch
flags = launch.parse(['launch.py', *sys.argv[1:]])
import experiments
experiments.find(launch.CONFIG.value.experiment)
"""


def test_ci_calls_exactly_the_test_command():
    command, = (line for line in COMMANDS if 'pytest' in line)
    assert command in (ROOT / '.ci' / 'run').read_text().splitlines()


@pytest.mark.parametrize('command', LAUNCHES)
def test_launch_commands_parse(command):
    arguments = shlex.split(command)[1:]
    subprocess.run([sys.executable, '-c', CHECK, *arguments], cwd=ROOT, check=True)


def test_configs_networks_and_pictures_of_the_readme_exist():
    configs = set(re.findall(r'configs/(\w+\.py)', README))
    assert configs >= {'quickstart.py', 'cifar.py', 'imagenet.py', 'folder.py'}
    for name in configs:
        assert (ROOT / 'configs' / name).exists()
    for picture in re.findall(r'!\[.*?\]\((.*?)\)', README):
        assert (ROOT / picture).exists()
    for name in re.findall(r'\b(?:resnet|vgg|densenet|fractalnet)\w*\d\w*', README):
        assert name in models.names()
