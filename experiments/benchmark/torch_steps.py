"""PyTorch's side of the benchmark: training steps and inference. Needs torch."""

import contextlib
import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

from experiments.benchmark import timing
from experiments.benchmark import torch_networks as networks

version = torch.__version__


def prepare():
    """Makes the settings that PyTorch's own guides recommend: as many threads as cores; on a GPU
    the fastest of cuDNN's algorithms, and TF32 for float32, as jax does."""
    torch.set_num_threads(timing.cores())
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision('high')


def wait(value=None):
    if networks.DEVICE == 'cuda':
        torch.cuda.synchronize()


def precision(dtype):
    if dtype == 'float32':
        return contextlib.nullcontext()
    return torch.autocast(networks.DEVICE, getattr(torch, dtype))


def augment(images, normalize, flip, padding):
    """Normalizes images, uint8 [N, H, W, C], and moves and mirrors them at random: [N, C, H, W],
    channels last. One lookup crops and mirrors."""
    count, height, width, _ = images.shape
    x = normalized(images, normalize)
    where = functools.partial(torch.arange, device=x.device)
    rows, columns = where(height).expand(count, -1), where(width).expand(count, -1)
    if flip:
        mirror = torch.rand(count, 1, device=x.device) < 0.5
        columns = torch.where(mirror, columns.flip(1), columns)
    if padding:
        x = F.pad(x, (0, 0, padding, padding, padding, padding))
        corners = torch.randint(2 * padding + 1, (2, count, 1), device=x.device)
        rows, columns = rows + corners[0], columns + corners[1]
    if flip or padding:
        x = x[where(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return x.permute(0, 3, 1, 2)


def normalized(images, normalize):
    mean, std = normalize
    return (images / 255 - mean) / std


class Data:
    """Images [N, H, W, C] and their targets on the device, and the normalization of images."""

    def __init__(self, data, normalize):
        self.images, *targets = (torch.from_numpy(np.asarray(array)).to(networks.DEVICE)
                                 for array in data.values())
        self.targets = [target if target.is_floating_point() else target.long()
                        for target in targets]
        self.normalize = tuple(torch.from_numpy(np.float32(part)).to(networks.DEVICE)
                               for part in (normalize.mean, normalize.std))


def compiled(function, mode):
    """torch.compile's form of `function`.

    All that was compiled before is forgotten: PyTorch keeps programs by the place of the function
    in the code, takes another network's for a change of the same function, and runs the ninth
    eagerly. `fault` then tells of `function` alone.
    """
    torch.compiler.reset()
    counters.clear()
    return torch.compile(function, mode=mode)


def fault():
    """Why the time of the function that `compiled` made last is not that of one compiled graph, in
    a line; '' if it is. PyTorch itself only warns, and runs eagerly."""
    if breaks := counters['graph_break']:
        return f'its graph breaks ({next(iter(breaks)).splitlines()[0]})'
    graphs = counters['stats']['unique_graphs']
    if graphs > 1:
        return f'it was compiled {graphs} times, because something changes from step to step'
    return '' if graphs else 'it was not compiled'


def without_cuda_graphs():
    """How many programs of the function that `compiled` made last, its forward and its backward
    pass, PyTorch runs without the CUDA graphs of the mode; it only warns."""
    return counters['inductor']['cudagraph_skips']


def training(network, data, recipe, compile_mode=''):
    """A side of `compare`: a function that makes n steps of SGD and waits for the last.

    `recipe` is the config of our side. With `compile_mode`, augmentation, network and loss are
    compiled; the optimizer is one fused operation in any case.
    """
    dtype, flip, padding = recipe.dtype, recipe.flip, recipe.padding
    kernels = [p for p in network.parameters() if p.ndim > 1]
    biases = [p for name, p in network.named_parameters() if p.ndim == 1 and name.endswith('bias')]
    scales = [p for name, p in network.named_parameters() if p.ndim == 1
              and not name.endswith('bias')]
    decay = recipe.weight_decay
    others = decay if recipe.decay == 'all' else 0.0
    groups = [{'params': kernels, 'weight_decay': decay},
              {'params': scales, 'weight_decay': others},
              {'params': biases, 'weight_decay': others,
               'lr': recipe.bias_rate * recipe.learning_rate}]
    optimizer = torch.optim.SGD(
        [group for group in groups if group['params']], recipe.learning_rate, recipe.momentum,
        nesterov=recipe.nesterov, fused=True)

    # Parameters that chance leaves out of a step get gradients of zero instead of none. They then
    # decay, as on our side; and the fused SGD of torch 2.13 fails if only some have momentum.
    skips = getattr(network, 'survival', 1) < 1 or getattr(network, 'global_rate', 0) > 0
    if skips:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def loss(images, *targets):
        x = augment(images, data.normalize, flip, padding)
        with precision(dtype):
            return loss_of_batch(network, x, *targets)

    if compile_mode:
        loss = compiled(loss, compile_mode)

    def step():
        if compile_mode:
            torch.compiler.cudagraph_mark_step_begin()
        index = torch.randint(len(data.images), (recipe.batch_size,), device=networks.DEVICE)
        optimizer.zero_grad(set_to_none=not skips)
        value = loss(data.images[index], *(target[index] for target in data.targets))
        value.backward()
        optimizer.step()
        return value

    return timing.advance(step, wait)


def loss_of_batch(network, x, *targets):
    """The network's own loss, if it has one, else the cross-entropy."""
    return getattr(network, 'loss', lambda x, labels: F.cross_entropy(network(x), labels))(
        x, *targets)


def inference(network, data, batch, dtype, compile_mode=''):
    """A side of `compare` that computes the logits, or the detections, of the first images.
    With `compile_mode`, the network is compiled, without its suppression if it has one."""
    network.eval()

    def logits(images):
        with precision(dtype):
            return network(normalized(images, data.normalize).permute(0, 3, 1, 2))

    if compile_mode:
        logits = compiled(logits, compile_mode)
    images = data.images[:batch]
    finish = getattr(network, 'detections', None)

    @torch.inference_mode()
    def step():
        if compile_mode:
            torch.compiler.cudagraph_mark_step_begin()
        outputs = logits(images)
        return finish(*outputs) if finish else outputs

    return timing.advance(step, wait)


def loss_of(network, data, count, sampled=False):
    """The loss of the first images in training mode, without dropout, in full precision; if it
    is of random samples, the mean sum of the scores of the detections."""
    chances = {module: module.p for module in network.modules() if isinstance(module, nn.Dropout)}
    rates = {name: getattr(network, name) for name in ('survival', 'local_rate', 'global_rate')
             if hasattr(network, name)}
    for module in chances:
        module.p = 0.0
    for name in rates:
        setattr(network, name, 1.0 if name == 'survival' else 0.0)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision('highest')
    with torch.no_grad():
        x = normalized(data.images[:count], data.normalize).permute(0, 3, 1, 2)
        if sampled:
            value = sum(own['scores'].sum().item() for own in network.eval()(x)) / count
            network.train()
        else:
            value = loss_of_batch(network, x, *(part[:count] for part in data.targets)).item()
    prepare()
    for module, chance in chances.items():
        module.p = chance
    for name, rate in rates.items():
        setattr(network, name, rate)
    assert math.isfinite(value)
    return value


def peak_memory(steps):
    """The most bytes of tensors on the device during a step; None on CPUs, where PyTorch does not
    count them."""
    if networks.DEVICE != 'cuda':
        return None
    steps(2)
    torch.cuda.reset_peak_memory_stats()
    steps(1)
    return torch.cuda.max_memory_allocated()


def release():
    """Gives unused memory, that of recorded CUDA graphs too, back to the device, for our side."""
    torch.compiler.reset()
    if networks.DEVICE == 'cuda':
        torch.cuda.empty_cache()
