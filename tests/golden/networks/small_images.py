"""Highway, ELU, recurrent, competitive and ResNet-in-ResNet networks."""

from tests.golden.torch_layers import lrn, mean, pool

WIDTHS, SCALES = ((7, 6), (6, 5)), (((1, 3, 5), (1, 3)), ((1, 3), (1, 3), (1, 3)))
CASES = {
    'highway': ('highway19', {'sizes': ((3, 1), (3,)), 'widths': (6, 8)}, (3, 10, 12, 3)),
    'elu': ('elu_net', {'widths': ((6,), (7, 8), (9,)), 'sizes': ((3,), (1, 2), (2,)),
                        'dropout': (0.0, 0.1, 0.2)}, (3, 7, 9, 3)),
    'recurrent': ('recurrent_cnn96', {'width': 32}, (2, 11, 14, 3)),
    'competitive': ('competitive_multiscale', {'widths': WIDTHS, 'sizes': SCALES}, (3, 9, 11, 3)),
    'rir': ('rir18_wide', {'blocks': (1, 2), 'widths': (6, 10)}, (3, 9, 11, 3)),
}


def highway(net, x, fields):
    n = 0
    for i, sizes in enumerate(fields['sizes']):
        if i:
            x = pool(x, 2, 2)
        n += 1
        x = net.conv_relu(f'conv{n}', x)
        for _ in sizes:
            n += 1
            gate = net.conv(f'transform{n}', x).sigmoid()
            x = net.conv_relu(f'conv{n}', x) * gate + x * (1 - gate)
    return net.dense('ip2', mean(net.conv_relu(f'conv{n + 1}', x)))


def elu(net, x, fields):
    from torch import nn
    for i, sizes in enumerate(fields['sizes'], 1):
        for j, size in enumerate(sizes, 1):
            if size == 2:  # one more pixel at the right and at the bottom
                x = nn.functional.pad(x, (0, 1, 0, 1))
            x = nn.functional.elu(net.conv(f'conv{i}_{j}', x, padding=size // 2 if size % 2 else 0))
        x = pool(x, 2, 2, ceil=True)
    return mean(net.conv(f'conv{i + 1}_1', x))


def recurrent(net, x, _):
    def state(z):  # of 32 / 8 + 1 maps, which torch divides by
        return lrn(z.relu(), 1.0, 0.001 / 5)

    x = pool(net.conv_relu('conv1', x), 3, 2, ceil=True)
    for i in (2, 3, 4, 5):
        forward = net.conv(f'rcl{i}/forward', x)
        x = state(forward)
        for _ in range(3):
            x = state(forward + net.conv(f'rcl{i}/recurrent', x))
        if i == 3:
            x = pool(x, 3, 2, ceil=True)
    return net.dense('fc', x.amax((2, 3)))


def competitive(net, x, fields):
    import torch
    for i, modules in enumerate(fields['sizes'], 1):
        for j, sizes in enumerate(modules, 1):
            name = f'block{i}_{j}'
            x = torch.stack([net.norm(f'{name}/bn{n}x{n}', net.conv(f'{name}/conv{n}x{n}', x))
                             for n in sizes]).amax(0)
        if i < len(fields['sizes']):
            x = pool(x, 3, 2, ceil=True)
    return mean(x)


def rir(net, x, fields):
    import torch
    from torch.nn.functional import pad

    def layer(name, i, r, t):
        """The four kernels of a generalized residual block are quarters of one."""
        y = net.conv(f'{name}/conv{i}', torch.cat([r, t], 1))
        mine, other = y.chunk(2, 1)
        return net.norm_relu(f'{name}/bn{i}', torch.cat([mine + r, other], 1)).chunk(2, 1)

    r, t = net.norm_relu('bn1', net.conv('conv1', x)).chunk(2, 1)
    for stage, (count, width) in enumerate(zip(fields['blocks'], fields['widths'], strict=True), 2):
        if stage > 2:
            more = (0, 0, 0, 0, 0, width // 2 - r.shape[1])
            r, t = pad(r[:, :, ::2, ::2], more), pad(t[:, :, ::2, ::2], more)
        for j in range(1, count + 1):
            name, before = f'conv{stage}_{j}', r
            r, t = layer(name, 2, *layer(name, 1, r, t))
            r = (r + before).relu()
    return net.dense('fc', mean(torch.cat([r, t], 1)))
