"""Reads the tensors of safetensors and torch files, here or on the hub, by name. frozen_graph.py
reads those of TensorFlow's.

Nothing is unpickled: torch's files are read by its weights_only reader. It may also read the plain
values of an argparse.Namespace, which training scripts save beside the weights.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

from cnnjax import cluster, frozen_graph
from cnnjax.errors import UserError

SAFETENSORS, TORCH = '.safetensors', ('.pth', '.pt', '.bin', '.tar')  # suffixes
SUFFIXES = (SAFETENSORS, *TORCH, frozen_graph.SUFFIX)
HUB = 'hf-hub:'  # timm's prefix of a hub id
# What training scripts call the tensors in their checkpoints, and their moving averages.
WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'net')
AVERAGES = ('state_dict_ema', 'model_ema')
# What torch.compile, data parallelism and wrapping modules put before the names.
PREFIXES = re.compile(r'^(?:(?:_orig_mod|module|model|backbone)\.)+')


def find(source: str) -> Path:
    """The path of the file that `source` names, downloaded if it is on the hub.

    Raises:
      UserError: the file or repository does not exist or cannot be fetched.
    """
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):  # unlike the method, False for a name that is too long
        return path
    match = re.fullmatch(rf'(?:{HUB})?([\w.-]+/[\w.-]+)(?:@([\w.-]+))?', source)
    if not match or os.path.exists(path) or path.suffix in SUFFIXES:
        raise UserError(f"'{source}': no such file, and not an id on the Hugging Face hub such as "
                        "'timm/vgg19.tv_in1k'")
    repository, revision = match.groups()
    _fetch(repository, revision, 'config.json')
    return _fetch(repository, revision, 'model.safetensors')


def _fetch(repository, revision, file):
    """The path of a file of a hub repository in the cache, downloaded if it is not there."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"'{repository}' is on the Hugging Face hub: pip install 'cnnjax[hub]', or "
                        'download its model.safetensors and give that path') from None
    for cached in (True, False):  # the cache first, without asking the network
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision,
                                                        local_files_only=cached))
        except Exception as error:  # The library, the network and the disk raise many kinds.
            reason = str(error).strip().partition('\n')[0]
    raise UserError(
        f"'{repository}': the hub's file {file} is neither cached nor to be had ({reason}). "
        f'On a machine that reaches the hub, download '
        f'https://huggingface.co/{repository}/resolve/{revision or "main"}/model.safetensors and '
        'config.json into one folder; bring it here and give the path of model.safetensors')


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a file, {name: numpy array}, and its metadata, {name: str}.

    Raises:
      UserError: the suffix is unknown, or the file is damaged or holds more than tensors.
    """
    if path.suffix in TORCH:
        return _read_torch(path), {}
    if path.suffix == frozen_graph.SUFFIX:
        return frozen_graph.read(path), {}
    if path.suffix != SAFETENSORS:
        raise UserError(f'{path}: weights are read from {", ".join(SUFFIXES)} files')
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is damaged or no safetensors file, and was not loaded: '
                        f'{error}') from None


def bare(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The tensors without the prefixes that wrappers give their names ('module.conv1.weight').

    Raises:
      UserError: two tensors would have one name.
    """
    found = {}
    for key, tensor in tensors.items():
        short = PREFIXES.sub('', key)
        if short in found:
            raise UserError(f"{path} holds two tensors '{short}' under different prefixes, as of "
                            'two networks: save those of one in a file of their own')
        found[short] = tensor
    return found


def _read_torch(path):
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a torch file: pip install 'cnnjax[torch]', or convert it where torch is: "
            'safetensors.torch.save_file(torch.load(path, weights_only=True), '
            "'weights.safetensors')") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            saved = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # Damage raises many kinds; torch's text says to trust the file.
        if more := re.search(r'GLOBAL (\S+)', str(error)):
            raise UserError(
                f'{path} holds more than tensors ({more[1]}), which is never unpickled here: it '
                'could run anything. Where you trust the file, save its tensors alone: torch.save('
                "torch.load(path, weights_only=False)['state_dict'], 'weights.pth')") from None
        raise UserError(f'{path} is damaged or no torch file, and was not loaded '
                        f'({type(error).__name__})') from None
    tensors = _unwrapped(saved, path)
    if not isinstance(tensors, dict) or not all(
            isinstance(key, str) and torch.is_tensor(value) for key, value in tensors.items()):
        held = map(str, list(saved)[:8]) if isinstance(saved, dict) else (type(saved).__name__,)
        raise UserError(f'{path} does not hold named tensors (a state_dict), by themselves or as '
                        f'{", ".join((*WRAPPERS, *AVERAGES))}, but {", ".join(held)}')
    try:
        return {key: (tensor.float() if tensor.is_floating_point() else tensor)
                .detach().resolve_conj().resolve_neg().numpy() for key, tensor in tensors.items()}
    except (RuntimeError, TypeError) as error:  # Tensors may be sparse or have no data.
        raise UserError(f'{path} holds tensors that are no plain arrays: {error}') from None


def _unwrapped(saved, path):
    """The named tensors of a training's checkpoint: the moving averages where there are any, as in
    timm (https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/_helpers.py)."""
    while isinstance(saved, dict):
        averages, raw = ([key for key in keys if isinstance(saved.get(key), dict)]
                         for keys in (AVERAGES, WRAPPERS))
        if averages and raw and cluster.first():
            print(f"{path} holds '{raw[0]}' and '{averages[0]}': the averaged weights, "
                  f"'{averages[0]}', are taken, as timm does. For the others, save them alone: "
                  f"torch.save(torch.load(path)['{raw[0]}'], 'raw.pth')", flush=True)
        if not (averages or raw):
            break
        saved = saved[(averages or raw)[0]]
        if averages:  # Torch's AveragedModel counts its updates.
            saved = {key: value for key, value in saved.items() if key != 'n_averaged'}
    return saved
