"""Makes gradients.npz: what torch derives for a narrow network of every family, in training.

In an environment with cnnjax (for the names and shapes of the parameters) and torch:

    pip install torch==2.13.0
    PYTHONPATH=. python tests/golden/gradients.py

The networks are written here a second time, in torch alone. gradients.npz holds for each of CASES
a float64 array [parameters, 1 + PROJECTIONS]: the norm of the gradient of a weighed sum of the
outputs with respect to each parameter and the images ('images'), in the order of their names, and
its products with as many random arrays. There is no dropout. 'running' are the running mean and
variance of batch normalization [updates, 2, channels] after 1, 2, ... of `batches`.
"""

import re
import zlib
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from cnnjax import layers, models
from tests.golden import networks
from tests.golden.torch_layers import Torch, average, lrn, mean, pool, projected, stem

GOLDEN = Path(__file__).with_name('gradients.npz')
PROJECTIONS = 3
CLASSES = 5
BATCHES = (10, 3, 5, 7, 4)  # shape of what the running statistics see, batches first

VGG = {'groups': ((3,), (3, 3)), 'widths': (6, 8)}
DENSENET = {'layers_per_block': (2, 1), 'growth': 4, 'stem_width': 6}
FRACTALNET = {'local_drop_path': 0.0, 'global_drop_path': 0.0}
INCEPTIONS = (('4a', 5, 4, 6, 2, 4, 3), ('4d', 5, 4, 6, 2, 4, 3), ('5a', 6, 4, 8, 2, 4, 4))
UNET = {'widths': (4, 6, 8)}
FCN = {'widths': (2, 3, 4, 4, 3), 'hidden': (5, 4)}
# case: (network, its fields, images [N, H, W, C]). Sizes are odd where a pool follows batch
# normalization: with counts that are powers of two rounding is the same everywhere.
CASES = {
    'convnet': ('convnet', {'width': 4}, (3, 10, 10, 3)),
    'lenet5': ('lenet5', {}, (3, 32, 32, 1)),
    'lenet5_1998': ('lenet5_1998', {}, (3, 32, 32, 1)),
    'alexnet': ('alexnet', {'widths': (6, 8, 10, 8, 6), 'hidden': (9, 7)},
                (2, 67, 67, 3)),
    'zfnet': ('zfnet', {'widths': (6, 8, 10, 12, 6), 'hidden': (9, 7)}, (2, 64, 51, 3)),
    'nin': ('nin', {'widths': ((8, 6, 5), (7, 6, 5), (6, 5))}, (3, 10, 11, 3)),
    'allcnn': ('allcnn_c', {'widths': (6, 8)},
               (3, 12, 13, 3)),
    'allcnn_base': ('allcnn_b_base', {'widths': (6, 8)},
                    (3, 12, 13, 3)),
    'vgg': ('vgg11', VGG | {'lrn': True, 'hidden': (9,)}, (3, 10, 11, 3)),
    'vgg_bn': ('vgg11_bn', VGG | {'hidden': ()}, (3, 19, 21, 3)),
    'densenet': ('densenet121', DENSENET, (2, 38, 38, 3)),
    'densenet_remat': ('densenet121', DENSENET | {'remat': True}, (2, 38, 38, 3)),
    'fractalnet': ('fractalnet20', FRACTALNET | {'widths': (4,), 'dropout': (0.0,)},
                   (3, 11, 9, 3)),
    'fractalnet_stem': ('fractalnet34', FRACTALNET | {'widths': (12, 6), 'dropout': (0.0, 0.0),
                                                      'columns': 2}, (2, 38, 38, 3)),
    'googlenet': ('googlenet', {'inceptions': INCEPTIONS}, (1, 79, 79, 3)),
    'googlenet_bn': ('googlenet_bn', {'inceptions': INCEPTIONS[1:]}, (2, 67, 63, 3)),
    'mobilenet': ('mobilenet_v1_025', {'blocks': ((1, 10), (2, 64))}, (3, 15, 17, 3)),
    'mobilenet_relu6': ('mobilenet_v1_025', {'blocks': ((1, 10), (2, 64)), 'relu': jax.nn.relu6},
                        (3, 15, 17, 3)),
    'unet': ('unet', UNET, (1, 44, 60, 1)),
    'unet_norm': ('unet', UNET | {'norm': 'batch'}, (1, 44, 60, 1)),
    'fcn': ('fcn8s', FCN | {'skip_scales': (0.5, 0.25)}, (1, 9, 20, 3)),
    'fcn_coarse': ('fcn32s', FCN, (1, 43, 12, 3)),
    'fcn_resnet': ('fcn_resnet50', {'widths': (6, 8, 10), 'blocks': (1, 2, 2),
                                    'auxiliary_weight': 0.5}, (2, 41, 38, 3)),
    'fractional': ('fmp6_32', {'depth': 2, 'width': 4, 'canvas': 14}, (3, 11, 11, 1)),
} | networks.CASES
# The same networks on sequences [N, T, C] and volumes [N, D, H, W, C].
RANKS = {
    'convnet': ((3, 10, 3), (2, 6, 4, 6, 3)),
    'nin': ((3, 11, 3), (2, 7, 6, 6, 3)),
    'allcnn_base': ((3, 13, 3), (1, 12, 13, 12, 3)),
    'vgg_bn': ((4, 21, 3), (2, 7, 5, 7, 3)),
    'resnet': ((4, 39, 3), (2, 13, 14, 9, 3)),
    'preact': ((4, 11, 3), (2, 5, 7, 6, 3)),
    'densenet': ((4, 38, 3), (2, 13, 14, 13, 3)),
    'mobilenet': ((4, 15, 3), (2, 7, 9, 8, 3)),
}
CASES |= {f'{case}_{len(shape) - 2}d': (*CASES[case][:2], shape)
          for case, shapes in RANKS.items() for shape in shapes}


