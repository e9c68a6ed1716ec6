"""The names and layouts that timm, torchvision and Caffe give to the tensors of our networks."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax import cluster, layer_names, models
from cnnjax.data import Normalization

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's mean and std
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean',
          'var': 'running_var'}  # our name: torch's name
# Simonyan & Zisserman's own weights, made for Caffe, are recognized in any file by conv1_1's first
# biases and the first corner of its first kernel in blue, green, red. Their images are 0..255 less
# the mean below (https://gist.github.com/ksimonyan/211839e770f7b538e2d8).
CAFFE = {'vgg16': ((0.73429835, 0.09340367, 0.06775674, 0.8862966),
                   (0.42947057, 0.55037946, 0.4800154)),
         'vgg19': ((0.7301776, 0.06493629, 0.03428847, 0.8260386),
                   (0.34119523, 0.46418372, 0.39416704))}
VOC = ('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair',
       'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa',
       'train', 'tvmonitor')
# The classes of torchvision's detectors by COCO's ids, from 1 on; ten ids are of no class.
COCO = ('person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat',
        'traffic light', 'fire hydrant', 'N/A', 'stop sign', 'parking meter', 'bench', 'bird',
        'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'N/A',
        'backpack', 'umbrella', 'N/A', 'N/A', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis',
        'snowboard', 'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard',
        'surfboard', 'tennis racket', 'bottle', 'N/A', 'wine glass', 'cup', 'fork', 'knife',
        'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange', 'broccoli', 'carrot', 'hot dog',
        'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant', 'bed', 'N/A', 'dining table',
        'N/A', 'N/A', 'toilet', 'N/A', 'tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone',
        'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'N/A', 'book', 'clock', 'vase',
        'scissors', 'teddy bear', 'hair drier', 'toothbrush')
CAFFE_MEAN = (123.68, 116.779, 103.939)  # red, green, blue


class Counterpart(NamedTuple):
    """The names of a family's networks and layers in timm and torchvision.

    A rule is a pair (pattern, replacement) for our path of a layer. The first rule that matches the
    whole path counts; a layer without a matching rule keeps its name.
    """

    networks: dict[str, str]  # our name: their name
    rules: dict[str, Callable]  # library: network -> rules; `save` writes the first one's names
    head: str = 'fc'  # our last layer, as wide as there are classes
    # full layer: the layer whose maps it flattens (torch: C, H, W), or network -> [H, W, C] of them
    flat: dict[str, str | Callable] = {}
    convolutions: dict[str, str] = {}  # library: a pattern for the full layers that it convolves
    old: tuple[str, Any] = ('(?!)', '')  # (pattern, replacement) for outdated names in files
    older: tuple[str, dict] = ('(?!)', {})  # (pattern, fields of networks in files with such names)
    extra: str = '(?!)'  # a pattern for tensors that our network may not have
    normalize: tuple = IMAGENET  # mean and std for files that name none
    fields: dict[str, Any] = {}  # fields in which their network differs from the paper's
    evaluation: dict[str, Any] = {}  # see metadata.EVALUATION; {}: a classifier's crop
    background: int = 0  # how many of their outputs are of no class
    classes: tuple[str, ...] = ()  # the names for files that have as many classes and name none
    labels: tuple[str, ...] = ()  # files of class names, a line for each, that lie beside weights


def _vgg(*heads):
    def rules(net):
        result, index = list(zip(('fc6', 'fc7', 'fc8'), heads, strict=True)), 0
        for i, kernels in enumerate(net.groups, 1):
            for j in range(1, len(kernels) + 1):
                result += [(f'conv{i}_{j}', f'features.{index}'),
                           (f'bn{i}_{j}', f'features.{index + 1}')]
                index += 3 if net.batch_norm else 2  # Torch counts the ReLUs and pools too.
            index += 1
        return result
    return rules


def _block(match, pools=0):
    """conv2_1/conv3 -> layer1.0.conv3: torch's first stage is row 2 of the paper's table. Torch
    counts what the shortcut does, from its `pools` on."""
    layer = {'shortcut_conv': f'downsample.{pools}', 'shortcut_bn': f'downsample.{pools + 1}'}.get(
        match[3], match[3].replace('/', '.'))
    return f'layer{int(match[1]) - 1}.{int(match[2]) - 1}.{layer}'


def _resnet(net):
    """Torch counts the layers of a stem of three convolutions, and their ReLUs."""
    stem = {'stem_conv1': 0, 'stem_bn1': 1, 'stem_conv2': 3, 'stem_bn2': 4, 'conv1': 6}
    return [(r'conv(\d+)_(\d+)/(.+)', partial(_block, pools=int(net.shortcut == 'D'))),
            *((name, f'conv1.{index}') for name, index in stem.items() if net.stem == 333)]


def _segmentation(net):
    """torchvision's ResNet as a backbone, and its heads, whose layers it counts."""
    return [(r'conv(\d+)_(\d+)/(\w+)', lambda match: f'backbone.{_block(match)}'),
            (r'(conv1|bn1)', r'backbone.\1'),
            *((rf'(\w*classifier)/{layer}', rf'\1.{index}')
              for layer, index in (('conv', 0), ('bn', 1), ('score', 4)))]


