"""Config files: lists them, loads them, explains their fields, and suggests names for wrong ones.

The explanations are the docstrings and the comments beside the fields, read from the source.
"""

import ast
import difflib
import inspect
import io
import os
import re
import shutil
import textwrap
import tokenize
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import ml_collections

from cnnjax import python_file
from cnnjax.errors import UserError

FOLDER = Path(__file__).parent.parent / 'configs'
BASE = FOLDER / 'base.py'  # The fields of all trainings.
INDENT = 42  # The width of the column of fields and their values.


class Field(NamedTuple):
    """A line `config.padding = 0  # pixels around the image ...` of a source."""

    name: str  # 'padding', 'model.name'
    value: str  # '0', as it is written
    comment: str  # the comment beside it
    above: str  # the comment on lines of its own above it


def paths() -> dict[str, str]:
    """{'quickstart': its path from here}: the files that come with the launcher."""
    return {path.stem: os.path.relpath(path) for path in sorted(FOLDER.glob('*.py'))
            if path.name != '__init__.py'}


def load(file: str) -> ml_collections.ConfigDict:
    """'configs/cifar.py:resnet20' -> the config that get_config('resnet20') there returns.

    Raises:
      UserError: no such file, an error in it, an argument that it does not take, no config.
    """
    path, colon, argument = file.partition(':')
    found = module(path)
    arguments = [argument] if colon else []
    try:
        inspect.signature(found.get_config).bind(*arguments)
    except TypeError as error:
        raise UserError(f"{path} takes no argument, such as '{argument}', after a colon" if colon
                        else f'{path}: get_config() {error}') from error
    with python_file.blamed(path):
        try:
            config = found.get_config(*arguments)
        except ValueError as error:  # an argument that it refuses
            raise UserError(str(error)) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f'{path}: get_config() returns {config!r}, not an '
                        'ml_collections.ConfigDict')
    if 'experiment' not in config:
        raise UserError(f"{path}: its config has no field 'experiment', which says what to run: "
                        "write config.experiment = 'train'")
    return config


def module(path: str) -> ModuleType:
    """The Python module in the config file at `path`.

    Raises:
      UserError: no such file, an error in it, or no get_config in it.
    """
    if not Path(path).is_file():
        raise UserError(_missing(path))
    with python_file.blamed(path):
        has_config = re.search(r'\bget_config\b', _source(path))
    found = python_file.load(path) if has_config else None
    if not (found and callable(getattr(found, 'get_config', None))):
        raise UserError(f'{path} is no config file: it has no function get_config')
    return found


def check_field(config: ml_collections.ConfigDict, field: str) -> None:
    """Raises UserError unless `field`, 'padding' or 'model.name', is one of the config's; it says
    which may have been meant or, where none is like it, which there are."""
    group, parts = config, field.split('.')
    for i, part in enumerate(parts):
        before, (part, index, _) = '.'.join(parts[:i]), part.partition('[')  # 'drops[0]'
        if not isinstance(group, ml_collections.ConfigDict):
            raise UserError(f"config.{field}: '{before}' is a value and has no fields")
        if part not in group:
            near = did_you_mean(config, field)
            raise UserError(f'config.{field}: there is no such field' + (
                f'{near} (--help, with the same --config, lists all)' if near else
                f'\n{before or "The config"} has {", ".join(_in_order(group))}'))
        group = None if index else group[part]
    if isinstance(group, ml_collections.ConfigDict):
        raise UserError(f'config.{field} is a group of fields: give one of them'
                        f'{did_you_mean(config, field)}')


def did_you_mean(config: ml_collections.ConfigDict, word: str) -> str:
    """'; did you mean --config.learning_rate?' where the config has such a field, else ''."""
    names = list(flat(config))
    group, _, word = word.replace('-', '_').lower().rpartition('.')
    if isinstance(config.get(word), ml_collections.ConfigDict):
        group, word = word, 'name'  # 'model' alone most likely means the network's name
    last = {name: name.rpartition('.')[2] for name in names}
    found = [name for name in names if word in (last[name], _initials(last[name]))]
    if not found:
        close = difflib.get_close_matches(word, dict.fromkeys(last.values()), 3, 0.7)
        found = [name for part in close for name in names if last[name] == part]
    found.sort(key=lambda name: name.rpartition('.')[0] != group)
    return f'; did you mean {" or ".join(f"--config.{name}" for name in found[:3])}?' * bool(found)


def flat(config: ml_collections.ConfigDict, prefix: str = '') -> dict[str, Any]:
    """{'padding': 0, 'model.name': 'resnet20', ...}: every field, groups last."""
    found = {}
    for name in _in_order(config):
        value = config[name]
        if isinstance(value, ml_collections.ConfigDict):
            found |= flat(value, f'{prefix}{name}.')
        else:
            found[f'{prefix}{name}'] = value
    return found


def overview() -> str:
    """The files that come with the launcher, each with what it says of itself first."""
    names = paths().values()
    width = max(map(len, names)) + 4
    return '\n'.join(_columns(f'  {path}', _docstring(path).split('\n\n')[0], width)
                     for path in names)


