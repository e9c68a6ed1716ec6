"""Makes detectors.npz: what torchvision's Faster R-CNN computes with a narrow ResNet and pyramid.

In an environment with cnnjax (for the names and shapes of the parameters), torch and torchvision:

    pip install torch==2.13.0 torchvision==0.28.0
    PYTHONPATH=. python tests/golden/detectors.py

It first compares the two networks of full width, and prints the largest difference of each stage
beside the largest value. All is float64. detectors.npz has of two images of different shapes in one
batch the stages of an evaluation, and of the first image the losses and gradients of a training in
which all anchors and regions are sampled. Large arrays are stored as `gradients.numbers` has them.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from cnnjax import counterparts, models
from tests.golden import gradients

GOLDEN = Path(__file__).with_name('detectors.npz')
NAME = 'faster_rcnn_resnet50_fpn'
NARROW = {'blocks': (1, 2, 1, 1), 'widths': (3, 4, 5, 6), 'hidden': (12, 10), 'rpn_width': 6,
          'num_classes': 4, 'anchor_sizes': ((8,), (16,), (32,), (64,), (128,)),
          'rpn_before': (90, 60), 'rpn_after': (50, 30), 'max_detections': 20}
FULL = {'num_classes': 6, 'rpn_before': (2000, 300), 'rpn_after': (2000, 200)}
SIZES = (93, 157), (150, 120)  # height and width of the two images
CANVAS = 150, 157
# The last two are near proposals: their targets would have gradients if the proposals had.
TRUTH = np.array([[10, 12, 60, 70], [7, 9, 14, 32], [13, 52, 22, 75]], float)
LABELS = np.array([2, 0, 3])
STAGES = ('p2', 'p3', 'p4', 'p5', 'p6', 'objectness', 'rpn_deltas', 'logits', 'deltas')


def network(fields):
    """(the network in float64, its variables)"""
    net = models.create(NAME, dtype='float64', **fields)
    shapes = jax.eval_shape(net.init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, *CANVAS, 3), 'float64'))

    def draw(path, shape):
        values = gradients.draw(path.partition('/')[2], shape)
        # Sure of some classes, and boxes that differ from the anchors, but not by much.
        if fields is FULL:  # Its sixteen blocks would make ever larger numbers.
            values = values * (0.1 if path.endswith('bn3/scale') else 1.0)
        factors = {'rpn_cls_score': 0.02, 'rpn_bbox_pred': 0.003, 'cls_score': 0.02,
                   'bbox_pred': 0.01}
        values = values * factors.get(path.split('/')[1], 1.0)
        return values ** 2 + 0.5 if path.endswith('var') else values

    flat = traverse_util.flatten_dict(shapes, sep='/')
    return net, traverse_util.unflatten_dict(
        {path: draw(path, leaf.shape) for path, leaf in flat.items()}, sep='/')


def inputs():
    """The images on one canvas, zeros around them, and their frames."""
    images = gradients.draw('images', (2, *CANVAS, 3))
    for image, (height, width) in zip(images, SIZES, strict=True):
        image[height:] = image[:, width:] = 0
    return images, np.array([[0, 0, width, height] for height, width in SIZES], float)


def summary(arrays):
    """The rows of gradients.numbers for arrays in their order."""
    return gradients.numbers({f'{i:02}': array for i, array in enumerate(arrays)})


def theirs(net, variables):
    """torchvision's network of the fields of `net`, with the same weights."""
    import torch
    from torchvision.models import resnet
    from torchvision.models.detection import FasterRCNN, anchor_utils, faster_rcnn
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import MultiScaleRoIAlign
    from torchvision.ops.misc import FrozenBatchNorm2d
    torch.set_default_dtype(torch.float64)
    body = torch.nn.Sequential()
    body.conv1 = torch.nn.Conv2d(3, net.widths[0], 7, 2, 3, bias=False)
    body.bn1, body.relu = FrozenBatchNorm2d(net.widths[0]), torch.nn.ReLU()
    body.maxpool = torch.nn.MaxPool2d(3, 2, 1)
    channels = net.widths[0]
    for stage, (count, width) in enumerate(zip(net.blocks, net.widths, strict=True), 1):
        layer = torch.nn.Sequential()
        for i in range(count):
            stride, down = (2 if stage > 1 and i == 0 else 1), None
            if i == 0:
                down = torch.nn.Sequential(
                    torch.nn.Conv2d(channels, 4 * width, 1, stride, bias=False),
                    FrozenBatchNorm2d(4 * width))
            layer.append(resnet.Bottleneck(channels, width, stride, down,
                                           norm_layer=FrozenBatchNorm2d))
            channels = 4 * width
        setattr(body, f'layer{stage}', layer)
    backbone = BackboneWithFPN(body, {f'layer{i}': str(i - 1) for i in range(1, 5)},
                               [4 * width for width in net.widths], net.rpn_width)
    features = net.pooled ** 2 * net.rpn_width
    head = faster_rcnn.TwoMLPHead(features, net.hidden[0])
    head.fc7 = torch.nn.Linear(*net.hidden)
    model = FasterRCNN(
        backbone, rpn_anchor_generator=anchor_utils.AnchorGenerator(
            net.anchor_sizes, (net.anchor_ratios,) * 5),
        box_roi_pool=MultiScaleRoIAlign(['0', '1', '2', '3'], net.pooled, 2), box_head=head,
        box_predictor=faster_rcnn.FastRCNNPredictor(net.hidden[1], 1 + net.num_classes),
        rpn_pre_nms_top_n_train=net.rpn_before[0], rpn_pre_nms_top_n_test=net.rpn_before[1],
        rpn_post_nms_top_n_train=net.rpn_after[0], rpn_post_nms_top_n_test=net.rpn_after[1],
        box_detections_per_img=net.max_detections, rpn_batch_size_per_image=10 ** 6,
        rpn_positive_fraction=1.0, box_batch_size_per_image=10 ** 6, box_positive_fraction=1.0)
    counterpart = counterparts.find(NAME)
    places = counterparts.places(net, (*CANVAS, 3), counterpart)
    flat = traverse_util.flatten_dict(variables)
    model.load_state_dict({key: torch.from_numpy(place.give(np.asarray(flat[place.path])))
                           for key, place in places.items()})
    return model, places


