"""The detectors of the benchmark in PyTorch: YOLO v1, written here, and torchvision's Faster R-CNN.

Needs torch. Images are normalized and all of one size; boxes [N, M, 4] are in pixels, labels [N, M]
from 0 on.
"""

import importlib
import importlib.util

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmark.timing import Unmeasured

# What is said in a row where the compiled operators are missing.
SUBSTITUTES = ("torchvision's compiled operators do not load beside this torch: its own RoI align "
               'in Python, and a suppression in PyTorch, take their places')


class YOLO(nn.Module):
    """Redmon et al. 2015, with a hidden full layer, without batch normalization."""

    def __init__(self, net):
        super().__init__()
        self.net, self.drop, inputs = net, nn.Dropout(net.dropout), 3
        for i, group in enumerate(zip(net.groups, net.widths, strict=True), 1):
            for j, (size, width) in enumerate(zip(*group, strict=True), 1):
                name = f'conv{i}_{j}'
                setattr(self, name, nn.Conv2d(inputs, width, size, 1 + (name in net.strided),
                                              size // 2))
                inputs = width
        side = net.image_shape[0] >> (net.pools + len(net.strided))
        (hidden,), outputs = net.hidden, 5 * net.predictors + net.num_classes
        self.fc1 = nn.Linear(inputs * side ** 2, hidden)
        self.detection = nn.Linear(hidden, net.cells ** 2 * outputs)

    def outputs(self, x):
        """(boxes [N, S, S, B, 4], confidence [N, S, S, B], classes [N, S, S, C])"""
        for i, kernels in enumerate(self.net.groups, 1):
            for j in range(1, len(kernels) + 1):
                x = F.leaky_relu(getattr(self, f'conv{i}_{j}')(x), 0.1)
            if i <= self.net.pools:
                x = F.max_pool2d(x, 2)
        x = F.leaky_relu(self.fc1(x.permute(0, 2, 3, 1).flatten(1)), 0.1)
        x = self.detection(self.drop(x)).float()
        cells, count, classes = self.net.cells, self.net.predictors, self.net.num_classes
        classes, confidence, found = x.split(
            [cells ** 2 * classes, cells ** 2 * count, cells ** 2 * count * 4], 1)
        return (found.reshape(-1, cells, cells, count, 4),
                confidence.reshape(-1, cells, cells, count),
                classes.reshape(-1, cells, cells, self.net.num_classes))

    def decode(self, found):
        """Boxes [N, S, S, B, 4] as shares of the image."""
        cells = self.net.cells
        lattice = torch.arange(cells, device=found.device)
        lattice = torch.stack(torch.meshgrid(lattice, lattice, indexing='xy'), -1)[:, :, None]
        centre, size = (found[..., :2] + lattice) / cells, found[..., 2:] ** 2
        return torch.cat([centre - size / 2, centre + size / 2], -1)

    def loss(self, x, boxes, labels):
        """Equation 3. Of two objects in a cell the later one counts. All shapes are fixed, for
        torch.compile: what pads boxes and labels is put into a cell that does not exist."""
        side, cells = x.shape[-1], self.net.cells
        found, confidence, classes = self.outputs(x)
        boxes = boxes / side
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        place = (centre * cells).long().clamp(0, cells - 1)
        cell = torch.where(labels >= 0, cells * place[..., 1] + place[..., 0], cells ** 2)
        image = torch.arange(len(x), device=x.device)[:, None]
        truth = torch.zeros(len(x), cells ** 2 + 1, 4, device=x.device)
        truth[image, cell] = torch.cat([centre * cells - place, size.sqrt()], -1)
        truth = truth[:, :-1].reshape(-1, cells, cells, 4)
        label = torch.full((len(x), cells ** 2 + 1), -1, device=x.device)
        label[image, cell] = labels
        label = label[:, :-1].reshape(-1, cells, cells)
        one_hot = F.one_hot(label.clamp(0), classes.shape[-1])
        has = (label >= 0)[..., None]
        with torch.no_grad():
            own, true = self.decode(found), self.decode(truth[..., None, :])
            iou = overlaps(own, true)
            distance = ((corners_to_centres(own) - corners_to_centres(true)) ** 2).sum(-1)
            best = torch.where(iou.amax(-1) > 0, iou.argmax(-1), distance.argmin(-1))
            responsible = F.one_hot(best, self.net.predictors).bool() & has
        errors = ((found - truth[..., None, :]) ** 2).sum(-1)
        total = (self.net.coordinates_weight * (errors * responsible).sum()
                 + ((confidence - iou) ** 2 * responsible).sum()
                 + self.net.no_object_weight * (confidence ** 2 * ~responsible).sum()
                 + ((classes - one_hot) ** 2 * has).sum())
        return self.net.loss_scale * total / len(x)

    def forward(self, x):
        """The boxes [N, n, 4] in pixels and their scores [N, n, C]."""
        found, confidence, classes = self.outputs(x)
        scores = confidence.clamp(0)[..., None] * classes[..., None, :]
        return (self.decode(found) * x.shape[-1]).flatten(1, 3), scores.flatten(1, 3)

    def detections(self, boxes, scores):
        """The detections of each image, as torchvision has them. Their number depends on the image,
        so that this is not compiled."""
        side, results = self.net.image_shape[0], []
        for found, own in zip(boxes, scores, strict=True):
            place, label = (own > self.net.score_threshold).nonzero(as_tuple=True)
            found, own = found[place], own[place, label]
            kept = suppress(found, own, self.net.nms, label)[:self.net.max_detections]
            results.append({'boxes': found[kept].clamp(0, side), 'scores': own[kept],
                            'labels': label[kept]})
        return results


def corners_to_centres(boxes):
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def overlaps(a, b):
    """The IoU of boxes [..., 4] with others that are broadcast against them, [...]."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(0)
    common, areas = sides.prod(-1), [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    return common / (areas[0] + areas[1] - common).clamp(1e-12)


def suppress(boxes, scores, threshold, labels=None):
    """Greedy suppression of boxes [n, 4] by falling score: the indices that stay."""
    order = scores.argsort(descending=True)
    boxes = boxes[order]
    pairs = overlaps(boxes[:, None], boxes[None]) > threshold
    if labels is not None:
        pairs &= labels[order][:, None] == labels[order][None]
    pairs, kept = pairs.triu(1).cpu().numpy(), []
    gone = np.zeros(len(pairs), bool)
    for i, row in enumerate(pairs):
        if not gone[i]:
            kept.append(i)
            gone |= row
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


class FasterRCNN(nn.Module):
    """torchvision's fasterrcnn_resnet50_fpn on batches, without its transform, whose work our side
    does before the network too. `missing` says what of torchvision is not measured, if anything."""

    def __init__(self, net):
        super().__init__()
        self.missing = operators()
        detection = importlib.import_module('torchvision.models.detection')
        norm = importlib.import_module('torchvision.ops').FrozenBatchNorm2d
        model = detection.FasterRCNN(detection.backbone_utils.resnet_fpn_backbone(
            backbone_name='resnet50', weights=None, norm_layer=norm, trainable_layers=5),
            1 + net.num_classes)
        self.lists = detection.image_list.ImageList
        self.backbone, self.rpn, self.roi_heads = model.backbone, model.rpn, model.roi_heads

    def stages(self, x, targets=None):
        images = self.lists(x, [tuple(x.shape[-2:])] * len(x))
        maps = self.backbone(x)
        proposals, of_rpn = self.rpn(images, maps, targets)
        found, of_head = self.roi_heads(maps, proposals, images.image_sizes, targets)
        return found, {**of_rpn, **of_head}

    def forward(self, x):
        return self.stages(x)[0]

    def loss(self, x, boxes, labels):
        targets = [{'boxes': own[label >= 0], 'labels': label[label >= 0] + 1}
                   for own, label in zip(boxes, labels, strict=True)]
        return sum(self.stages(x, targets)[1].values())


def operators():
    """Makes torchvision's operators work; returns what is said of those that had to be replaced,
    or ''. Raises Unmeasured if torchvision is not installed."""
    if importlib.util.find_spec('torchvision') is None:
        raise Unmeasured('torchvision is not installed: pip install torchvision')
    try:
        ops = importlib.import_module('torchvision.ops')
        ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError:  # They are made for another torch, or for one with CUDA.
        return substitutes()
    return ''


LIBRARIES = []  # holds what is registered with PyTorch, as long as it lives


def substitutes():
    """Puts Python functions in the places of torchvision's compiled operators."""
    if not LIBRARIES:
        LIBRARIES.append(library := torch.library.Library('torchvision', 'FRAGMENT'))
        for name in ('nms', 'qnms'):  # torchvision's import looks for them
            library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    boxes, poolers = (importlib.import_module(f'torchvision.ops.{name}')
                      for name in ('boxes', 'poolers'))
    align = importlib.import_module('torchvision.ops.roi_align')

    def roi_align(features, found, output_size, spatial_scale, sampling_ratio):
        return align._roi_align.__wrapped__(
            features, found, spatial_scale, *output_size, sampling_ratio, False)

    def batched(found, scores, labels, threshold):
        return suppress(found, scores, threshold, labels)

    boxes.batched_nms, poolers.roi_align = batched, roi_align
    return SUBSTITUTES
