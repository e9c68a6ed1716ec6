"""Makes weights.npz: what timm and torchvision compute with weights that both sides can draw.

In an environment of its own (torch is no dependency of the tests):

    pip install torch==2.13.0 timm==1.0.31 torchvision==0.28.0
    python tests/golden/make.py                            # tests/golden/weights.npz
    python tests/golden/make.py full.npz NAME [NAME ...]   # the full networks, not committed
    python tests/golden/compare.py full.npz                # where cnnjax is: the relative errors

Where torchvision's operators were built for another torch, the missing ones are only declared.

weights.npz holds the names and shapes of every network's tensors ('names', JSON; those of the cases
below as 'case/vgg11') and, for these narrow variants, '{case}/{mode}/{size}': the logits in
float64, of one image in the mode 'eval' and of four in 'train' (batch statistics, no dropout); of
maps a few pixels, in 'train' with the auxiliary head's as further channels. Weights and images are
drawn from the tensors' names and the size.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name('weights.npz')
VGG = {f'vgg{depth}{norm}' for depth in (11, 13, 16, 19) for norm in ('', '_bn')}
RESNET = {'resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'resnext50_32x4d',
          'resnext101_32x4d', 'resnext101_64x4d', 'wide_resnet50_2', 'wide_resnet101_2',
          'resnet50d', 'seresnet50'}
DENSENET = {f'densenet{depth}' for depth in (121, 161, 169, 201)}
TORCHVISION = {'alexnet_tv': 'alexnet', 'googlenet_bn': 'googlenet', 'inception_v3': 'inception_v3',
               'squeezenet1_0': 'squeezenet1_0', 'squeezenet1_1': 'squeezenet1_1'}
SEGMENTATION = ('fcn_resnet50', 'fcn_resnet101')
DETECTION = {'faster_rcnn_resnet50_fpn': 'fasterrcnn_resnet50_fpn'}  # see detectors.py
MOBILENET = {'mobilenet_v1': 1.0, 'mobilenet_v1_075': 0.75, 'mobilenet_v1_050': 0.5,
             'mobilenet_v1_025': 0.25}
MOBILENET_V2 = {'mobilenet_v2': 'mobilenetv2_100', 'mobilenet_v2_140': 'mobilenetv2_140',
                'mobilenet_v2_050': 'mobilenetv2_050'}
NETWORKS = sorted(VGG | RESNET | DENSENET | {*TORCHVISION, *SEGMENTATION, *DETECTION,
                                            *MOBILENET, *MOBILENET_V2})

# case: (network, fields of `models.create`, image sizes)
SMALL = {'widths': (64, 16, 24, 32), 'blocks': (1, 2, 1, 1)}
NARROW = {'widths': (4, 6, 8, 8, 8), 'hidden': (16, 12), 'dropout': 0.0}
CASES = {
    'vgg11': ('vgg11', NARROW, (224, 225)),
    'vgg11_bn': ('vgg11_bn', NARROW, (224, 225)),
    'vgg11_torchvision': ('vgg11', NARROW, (224, 225)),
    'basic': ('resnet18', SMALL, (64, 75)),
    'bottleneck': ('resnet50', SMALL, (64, 75)),
    'resnext': ('resnext50_32x4d', SMALL | {'cardinality': 4, 'base_width': 32}, (64, 75)),
    'wide_resnet': ('wide_resnet50_2', SMALL, (64, 75)),
    'resnet50d': ('resnet50d', SMALL, (64, 75)),
    # timm's hidden layers have a multiple of 8 units.
    'seresnet': ('seresnet50', SMALL | {'widths': (64, 32, 32, 64)}, (64, 75)),
    'densenet': ('densenet121',
                 {'layers_per_block': (2, 3, 2, 2), 'growth': 8, 'stem_width': 16}, (64, 75)),
    'googlenet_bn': ('googlenet_bn', {'dropout': 0.0}, (96, 139)),
    'mobilenet': ('mobilenet_v1_025', {}, (96, 139)),
    'mobilenet_v2': ('mobilenet_v2_050', {'dropout': 0.0}, (64, 75)),
    'mobilenet_v2_torchvision': ('mobilenet_v2_050', {'dropout': 0.0}, (64, 75)),
    'squeezenet1_0': ('squeezenet1_0', {'dropout': 0.0}, (64, 75)),
    'squeezenet1_1': ('squeezenet1_1', {'dropout': 0.0}, (64, 75)),
    'alexnet_tv': ('alexnet_tv', {'widths': (6, 8, 8, 10, 8), 'hidden': (16, 12), 'dropout': 0.0},
                   (127, 224)),
    'fcn': ('fcn_resnet50', SMALL | {'blocks': (1, 2, 2, 2), 'dropout': 0.0}, (64, 75)),
    'fcn_aux': ('fcn_resnet50', SMALL | {'auxiliary_weight': 0.5, 'dropout': 0.0}, (40, 53)),
}
CLASSES = 10


def tensor(name, shape):
    """The weights of the tensor of that name, float32: activations keep their scale."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith('running_var') or (name.endswith('weight') and len(shape) == 1):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = np.sqrt(2 / np.prod(shape[1:])) if name.endswith('weight') else 0.1
    # Positive biases, so that ReLU passes most of what batch norm gives: closer to linear, batch
    # statistics magnify rounding less from layer to layer (https://arxiv.org/abs/1902.08129).
    mean = 1.0 if name.endswith('bias') else 0.0
    return random.standard_normal(shape, np.float32) * np.float32(scale) + np.float32(mean)