def _faster_rcnn(net):
    """torchvision's ResNet with a pyramid, whose levels it counts from 0, the RPN and the head."""
    return [(r'conv(\d+)_(\d+)/(\w+)', lambda match: f'backbone.body.{_block(match)}'),
            (r'(conv1|bn1)', r'backbone.body.\1'),
            *((rf'{ours}(\d)', lambda match, theirs=theirs:
               f'backbone.fpn.{theirs}_blocks.{int(match[1]) - 2}.0')
              for ours, theirs in (('lateral', 'inner'), ('p', 'layer'))),
            ('rpn_conv', 'rpn.head.conv.0.0'), ('rpn_cls_score', 'rpn.head.cls_logits'),
            ('rpn_bbox_pred', 'rpn.head.bbox_pred'), (r'(fc\d)', r'roi_heads.box_head.\1'),
            ('(cls_score|bbox_pred)', r'roi_heads.box_predictor.\1')]


def _of_now(match):
    """Today's name of a tensor of torchvision's detectors, from a file of any time."""
    name = re.sub(r'(_blocks\.\d|rpn\.head\.conv)(\.\w+)$', lambda found: found[1] + (
        '.0' if 'blocks' in found[1] else '.0.0') + found[2], match[0])
    return name if name.startswith('rpn') else f'backbone.{name}'


def _same(*names):
    return {name: name for name in names}