def draw(name, shape):
    """The values of the parameter of that name, or the images; float64."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(('scale', 'coefficient')):
        return random.uniform(0.5, 1.5, shape)
    values = random.standard_normal(shape)
    if name.endswith('kernel'):
        return values * np.sqrt(2 / np.prod(shape[:-1]))
    return 0.1 * values + 0.5 if name.endswith('bias') else values


def network(case):
    """(the network in float64, its variables)."""
    name, fields, shape = CASES[case]
    net = models.create(name, num_classes=CLASSES, dtype='float64', **fields)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, 'float64'))
    flat = traverse_util.flatten_dict(shapes, sep='/')
    return net, traverse_util.unflatten_dict(
        {path: draw(path.removeprefix('params/'), leaf.shape) for path, leaf in flat.items()},
        sep='/')


def inputs(case):
    return draw('images', CASES[case][2])


def weights(output, i):
    """What the i-th output is multiplied with, before all are summed."""
    return draw(f'weights {i}', output.shape)


def numbers(gradients):
    """The rows of gradients.npz, from {name: gradient}."""
    rows = []
    for name, gradient in sorted(gradients.items()):
        gradient = np.asarray(gradient).ravel()
        products = gradient @ draw(f'directions of {name}', (gradient.size, PROJECTIONS))
        rows.append([np.linalg.norm(gradient), *products])
    return np.array(rows)


def batches():
    return draw('batches', BATCHES)


def convnet(net, x, _):
    return net.dense('fc', pool(net.conv_relu('conv', x), 2, 2))


def lenet5(net, x, fields):
    for name in ('c1', 'c3'):
        x = pool(net.conv_relu(name, x, 1, 0), 2, 2)
    x = net.conv_relu('c5', x, 1, 0)
    return net.dense('output', net.dense('f6', x).relu())


def lenet5_1998(net, x, _):
    import torch

    from cnnjax.models import lenet

    def squash(x):
        return 1.7159 * torch.tanh(x * 2 / 3)

    def sample(name, x):
        sums = 4 * torch.nn.functional.avg_pool2d(x, 2, 2)
        coefficient, bias = (net.own(name, kind)[:, None, None] for kind in ('coefficient', 'bias'))
        return squash(sums * coefficient + bias)

    x = sample('s2', squash(net.conv('c1', x, 1, 0)))
    kernel, maps, done = net.own('c3', 'kernel'), [], 0
    for seen in lenet.TABLE_I:
        weights = kernel[..., done:done + len(seen)].permute(2, 0, 1)[None]
        maps.append(torch.nn.functional.conv2d(x[:, list(seen)], weights))
        done += len(seen)
    x = sample('s4', squash(torch.cat(maps, 1) + net.own('c3', 'bias')[:, None, None]))
    x = squash(net.dense('f6', squash(net.conv('c5', x, 1, 0))))
    codes = torch.from_numpy(lenet.digit_codes()[:CLASSES]).double()
    return -((x[:, None] - codes) ** 2).sum(-1)


def alexnet(net, x, _):
    for i, groups in enumerate((1, 2, 1, 2, 2), 1):
        x = net.conv_relu(f'conv{i}', x, *((4, 0) if i == 1 else (1, None)), groups)
        if i < 3:
            x = lrn(x, 2.0, 1e-4)
        if i in (1, 2, 5):
            x = pool(x, 3, 2)
    for name in ('fc6', 'fc7'):
        x = net.dense(name, x).relu()
    return net.dense('fc8', x)


def zfnet(net, x, _):
    for i in range(1, 6):
        x = net.conv_relu(f'conv{i}', x, *{1: (2, 1), 2: (2, 0)}.get(i, ()))
        if i in (1, 2, 5):
            x = pool(x, 3, 2, ceil=True)
        if i < 3:
            x = lrn(x, 2.0, 1e-4)
    for name in ('fc6', 'fc7'):
        x = net.dense(name, x).relu()
    return net.dense('fc8', x)


def nin(net, x, _):
    for i in (1, 2, 3):
        x = net.conv_relu(f'conv{i}', x)
        for j in (1, 2):
            x = net.conv_relu(f'cccp{2 * i + j - 2}', x)
        if i < 3:
            x = (pool if i == 1 else average)(x, 3, 2, **({'ceil': True} if i == 1 else {}))
    return mean(x)


def allcnn(net, x, _):
    for i in range(1, 7):
        x = net.conv_relu(f'conv{i}', x, 2 if i in (3, 6) else 1)
    return mean(net.conv_relu('conv9', net.conv_relu('conv8', net.conv_relu('conv7', x, 1, 0))))


def allcnn_base(net, x, _):
    for i in range(1, 5):
        x = net.conv_relu(f'conv{i}', x)
        if i in (2, 4):
            x = pool(x, 3, 2, ceil=True)
    return mean(net.conv_relu('conv7', net.conv_relu('conv6', net.conv_relu('conv5', x, 1, 0))))


def vgg(net, x, fields):
    for name in ('1_1', '2_1', '2_2'):
        x = net.conv(f'conv{name}', x)
        x = (x if 'lrn' in fields else net.norm(f'bn{name}', x)).relu()
        if 'lrn' in fields and name == '1_1':
            x = lrn(x, 2.0, 1e-4)
        if name != '2_1':
            x = pool(x, 2, 2)
    if fields['hidden']:
        x = net.dense('fc6', x).relu()
    return net.dense('fc8', x)


def densenet(net, x, fields):
    import torch
    x = pool(net.norm_relu('bn0', net.conv('conv0', x, 2)), 3, 2, 1)
    for i, depth in enumerate(fields['layers_per_block'], 1):
        if i > 1:
            name = f'transition{i - 1}'
            x = average(net.conv(f'{name}/conv', net.norm_relu(f'{name}/bn', x)), 2, 2)
        for j in range(1, depth + 1):
            name = f'block{i}_layer{j}'
            y = net.conv(f'{name}/conv1', net.norm_relu(f'{name}/bn1', x))
            y = net.conv(f'{name}/conv2', net.norm_relu(f'{name}/bn2', y))
            x = torch.cat([x, y], 1)
    return net.dense('fc', mean(net.norm_relu('bn', x)))


def fractal(net, x, b, columns, end):
    """The columns of a block, each pooled by `end`, and joined."""
    def unit(x, column, i):
        name = f'block{b}_column{column}_unit{i}'
        return net.norm_relu(f'{name}/bn', net.conv(f'{name}/conv', x))

    if columns == 2:
        return (end(unit(x, 1, 1)) + end(unit(unit(x, 2, 1), 2, 2))) / 2
    half = (unit(x, 2, 1) + unit(unit(x, 3, 1), 3, 2)) / 2
    return (end(unit(x, 1, 1)) + end(unit(half, 2, 2))
            + end(unit(unit(half, 3, 3), 3, 4))) / 3


def fractalnet(net, x, _):
    return net.dense('fc', fractal(net, x, 1, 3, lambda x: pool(x, 2, 2)))


def fractalnet_stem(net, x, _):
    x = fractal(net, stem(net, x), 1, 2, lambda x: pool(x, 2, 2))
    return net.dense('fc', fractal(net, x, 2, 2, mean))


def googlenet(net, x, fields, batch_norm=False):
    import torch

    def unit(name, x, stride=1):
        x = net.conv(name, x, stride)
        *path, last = name.split('/')
        own = last.removeprefix('conv') if last.startswith('conv') else f'_{last}'
        return (net.norm('/'.join([*path, f'bn{own}']), x, 1e-3) if batch_norm else x).relu()

    def auxiliary(name, x):
        x = unit(f'{name}/conv', torch.nn.functional.avg_pool2d(x, 5, 3))
        return net.dense(f'{name}/fc2', net.dense(f'{name}/fc1', x).relu())

    def normalize(x):
        return x if batch_norm else lrn(x, 1.0, 2e-5)

    x = normalize(pool(unit('conv1', x, 2), 3, 2, ceil=True))
    x = pool(normalize(unit('conv2', unit('conv2_reduce', x))), 3, 2, ceil=True)
    sides = []
    for module, *_ in fields['inceptions']:
        if module in ('4a', '5a'):
            x = pool(x, 2 if batch_norm and module == '5a' else 3, 2, ceil=True)
        name = f'inception_{module}'
        x = torch.cat([
            unit(f'{name}/1x1', x), unit(f'{name}/3x3', unit(f'{name}/3x3_reduce', x)),
            unit(f'{name}/5x5', unit(f'{name}/5x5_reduce', x)),
            unit(f'{name}/pool_proj', pool(x, 3, 1, 1))], 1)
        if not batch_norm and module in ('4a', '4d'):
            sides.append(auxiliary(f'aux{len(sides) + 1}', x))
    return net.dense('fc', mean(x)), *sides


def googlenet_bn(net, x, fields):
    return googlenet(net, x, fields, batch_norm=True)


def mobilenet(net, x, fields):
    def active(name, x):
        x = net.norm_relu(name, x)
        return x.clamp(max=6) if 'relu' in fields else x

    x = active('bn1', net.conv('conv1', x, 2))
    for i, (stride, _) in enumerate(fields['blocks'], 1):
        x = net.conv(f'block{i}/depthwise', x, stride, None, x.shape[1])
        x = net.conv(f'block{i}/pointwise', active(f'block{i}/bn1', x))
        x = active(f'block{i}/bn2', x)
    return net.dense('fc', mean(x))


def unet(net, x, fields):
    import torch
    from torch.nn.functional import conv_transpose2d

    def twice(x, level, first):
        for i in (first, first + 1):
            x = net.conv(f'conv{level}_{i}', x, 1, 0)
            x = (net.norm(f'bn{level}_{i}', x) if 'norm' in fields else x).relu()
        return x

    skips, bottom = [], len(fields['widths'])
    for level in range(1, bottom):
        skips.append(twice(x, level, 1))
        x = pool(skips[-1], 2, 2)
    x = twice(x, bottom, 1)
    for level in range(bottom - 1, 0, -1):
        kernel = net.own(f'up{level}', 'kernel').flip(0, 1).permute(2, 3, 0, 1)
        x = conv_transpose2d(x, kernel, net.own(f'up{level}', 'bias'), 2)
        skip = skips.pop()
        top, left = ((skip.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
        skip = skip[:, :, top:top + x.shape[2], left:left + x.shape[3]]
        x = twice(torch.cat([x, skip], 1), level, 3)
    return net.conv('conv', x).permute(0, 2, 3, 1)


def deconvolution(x, size, stride):
    """Caffe's, with its bilinear filler."""
    import torch
    half = (size + 1) // 2
    centre = half - 1 if size % 2 else half - 0.5
    side = 1 - abs(torch.arange(size, dtype=x.dtype) - centre) / half
    kernel = (side[:, None] * side).expand(x.shape[1], 1, size, size)
    return torch.nn.functional.conv_transpose2d(x, kernel, stride=stride, groups=x.shape[1])


