"""Inception v3, and the GoogLeNet that Google published for TensorFlow."""

from tests.golden.torch_layers import lrn, mean, pool

MIXED = {'width_multiplier': 1 / 16, 'mixed': ('5b', '6a', '6e', '7a', '7b')}
MODULES = (('3a', 5, 4, 6, 2, 4, 3), ('4a', 5, 4, 6, 2, 4, 3), ('5a', 6, 4, 8, 2, 4, 4))
CASES = {
    'inception_v3': ('inception_v3', MIXED, (3, 299, 299, 3)),
    'inception_v1': ('inception_v1', {'inceptions': MODULES}, (2, 64, 47, 3)),
}


def inception_v3(net, x, _):
    import torch
    from torch.nn.functional import avg_pool2d

    def unit(name, x, *options):
        return net.norm_relu(f'{name}/bn', net.conv(f'{name}/conv', x, *options), eps=1e-3)

    def module(name, x, *branches):
        outputs = []
        for first, *rest in branches:
            y = unit(f'Mixed_{name}/branch{first}', avg_pool2d(x, 3, 1, 1) if first == '_pool'
                     else x, *((2, 0) if first == '3x3' and not rest else ()))
            for layer in rest:
                strided = (2, 0) if name in ('6a', '7a') and layer is rest[-1] else ()
                y = torch.cat([unit(f'Mixed_{name}/branch{each}', y, *strided)
                               for each in layer.split()], 1)
            outputs.append(y)
        if name in ('6a', '7a'):
            outputs.append(pool(x, 3, 2))
        return torch.cat(outputs, 1)

    x = unit('Conv2d_2a_3x3', unit('Conv2d_1a_3x3', x, 2, 0), 1, 0)
    x = pool(unit('Conv2d_2b_3x3', x), 3, 2)
    x = pool(unit('Conv2d_4a_3x3', unit('Conv2d_3b_1x1', x), 1, 0), 3, 2)
    double = ('3x3dbl_1', '3x3dbl_2', '3x3dbl_3')
    x = module('5b', x, ('1x1',), ('5x5_1', '5x5_2'), double, ('_pool',))
    x = module('6a', x, ('3x3',), double)
    x = module('6e', x, ('1x1',), ('7x7_1', '7x7_2', '7x7_3'),
               tuple(f'7x7dbl_{i}' for i in range(1, 6)), ('_pool',))
    side = mean(unit('AuxLogits/conv1', unit('AuxLogits/conv0', avg_pool2d(x, 5, 3)), 1, 0))
    x = module('7a', x, ('3x3_1', '3x3_2'), tuple(f'7x7x3_{i}' for i in range(1, 5)))
    x = module('7b', x, ('1x1',), ('3x3_1', '3x3_2a 3x3_2b'),
               ('3x3dbl_1', '3x3dbl_2', '3x3dbl_3a 3x3dbl_3b'), ('_pool',))
    return net.dense('fc', mean(x)), net.dense('AuxLogits/fc', side)


def same(x, size, value):
    """Pads x by `value`, as TensorFlow's 'SAME' does for windows two apart."""
    from torch.nn.functional import pad
    sides = []
    for n in x.shape[:1:-1]:
        total = max(2 * ((n + 1) // 2 - 1) + size - n, 0)
        sides += [total // 2, total - total // 2]
    return pad(x, sides, value=value)


def inception_v1(net, x, fields):
    """At even sizes these are the pads (2, 3) and (0, 1) of lucent's code."""
    import torch

    def halve(x):
        return pool(same(x, 3, float('-inf')), 3, 2)

    x = net.conv_relu('conv1', same(x, 7, 0.0), 2, 0)
    x = lrn(halve(x), 2.0, 1e-4, 0.5, 11)
    x = net.conv_relu('conv2', net.conv_relu('conv2_reduce', x))
    x = halve(lrn(x, 2.0, 1e-4, 0.5, 11))
    for module, *_ in fields['inceptions']:
        x = x if module == '3a' else halve(x)
        name = f'inception_{module}'
        x = torch.cat([
            net.conv_relu(f'{name}/1x1', x),
            net.conv_relu(f'{name}/3x3', net.conv_relu(f'{name}/3x3_reduce', x)),
            net.conv_relu(f'{name}/5x5', net.conv_relu(f'{name}/5x5_reduce', x)),
            net.conv_relu(f'{name}/pool_proj', pool(x, 3, 1, 1))], 1)
    return net.dense('fc', mean(x))
