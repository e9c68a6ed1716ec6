"""The benchmark's rows that optimize images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import counterparts, models, trained
from cnnjax.data import Normalization
from cnnjax.images import (
    neural_style,
    objectives,
    optimize,
    parametrizations,
    regularizers,
    tiles,
    transforms,
)
from cnnjax.trained import Trained
from experiments.benchmark.timing import advance

UNITS = 32  # We visualize so many units at once; PyTorch one by one, as its tools do.
LAYERS = ('relu1_1', 'relu2_1', 'relu3_1', 'relu4_1', 'relu5_1')
CONTENT, UNIT, JITTER, RATE = 'relu4_2', 7, 8, 0.02


def vgg19():
    """VGG-19 with random weights that keep the scale of activations. If these faded from layer to
    layer, gradients would become denormal numbers, which are slow on CPUs."""
    net = models.create('vgg19', num_classes=1, hidden=())
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    draw, rng = jax.nn.initializers.he_normal(), np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape) if leaf.ndim == 1 else draw(
        jax.random.key(rng.integers(2**31)), leaf.shape), shapes)
    normalize = Normalization(*np.float32(counterparts.IMAGENET))
    return Trained(net, variables, normalize, ('',), (32, 32, 3), None)


def descend(problem, shared, aux=None, count=1):
    """A function that makes one step of Adam on `count` images and waits for the result."""
    keys = jax.random.split(jax.random.key(1), count)
    tx = optax.adam(RATE)
    state = optimize.init(problem, tx, keys)
    reports = optimize.iterate(problem, tx, state, 10**9, keys, aux, shared, every=1)
    return lambda: next(reports)


def style(size):
    """Gatys et al. 2016: content, five Gram matrices and total variation, clipped to [0, 1]."""
    network = vgg19()
    codes = jax.jit(lambda variables, image: tiles.maps(network, (*LAYERS, CONTENT), 0, variables,
                                                        image))
    content, picture = (codes(network.variables, jax.random.uniform(
        jax.random.key(i), (size, size, 3))) for i in (2, 3))
    shared = {'style': neural_style.moments(LAYERS)(picture),
              'maps': {CONTENT: {'content': content[CONTENT]}}}
    return descend(optimize.Problem(
        network, neural_style.content((CONTENT,)) + 1e3 * neural_style.style(LAYERS),
        parametrizations.pixels((size, size, 3), mean=0.5),
        regularizer=regularizers.total_variation(form='johnson'),
        project=parametrizations.clip()), shared)


def visualized(network, size):
    """The problem of a channel of conv4_2 in lucid's parametrization, with jitter."""
    image = parametrizations.sigmoid(parametrizations.decorrelated(
        parametrizations.fourier((size, size, 3)), parametrizations.COLOR_MATRIX))
    return optimize.Problem(network, objectives.channel('conv4_2'), image,
                            transform=transforms.jitter(JITTER))


def visualization(size):
    """One unit of VGG-19."""
    return descend(visualized(vgg19(), size), {'unit': UNIT})


def units(size):
    """UNITS units of the embedded network."""
    return descend(visualized(trained.load('embedded'), size), {}, {'unit': jnp.arange(UNITS)},
                   UNITS)


