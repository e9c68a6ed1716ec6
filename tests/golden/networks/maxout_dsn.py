"""Maxout, DropConnect, Deeply-Supervised Nets and generalized pooling."""

from tests.golden.torch_layers import average, mean, pool

NIN = {'widths': ((8, 6, 5), (7, 6, 5), (6, 5))}
CASES = {
    'maxout': ('maxout', {'widths': (3, 4, 3), 'pieces': (2, 2, 3), 'hidden': (4,),
                          'hidden_pieces': 3, 'input_dropout': 0.0}, (3, 11, 12, 3)),
    'maxout_untied': ('maxout_mnist', {'widths': (3, 4, 3), 'pieces': (2, 3, 4),
                                       'input_dropout': 0.0}, (3, 18, 19, 1)),
    'dropconnect': ('dropconnect', {'widths': (4, 5, 4, 3), 'hidden': (6, 5), 'drop_connect': 0.0},
                    (3, 10, 11, 3)),
    'fitnet': ('fitnet2', {'widths': ((3, 4), (5,), (4,)), 'hidden': (4,), 'pieces': (2, 3)},
               (3, 12, 13, 3)),
    'dsn': ('dsn', NIN, (3, 10, 11, 3)),
    'generalized_pooling': ('generalized_pooling_mixed', NIN | {'poolings': ('mixed', 'gated')},
                            (3, 10, 11, 3)),
    'generalized_pooling_tree': ('generalized_pooling_tree', NIN | {
        'poolings': ('tree', 'gated'), 'levels': 3}, (3, 10, 11, 3)),
}


def pieces(x, count):
    """The largest of neighbouring channels."""
    return x.unflatten(1, (-1, count)).amax(2)


def maxout(net, x, fields):
    for i, (padding, window) in enumerate(((4, 4), (3, 4), (3, 2))):
        x = pieces(net.conv(f'h{i}', x, 1, padding), fields['pieces'][i])
        x = pool(x, window, 2, ceil=True)
    return net.dense('y', pieces(net.dense('h3', x), fields['hidden_pieces']))


def maxout_untied(net, x, fields):
    for i, (padding, window) in enumerate(((0, 4), (3, 4), (3, 2))):
        x = net.conv(f'h{i}', x, 1, padding) + net.own(f'h{i}_biases', 'bias').permute(2, 0, 1)
        x = pool(pieces(x, fields['pieces'][i]), window, 2, ceil=True)
    return net.dense('y', x)


def fitnet(net, x, fields):
    done = 0
    for widths in fields['widths']:
        for _ in widths:
            done += 1
            x = pieces(net.conv(f'conv{done}', x), fields['pieces'][0])
        last = done == 4
        x = x.amax((2, 3), keepdim=True) if last else pool(x, 2, 2)
    return net.dense('softmax', pieces(net.dense('fc1', x), fields['pieces'][1]))


def dropconnect(net, x, _):
    from torch.nn.functional import local_response_norm, unfold

    def norm(x):  # torch divides alpha by the nine channels
        return local_response_norm(x, 9, 0.001, 0.75, 1.0)

    def local(name, x):
        kernel, bias = (net.own(name, kind) for kind in ('kernel', 'bias'))
        height, width, *sizes = kernel.shape
        sums = (unfold(x, 3, padding=1).permute(0, 2, 1)[:, :, None]
                @ kernel.reshape(height * width, *sizes))[:, :, 0]
        return (sums.unflatten(1, (height, width)) + bias).permute(0, 3, 1, 2).relu()

    x = norm(pool(net.conv_relu('conv1', x), 3, 2, ceil=True))
    x = pool(norm(net.conv_relu('conv2', x)), 3, 2, ceil=True)
    x = net.dense('fc5', local('local4', local('local3', x))).relu()
    return net.dense('fc7', net.dense('fc6', x).relu())


def network_in_network(net, x, pools, companions=False):
    scores = []
    for i in (1, 2, 3):
        x = net.conv(f'conv{i}', x)
        if companions:
            scores.append(net.dense(f'svm{i}', x))
        x = net.conv_relu(f'cccp{2 * i - 1}', x.relu())
        x = net.conv(f'cccp{2 * i}', x)
        if i < 3:
            x = pools[i - 1](f'pool{i}', x.relu())
    return mean(x), *scores


def maximum(_, x):
    return pool(x, 3, 2, ceil=True)


def dsn(net, x, _):
    return network_in_network(net, x, (maximum, maximum), companions=True)


def filters(net, name, x):
    """The products of the windows with each filter, [N, C, H', W', filters]."""
    from torch.nn.functional import pad
    windows = pad(x, (0, (x.shape[3] - 3) % 2, 0, (x.shape[2] - 3) % 2)).unfold(2, 3, 2)
    return (windows.unfold(3, 3, 2)[..., None] * net.own(name, 'kernel')).sum((-3, -2))


def gated(net, name, x):
    share = filters(net, name, x)[..., 0].sigmoid()
    return share * maximum(name, x) + (1 - share) * average(x, 3, 2)


def generalized_pooling(net, x, _):
    def mixed(name, x):
        share = net.own(name, 'share')
        return share * maximum(name, x) + (1 - share) * average(x, 3, 2)

    return network_in_network(net, x, (mixed, lambda name, x: gated(net, name, x)))[0]


def generalized_pooling_tree(net, x, _):
    def tree(name, x):
        a, b, c, d, left, right, top = filters(net, name, x).unbind(-1)
        left, right, top = left.sigmoid(), right.sigmoid(), top.sigmoid()
        return (top * (left * a + (1 - left) * b)
                + (1 - top) * (right * c + (1 - right) * d))

    return network_in_network(net, x, (tree, lambda name, x: gated(net, name, x)))[0]
