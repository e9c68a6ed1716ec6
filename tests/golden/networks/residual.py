"""Residual networks: their blocks, widths, stems, and squeeze-and-excitation."""

from tests.golden.torch_layers import mean, pool, projected, stem

RESNET = {'widths': (6, 8), 'blocks': (1, 2)}
RESNEXT = {'widths': (8, 16), 'blocks': (1, 1), 'cardinality': 4, 'base_width': 16}
CASES = {
    'resnet': ('resnet18', RESNET, (2, 38, 38, 3)),
    'resnext': ('resnext50_32x4d', RESNEXT, (1, 61, 61, 3)),
    'preact': ('preact_resnet110', RESNET, (3, 9, 11, 3)),
    'preact_bottleneck': ('preact_resnet200', RESNET, (2, 35, 33, 3)),
    'resnet50d': ('resnet50d', RESNET, (2, 38, 35, 3)),
    'seresnet': ('seresnet50', RESNET | {'reduction': 4}, (2, 38, 38, 3)),
    'wide_resnet': ('wide_resnet28_10', RESNET | {'stem_width': 4}, (3, 9, 11, 3)),
}


def blocks(net, x, fields, block):
    """All stages of a residual network; `block` is (net, name, x, stride, whether it is the
    network's first) -> x."""
    for stage, count in enumerate(fields['blocks'], 2):
        for j in range(1, count + 1):
            x = block(net, f'conv{stage}_{j}', x, 2 if stage > 2 and j == 1 else 1,
                      (stage, j) == (2, 1))
    return x


def padded(x, width, stride):
    """Shortcut A."""
    from torch.nn.functional import pad
    x = x[:, :, *(slice(None, None, stride),) * (x.ndim - 2)]
    return pad(x, (0, 0) * (x.ndim - 2) + (0, width - x.shape[1]))


def resnet(net, x, fields):
    def block(net, name, x, stride, _):
        y = net.norm_relu(f'{name}/bn1', net.conv(f'{name}/conv1', x, stride))
        y = net.norm(f'{name}/bn2', net.conv(f'{name}/conv2', y))
        return (y + projected(net, name, x, y, stride)).relu()

    return net.dense('fc', mean(blocks(net, stem(net, x), fields, block)))


def bottleneck(net, name, x, stride, groups=1):
    y = net.norm_relu(f'{name}/bn1', net.conv(f'{name}/conv1', x))
    y = net.norm_relu(f'{name}/bn2', net.conv(f'{name}/conv2', y, stride, None, groups))
    return net.norm(f'{name}/bn3', net.conv(f'{name}/conv3', y))


def resnext(net, x, fields):
    def block(net, name, x, stride, _):
        y = bottleneck(net, name, x, stride, fields['cardinality'])
        return (y + projected(net, name, x, y, stride)).relu()

    return net.dense('fc', mean(blocks(net, stem(net, x), fields, block)))


def preact(net, x, fields):
    def block(net, name, x, stride, first):
        active = net.norm_relu(f'{name}/bn1', x)
        y = net.conv(f'{name}/conv1', active, stride)
        y = net.conv(f'{name}/conv2', net.norm_relu(f'{name}/bn2', y))
        changes = first or stride > 1
        return y + padded(active if changes else x, y.shape[1], stride)

    x = blocks(net, net.conv('conv1', x), fields, block)
    return net.dense('fc', mean(net.norm_relu('bn', x)))


def preact_bottleneck(net, x, fields):
    def block(net, name, x, stride, first):
        active = net.norm_relu(f'{name}/bn1', x)
        y = net.conv(f'{name}/conv1', active, stride)
        y = net.conv(f'{name}/conv2', net.norm_relu(f'{name}/bn2', y))
        y = net.conv(f'{name}/conv3', net.norm_relu(f'{name}/bn3', y))
        if x.shape != y.shape:
            x = net.conv(f'{name}/shortcut_conv', active, stride)
        return y + x

    x = blocks(net, pool(net.conv('conv1', x, 2), 3, 2, 1), fields, block)
    return net.dense('fc', mean(net.norm_relu('bn', x)))


def resnet50d(net, x, fields):
    from torch.nn.functional import avg_pool2d

    def block(net, name, x, stride, _):
        y = bottleneck(net, name, x, stride)
        if stride == 2:  # at the edges of odd maps it is a mean of two pixels, or of one
            x = avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        return (y + projected(net, name, x, y, 1)).relu()

    for i, stride in ((1, 2), (2, 1)):
        x = net.norm_relu(f'stem_bn{i}', net.conv(f'stem_conv{i}', x, stride))
    x = pool(net.norm_relu('bn1', net.conv('conv1', x)), 3, 2, 1)
    return net.dense('fc', mean(blocks(net, x, fields, block)))


def seresnet(net, x, fields):
    def block(net, name, x, stride, _):
        y = bottleneck(net, name, x, stride)
        gates = net.dense(f'{name}/se/fc2', net.dense(f'{name}/se/fc1', mean(y)).relu()).sigmoid()
        return (y * gates[:, :, None, None] + projected(net, name, x, y, stride)).relu()

    return net.dense('fc', mean(blocks(net, stem(net, x), fields, block)))


def wide_resnet(net, x, fields):
    def block(net, name, x, stride, _):
        active = net.norm_relu(f'{name}/bn1', x)
        y = net.conv(f'{name}/conv1', active, stride)
        y = net.conv(f'{name}/conv2', net.norm_relu(f'{name}/bn2', y))
        if x.shape[1] != y.shape[1]:
            x = net.conv(f'{name}/shortcut_conv', active, stride)
        return y + x

    x = blocks(net, net.conv('conv1', x), fields, block)
    return net.dense('fc', mean(net.norm_relu('bn', x)))
