"""A trained network with all it needs: load('runs/quickstart')(images in [0, 1]) -> logits."""

import hashlib
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import checkpoint, dataset, models, weights, workdir
from cnnjax.data import Normalization
from cnnjax.errors import UserError

EMBEDDED = Path(__file__).with_name('embedded.safetensors')


class Trained(NamedTuple):
    """A network, its variables, and the data's normalization, class names and shape."""

    net: nn.Module
    variables: Any  # {'params': ..., 'batch_stats': ...}
    normalize: Normalization  # uint8 or [0, 1] images [..., H, W, C] -> the network's input
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # [H, W, C] of the training images
    config: Any  # the run's; None for published weights

    def __call__(self, images, **arguments):
        """Logits [N, classes] of images [N, H, W, C], uint8 or floats in [0, 1]."""
        return self.net.apply(self.variables, self.normalize(images), train=False, **arguments)[0]

    def taps(self, images, **arguments):
        """Every activation, {name: array}, for images [N, H, W, C], uint8 or floats in [0, 1].

        They may have another size than those of the training: if that does not fit a full layer,
        the activations up to it are returned.
        """
        normalize, misfits = self.normalize, []
        if normalize.mean.ndim > 1 and normalize.mean.shape[:2] != images.shape[1:3]:
            normalize = normalize._replace(mean=normalize.mean.mean((0, 1)))  # of a mean image

        def intercept(call, args, kwargs, context):
            layer = context.module
            if isinstance(layer, nn.Dense) and layer.has_variable('params', 'kernel'):
                expected, width = layer.get_variable('params', 'kernel').shape
                if args[0].shape[-1] != expected:
                    misfits.append('/'.join(layer.path))
                    return jnp.zeros((*args[0].shape[:-1], width), args[0].dtype)
            return call(*args, **kwargs)

        with nn.intercept_methods(intercept):
            _, taps = self.net.apply(self.variables, normalize(images), train=False, **arguments)
        return dict(itertools.takewhile(lambda item: item[0] not in misfits, taps.items()))


def digest(network):
    """A checksum of a Trained's variables."""
    total = hashlib.blake2b(digest_size=8)
    for value in jax.tree.leaves(network.variables):
        total.update(np.ascontiguousarray(value).data)
    return total.hexdigest()


def load(source, which='best', name=None):
    """The network trained in the working directory `source`, ready for images in [0, 1].

    Or one with the weights of a file or of the hub: 'vgg19.safetensors', 'timm/vgg19.tv_in1k' or
    'hf-hub:owner/repository' (see `cnnjax.weights`). Or 'embedded': the narrow VGG-16 that comes
    with this package, trained by configs/photos.py.

    Args:
      source: a run's working directory, a file, a hub id or 'embedded' (a directory of that name is
        './embedded').
      which: checkpoint of a run: 'best' (lowest test error), 'latest' or the number of a step.
      name: the network's, where a file does not say it.

    Raises:
      UserError: no run or no such checkpoint there; weights that are damaged or do not fit.
    """
    if source == 'embedded':
        source = EMBEDDED
    if weights.is_weights(source):
        found = weights.load(name, source)
        return Trained(found.net, found.variables, found.normalize, found.classes,
                       found.image_shape, None)
    directory = Path(source)
    config, recorded = workdir.read_config(directory), dataset.read(directory)
    if config is None or recorded is None:
        raise UserError(f"source='{source}' is not the working directory of a run: it has no "
                        f'config.json and {dataset.FILE}')
    try:
        net = models.create(**config.model, num_classes=len(recorded.classes), dtype=config.dtype)
    except UserError:
        raise
    except Exception as error:  # of many kinds: any value may stand in a file
        raise UserError(f'{directory}: its config.json is damaged, or of another version: '
                        f'{error!r}; copy it from another run of the same config, or train '
                        'anew') from None
    with checkpoint.Checkpoints(directory / 'checkpoints', read_only=True) as checkpoints:
        variables = checkpoints.variables(checkpoints.resolve(which))
    return Trained(net, variables, recorded.normalize, recorded.classes, recorded.image_shape,
                   config)
