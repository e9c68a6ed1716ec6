"""The layers of the networks in gradients.py on torch's [N, C, H, W], [N, C, T] or [N, C, D, H, W].
"""


def function(name, x):
    """torch's function of that name for the dimensions of x, such as conv2d."""
    from torch.nn import functional
    return getattr(functional, f'{name}{x.ndim - 2}d')


class Torch:
    """The layers on torch's arrays, with parameters of our names and shapes."""

    def __init__(self, parameters):
        self.parameters = parameters

    def own(self, name, kind):
        return self.parameters.get(f'{name}/{kind}')

    def conv(self, name, x, stride=1, padding=None, groups=1, dilation=1):
        kernel = self.own(name, 'kernel').movedim((-1, -2), (0, 1))
        if padding is None:
            padding = tuple(dilation * (side // 2) for side in kernel.shape[2:])
        return function('conv', x)(
            x, kernel, self.own(name, 'bias'), stride, padding, dilation, groups)

    def norm(self, name, x, eps=1e-5):
        from torch.nn.functional import batch_norm
        return batch_norm(x, None, None, self.own(name, 'scale'), self.own(name, 'bias'),
                          training=True, eps=eps)

    def dense(self, name, x):
        x = x.movedim(1, -1).flatten(1)
        return x @ self.own(name, 'kernel') + self.own(name, 'bias')

    def conv_relu(self, name, x, *options):
        return self.conv(name, x, *options).relu()

    def norm_relu(self, name, x, **options):
        return self.norm(name, x, **options).relu()


def pool(x, size, stride, padding=0, ceil=False):
    return function('max_pool', x)(x, size, stride, padding, ceil_mode=ceil)


def average(x, size, stride):
    return function('avg_pool', x)(x, size, stride, ceil_mode=True)


def lrn(x, k, alpha, beta=0.75, size=5):
    """alpha is not divided by the number of channels."""
    from torch.nn.functional import local_response_norm
    return local_response_norm(x, size, size * alpha, beta, k)


def mean(x):
    return x.flatten(2).mean(2)


def stem(net, x):
    """The beginning of residual networks for large images."""
    return pool(net.norm_relu('bn1', net.conv('conv1', x, 2)), 3, 2, 1)


def projected(net, name, x, like, stride):
    """Shortcut B."""
    if x.shape == like.shape:
        return x
    return net.norm(f'{name}/shortcut_bn', net.conv(f'{name}/shortcut_conv', x, stride))