def explain(file: str, config: ml_collections.ConfigDict) -> str:
    """What the config file says of itself, and every field: its value and what it does."""
    path = file.partition(':')[0]
    own = fields(_source(path))
    recipes = Path(path).parent / 'recipes' / Path(path).name
    if recipes.exists():
        own += fields(_source(recipes))
    # A recipe takes the fields from the config of its experiment; a training's is base.py.
    recipe = 'experiment' not in {field.name for field in own}
    shared, general = fields(_source(BASE)), FOLDER / f'{config.experiment}.py'
    if recipe and general.exists():
        shared = [field for field in fields(_source(general)) if field.comment] + shared
    order = [field.name for field in ((*shared, *own) if recipe else (*own, *shared))]
    found = [(value, _explained(name, value, own, shared, recipe)._replace(name=name))
             for name, value in flat(config).items()]
    found.sort(key=lambda item: next((i for i, name in enumerate(order)
                                      if f'.{item[1].name}'.endswith(f'.{name}')), len(order)))
    lines = [_docstring(path), '', 'Fields:']
    for value, field in found:
        if field.above:
            lines += ['', textwrap.fill(field.above, _width(), initial_indent='  ',
                                        subsequent_indent='  ')]
        lines.append(_columns(f'  --config.{field.name}={_shown(value)}', field.comment, INDENT))
    return '\n'.join(lines)


def fields(source: str) -> list[Field]:
    """Every Field that is set in the source of a config file, in its order."""
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.removeprefix('#').removeprefix(' ')
            if not token.line[:token.start[1]].strip():
                alone.add(token.start[0])
    found, groups, heading = [], {}, ''
    for node in sorted((node for node in ast.walk(ast.parse(source))
                        if isinstance(node, ast.Assign)), key=lambda node: node.lineno):
        names = [_field_name(target, groups) for target in node.targets]
        for target in node.targets:  # config.model = model = ConfigDict()
            if isinstance(target, ast.Name) and any(names):
                groups[target.id] = next(filter(None, names)) + '.'
        first, last = node.lineno, node.end_lineno or node.lineno
        while first - 1 in alone and not comments[first - 1].startswith(' '):
            first -= 1
        while last + 1 in alone and comments[last + 1].startswith(' '):  # goes on, indented
            last += 1
        comment, above = (' '.join(comments[line].strip() for line in lines if line in comments)
                          for lines in (range(node.lineno, last + 1), range(first, node.lineno)))
        value = ast.unparse(node.value)
        if 'ConfigDict(' in value:  # a group: its comment goes to its first field
            heading = above
            continue
        found += [Field(name, value, comment, above or heading) for name in filter(None, names)]
        heading = ''
    return found


def _field_name(target, groups):
    """'model.name' for the target `config.model.name` of an assignment, or for `model.name` where
    {'model': 'model.'} is among the groups; None for other targets."""
    parts = []
    while isinstance(target, ast.Attribute):
        parts.insert(0, target.attr)
        target = target.value
    if not parts or not isinstance(target, ast.Name):
        return None
    prefix = '' if target.id == 'config' else groups.get(target.id)
    return None if prefix is None else prefix + '.'.join(parts)


def _explained(name, value, own, shared, recipe):
    """The Field that explains `name`: that of the config file, which may set it several times, once
    to this value; of a recipe the shared one, with what the recipe says of this very value."""
    def same(field):
        try:
            return ast.literal_eval(field.value) == value
        except ValueError:  # an expression
            return False

    mine = sorted((field for field in own if field.name == name and field.comment), key=same,
                  reverse=True)
    general = max((field for field in shared if f'.{name}'.endswith(f'.{field.name}')),
                  key=lambda field: len(field.name), default=None)
    if general and (recipe or not mine):
        more = [field.comment for field in mine[:1] if same(field)]
        return general._replace(comment='; '.join([general.comment, *more]))
    return mine[0] if mine else Field(name, '', '', '')


def _in_order(config):
    """The names in a ConfigDict, which sorts them, with its groups at the end."""
    return sorted(config, key=lambda name: isinstance(config[name], ml_collections.ConfigDict))


def _initials(name):
    return ''.join(part[:1] for part in name.split('_'))


def _missing(path):
    """What to say of a path where there is no config file."""
    known = paths()
    close = difflib.get_close_matches(Path(path).stem, known, 1)
    what = 'this is a directory' if path and Path(path).is_dir() else 'there is no such file'
    return (f'config={path}: {what}' + (f'; did you mean {known[close[0]]}?' if close else '')
            + f'\n{os.path.relpath(FOLDER)} has {", ".join(f"{name}.py" for name in known)}')


def _source(path):
    with tokenize.open(path) as file:  # heeds the encoding that the file declares
        return file.read()


def _docstring(path):
    return ast.get_docstring(ast.parse(_source(path))) or ''


def _shown(value):
    """A value as it would be written on the command line."""
    return ','.join(map(str, value)) if isinstance(value, tuple) and value else str(value)


def _columns(left, right, width):
    """`left`, then `right` wrapped in a column of its own from `width` on."""
    lines = textwrap.wrap(right, max(_width() - width, 30), break_on_hyphens=False) or ['']
    first = left.ljust(width) + lines.pop(0) if len(left) < width else left
    return '\n'.join([first, *(' ' * width + line for line in lines)]).rstrip()


def _width():
    return min(shutil.get_terminal_size((100, 24)).columns, 120)
