"""A trained network with all it needs: load('runs/quickstart')(images in [0, 1]) -> logits."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import (
    checkpoint,
    dataset_json,
    metadata,
    models,
    predict,
    predict_classes,
    user_network,
    weights,
    workdir,
)
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.tasks import hint, training_loss

EMBEDDED = Path(__file__).with_name('embedded.safetensors')


class Trained(Network):
    """A Network (see network.py) that predicts what pictures show."""

    __slots__ = ()

    def predict(self, pictures: Any, top: int = 5, *,
                batch_size: int = predict_classes.BATCH) -> list[Any]:
        """What each picture shows, in their order; pictures become images as in an evaluation.

        A classifier gives a Prediction for each picture (see predict_classes.py): the `classes`
        with the highest `probabilities`, falling. Others give what predict.labels,
        predict.detections or predict.stylized do: the class of each pixel, uint8 [H, W]; a dict of
        'boxes' [D, 4], 'labels' [D] and 'scores' [D]; or a picture, float32 [H, W, C].

        Args:
          pictures: files and arrays [H, W, C], uint8 or floats in [0, 1], in a list or as Path.glob
            gives them; or one of them.
          top: how many classes of a picture.
          batch_size: pictures per step, over all devices; only those being seen are in memory.

        Raises:
          UserError: a picture cannot be read, or does not fit the network.
        """
        if isinstance(pictures, (str, os.PathLike)) or (
                not isinstance(pictures, (list, tuple))
                and np.ndim(pictures) == len(self.image_shape)):
            pictures = [pictures]
        elif isinstance(pictures, Iterator):
            pictures = list(pictures)
        if self.task in predict.OTHERS:
            return [predict.OTHERS[self.task](self, picture) for picture in pictures]
        return predict_classes.classes(self, pictures, top, batch_size=batch_size)


def called(network: Trained, source: str | os.PathLike[str]) -> str:
    """What titles call a network: the last two parts of its source, and its own name:
    'runs/quickstart (resnet20)'."""
    place = os.sep.join(Path(source).parts[-2:])
    name = user_network.short(network.name) or type(network.net).__name__
    return f'{place} ({name})'


def fingerprint(network: Trained) -> str:
    """The SHA-256 of all arrays of a Trained's variables."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(network.variables):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def load(source: str | os.PathLike[str], which: str = 'best', name: str | None = None,
         others: Sequence[str] = ()) -> Trained:
    """A trained network, ready for images in [0, 1].

    The source may be the working directory of a run; a file or a hub id with published weights,
    'vgg19.safetensors', 'timm/vgg19.tv_in1k' or 'hf-hub:owner/repository' (see `cnnjax.weights`);
    'embedded', the narrow VGG-16 that comes with this package, trained by configs/photos.py; or
    'random', the same network, or that of `name`, before any training.

    Args:
      source: a run's working directory, a file (either may begin with ~), a hub id, 'embedded' or
        'random' (directories of these names are './embedded' and './random').
      which: the checkpoint of a run: 'best' (lowest error in the evaluations of
        its training), 'latest' or the number of a step.
      name: the network's name, if a file does not say it; or the new place of the file of the
        user's own network (see `cnnjax.user_network`), which loading executes.
      others: names of other networks that a file may hold instead.

    Raises:
      UserError: there is no run or no such checkpoint; the weights are damaged or do not fit; or
        the file of the user's own network is gone.
    """
    if source == 'random':
        return _random(name)
    source = EMBEDDED if source == 'embedded' else os.path.expanduser(source)
    if weights.is_weights(source):
        found = weights.load(name or None, source, others)
        return Trained(found.net, found.variables, found.normalize, found.classes,
                       found.image_shape, None, found.name, found.evaluation)
    directory = Path(source)
    config, recorded = workdir.read_config(directory), dataset_json.read(directory)
    if not directory.is_dir():
        raise UserError(f"there is no '{source}': give the working directory of a run, a file of "
                        "weights (.safetensors), or a hub id such as 'timm/resnet18.tv_in1k'")
    if config is None or recorded is None:
        raise UserError(f"'{source}' is not the working directory of a run: it has no config.json "
                        f'and {dataset_json.FILE}')
    try:
        _locate(config, name, directory)
        net = models.create(**config.model, num_classes=len(recorded.classes), dtype=config.dtype)
    except UserError:
        raise
    except Exception as error:  # The file may hold any value, which may raise any error.
        raise UserError(f'{directory}: its config.json is damaged, or of another version: '
                        f'{error!r}; copy it from another run of the same config, or train '
                        'anew') from None
    with checkpoint.Checkpoints(directory / 'checkpoints', read_only=True) as checkpoints:
        variables = checkpoints.variables(checkpoints.resolve(which))
    if config.loss.endswith(training_loss.HINT):  # The regressor is no part of the network.
        variables['params'].pop(hint.REGRESSOR)
    evaluation = {field: config[field] for field in metadata.EVALUATION if field in config}
    if 'test_image_size' in config and config.test_image_size:
        evaluation['image_size'] = config.test_image_size
    return Trained(net, variables, recorded.normalize, recorded.classes, recorded.image_shape,
                   config, config.model.name, evaluation)


def _random(name):
    """A network with random weights, always the same: pictures of it show how much of a result is
    due to the training (He, Wang & Hopcroft 2016, https://arxiv.org/abs/1606.04801). Kernels keep
    the scale of activations (He et al. 2015, https://arxiv.org/abs/1502.01852), biases are 0."""
    embedded = load('embedded')
    net = models.create(name) if name else embedded.net
    image_shape = net.image_shape if name else embedded.image_shape
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == 'kernel':
            deviation = np.sqrt(2 / math.prod(leaf.shape[:-1]))
            return np.float32(rng.normal(0, deviation, leaf.shape))
        return np.full(leaf.shape, path[-1].key in ('scale', 'var'), np.float32)

    shapes = jax.eval_shape(net.init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, *image_shape), np.float32))
    return embedded._replace(
        net=net, variables=jax.tree.map_with_path(draw, shapes), image_shape=image_shape,
        classes=tuple(map(str, range(net.num_classes))) if name else embedded.classes,
        name=name or embedded.name, evaluation={})


def _locate(config, name, directory):
    """Puts the place of the user's own network, `name`, into the `config` of the run if it has such
    a network. Raises UserError if there is no file."""
    if not user_network.is_named(config.model.name):
        return
    path, _, network = config.model.name.rpartition(':')
    if name and user_network.is_named(name):
        path, _, other = user_network.located(name).rpartition(':')
        if other != network:
            raise UserError(f"name='{name}': {directory} holds a run of the network {network}")
        with config.unlocked():
            config.model.name = f'{path}:{network}'
    if not os.path.isfile(path):
        raise UserError(f'{directory} holds a run of the network {network} in {path}, and that '
                        'file is gone: put it back, or say where it is now, as in '
                        f"name='{user_network.short(config.model.name)}'")
