"""SqueezeNet and MobileNet v2."""

from tests.golden.torch_layers import mean, pool

FIRES = {'stem_width': 6, 'fires': ((4, 3), (3, 5), (4, 5)), 'pools': (1, 3), 'bypass': 'complex'}
INVERTED = {'blocks': ((1, 10, 1, 1), (2, 12, 2, 2)), 'stem_width': 8, 'last_width': 24}
CASES = {
    'squeezenet': ('squeezenet1_0', FIRES, (2, 35, 39, 3)),
    'mobilenet_v2': ('mobilenet_v2', INVERTED, (3, 13, 15, 3)),
}


def squeezenet(net, x, _):
    import torch
    x = pool(net.conv_relu('conv1', x, 2, 0), 3, 2, ceil=True)
    for i in (2, 3, 4):
        squeezed = net.conv_relu(f'fire{i}/squeeze1x1', x)
        y = torch.cat([net.conv_relu(f'fire{i}/expand{size}x{size}', squeezed)
                       for size in (1, 3)], 1)
        y = y + (net.conv(f'fire{i}/bypass', x) if i == 3 else x)
        x = pool(y, 3, 2, ceil=True) if i == 3 else y
    return mean(net.conv_relu('conv5', x))


def mobilenet_v2(net, x, _):
    def active(norm, conv, x, *options):
        return net.norm(norm, net.conv(conv, x, *options)).clamp(0, 6)

    x = active('bn1', 'conv1', x, 2)
    for i, stride in enumerate((1, 2, 1), 1):
        name = f'block{i}'
        y = active(f'{name}/bn1', f'{name}/expand', x) if i > 1 else x
        y = active(f'{name}/bn2', f'{name}/depthwise', y, stride, None, y.shape[1])
        y = net.norm(f'{name}/bn3', net.conv(f'{name}/project', y))
        x = y + x if i == 3 else y
    return net.dense('fc', mean(active('bn2', 'conv2', x)))