def fcn(net, x, fields):
    """The released nets' layers, crops and scales."""
    height, width = x.shape[2:]
    pools = {}
    for i, convolutions in enumerate((2, 2, 3, 3, 3), 1):
        for j in range(1, convolutions + 1):
            x = net.conv_relu(f'conv{i}_{j}', x, 1, 100 if (i, j) == (1, 1) else 1)
        x = pools[i] = pool(x, 2, 2, ceil=True)
    x = net.conv_relu('fc7', net.conv_relu('fc6', x, 1, 0), 1, 0)
    x = net.conv('score_fr', x)
    if 'skip_scales' not in fields:
        x = deconvolution(x, 64, 32)[:, :, 19:19 + height, 19:19 + width]
        return x.permute(0, 2, 3, 1)
    for i, scale, crop in ((4, 0.5, 5), (3, 0.25, 9)):
        x = deconvolution(x, 4, 2)
        own = net.conv(f'score_pool{i}', scale * pools[i])
        x = x + own[:, :, crop:crop + x.shape[2], crop:crop + x.shape[3]]
    x = deconvolution(x, 16, 8)[:, :, 31:31 + height, 31:31 + width]
    return x.permute(0, 2, 3, 1)


def fcn_resnet(net, x, _):
    """Two of three stages dilated; in the first block of each by what the stage before it has."""
    from torch.nn.functional import interpolate
    size = x.shape[2:]

    def head(name, x):
        x = net.norm_relu(f'{name}/bn', net.conv(f'{name}/conv', x))
        x = net.conv(f'{name}/score', x)
        return interpolate(x, size, mode='bilinear', align_corners=False).permute(0, 2, 3, 1)

    x, stages = stem(net, x), {}
    for name, dilation in (('conv2_1', 1), ('conv3_1', 1), ('conv3_2', 2), ('conv4_1', 2),
                           ('conv4_2', 4)):
        y = net.norm_relu(f'{name}/bn1', net.conv(f'{name}/conv1', x))
        y = net.norm_relu(f'{name}/bn2', net.conv(f'{name}/conv2', y, dilation=dilation))
        y = net.norm(f'{name}/bn3', net.conv(f'{name}/conv3', y))
        x = stages[name] = (y + projected(net, name, x, y, 1)).relu()
    return head('classifier', x), head('aux_classifier', stages['conv3_2'])