COUNTERPARTS = (
    Counterpart(
        networks=_same('vgg11', 'vgg11_bn', 'vgg13', 'vgg13_bn', 'vgg16', 'vgg16_bn', 'vgg19',
                       'vgg19_bn'),
        rules={'timm': _vgg('pre_logits.fc1', 'pre_logits.fc2', 'head.fc'),
               'torchvision': _vgg('classifier.0', 'classifier.3', 'classifier.6')},
        head='fc8', flat={'fc6': 'pool5'}, convolutions={'timm': 'fc6|fc7'},
        # The files converted from Caffe to torch count the full layers' dropouts differently.
        old=(r'classifier\.([14])\.(.*)',
             lambda match: f'classifier.{int(match[1]) - 1}.{match[2]}')),
    Counterpart(
        networks=_same('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152',
                       'resnext50_32x4d', 'resnext101_32x4d', 'resnext101_64x4d',
                       'wide_resnet50_2', 'wide_resnet101_2', 'resnet50d', 'seresnet50'),
        rules={'timm': _resnet}, convolutions={'timm': r'.*/se/fc\d'}),
    Counterpart(
        networks=_same('densenet121', 'densenet161', 'densenet169', 'densenet201'),
        rules={'timm': lambda net: [
            (r'conv0', r'features.conv0'),
            (r'bn0', r'features.norm0'),
            (r'block(\d+)_layer(\d+)/conv(\d)', r'features.denseblock\1.denselayer\2.conv\3'),
            (r'block(\d+)_layer(\d+)/bn(\d)', r'features.denseblock\1.denselayer\2.norm\3'),
            (r'transition(\d+)/conv', r'features.transition\1.conv'),
            (r'transition(\d+)/bn', r'features.transition\1.norm'),
            (r'bn', r'features.norm5'),
            (r'fc', r'classifier')]},
        # torchvision's published files have norm.1 where its networks have norm1.
        old=(r'(.*\.denselayer\d+\.(?:norm|conv))\.(\d\..*)', r'\1\2')),
    Counterpart(
        networks={'alexnet_tv': 'alexnet'},
        rules={'torchvision': lambda net: [
            *((f'conv{i}', f'features.{index}') for i, index in enumerate((0, 3, 6, 8, 10), 1)),
            *((f'fc{i}', f'classifier.{index}') for i, index in enumerate((1, 4, 6), 6))]},
        head='fc8', flat={'fc6': 'average_pool'}),
    Counterpart(
        networks={'googlenet_bn': 'googlenet'},
        rules={'torchvision': lambda net: [
            (r'conv1', r'conv1.conv'), (r'bn1', r'conv1.bn'),
            (r'conv2_reduce', r'conv2.conv'), (r'bn2_reduce', r'conv2.bn'),
            (r'conv2', r'conv3.conv'), (r'bn2', r'conv3.bn'),
            *((rf'inception_(\w\w)/{layer}', rf'inception\1.branch{branch}.{theirs}')
              for branch, layer in (('1', '1x1'), ('2.0', '3x3_reduce'), ('2.1', '3x3'),
                                    ('3.0', '5x5_reduce'), ('3.1', '5x5'), ('4.1', 'pool_proj'))
              for layer, theirs in ((layer, 'conv'), (f'bn_{layer}', 'bn')))]},
        # torchvision's network undoes the usual normalization itself (`transform_input`).
        extra=r'aux[12]\..*', normalize=(0.5, 0.5)),
    Counterpart(
        networks={'mobilenet_v1': 'mobilenetv1_100', 'mobilenet_v1_075': 'mobilenetv1_075',
                  'mobilenet_v1_050': 'mobilenetv1_050', 'mobilenet_v1_025': 'mobilenetv1_025'},
        rules={'timm': layer_names.mobilenet},
        fields={'relu': nn.relu6}),
    Counterpart(
        networks={'mobilenet_v2': 'mobilenetv2_100', 'mobilenet_v2_140': 'mobilenetv2_140',
                  'mobilenet_v2_050': 'mobilenetv2_050'},
        rules={'timm': layer_names.mobilenet_v2_timm,
               'torchvision': layer_names.mobilenet_v2_torchvision}),
    Counterpart(
        networks=_same('squeezenet1_0', 'squeezenet1_1'),
        rules={'torchvision': layer_names.squeezenet}, head='conv10'),
    Counterpart(
        # Our names are torchvision's, and timm's, too. Its network undoes the usual normalization
        # itself (`transform_input`), and the auxiliary classifier is not in every file.
        networks=_same('inception_v3'), rules={'torchvision': lambda net: []},
        extra=r'AuxLogits\..*', normalize=(0.5, 0.5), fields={'auxiliary_weight': 0.0},
        evaluation={'test_shorter_side': 342, 'interpolation': 'bilinear'}),
    Counterpart(
        networks={'inception_v1': 'inceptionv1'}, rules={'lucent': layer_names.inception_v1},
        old=(r'(\w+)_([wb])', layer_names.of_graph),
        extra=r'(head|nn|softmax)[01]_.*', normalize=(117 / 255, 1 / 255),
        labels=('imagenet_comp_graph_label_strings.txt', 'InceptionV1-labels.txt')),
    Counterpart(
        networks=_same('fcn_resnet50', 'fcn_resnet101'), rules={'torchvision': _segmentation},
        # Before this, `tensors.bare` takes 'backbone.' for the prefix of a wrapper.
        head='classifier/score', old=(r'((conv1|bn1|layer\d)\..*)', r'backbone.\1'),
        extra=r'aux_classifier\..*', evaluation={'task': 'segment'}, classes=VOC),
    Counterpart(
        networks={'faster_rcnn_resnet50_fpn': 'fasterrcnn_resnet50_fpn'},
        rules={'torchvision': _faster_rcnn}, head='cls_score', background=1,
        flat={'fc6': lambda net: (net.pooled, net.pooled, net.rpn_width)},
        old=(r'(body|fpn|rpn\.head\.conv)\..*', _of_now),
        # torchvision normalized without an epsilon when it published the weights with such names.
        older=(r'.*_blocks\.\d\.\w+', {'epsilon': 0.0}),
        evaluation={'task': 'detect', 'fit': 'letterbox', 'image_size': 1333,
                    'test_shorter_side': 800, 'interpolation': 'bilinear'}, classes=COCO),
)


def find(name: str) -> Counterpart | None:
    """The Counterpart of a network; None if neither timm nor torchvision has it."""
    return next((counterpart for counterpart in COUNTERPARTS if name in counterpart.networks), None)


def heads(counterpart: Counterpart, net: nn.Module) -> dict[str, str]:
    """{library: its name of the weights of the last layer}"""
    return {library: f'{rename(counterpart.head, rules(net))}.weight'
            for library, rules in counterpart.rules.items()}