def image_list(images, sizes):
    """A batch as torchvision's transform makes it of normalized images."""
    import torch
    from torchvision.models.detection.image_list import ImageList
    height, width = (-(-n // 32) * 32 for n in np.max(sizes, 0))
    padded = np.zeros((len(sizes), 3, height, width))
    for own, image, (h, w) in zip(padded, images, sizes, strict=True):
        own[:, :h, :w] = image[:h, :w].transpose(2, 0, 1)
    return ImageList(torch.from_numpy(padded), [tuple(map(int, size)) for size in sizes])


def evaluation(model, images, sizes):
    """{stage: array} of torchvision's, with our names and layout."""
    import torch
    from torchvision.models.detection.rpn import concat_box_prediction_layers
    model.eval()
    with torch.no_grad():
        batch = image_list(images, sizes)
        maps = model.backbone(batch.tensors)
        found = {f'p{i}': x.permute(0, 2, 3, 1) for i, x in enumerate(maps.values(), 2)}
        scores, deltas = concat_box_prediction_layers(*model.rpn.head(list(maps.values())))
        found['objectness'] = scores.reshape(len(sizes), -1)
        found['rpn_deltas'] = deltas.reshape(len(sizes), -1, 4)
        proposals, _ = model.rpn(batch, maps)
        most = model.rpn._post_nms_top_n['testing']
        found['proposals'] = torch.stack([
            torch.nn.functional.pad(own, (0, 0, 0, most - len(own))) for own in proposals])
        full = list(found['proposals'])  # also the missing ones, so that all have as many
        features = model.roi_heads.box_roi_pool(maps, full, batch.image_sizes)
        logits, deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(features))
        found['logits'] = logits.reshape(len(sizes), most, -1)
        found['deltas'] = deltas.reshape(len(sizes), most, -1, 4)
        last, _ = model.roi_heads(maps, proposals, batch.image_sizes)
    found = {name: value.numpy() for name, value in found.items()}
    for name, fill in (('boxes', 0), ('labels', 0), ('scores', 0)):
        padded = [np.concatenate([own[name].numpy(), np.full(
            (model.roi_heads.detections_per_img - len(own[name]), *own[name].shape[1:]), fill)])
            for own in last]
        found[name] = np.stack(padded)
    found['labels'] = found['labels'].astype(int) - 1  # Background is 0 there.
    return found


def training(model, places, images, sizes):
    """Of the first image: (the four losses by our names, {parameter: gradient} of their sum, the
    numbers of sampled anchors and regions)."""
    import torch
    model.train()
    counts = {}

    def counted(name, sampler):
        def call(labels):
            positive, negative = sampler(labels)
            counts[name] = int(positive[0].sum() + negative[0].sum())
            return positive, negative
        return call

    model.rpn.fg_bg_sampler = counted('rpn_count', model.rpn.fg_bg_sampler)
    model.roi_heads.fg_bg_sampler = counted('roi_count', model.roi_heads.fg_bg_sampler)
    batch = image_list(images[:1], sizes[:1])
    target = {'boxes': torch.from_numpy(TRUTH), 'labels': torch.from_numpy(LABELS) + 1}
    maps = model.backbone(batch.tensors)
    proposals, of_rpn = model.rpn(batch, maps, [target])
    _, of_head = model.roi_heads(maps, proposals, batch.image_sizes, [target])
    losses = {'rpn_class_loss': of_rpn['loss_objectness'],
              'rpn_box_loss': of_rpn['loss_rpn_box_reg'],
              'class_loss': of_head['loss_classifier'], 'box_loss': of_head['loss_box_reg']}
    names = dict(model.named_parameters())
    found = torch.autograd.grad(sum(losses.values()), list(names.values()))
    grads = {'/'.join(places[name].path[1:]): places[name].take(gradient.numpy())
             for name, gradient in zip(names, found, strict=True)}
    return {name: value.item() for name, value in losses.items()}, grads, counts


def ours(net, variables):
    """{stage: array} of ours, in evaluation."""
    images, frames = inputs()

    @jax.jit
    def run(variables, images, frames):
        outputs, taps = net.apply(variables, images, frame=frames)
        return {**taps, **outputs, **net.detections(outputs)}

    return run(variables, images, frames)


def compare():
    """Prints the largest relative difference of each stage of the networks of full width."""
    net, variables = network(FULL)
    model, _ = theirs(net, variables)
    expected, found = evaluation(model, inputs()[0], SIZES), ours(net, variables)
    for name, value in expected.items():
        error = np.abs(np.asarray(found[name]) - value).max()
        print(f'{name:12} {value.shape!s:20} {error:.1e} of {np.abs(value).max():.3g}', flush=True)
    print('detections', (expected['labels'] >= 0).sum(1))


def main():
    if '--narrow' not in sys.argv:
        compare()
    net, variables = network(NARROW)
    images, _ = inputs()
    model, places = theirs(net, variables)
    found = evaluation(model, images, SIZES)
    losses, grads, counts = training(model, places, images, SIZES)
    print(losses, counts, (found['labels'] >= 0).sum(1), (found['proposals'].any(-1)).sum(1))
    np.savez_compressed(
        GOLDEN, stages=summary(found[name] for name in STAGES), gradients=gradients.numbers(grads),
        losses=list(losses.values()), counts=list(counts.values()),
        **{name: found[name] for name in ('proposals', 'boxes', 'labels', 'scores')})


if __name__ == '__main__':
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_enable_x64', True)
    main()