def fractional(net, x, fields):
    import torch
    from torch.nn.functional import leaky_relu, pad
    low = (fields['canvas'] - x.shape[2]) // 2
    high = fields['canvas'] - x.shape[2] - low
    x = pad(x, (low, high, low, high))
    for n in range(1, fields['depth'] + 3):
        x = net.conv(f'conv{n}', x, 1, 0)
        if n < fields['depth'] + 2:
            x = leaky_relu(x, 1 / 3)
        if n <= fields['depth']:
            keys = jax.random.split(jax.random.fold_in(jax.random.key(0), n))
            count = round(x.shape[2] / 2 ** 0.5)
            rows, columns = (np.asarray(layers.pooling_boundaries(
                key, x.shape[2] - 1, count, 'random')) for key in keys)
            x = torch.stack([torch.stack([  # regions share their boundary
                x[:, :, top:bottom + 1, left:right + 1].amax((2, 3))
                for left, right in zip(columns, columns[1:], strict=False)], -1)
                for top, bottom in zip(rows, rows[1:], strict=False)], -2)
    return mean(x)


SAME = {'vgg_bn': vgg, 'densenet_remat': densenet, 'mobilenet_relu6': mobilenet,
        'unet_norm': unet, 'fcn_coarse': fcn}


def derive(case):
    """The rows of a case."""
    import torch
    _, variables = network(case)
    tensors = {name: torch.from_numpy(value).requires_grad_() for name, value in
               traverse_util.flatten_dict(variables['params'], sep='/').items()}
    images = torch.from_numpy(inputs(case)).requires_grad_()
    function = {**globals(), **SAME, **networks.FUNCTIONS}[re.sub('_[13]d$', '', case)]
    outputs = function(Torch(tensors), images.movedim(-1, 1), CASES[case][1])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum((output * torch.from_numpy(weights(output, i))).sum()
                for i, output in enumerate(outputs))
    # The columns of a fractal on their own have statistics, but no parameters, of their own.
    tensors['images'] = images
    found = torch.autograd.grad(total, list(tensors.values()))
    return numbers(dict(zip(tensors, found, strict=True)))


def running():
    """What torch's batch normalization keeps."""
    import torch
    norm, rows = torch.nn.BatchNorm2d(BATCHES[-1], dtype=torch.float64), []
    for batch in batches():
        norm(torch.from_numpy(batch).permute(0, 3, 1, 2))
        rows.append([norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()])
    return np.array(rows)


def main():
    np.savez_compressed(GOLDEN, running=running(), **{case: derive(case) for case in CASES})


if __name__ == '__main__':
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_enable_x64', True)
    main()
