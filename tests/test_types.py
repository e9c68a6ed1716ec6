"""The linter and the type checker find nothing, and no public function is without type hints."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKED = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'cnnjax').rglob('*.py'))


@pytest.mark.parametrize('command', [
    ['ruff', 'check', '.'],
    ['pyrefly', 'check', '--min-severity=error', f'--python-interpreter-path={sys.executable}'],
], ids=lambda command: command[0])
def test_checkers_find_nothing(command):
    done = subprocess.run([sys.executable, '-m', *command], cwd=ROOT, capture_output=True,
                          text=True)
    assert not done.returncode, done.stdout + done.stderr


def public_functions(tree):
    """The functions of a module and the methods of its classes that a user may call."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and (node.name == '__call__'
                                                    or not node.name.startswith('_')):
            yield node


@pytest.mark.parametrize('path', CHECKED)
def test_public_functions_have_type_hints(path):
    for function in public_functions(ast.parse((ROOT / path).read_text())):
        given = function.args
        without = [argument.arg for argument in (*given.posonlyargs, *given.args, given.vararg,
                                                 *given.kwonlyargs, given.kwarg)
                   if argument and not argument.annotation and argument.arg not in ('self', 'cls')]
        assert not without, f'{path}, {function.name}: {", ".join(without)}'
        assert function.returns, f'{path}, {function.name} has no type of what it returns'