def our_name(architecture: str | None) -> str | None:
    """Our name of the network that we or timm call `architecture`; None if we do not have it."""
    theirs = {value: key for counterpart in COUNTERPARTS
              for key, value in counterpart.networks.items()}
    bare = str(architecture).split('.')[0]  # without timm's tag: resnet50.a1_in1k
    return theirs.get(bare, architecture if bare in models.names() else None)


class Place(NamedTuple):
    """The place of a tensor: our path and shape, and their shape. `kernel` is our shape as that of
    a convolution, [H, W, I, O]; None if the tensor is no kernel."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    kernel: tuple[int, ...] | None
    theirs: tuple[int, ...]

    def give(self, array: np.ndarray) -> np.ndarray:
        """Converts our array to theirs."""
        if self.kernel is not None:
            array = np.moveaxis(array.reshape(self.kernel), (-1, -2), (0, 1))
        return np.ascontiguousarray(array.reshape(self.theirs))

    def take(self, array: np.ndarray) -> np.ndarray:
        """Converts their array to ours."""
        if self.kernel is not None:
            array = array.reshape(self.kernel[:-3:-1] + self.kernel[:-2])
            array = np.moveaxis(array, (0, 1), (-1, -2))
        return np.ascontiguousarray(array.reshape(self.shape))


def places(net: nn.Module, image_shape: Sequence[int], counterpart: Counterpart | None,
           library: str | None = None) -> dict[str, Place]:
    """{name of a tensor in the file: its Place}. Without a counterpart the names are ours, else
    those of `library`, by default the counterpart's first."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    (_, taps), variables = jax.eval_shape(net.init_with_output, jax.random.key(0), images)
    library = library or (next(iter(counterpart.rules)) if counterpart else '')
    rules = counterpart.rules[library](net) if counterpart else ()
    found = {}
    leaves: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    for path, leaf in leaves.items():
        if not counterpart:
            found['/'.join(path)] = Place(path, leaf.shape, None, leaf.shape)
            continue
        layer, kernel, theirs = '/'.join(path[1:-1]), None, leaf.shape
        if path[-1] == 'kernel':
            kernel = leaf.shape if leaf.ndim > 2 else (1, 1, *leaf.shape)
            if layer in counterpart.flat:
                maps = counterpart.flat[layer]
                maps = maps(net) if callable(maps) else taps[maps].shape[1:]
                kernel = (*maps, leaf.shape[-1])
            theirs = kernel[:-3:-1] + kernel[:-2]
            convolved = counterpart.convolutions.get(library, '(?!)')
            if leaf.ndim == 2 and not re.fullmatch(convolved, layer):
                theirs = leaf.shape[::-1]
        key = f'{rename(layer, rules)}.{LEAVES[path[-1]]}'
        found[key] = Place(path, leaf.shape, kernel, theirs)
    return found


def rename(layer: str, rules: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]) -> str:
    """Their name of our layer with this path."""
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, layer):
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return layer.replace('/', '.')


def caffe(name: str, variables: Any, path: Path) -> tuple[Any, Normalization] | None:
    """(variables, normalization) of Simonyan & Zisserman's own weights, made for Caffe, with
    kernels in the order red, green, blue; None for other weights."""
    if name not in CAFFE:
        return None
    biases, corner = CAFFE[name]
    layer = variables['params']['conv1_1']
    bias, kernel = layer['bias'], layer['kernel']
    if len(bias) < 4 or not np.allclose(bias[:4], biases, atol=1e-5):
        return None
    blue_first, red_first = (np.allclose(kernel[0, 0, :, 0], order, atol=1e-5)
                             for order in (corner, corner[::-1]))
    if not (blue_first or red_first):  # The kernels were rescaled, for other images.
        return None
    if cluster.first():
        print(f"{path} holds Caffe's {name}: its images are 0..255 less the mean"
              + (', in blue, green, red, and its first kernels are turned around' if blue_first
                 else '') + '; they are normalized so, not as torchvision does', flush=True)
    if blue_first:
        kernel = np.ascontiguousarray(kernel[:, :, ::-1])
    params = variables['params'] | {'conv1_1': {'kernel': kernel, 'bias': bias}}
    return variables | {'params': params}, Normalization(
        np.array(CAFFE_MEAN, np.float32) / np.float32(255), np.full(3, 1 / 255, np.float32))
