"""FCN on a dilated ResNet, as torchvision has it; no paper's own network:
https://github.com/pytorch/vision/blob/main/torchvision/models/segmentation/fcn.py
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from cnnjax import layers
from cnnjax.models import resnet


class Head(nn.Module):
    """Convolution, batch normalization, ReLU, dropout and the scores of the classes, up-sampled to
    the picture: [N, H, W, C] -> ([N, H', W', classes], taps)."""

    num_classes: int
    shape: tuple[int, ...]  # H', W'
    dropout: float
    relu: Callable
    conv: Callable
    norm: Callable
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        conv = partial(self.conv, kernel_init=layers.torch_linear)
        x = taps['conv'] = conv(x.shape[-1] // 4, 3, name='conv')(x)
        x = taps['relu'] = layers.activated(x, self.norm(name='bn'), self.relu)
        x = nn.Dropout(self.dropout, deterministic=not self.train, name='drop')(x)
        x = taps['score'] = conv(self.num_classes, 1, use_bias=True, name='score')(x)
        return jax.image.resize(x, (x.shape[0], *self.shape, self.num_classes), 'bilinear'), taps


class FCNResNet(resnet.ResNet):
    """A ResNet whose last two stages are dilated, and a head on it: images [N, H, W, C] of any size
    -> logits [N, H, W, classes]. Fields as there.

    With an `auxiliary_weight` there is a second head on the last stage but one. In training its
    logits are the tap 'aux_classifier'.
    """

    dilated: int = 2
    dropout: float = 0.1  # the rate before the scores
    auxiliary_weight: float = 0.0  # the factor of the second head's loss; torchvision's is 0.5
    num_classes: int = 21

    image_shape = (520, 520, 3)

    @property
    def adopts(self) -> tuple[str, ...]:
        """All residual networks, first those with the same blocks."""
        return tuple(sorted(resnet.TABLE, key=lambda name: (
            resnet.TABLE[name][:2] != (self.block, self.blocks))))

    @property
    def auxiliary(self) -> dict[str, float]:
        """The taps whose losses training adds to the loss: {name: weight}."""
        return {'aux_classifier': self.auxiliary_weight} if self.auxiliary_weight else {}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 1, 'FCN', flat=True)
        conv, norm = resnet.parts(self, train)
        taps = {}
        x = resnet.trunk(self, conv, norm, images, train, taps)

        def head(name, x):
            return Head(self.num_classes, images.shape[1:3], self.dropout, self.relu, conv, norm,
                        train, name=name)(x)

        for name in self.auxiliary if train or self.is_initializing() else ():
            stage = len(self.blocks)
            logits, inner = head(name, taps[f'conv{stage}_{self.blocks[-2]}'])
            if train:
                taps |= layers.nested(name, inner, logits)
        logits, inner = head('classifier', x)
        taps |= layers.nested('classifier', inner, logits)
        return logits, taps

    def fits(self, n: int) -> bool:
        """Whether the scores of n pixels are up-sampled by exactly their stride. Otherwise they are
        stretched a little, as in torchvision, and so depend on the size of the whole picture."""
        stride = (1 if self.stem == 3 else 4) * 2 ** (len(self.blocks) - 1 - self.dilated)
        return n > 0 and n % stride == 0

    def adopt(self, net: nn.Module, variables: Any) -> tuple[nn.Module, Any] | None:
        """A ResNet's strides are dilations here, and it has other scores. A network like this one
        may have no second head."""
        if type(net) is FCNResNet:
            return net, variables
        if type(net) is not resnet.ResNet:
            return None
        fields = {field.name: getattr(net, field.name) for field in dataclasses.fields(net)
                  if field.name not in ('parent', 'name', 'num_classes', 'dilated')}
        params = {name: layer for name, layer in variables['params'].items() if name != 'fc'}
        return self.clone(**fields), {**variables, 'params': params}


#                   block              blocks
COLUMNS = ('block', 'blocks')
TABLE = {
    'fcn_resnet50':  (resnet.Bottleneck, (3, 4, 6, 3)),
    'fcn_resnet101': (resnet.Bottleneck, (3, 4, 23, 3)),
}
MODULE = FCNResNet
