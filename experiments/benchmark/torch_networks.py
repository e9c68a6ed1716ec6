"""The networks of the benchmark in PyTorch. Needs torch.

resnet50, densenet121 and VGG-16 are torchvision's. No common PyTorch package has the others: they
are written here in PyTorch's usual style, with our names for the layers.
"""

import importlib
import random
from collections import OrderedDict

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax import traverse_util
from torch import nn
from torch.utils import checkpoint

from cnnjax import counterparts
from experiments.benchmark import torch_detectors

# PyTorch's name of the device that jax runs on. torch.compile could not trace a question to jax.
DEVICE = 'cuda' if jax.default_backend() == 'gpu' else 'cpu'


def conv3x3(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class Block(nn.Module):
    """He et al. 2015, figure 5, left, with shortcut A."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - inputs

    def shortcut(self, x):
        if self.stride == 1 and not self.more:
            return x
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.more))

    def forward(self, x, keep=1.0):
        if keep is False:
            return F.relu(self.shortcut(x))
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(self.shortcut(x) + (y if keep in (1.0, True) else keep * y))


class ResNet(nn.Module):
    """He et al. 2015, section 4.2. With stochastic depth (Huang et al. 2016), Python skips closed
    blocks."""

    def __init__(self, net):
        super().__init__()
        self.conv1 = conv3x3(3, net.widths[0])
        self.bn1 = nn.BatchNorm2d(net.widths[0])
        self.survival, self.names, inputs = net.survival, [], net.widths[0]
        for i, (width, count) in enumerate(zip(net.widths, net.blocks, strict=True), 2):
            for j in range(1, count + 1):
                self.names.append(f'conv{i}_{j}')
                setattr(self, self.names[-1], Block(inputs, width, 2 if i > 2 and j == 1 else 1))
                inputs = width
        self.fc = nn.Linear(inputs, net.num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for i, name in enumerate(self.names, 1):
            keep = 1 - i / len(self.names) * (1 - self.survival)
            if self.training and self.survival < 1:
                keep = random.random() < keep
            x = getattr(self, name)(x, keep)
        return self.fc(x.mean((2, 3)))


class Bottleneck(nn.Module):
    """Huang et al. 2016, section 3: BN-ReLU-conv1x1, BN-ReLU-conv3x3."""

    def __init__(self, inputs, growth):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), conv3x3(4 * growth, growth)

    def forward(self, *features):
        x = self.conv1(F.relu(self.bn1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.bn2(x)))


class Transition(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """DenseNet-BC for 32 x 32 images; with `remat` the gradient computes the layers again."""

    def __init__(self, net):
        super().__init__()
        width, growth = net.stem_width, net.growth
        self.conv0, self.depths, self.remat = conv3x3(3, width), net.layers_per_block, net.remat
        for i, depth in enumerate(self.depths, 1):
            for j in range(1, depth + 1):
                setattr(self, f'block{i}_layer{j}', Bottleneck(width, growth))
                width += growth
            if i < len(self.depths):
                before, width = width, int(net.compression * width)
                setattr(self, f'transition{i}', Transition(before, width))
        self.bn, self.fc = nn.BatchNorm2d(width), nn.Linear(width, net.num_classes)

    def forward(self, x):
        x = self.conv0(x)
        for i, depth in enumerate(self.depths, 1):
            features = [x]
            for j in range(1, depth + 1):
                layer = getattr(self, f'block{i}_layer{j}')
                features.append(checkpoint.checkpoint(layer, *features, use_reentrant=False)
                                if self.remat and self.training else layer(*features))
            x = torch.cat(features, 1)
            if i < len(self.depths):
                x = getattr(self, f'transition{i}')(x)
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


class Unit(nn.Module):
    """Larsson et al. 2016: convolution, dropout, batch normalization, ReLU."""

    def __init__(self, inputs, width, dropout):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(inputs, width, 3, padding=1), nn.Dropout(dropout)
        self.bn, self.bn_column = (nn.BatchNorm2d(width, affine=False) for _ in range(2))

    def forward(self, x, alone=False):
        return F.relu((self.bn_column if alone else self.bn)(self.drop(self.conv(x))))


class FractalNet(nn.Module):
    """FractalNet. Local drop-path uses weights, as ours does; for global drop-path Python skips
    columns."""

    def __init__(self, net):
        super().__init__()
        self.columns, self.blocks, inputs = net.columns, len(net.widths), 3
        self.local_rate, self.global_rate = net.local_drop_path, net.global_drop_path
        for b, (width, rate) in enumerate(zip(net.widths, net.dropout, strict=True), 1):
            for c in range(1, net.columns + 1):
                for i in range(1, 2 ** (c - 1) + 1):
                    setattr(self, f'block{b}_column{c}_unit{i}',
                            Unit(inputs if i == 1 else width, width, rate))
            inputs = width
        self.fc = nn.Linear(inputs, net.num_classes)

    def forward(self, x):
        alone = self.training and self.global_rate and random.random() < self.global_rate
        x = self.column(x, random.randint(1, self.columns)) if alone else self.fractal(x)
        return self.fc(x.flatten(1))

    def column(self, x, c):
        for b in range(1, self.blocks + 1):
            for i in range(1, 2 ** (c - 1) + 1):
                x = getattr(self, f'block{b}_column{c}_unit{i}')(x, alone=True)
            x = F.max_pool2d(x, 2)
        return x

    def fractal(self, x):
        depth = 2 ** (self.columns - 1)
        for b in range(1, self.blocks + 1):
            values = dict.fromkeys(range(1, self.columns + 1), x)
            for t in range(1, depth + 1):
                ending = [c for c in values if t * 2 ** (c - 1) % depth == 0]
                for c in ending:
                    unit = getattr(self, f'block{b}_column{c}_unit{t * 2 ** (c - 1) // depth}')
                    values[c] = unit(values[c])
                    if t == depth:
                        values[c] = F.max_pool2d(values[c], 2)
                x = self.join([values[c] for c in ending])
                values |= dict.fromkeys(ending, x)
        return x

    def join(self, inputs):
        if len(inputs) == 1:
            return inputs[0]
        if not (self.training and self.local_rate):
            return sum(inputs) / len(inputs)
        device = inputs[0].device
        keep = torch.rand(len(inputs), device=device) >= self.local_rate
        one = torch.arange(len(inputs), device=device) == torch.randint(len(inputs), (),
                                                                        device=device)
        keep = torch.where(keep.any(), keep, one).to(inputs[0].dtype)
        return sum(weight * x for weight, x in zip(keep / keep.sum(), inputs, strict=True))


class UNet(nn.Module):
    """Ronneberger et al. 2015, padded and with batch normalization."""

    def __init__(self, net):
        super().__init__()
        self.bottom, self.drop, inputs = len(net.widths), nn.Dropout(net.dropout), 3
        for level, width in enumerate(net.widths, 1):
            self.add(level, 1, inputs, width)
            inputs = width
        for level, width in reversed([*enumerate(net.widths[:-1], 1)]):
            setattr(self, f'up{level}', nn.ConvTranspose2d(inputs, width, 2, 2))
            self.add(level, 3, 2 * width, width)
            inputs = width
        self.conv = nn.Conv2d(inputs, net.num_classes, 1)

    def add(self, level, first, inputs, width):
        for i in (first, first + 1):
            setattr(self, f'conv{level}_{i}', conv3x3(inputs if i == first else width, width))
            setattr(self, f'bn{level}_{i}', nn.BatchNorm2d(width))

    def convolve(self, x, level, first):
        for i in (first, first + 1):
            x = getattr(self, f'conv{level}_{i}')(x)
            x = F.relu(getattr(self, f'bn{level}_{i}')(x))
        return x

    def forward(self, x):
        skips = []
        for level in range(1, self.bottom + 1):
            x = self.convolve(x, level, 1)
            if level >= self.bottom - 1:
                x = self.drop(x)
            if level < self.bottom:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        for level in range(self.bottom - 1, 0, -1):
            x = torch.cat([getattr(self, f'up{level}')(x), skips.pop()], 1)
            x = self.convolve(x, level, 3)
        return self.conv(x)


class BlurPool(nn.Module):
    """The pool of `layers.blur_pool`, of any number of channels."""

    def __init__(self, size):
        super().__init__()
        self.size, weights = size, (np.poly1d((0.5, 0.5)) ** (size + 1)).coeffs
        self.register_buffer('kernel', torch.tensor(np.float32(np.outer(weights, weights))))

    def forward(self, x):
        kernel = self.kernel.expand(x.shape[1], 1, *self.kernel.shape)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), 'replicate'), kernel, stride=self.size,
                        groups=x.shape[1])


def torchvision(part):
    """torchvision's module of this name. Raises Unmeasured if torchvision is not installed."""
    torch_detectors.operators()
    return importlib.import_module(f'torchvision.{part}')


def published(name, net):
    """torchvision's network; VGG without hidden layers gets a single full layer."""
    network = getattr(torchvision('models'), name)(num_classes=net.num_classes)
    if name.startswith('vgg') and not net.hidden:
        network.avgpool = nn.Identity()
        network.classifier = nn.Sequential(OrderedDict(
            {'6': nn.Linear(net.widths[-1], net.num_classes)}))
    return network


FAMILIES = {'ResNet': ResNet, 'DenseNet': DenseNet, 'FractalNet': FractalNet, 'UNet': UNet,
            'YOLO': torch_detectors.YOLO}


def build(name, net, variables, side):
    """The network `net`, whose name is `name`, in PyTorch, with a copy of our parameters, in
    training mode.

    Raises Unmeasured if it is torchvision's and that is not installed; AssertionError if the two
    have different parameters.
    """
    known = counterparts.find(name)
    if name == 'faster_rcnn_resnet50_fpn':
        return placed(torch_detectors.FasterRCNN(net), net, variables, known)
    network = published(name, net) if known else FAMILIES[type(net).__name__](net)
    rules = (known.rules.get('torchvision') or known.rules['timm'])(net) if known else []
    parameters, modules = dict(network.named_parameters()), dict(network.named_modules())
    with torch.no_grad():
        for path, leaf in traverse_util.flatten_dict(variables['params']).items():
            layer, array = '/'.join(path[:-1]), np.array(leaf)
            if isinstance(modules.get(layer), nn.ConvTranspose2d) and array.ndim == 4:
                array = array[::-1, ::-1].transpose(2, 3, 0, 1)
            elif array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            elif array.ndim == 2 and known and layer in known.flat:  # Torch flattens [C, H, W].
                array = array.reshape(side // 32, side // 32, -1, array.shape[-1])
                array = array.transpose(3, 2, 0, 1).reshape(array.shape[-1], -1)
            elif array.ndim == 2:
                array = array.T
            leaf = counterparts.LEAVES[path[-1]]
            theirs = parameters.pop(f'{counterparts.rename(layer, rules)}.{leaf}')
            assert theirs.shape == array.shape, f'{name}: {layer} is {tuple(theirs.shape)} there'
            theirs.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    assert not parameters, f'{name} has more parameters in PyTorch: {", ".join(parameters)}'
    return network.to(DEVICE, memory_format=torch.channels_last).train()


def placed(network, net, variables, known):
    """torchvision's detector with a copy of our weights, in training mode."""
    flat = traverse_util.flatten_dict(variables)
    network.load_state_dict({key: torch.from_numpy(place.give(np.array(flat[place.path])))
                             for key, place in counterparts.places(
                                 net, (64, 64, 3), known, 'torchvision').items()})
    return network.to(DEVICE, memory_format=torch.channels_last).train()
