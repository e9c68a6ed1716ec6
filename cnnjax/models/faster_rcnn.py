"""Faster R-CNN (Ren et al. 2015), sections 3.1 and 3.2: https://arxiv.org/abs/1506.01497

A region proposal network (RPN) looks where objects may be, and a head says which they are. Also
what it grew from, where proposals are given: Fast R-CNN (Girshick 2015, section 2,
https://arxiv.org/abs/1504.08083), whose head is the same, and R-CNN (Girshick et al. 2013,
section 2, https://arxiv.org/abs/1311.2524), which cuts each proposal out of the image and runs the
whole network on it. And Faster R-CNN on a feature pyramid (Lin et al. 2016, section 4,
https://arxiv.org/abs/1612.03144), as torchvision has it
(https://github.com/pytorch/vision/blob/main/torchvision/models/detection/faster_rcnn.py).

The VGG-16 networks have the settings of the authors' py-faster-rcnn
(https://github.com/rbgirshick/py-faster-rcnn) with approximate joint training, less its "+1" in
widths and heights. The paper's own loss is rpn_lambda=10, rpn_normalizer='locations'. The released
code scales `smallest` with the image; here it is in pixels of the image that the network sees.

`rcnn_vgg16` is not the paper's whole system: it learns a softmax and the boxes together, as Fast
R-CNN does, where the paper trains support vector machines and regressions on stored features.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from cnnjax import boxes, detection, layers, regions
from cnnjax.errors import UserError
from cnnjax.models import resnet, vgg

CONTEXT = 16  # the pixels around a proposal that R-CNN's warped images show too
# Where one detector starts from another, these fields must be the same in both, and if both have an
# RPN, its fields too.
STRUCTURE = ('groups', 'blocks', 'widths', 'norm', 'pooled', 'hidden', 'rpn_width', 'epsilon',
             'relu', 'pool')
RPN = ('anchor_sizes', 'anchor_ratios', 'anchor_rule', 'rpn_scores')


class FasterRCNN(nn.Module):
    """A detector of two stages: images [N, H, W, C], of any size -> outputs, a dict.

    The trunk is VGG's groups of convolutions without the last pool or, without `groups`, ResNet's
    bottlenecks with a feature pyramid on them.

    outputs: 'objectness' [N, A] (logits), 'rpn_deltas' and 'anchors' [N, A, 4] of the RPN;
    'proposals' [N, P, 4] and their 'proposal_scores' [N, P], best first, zeros where there are
    fewer; 'regions' [N, R, 4], for which the head has 'logits' [N, R, 1 + classes], those of
    background first, and 'deltas' [N, R, 1 + classes, 4]; 'frame' [N, 4], see __call__.
    """

    groups: tuple[tuple[int, ...], ...]  # the trunk's, see vgg.VGG; (): a ResNet
    blocks: tuple[int, ...]  # the trunk's, see resnet.ResNet
    widths: tuple[int, ...]  # the trunk's, one per group or stage
    norm: str  # batch normalization: 'none', 'batch', or 'frozen' as it comes with the weights
    given: bool  # whether proposals come with the examples; there is no RPN then
    pooling: str  # pools a region: 'max' or 'align' its features, or 'warp' its image
    pooled: int  # the side of a pooled region, in features
    hidden: tuple[int, ...]  # the widths of the head's hidden full layers
    dropout: float  # the rate after each of them
    num_classes: int  # without background

    anchor_sizes: tuple[tuple[float, ...], ...]  # for each map, square roots of areas, in pixels
    anchor_ratios: tuple[float, ...]  # height / width
    anchor_rule: str  # how 'caffe' or 'torchvision' round and centre them, see detection.py
    rpn_width: int  # channels of the RPN's convolution, and of the pyramid
    rpn_scores: str  # two scores of an anchor and 'softmax', or one and 'sigmoid'
    rpn_outside: bool  # whether anchors that leave the frame are trained
    rpn_count: int  # how many anchors of an image are sampled for the loss
    rpn_before: tuple[int, int]  # in training and in evaluation: how many of a map are decoded,
    rpn_after: tuple[int, int]  # ... and how many of an image non-maximum suppression leaves
    smallest: float  # the least side of a proposal, in pixels
    roi_count: int  # how many regions of an image are sampled for the loss
    roi_least: float  # the least IoU of a region that is sampled as background
    roi_beta: float  # the beta of smooth L1 in the head
    nms: float  # IoU above which a detection suppresses another of its class

    rpn_iou: tuple[float, float] = (0.3, 0.7)  # the limit of background's, an object's least
    rpn_share: float = 0.5  # the largest share of objects among the sampled anchors
    rpn_beta: float = 1 / 9  # the beta of smooth L1 in the RPN; Caffe's sigma is 3
    rpn_lambda: float = 1.0  # the weight of the RPN's boxes in the loss
    rpn_normalizer: str = 'sampled'  # divides their sum: rpn_count, or the 'locations'
    rpn_nms: float = 0.7  # IoU above which a proposal suppresses another
    roi_iou: float = 0.5  # the least IoU of a region that is sampled as an object
    roi_share: float = 0.25  # the largest share of objects among the sampled regions
    learns: str = 'both'  # the 'rpn', the 'head' or 'both' (the 4 steps of sec. 3.2)
    score_threshold: float = 0.05  # detections have a higher score
    max_detections: int = 100  # in an image
    epsilon: float = 1e-5  # frozen batch normalization's; 0 in torchvision's published weights
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    lrn = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        side = 1333 if self.blocks else 1000 if len(self.groups) == 5 else 64
        return side, side, 3

    @property
    def inputs(self) -> tuple[str, ...]:
        """The entries of examples that a call takes."""
        return ('frame', 'proposals') if self.given else ('frame',)

    @property
    def adopts(self) -> tuple[str, ...]:
        trunks = ('resnet50',) if self.blocks else ('vgg16', 'vgg16_bn')
        return (*trunks, *(name for name, blocks in zip(NAMES, SETTINGS['blocks'], strict=True)
                           if blocks == self.blocks))

    def check_fields(self, name: str) -> None:
        """Raises UserError, with the network's name, if its fields do not fit together."""
        maps = len(self.blocks) + 1 if self.blocks else 1
        if self.given and self.learns == 'rpn':
            raise UserError(f"{name}: learns='rpn': this network has no RPN, its proposals are "
                            'given')
        if not self.given and len(self.anchor_sizes) != maps:
            raise UserError(f'{name}: anchor_sizes={self.anchor_sizes!r}: give a tuple of sizes '
                            f'for each of its maps, {maps}')
        if not self.given and len(set(map(len, self.anchor_sizes))) > 1:
            raise UserError(f'{name}: anchor_sizes={self.anchor_sizes!r}: all maps share an RPN: '
                            'give each as many sizes')
        if self.rpn_iou[0] > self.rpn_iou[1]:
            raise UserError(f'{name}: rpn_iou={self.rpn_iou}: the first must not be above the '
                            'second')
        if self.pooling == 'warp' and not (self.given and self.groups):
            raise UserError(f"{name}: pooling='warp' is for given proposals and VGG's trunk")
        if self.pooling == 'max' and self.blocks:
            raise UserError(f"{name}: pooling='max' is for one map: a pyramid takes 'align'")

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, frame: jax.Array | None = None,
                 proposals: jax.Array | None = None,
                 choose: Callable[[jax.Array], jax.Array] | None = None
                 ) -> tuple[dict[str, jax.Array], layers.Taps]:
        """The outputs and the activations of the trunk and the RPN.

        Args:
          frame: [N, 4], the part of an image that is the picture. Boxes stay within it, and what is
            outside is seen as zeros. None: all.
          proposals: [N, P, 4], if they are `given`; zeros are none. None: the frame.
          choose: called between the stages: proposals -> the regions [N, R, 4] for the head. None:
            all proposals.
        """
        taps, outputs = {}, {}
        wide = jnp.promote_types(self.dtype, jnp.float32)
        if frame is None:
            frame = jnp.broadcast_to(jnp.array([0, 0, *images.shape[2:0:-1]], wide),
                                     (images.shape[0], 4))
        else:
            images = jnp.where(detection.within(frame, images.shape), images, 0)
        outputs['frame'] = frame
        warps = self.pooling == 'warp'
        maps, strides = ([], []) if warps else self.trunk(images, train, taps)
        if self.given:
            outputs['proposals'] = frame[:, None] if proposals is None else proposals
        else:
            outputs |= self.rpn(maps, strides, taps, wide)
            sizes = [len(self.anchor_ratios) * len(own) * math.prod(x.shape[1:3])
                     for own, x in zip(self.anchor_sizes, maps, strict=True)]
            propose = jax.vmap(partial(
                detection.propose, sizes=sizes, before=self.rpn_before[not train],
                after=self.rpn_after[not train], smallest=self.smallest, threshold=self.rpn_nms))
            outputs['proposals'], outputs['proposal_scores'] = propose(*lax.stop_gradient(
                [outputs[name] for name in ('objectness', 'rpn_deltas', 'anchors', 'frame')]))
        found = outputs['proposals']
        found = outputs['regions'] = found if choose is None else choose(found)
        if warps:
            features = self.warp(images, found, train, taps)
        else:
            features = jax.vmap(partial(self.pool_regions, strides))(maps, found)
        logits, deltas = self.head(features.reshape(*features.shape[:2], -1), train)
        outputs['logits'] = logits.astype(wide)
        outputs['deltas'] = deltas.astype(wide).reshape(*logits.shape, 4)
        return outputs, taps

    def parts(self, train: bool) -> tuple[Callable, Any]:
        """The convolution and the batch normalization of the trunk."""
        start = nn.initializers.glorot_normal() if self.norm == 'none' else layers.he_normal
        norms = {'none': None,
                 'batch': partial(layers.BatchNorm, use_running_average=not train,
                                  dtype=self.dtype),
                 'frozen': partial(layers.FrozenBatchNorm, self.epsilon, dtype=self.dtype)}
        return partial(layers.conv, use_bias=self.norm == 'none', kernel_init=start,
                       dtype=self.dtype), norms[self.norm]

    def trunk(self, images: jax.Array, train: bool, taps: layers.Taps
              ) -> tuple[list[jax.Array], list[tuple[int, int]]]:
        """(the maps, the pixels from one of their rows and columns to the next)"""
        conv, norm = self.parts(train)
        if self.groups:
            vgg.trunk(self, images, conv, norm, taps, ceil=True)  # Caffe's pools
            taps.pop(f'pool{len(self.groups)}')
            return [list(taps.values())[-1]], [(2 ** (len(self.groups) - 1),) * 2]
        coarsest = 4 * 2 ** (len(self.blocks) - 1)
        images = jnp.pad(images, ((0, 0), *((0, -n % coarsest) for n in images.shape[1:3]), (0, 0)))
        body = resnet.ResNet(resnet.Bottleneck, self.blocks, self.widths, relu=self.relu,
                             pool=self.pool, dtype=self.dtype, parent=None)
        resnet.trunk(body, conv, norm, images, train, taps)
        maps = self.pyramid([taps[f'conv{i}_{count}'] for i, count in enumerate(self.blocks, 2)],
                            taps)
        return maps, [(images.shape[1] // x.shape[1], images.shape[2] // x.shape[2]) for x in maps]

    def pyramid(self, stages: list[jax.Array], taps: layers.Taps) -> list[jax.Array]:
        """The feature pyramid (Lin et al. 2016, figure 3), from the finest map on: a map for each
        stage, which also sees the coarser ones, and a coarser one of every second pixel."""
        conv = partial(layers.conv, self.rpn_width, kernel_init=layers.caffe_xavier,
                       dtype=self.dtype)
        maps, above = [], 0
        for level, stage in reversed(list(enumerate(stages, 2))):
            x = taps[f'lateral{level}'] = conv(1, name=f'lateral{level}')(stage)
            x += above
            above = x.repeat(2, 1).repeat(2, 2)
            taps[f'p{level}'] = conv(3, name=f'p{level}')(x)
            maps.insert(0, taps[f'p{level}'])
        taps[f'p{len(stages) + 2}'] = maps[-1][:, ::2, ::2]
        return [*maps, taps[f'p{len(stages) + 2}']]

    def rpn(self, maps: list[jax.Array], strides: list[tuple[int, int]], taps: layers.Taps,
            dtype: Any) -> dict[str, jax.Array]:
        """'objectness', 'rpn_deltas' and 'anchors': one RPN for all maps."""
        conv = partial(layers.conv, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype)
        count = len(self.anchor_ratios) * len(self.anchor_sizes[0])
        two = self.rpn_scores == 'softmax'
        shared = (conv(self.rpn_width, 3, name='rpn_conv'),
                  conv(count * (1 + two), 1, name='rpn_cls_score'),
                  conv(count * 4, 1, name='rpn_bbox_pred'))
        found = []
        for i, (x, stride, sizes) in enumerate(zip(maps, strides, self.anchor_sizes, strict=True)):
            at = f'_p{i + 2}' if i else ''  # The layers' own names are those of the finest map.
            x = taps[f'rpn_conv{at}'] = shared[0](x)
            x = taps[f'rpn_relu{at}'] = self.relu(x)
            scores = taps[f'rpn_cls_score{at}'] = shared[1](x)
            deltas = taps[f'rpn_bbox_pred{at}'] = shared[2](x)
            if two:  # The probability by the softmax is the sigmoid of the difference.
                background, scores = jnp.split(scores.astype(dtype), 2, -1)
                scores -= background
            own = detection.anchor_shapes(self.anchor_rule, sizes, self.anchor_ratios, stride[0])
            anchors = boxes.anchors(own, x.shape[1:3], stride)
            deltas = deltas.reshape(x.shape[0], -1, 4)
            found.append((scores.reshape(x.shape[0], -1), deltas,
                          jnp.broadcast_to(anchors, deltas.shape)))
        return {name: jnp.concatenate(parts, 1).astype(dtype) for name, parts in zip(
            ('objectness', 'rpn_deltas', 'anchors'), zip(*found, strict=True), strict=True)}

    def pool_regions(self, strides: list[tuple[int, int]], maps: list[jax.Array],
                     found: jax.Array) -> jax.Array:
        """The features of the regions [R, 4] of one image, [R, pooled, pooled, C]."""
        if self.pooling == 'max':
            return regions.roi_pool(maps[0], found, self.pooled, strides[0][0])
        maps = maps[:len(self.blocks) or 1]  # The coarsest map of a pyramid is the RPN's alone.
        return regions.pyramid_roi_align(maps, found, self.pooled,
                                         [down for down, _ in strides[:len(maps)]])

    def warp(self, images: jax.Array, found: jax.Array, train: bool, taps: layers.Taps
             ) -> jax.Array:
        """The trunk's last pool of the regions [N, R, 4], each cut out with some pixels around it
        and warped to a square image (Girshick et al. 2013, appendix A)."""
        side = self.pooled * 2 ** len(self.groups)
        low, high = found[..., :2], found[..., 2:]
        border = (high - low) * CONTEXT / (side - 2 * CONTEXT)
        crops = jax.vmap(partial(regions.roi_align, size=side, stride=1, aligned=True))(
            images, jnp.concatenate([low - border, high + border], -1))
        inner = {}
        x = vgg.trunk(self, crops.reshape(-1, *crops.shape[2:]), *self.parts(train), inner)
        if found.shape[1] == 1:  # the whole frame
            taps |= inner
        return x.reshape(*found.shape[:2], *x.shape[1:])

    def head(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """The logits and the deltas of regions' features [N, R, F]."""
        glorot, normal = nn.initializers.glorot_normal(), nn.initializers.normal

        def dense(x, width, name, start):
            start = layers.torch_linear if self.blocks else start
            return nn.Dense(width, kernel_init=start, dtype=self.dtype, name=name)(x)

        for i, width in enumerate(self.hidden, 6):
            x = self.relu(dense(x, width, f'fc{i}', glorot))
            x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        outputs = 1 + self.num_classes
        return (dense(x, outputs, 'cls_score', normal(0.01)),
                dense(x, 4 * outputs, 'bbox_pred', normal(0.001)))

    def detections(self, outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """'boxes' float [N, D, 4] in the frame, 'labels' int32 [N, D] and 'scores' [N, D], by
        falling score; the label is -1 and the rest 0 where there are fewer. While the RPN alone
        `learns` they are its proposals, of the first class."""
        if self.learns == 'rpn':
            found, scores = (outputs[name][:, :self.max_detections]
                             for name in ('proposals', 'proposal_scores'))
            return {'boxes': found, 'labels': jnp.where(scores > 0, 0, -1), 'scores': scores}
        detect = jax.vmap(partial(detection.detect, least=self.score_threshold, threshold=self.nms,
                                  count=self.max_detections))
        return detect(*(outputs[name] for name in ('logits', 'deltas', 'regions', 'frame')))

    def adopt(self, net: nn.Module, variables: Any) -> tuple[nn.Module, Any] | None:
        """Of a classifier the trunk and, if it is VGG-16, the hidden full layers; of another
        detector all, but for the RPN if either has none."""
        if type(net) is FasterRCNN:
            alone = self.given or net.given
            fields = STRUCTURE if alone else STRUCTURE + RPN
            left_out = ('rpn_',) if alone else ()
        elif type(net) is vgg.VGG and (net.groups, net.lrn) == (self.groups, self.lrn):
            if net.batch_norm:
                variables = (vgg.fold_batch_norm if self.norm == 'none' else vgg.unbiased)(
                    variables)
            full = variables['params'].get('fc6', {'kernel': ()})['kernel']
            same = net.hidden == self.hidden and len(full) == self.pooled ** 2 * net.widths[-1]
            fields, left_out = ('widths', 'relu', 'pool'), ('fc8' if same else 'fc',)
        elif type(net) is resnet.ResNet and net.block is resnet.Bottleneck and (
                net.blocks == self.blocks):
            variables = resnet.unstack(variables) if net.scan else variables
            fields, left_out = ('widths', 'relu', 'pool'), ('fc',)
        else:
            return None
        flat = {path: value for path, value in traverse_util.flatten_dict(variables).items()
                if not path[1].startswith(left_out)}
        if self.norm == 'frozen':  # The scale and the bias are statistics too.
            flat = {('batch_stats', *path[1:]) if ('batch_stats', *path[1:-1], 'mean') in flat
                    else path: value for path, value in flat.items()}
        return (self.clone(**{field: getattr(net, field) for field in fields}),
                traverse_util.unflatten_dict(flat))

    def loss(self, apply: Callable, examples: dict[str, jax.Array], batch: Any
             ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        """The loss of a batch, its parts, and the new batch statistics; see tasks.Task.loss."""
        truth = detection.truth(examples)
        keys = jax.vmap(jax.random.split)(examples['keys'])
        of_rpn = detection.Sampling(self.rpn_count, self.rpn_share, *self.rpn_iou,
                                    low_quality=True)
        of_head = detection.Sampling(self.roi_count, self.roi_share, self.roi_iou, self.roi_iou,
                                     self.roi_least)
        outputs, _, batch_stats = apply(
            examples['image'], choose=lambda proposals: jax.vmap(partial(
                detection.choose, rules=of_head))(keys[:, 1], proposals, truth),
            **{name: examples[name] for name in self.inputs if name in examples})
        parts = {}
        if self.learns != 'head' and not self.given:
            parts |= jax.vmap(partial(detection.proposal_losses, rules=of_rpn, beta=self.rpn_beta,
                                      outside=self.rpn_outside))(keys[:, 0], outputs, truth)
            if self.rpn_normalizer == 'locations':
                shapes = len(self.anchor_ratios) * len(self.anchor_sizes[0])
                picture = boxes.area(outputs['frame']) / math.prod(examples['image'].shape[1:3])
                locations = picture * outputs['objectness'].shape[1] / shapes
                parts['rpn_box_loss'] *= self.rpn_count / jnp.maximum(locations, 1)
            parts['rpn_box_loss'] *= self.rpn_lambda
        if self.learns != 'rpn':
            parts |= jax.vmap(partial(detection.region_losses, rules=of_head, beta=self.roi_beta))(
                outputs, truth)
        parts = {name: batch.mean(values) for name, values in parts.items()}
        value = jnp.stack(list(parts.values())).sum()
        return value, ({'loss': value, **parts}, batch_stats)


VGG16 = vgg.TABLE['vgg16'][0]
VGG, RESNET = vgg.VGG.widths, resnet.LARGE
ONE, FIVE = ((128, 256, 512),), ((32,), (64,), (128,), (256,), (512,))
FULL = (4096, 4096)
NAMES = ('faster_rcnn_vgg16', 'faster_rcnn_resnet50_fpn', 'faster_rcnn_small', 'fast_rcnn_vgg16',
         'rcnn_vgg16')
SETTINGS = {
    #                 Faster VGG-16   Faster ResNet-50-FPN  Faster small   Fast VGG-16 R-CNN VGG-16
    'groups':        (VGG16,          (),             ((3,), (3,), (3, 3)), VGG16,     VGG16),
    'blocks':        ((),             (3, 4, 6, 3),         (),             (),        ()),
    'widths':        (VGG,            RESNET,               (16, 32, 64),   VGG,       VGG),
    'norm':          ('none',         'frozen',             'batch',        'none',    'none'),
    'given':         (False,          False,                False,          True,      True),
    'pooling':       ('max',          'align',              'align',        'max',     'warp'),
    'pooled':        (7,              7,                    5,              7,         7),
    'hidden':        (FULL,           (1024, 1024),         (128,),         FULL,      FULL),
    'dropout':       (0.5,            0.0,                  0.0,            0.5,       0.5),
    'num_classes':   (20,             90,                   10,             20,        20),
    'anchor_sizes':  (ONE,            FIVE,                 ((11, 17, 25),), ONE,      ONE),
    'anchor_ratios': ((0.5, 1, 2),    (0.5, 1, 2),          (1, 1.5, 2.2),  (1,),      (1,)),
    'anchor_rule':   ('caffe',        'torchvision',        'torchvision',  'caffe',   'caffe'),
    'rpn_width':     (512,            256,                  64,             512,       512),
    'rpn_scores':    ('softmax',      'sigmoid',            'sigmoid',      'softmax', 'softmax'),
    'rpn_outside':   (False,          True,                 True,           False,     False),
    'rpn_count':     (256,            256,                  64,             256,       256),
    'rpn_before':    ((12000, 6000),  (2000, 1000),         (150, 150),     (1, 1),    (1, 1)),
    'rpn_after':     ((2000, 300),    (2000, 1000),         (32, 32),       (1, 1),    (1, 1)),
    'smallest':      (16,             1e-3,                 1,              16,        16),
    'roi_count':     (128,            512,                  24,             128,       128),
    'roi_least':     (0.0,            0.0,                  0.0,            0.1,       0.1),
    'roi_beta':      (1,              1 / 9,                1 / 9,          1,         1),
    'nms':           (0.3,            0.5,                  0.5,            0.3,       0.3),
}
COLUMNS = tuple(SETTINGS)
TABLE = dict(zip(NAMES, zip(*SETTINGS.values(), strict=True), strict=True))
MODULE = FasterRCNN
