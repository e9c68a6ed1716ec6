"""Makes regions.npz: what torchvision computes of boxes and regions, in float64.

In an environment with cnnjax's dependencies, torch and torchvision:

    pip install torch==2.13.0 torchvision==0.28.0
    PYTHONPATH=. python tests/golden/regions.py

Inputs are random, drawn here. regions.npz holds for each of ALIGNED the features of the regions
[R, size, size, C] and the gradient of their weighed sum with respect to the map; for 'pyramid' also
that of each map; and what the coder of boxes, the generator of anchors and the matcher return.
"""

import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name('regions.npz')
MAP = (11, 14, 3)  # rows, columns, channels
ALIGNED = {  # case: (size, stride, samples, aligned)
    'quickstart': (5, 4.0, 2, False),
    'half': (3, 8.0, 2, True),
    'one': (2, 16.0, 1, False),
    'three': (4, 8.0, 3, False),
}
STRIDES = (4.0, 8.0, 16.0, 32.0)
PYRAMID = tuple((-(-520 // int(stride)), -(-600 // int(stride)), 1) for stride in STRIDES)
SIZE = 7
SIDES = (111, 112, 223, 224, 447, 448)


def draw(name, *shape):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def regions(name, count, height, width):
    """Boxes inside an image, [count, 4]."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return np.sort(random.uniform(size=(count, 2, 2)), 1).reshape(-1, 4) * [
        width, height, width, height]


def boxes(case):
    """Boxes of which samples are at most half a feature outside the map: one on all of it, one
    smaller than a feature, others."""
    _, stride, _, _ = ALIGNED[case]
    height, width = (stride * (count - 1) for count in MAP[:2])
    some = regions(case, 5, height - stride, width - stride)
    return np.concatenate([some, [[0, 0, width, height], [5.5, 6.5, 7.25, 7]]])


def pyramid_boxes():
    """Squares of SIDES, and others."""
    squares = [[3.5, 7.25, 3.5 + side, 7.25 + side] for side in SIDES]
    return np.concatenate([squares, regions('pyramid', 6, 500, 580)])


def coded():
    """(boxes, anchors, deltas), [8, 4] each."""
    some, anchors = (regions(name, 8, 90, 120) for name in ('boxes', 'anchors'))
    return some, anchors, 3 * draw('deltas', 8, 4)


def overlapping():
    """(boxes of truths, of anchors)."""
    return regions('truths', 5, 90, 120), regions('to match', 60, 90, 120)


def align(input, rois, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    """torchvision's own in Python: it differs from the compiled one only for samples outside."""
    import importlib

    import torch
    from torch.nn.modules.utils import _pair
    from torchvision.ops._utils import convert_boxes_to_roi_format
    rois = rois if isinstance(rois, torch.Tensor) else convert_boxes_to_roi_format(rois)
    module = importlib.import_module('torchvision.ops.roi_align')  # a function has that name too
    return module._roi_align.__wrapped__(input, rois, spatial_scale, *_pair(output_size),
                                         sampling_ratio, aligned)


def torch_map(array):
    import torch
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous().requires_grad_()


def ours(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def weighed_sum(found, case):
    import torch
    weights = draw(f'weights {case}', *ours(found).shape)
    return (found * torch.from_numpy(weights).permute(0, 3, 1, 2)).sum()


def of_one_map(case):
    import torch
    size, stride, samples, aligned = ALIGNED[case]
    features = torch_map(draw(f'map {case}', *MAP))
    found = align(features, [torch.from_numpy(boxes(case))], size, 1 / stride, samples, aligned)
    weighed_sum(found, case).backward()
    return {case: ours(found), f'{case} gradient': ours(features.grad)[0]}


def of_a_pyramid():
    import torch
    from torchvision.ops import MultiScaleRoIAlign, poolers
    poolers.roi_align = align
    maps = {str(i): torch_map(draw(f'level {i}', *shape)) for i, shape in enumerate(PYRAMID)}
    pool = MultiScaleRoIAlign(list(maps), SIZE, 2)
    found = pool(maps, [torch.from_numpy(pyramid_boxes())], [(520, 600)])
    weighed_sum(found, 'pyramid').backward()
    levels = pool.map_levels([torch.from_numpy(pyramid_boxes())])
    gradients = [ours(features.grad).ravel() for features in maps.values()]
    products = [[gradient.sum(), *(draw(f'direction {i} {j}', gradient.size) @ gradient
                                   for j in range(3))] for i, gradient in enumerate(gradients)]
    return {'pyramid': ours(found), 'pyramid levels': levels, 'pyramid gradients': products}


def of_boxes():
    import torch
    from torchvision.models.detection import _utils, anchor_utils, image_list
    from torchvision.ops import box_iou
    some, anchors, deltas = (torch.from_numpy(array) for array in coded())
    coder = _utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    overlaps = box_iou(*(torch.from_numpy(array) for array in overlapping()))
    generator = anchor_utils.AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)
    images = image_list.ImageList(torch.zeros(1, 3, 50, 70), [(50, 70)])
    made = generator(images, [torch.zeros(1, 1, 7, 9), torch.zeros(1, 1, 4, 5)])[0]
    return {'encoded': coder.encode_single(some, anchors),
            'decoded': coder.decode_single(deltas, anchors), 'overlaps': overlaps,
            'matched': _utils.Matcher(0.5, 0.2, True)(overlaps),
            'matched without': _utils.Matcher(0.5, 0.2, False)(overlaps),
            'anchors': made}


def main():
    import torch
    library = torch.library.Library('torchvision', 'DEF')  # Its compiled operators may not load.
    for name in ('nms', 'qnms'):
        library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    found = of_boxes() | of_a_pyramid()
    for case in ALIGNED:
        found |= of_one_map(case)
    np.savez_compressed(GOLDEN, **found)


if __name__ == '__main__':
    main()