class Torch:
    """The same computations with the same weights in PyTorch, channels last."""

    def __init__(self, module, network):  # the module is torch_steps
        torch = self.torch = module.torch
        self.device = module.networks.DEVICE
        params, self.layers = network.variables['params'], {}
        pools = {models.POOLS['max']: torch.nn.MaxPool2d,
                 models.POOLS['average']: torch.nn.AvgPool2d,
                 models.POOLS['blur']: module.networks.BlurPool}
        for i, group in enumerate(network.net.groups, 1):
            for j in range(1, len(group) + 1):
                kernel, bias = (np.array(params[f'conv{i}_{j}'][name])
                                for name in ('kernel', 'bias'))
                conv = torch.nn.Conv2d(*kernel.shape[2:], 3, padding=1)
                conv.weight.data = torch.from_numpy(kernel).permute(3, 2, 0, 1)
                conv.bias.data = torch.from_numpy(bias)
                self.layers |= {f'conv{i}_{j}': conv, f'relu{i}_{j}': torch.nn.ReLU()}
            self.layers[f'pool{i}'] = pools[network.net.pool](2)
        for layer in self.layers.values():
            layer.requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        self.mean, self.std = (torch.tensor(row, device=self.device).view(1, 3, 1, 1)
                               for row in (network.normalize.mean, network.normalize.std))

    def taps(self, image, layers):
        x, found = (image - self.mean) / self.std, {}
        x = x.contiguous(memory_format=self.torch.channels_last)
        for name, layer in self.layers.items():
            x = found[name] = layer(x)
            if layers <= found.keys():
                return found
        return found

    def descend(self, theta, loss, project=False):
        optimizer = self.torch.optim.Adam([theta], RATE)

        def step():
            optimizer.zero_grad()
            value = loss(theta)
            value.backward()
            optimizer.step()
            if project:
                with self.torch.no_grad():
                    theta.clamp_(0, 1)
            return value.item()  # waits for the device

        return step

    def style(self, size):
        torch, layers = self.torch, {*LAYERS, CONTENT}

        def gram(tap):
            rows = tap[0].permute(1, 2, 0).reshape(-1, tap.shape[1])
            return rows.T @ rows / len(rows)

        content, picture = (self.taps(torch.rand(1, 3, size, size, device=self.device), layers)
                            for _ in range(2))
        targets = {layer: gram(picture[layer]) for layer in LAYERS}

        def loss(image):
            taps = self.taps(image, layers)
            styles = sum(((gram(taps[layer]) - targets[layer]) ** 2).mean() for layer in LAYERS)
            corner = image[..., :-1, :-1]
            variation = (((image[..., 1:, :-1] - corner) ** 2).sum()
                         + ((image[..., :-1, 1:] - corner) ** 2).sum()) / 2
            return (((taps[CONTENT] - content[CONTENT]) ** 2).mean() + 1e3 / 20 * styles
                    + variation)

        start = torch.full((1, 3, size, size), 0.5, device=self.device, requires_grad=True)
        return self.descend(start, loss, project=True)

    def visualization(self, size, unit=UNIT):
        torch = self.torch
        frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
        scale = torch.tensor(np.float32(size / 4 / np.maximum(frequencies, 1 / size)),
                             device=self.device)
        colors = torch.tensor(parametrizations.COLOR_MATRIX, device=self.device)

        def loss(theta):
            image = torch.fft.irfft2(scale * torch.view_as_complex(theta), (size, size))
            image = torch.sigmoid(torch.einsum('nchw,dc->ndhw', image, colors))
            shift = np.random.randint(-JITTER, JITTER + 1, 2).tolist()
            image = torch.roll(image, shift, (2, 3))
            return -self.taps(image, {'conv4_2'})['conv4_2'][:, unit].mean()

        theta = 0.01 * torch.randn(1, 3, *frequencies.shape, 2, device=self.device)
        return self.descend(theta.requires_grad_(), loss)

    def units(self, size):
        steps = [self.visualization(size, unit) for unit in range(UNITS)]
        return lambda: [step() for step in steps]


def optimization(kind):
    """The function that measures a row of this kind, (size, batch, setting) -> results."""
    def row(size, batch, setting):
        sides = {'cnnjax': kind(size)}
        if setting.torch:
            network = trained.load('embedded') if kind is units else vgg19()
            sides['torch'] = getattr(Torch(setting.torch, network), kind.__name__)(size)
        return setting.measure({side: advance(step, wait=lambda value: None)  # each step waits
                                for side, step in sides.items()}, f'{kind.__name__}_{size}')
    return row
