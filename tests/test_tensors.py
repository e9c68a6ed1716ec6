"""Torch's checkpoint files, plain or wrapped, and what in them is refused.

The tests do not need torch: a small module that also unpickles nothing replaces it.
"""

import argparse
import contextlib
import pickle
import sys
import types

import numpy as np
import pytest

from cnnjax import tensors
from cnnjax.errors import UserError


class Tensor:
    """What torch's tensors are to the reader."""

    def __init__(self, value):
        self.value = np.float32(value)

    def numpy(self):
        return self.value

    def is_floating_point(self):
        return True

    float = detach = resolve_conj = resolve_neg = lambda self: self


@pytest.fixture
def torch(monkeypatch):
    """A torch whose `load` returns `saved`, or raises it."""
    module = types.SimpleNamespace(saved=None, allowed=())

    @contextlib.contextmanager
    def safe_globals(classes):
        module.allowed = classes
        yield
        module.allowed = ()

    def load(path, map_location, weights_only):
        assert weights_only
        assert module.allowed == [argparse.Namespace]
        if isinstance(module.saved, Exception):
            raise module.saved
        return module.saved

    module.load, module.is_tensor = load, lambda value: isinstance(value, Tensor)
    module.serialization = types.SimpleNamespace(safe_globals=safe_globals)
    monkeypatch.setitem(sys.modules, 'torch', module)
    return module


@pytest.fixture
def path(tmp_path):
    (tmp_path / 'a.pth').write_bytes(b'')
    return tmp_path / 'a.pth'


RAW, AVERAGE = {'conv1.weight': Tensor(1)}, {'conv1.weight': Tensor(2)}
ARGUMENTS = argparse.Namespace(lr=0.1)


@pytest.mark.parametrize(('saved', 'value'), [
    (RAW, 1),
    ({'state_dict': RAW, 'epoch': 3}, 1),
    ({'model': RAW, 'args': ARGUMENTS, 'optimizer': {'state': {}}}, 1),
    ({'model_state_dict': RAW}, 1),
    ({'net': RAW, 'acc': 93.0}, 1),
    ({'model': {'state_dict': RAW}}, 1),
    ({'state_dict': RAW, 'state_dict_ema': AVERAGE}, 2),
    ({'state_dict_ema': AVERAGE}, 2),
    ({'state_dict': RAW, 'state_dict_ema': None}, 1),
    ({'model': RAW, 'model_ema': AVERAGE | {'n_averaged': Tensor(9)}, 'args': ARGUMENTS}, 2),
])
def test_the_tensors_of_a_checkpoint(saved, value, torch, path, capsys):
    torch.saved = saved
    found, metadata = tensors.read(path)
    assert found == {'conv1.weight': value}
    assert metadata == {}
    said = capsys.readouterr().out
    both = value == 2 and ('state_dict' in saved or 'model' in saved)
    assert ('the averaged weights' in said) == both
    assert not both or "'state_dict_ema'" in said or "'model_ema'" in said


@pytest.mark.parametrize(('saved', 'message'), [
    ({'epoch': 3, 'weights': RAW}, r'no.* named tensors .* model_ema, but epoch, weights'),
    ({'state_dict': {'a': 3}}, 'named tensors'),
    ([Tensor(1)], 'named tensors .*, but list'),
    (pickle.UnpicklingError('Weights only load failed. In PyTorch 2.6 ...\nUnsupported global: '
                            'GLOBAL pathlib.PosixPath was not an allowed global by default'),
     r"holds more than tensors \(pathlib.PosixPath\).*weights_only=False\)\['state_dict'\]"),
    (EOFError('Ran out of input'), r'is damaged or no torch file, and was not loaded \(EOFError\)'),
])
def test_what_is_refused(saved, message, torch, path):
    torch.saved = saved
    with pytest.raises(UserError, match=message):
        tensors.read(path)


@pytest.mark.parametrize('key', [
    'module.conv1.weight', '_orig_mod.conv1.weight', 'model.conv1.weight', 'backbone.conv1.weight',
    'module._orig_mod.model.backbone.conv1.weight', 'conv1.weight'])
def test_prefixes_of_wrappers(key):
    assert tensors.bare({key: 1, 'fc.weight': 2}, 'a.pth') == {'conv1.weight': 1, 'fc.weight': 2}


def test_two_networks_in_a_file_are_refused():
    with pytest.raises(UserError, match="two tensors 'fc.weight' under different prefixes"):
        tensors.bare({'model.fc.weight': 1, 'module.fc.weight': 2}, 'a.pth')


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_a_pickle_is_never_executed(tmp_path, monkeypatch):
    executed = tmp_path / 'executed'
    for name in ('a.safetensors', 'a.pth'):
        (tmp_path / name).write_bytes(pickle.dumps(Malicious(executed)))
    with pytest.raises(UserError, match='no safetensors file'):
        tensors.read(tmp_path / 'a.safetensors')
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(UserError, match=r"pip install 'cnnjax\[torch\]', or convert it"):
        tensors.read(tmp_path / 'a.pth')
    assert not executed.exists()


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.safetensors').write_bytes(b'')
    assert tensors.find('~/a.safetensors') == tmp_path / 'a.safetensors'
