"""A network of the user's own: a flax module in a Python file, named 'my_nets.py:MyNet'.

`models.create` takes such a name wherever it takes one of ours. The contract that the module must
keep is in the docstring of cnnjax/models/__init__.py. The file is executed, so only a name from a
config or from the caller leads here, never one from a weights file.
"""

import dataclasses
import functools
import hashlib
import inspect
import os
from pathlib import Path

import flax.linen as nn

from cnnjax import python_file
from cnnjax.errors import UserError, suggest

METHODS = ('loss', 'detections')  # a detector's own methods
CALL = '`def __call__(self, images, train=False)` that returns (outputs, taps)'


def is_named(name: str) -> bool:
    """Whether the name is that of a class in a Python file, not that of a network of ours."""
    return '.py:' in name or name.endswith('.py')


def located(name: str) -> str:
    """The name with the absolute path of its file; a name of ours stays as it is."""
    return os.path.abspath(os.path.expanduser(name)) if is_named(name) else name


def short(name: str) -> str:
    """The name without the directories of its file, for titles and for files of weights."""
    return os.path.basename(name) if is_named(name) else name


def digest(name: str) -> str:
    """The SHA-256 of the file of a user's own network; '' for one of ours, or that is not there."""
    path, _, _ = located(name).rpartition(':')
    if not is_named(name) or not os.path.isfile(path):  # `load` says so
        return ''
    with python_file.blamed(path):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def load(name: str) -> type[nn.Module]:
    """The class 'my_nets.py:MyNet'. Relative paths begin at the working directory.

    Raises:
      UserError: no such file or class; an error in the file; a class that breaks the contract.
    """
    if name.endswith('.py'):
        raise UserError(f"'{name}' names a file: name the class in it too, as in {name}:MyNet")
    path, _, network = located(name).rpartition(':')
    if not os.path.isfile(path):
        raise UserError(f"network '{name}': there is no file {path}")
    with python_file.blamed(path):
        source = Path(path).read_bytes()
    module = _module(path, source)
    if not hasattr(module, network):
        own = [each for each, value in vars(module).items() if _is_network(value)]
        near = suggest(network, own) or (f'; it has {", ".join(own)}' if own else '')
        raise UserError(f"{path} has no class '{network}'{near}")
    found = getattr(module, network)
    if not _is_network(found):
        raise UserError(f'{path}: {network} is no class of flax.linen modules, it is {found!r}')
    return _checked(found, path)


@functools.cache
def _module(path, source):
    """The module of the file. The same source runs only once, so that a network has one class."""
    del source
    return python_file.load(path)


def _is_network(value):
    return isinstance(value, type) and issubclass(value, nn.Module)


@functools.cache
def _checked(network, path):
    """A subclass that tells what breaks the contract, and the line of `path` where a call fails."""
    name = f'{path}: {network.__name__}'
    fields = {field.name for field in dataclasses.fields(network)}
    if 'num_classes' not in fields:
        raise UserError(f'{name} has no field for the number of its outputs: add '
                        '`num_classes: int = 10`')
    try:
        for options in ({}, {'train': True}):
            inspect.signature(network.__call__).bind(None, None, **options)
    except TypeError as error:
        raise UserError(f'{name}.__call__: {error}; write {CALL}') from None

    def call(self, *arguments, **options):
        with python_file.blamed(path):
            result = network.__call__(self, *arguments, **options)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            what = 'an array' if hasattr(result, 'shape') else f'a {type(result).__name__}'
            raise UserError(f'{name}.__call__ returns {what}: write {CALL}, the latter a dict '
                            '{name: activation}')
        if isinstance(result[0], dict):
            if missing := [method for method in METHODS if not hasattr(network, method)]:
                raise UserError(f'{name} returns a dict, as a detector does, but it has no method '
                                f'{" and no ".join(missing)}')
            return result
        *batch, width = (None, *getattr(result[0], 'shape', ()))[-2:]
        if not batch or width != self.num_classes:
            raise UserError(f'{name} has outputs of {getattr(result[0], "shape", result[0])} for '
                            f'num_classes={self.num_classes}: make its last layer as wide as that '
                            'field')
        return result

    def image_shape(self):
        raise UserError(f'{name} has no image_shape: give the shape of the images where you can, '
                        'or add `image_shape = (height, width, channels)` to the class')

    found = type(network.__name__, (network,), {'__doc__': network.__doc__} if (
        'image_shape' in fields or hasattr(network, 'image_shape')) else {
        'image_shape': property(image_shape)})
    found.__call__ = call  # Set later: flax would take it for a method that makes layers.
    for method in METHODS:
        if hasattr(network, method):
            setattr(found, method, _blamed(getattr(network, method), path))
    return found


def _blamed(function, path):
    """The function; its errors name the line of the file at `path`."""
    @functools.wraps(function)
    def call(*arguments, **options):
        with python_file.blamed(path):
            return function(*arguments, **options)

    return call