def images(mode, size):
    """float32 [N, size, size, 3]."""
    random = np.random.default_rng(size)
    return random.standard_normal((4 if mode == 'train' else 1, size, size, 3), np.float32)


def network(name, classes=1000, **variant):
    """The torch module; `variant` is that of CASES."""
    import timm
    from timm.layers import ClassifierHead
    from timm.models.efficientnet import _gen_mobilenet_v1
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet
    from torch import nn
    from torchvision import models
    if name == 'alexnet_tv' and variant:
        net, hidden = models.AlexNet(classes), variant['hidden']
        width, *widths = variant['widths']
        net.features[0] = nn.Conv2d(3, width, 11, 4, 2)
        for index, size, inputs, outputs in zip((3, 6, 8, 10), (5, 3, 3, 3),
                                                variant['widths'], widths, strict=False):
            net.features[index] = nn.Conv2d(inputs, outputs, size, padding=size // 2)
        sizes = (36 * widths[-1], *hidden, classes)
        for index, inputs, outputs in zip((1, 4, 6), sizes, sizes[1:], strict=False):
            net.classifier[index] = nn.Linear(inputs, outputs)
        return net
    if name in SEGMENTATION:
        return segmentation(name, classes if variant else 21, **variant)
    if name in DETECTION:
        return models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    if name in TORCHVISION:
        options = {'aux_logits': False, 'init_weights': False} if 'goog' in name else {}
        options = {'init_weights': False} if 'inception' in name else options
        return models.get_model(TORCHVISION[name], weights=None, num_classes=classes, **options)
    if name in MOBILENET:
        return _gen_mobilenet_v1('mobilenetv1_100', MOBILENET[name], num_classes=classes)
    if not variant or name in MOBILENET_V2:
        return timm.create_model(MOBILENET_V2.get(name, name), num_classes=classes)
    if name in VGG:
        groups = [(width,) * (1 + (i > 1)) for i, width in enumerate(variant['widths'])]
        config, hidden = sum(((*group, 'M') for group in groups), ()), variant['hidden']
        net = timm.models.vgg.VGG(config, classes, norm_layer=nn.BatchNorm2d if '_bn' in name
                                  else None)
        net.pre_logits.fc1 = nn.Conv2d(config[-2], hidden[0], 7)
        net.pre_logits.fc2 = nn.Conv2d(hidden[0], hidden[1], 1)
        net.head = ClassifierHead(hidden[1], classes)
        return net
    if name in RESNET:
        others = {'wide_resnet50_2': {'base_width': 128},
                  'resnet50d': {'stem_width': 32, 'stem_type': 'deep', 'avg_down': True},
                  'seresnet50': {'block_args': {'attn_layer': 'se'}}}.get(name, {})
        return ResNet(BasicBlock if name == 'resnet18' else Bottleneck, variant['blocks'], classes,
                      channels=variant['widths'], **others, **{
                          field: variant[field] for field in ('cardinality', 'base_width')
                          if field in variant})
    return timm.models.densenet.DenseNet(variant['growth'], variant['layers_per_block'], classes)


def segmentation(name, classes, auxiliary_weight=0.0, **variant):
    from torchvision.models import resnet
    from torchvision.models import segmentation as theirs
    from torchvision.models._utils import IntermediateLayerGetter
    if not variant:
        return getattr(theirs, name)(weights=None, weights_backbone=None, num_classes=classes,
                                     aux_loss=bool(auxiliary_weight))

    class ResNet(resnet.ResNet):
        def _make_layer(self, block, planes, *arguments, **options):
            narrow = dict(zip((64, 128, 256, 512), variant['widths'], strict=True))
            return super()._make_layer(block, narrow[planes], *arguments, **options)

        def __setattr__(self, name, value):  # the last layer of a narrow network has fewer inputs
            super().__setattr__(name, None if name == 'fc' else value)

    backbone = ResNet(resnet.Bottleneck, variant['blocks'],
                      replace_stride_with_dilation=[False, True, True])
    heads = [theirs.fcn.FCNHead(4 * width, classes) for width in variant['widths'][:-3:-1]]
    layers = {'layer4': 'out'} | ({'layer3': 'aux'} if auxiliary_weight else {})
    return theirs.FCN(IntermediateLayerGetter(backbone, layers), heads[0],
                      heads[1] if auxiliary_weight else None)


def torchvision_vgg(classes, widths, hidden, **_):
    from torch import nn
    from torchvision.models import vgg
    config = [entry for i, width in enumerate(widths) for entry in (*[width] * (1 + (i > 1)), 'M')]
    net = vgg.VGG(vgg.make_layers(config), classes, init_weights=False)
    net.classifier[0] = nn.Linear(widths[-1] * 49, hidden[0])
    net.classifier[3] = nn.Linear(*hidden)
    net.classifier[6] = nn.Linear(hidden[1], classes)
    return net


def torchvision_mobilenet_v2(classes):
    from torchvision import models
    return models.mobilenet_v2(num_classes=classes, width_mult=0.5)


def undropped(name):
    """Fields of the network that leave dropout out, and the auxiliary classifier in."""
    return ({'dropout': 0.0} if name in VGG | {*TORCHVISION, *SEGMENTATION, *MOBILENET_V2} else {}
            ) | ({'auxiliary_weight': 0.4} if name == 'inception_v3' else {})


def shapes(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def sampled(outputs):
    """A few pixels of maps of scores [N, H, W, K]; logits as they are."""
    return outputs[:, ::17, ::17] if outputs.ndim == 4 else outputs


def logits(net, mode, size, double=True):
    """The module's outputs with the weights of `tensor`; batch statistics in the mode 'train'."""
    import torch
    state = {name: torch.zeros(()) if not shape else torch.from_numpy(tensor(name, shape))
             for name, shape in shapes(net).items()}
    net.load_state_dict(state)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    dtype = torch.float64 if double else torch.float32
    net.to(dtype).train(mode == 'train')
    with torch.no_grad():
        inputs = torch.from_numpy(images(mode, size)).permute(0, 3, 1, 2).to(dtype)
        outputs = net(inputs)
        if isinstance(outputs, tuple):  # the logits, and those of an auxiliary classifier
            outputs = torch.cat(list(outputs), 1)
        if isinstance(outputs, dict):  # maps of scores [N, K, H, W], in training of both heads
            maps = list(outputs.values())[:2 if mode == 'train' else 1]
            outputs = sampled(torch.cat(maps, 1).permute(0, 2, 3, 1))
        return outputs.numpy()


def declare_operators():
    import torch
    library = torch.library.Library('torchvision', 'DEF')
    for operator in ('nms', 'qnms'):
        library.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    return library


def main(path=GOLDEN, *full):
    import torch
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        library = declare_operators()  # noqa: F841
    arrays = {}
    for name in full:
        for size in ((224, 225) if name in VGG or name == 'alexnet_tv' else
                     (299, 306) if name == 'inception_v3' else (128, 137)):
            for mode in ('eval', 'train'):
                for double in (False, True):
                    key = f'{name}/{mode}/{size}{"/double" if double else ""}'
                    arrays[key] = logits(network(name), mode, size, double)
        print(name, flush=True)
    if not full:
        names = {}
        for case, (name, variant, sizes) in CASES.items():
            net = (torchvision_vgg(CLASSES, **variant) if case == 'vgg11_torchvision' else
                   torchvision_mobilenet_v2(CLASSES) if case == 'mobilenet_v2_torchvision' else
                   network(name, CLASSES, **variant))
            names[f'case/{case}'] = shapes(net)
            for size in sizes:
                for mode in ('eval', 'train'):
                    arrays[f'{case}/{mode}/{size}'] = logits(net, mode, size)
        with torch.device('meta'):
            names |= {name: shapes(network(name)) for name in NETWORKS}
        arrays['names'] = np.frombuffer(json.dumps(names).encode(), np.uint8)
    np.savez_compressed(path, **arrays)


if __name__ == '__main__':
    main(*sys.argv[1:])
