"""The benchmark's rows of networks: training steps and inference."""

import contextlib
import importlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cnnjax import data, parallel, summary, tasks, train
from cnnjax.tasks.task import WholeBatch
from experiments.benchmark.timing import Unmeasured, advance, timed

# {side: how many random images batches come from}
IMAGES = {32: 4096, 128: 512, 224: 512, 448: 64, 512: 64}
CHECKED = 8  # The most images whose loss must be the same as PyTorch's.


class Network(NamedTuple):
    """A recipe, and the benchmark's changes to it."""

    config: str  # the recipe's file and, if it takes one, its argument
    side: int  # the side of its images
    classes: int
    batch: int  # the batch size on a CPU
    large: int  # the batch size on an accelerator
    changes: dict = {}
    plain: dict = {}  # the changes of another side, without the feature that is measured
    chance: bool = False  # whether chance decides how much of the network runs
    sampled: bool = False  # whether the loss is of random samples of what the network finds


# On accelerators, CIFAR's recipes have the papers' batch sizes. VGG-16 has no recipe for CIFAR: it
# is torchvision's, with batch normalization and a single full layer. In ResNet-50 the 3x3
# convolutions have the strides, as in torchvision's.
NETWORKS = {
    'resnet20':             Network('cifar:resnet20', 32, 10, 128, 128),
    'resnet110':            Network('cifar:resnet110', 32, 10, 32, 128),
    'resnet110_stochastic': Network('cifar:resnet110_stochastic', 32, 10, 32, 128,
                                    plain={'model.survival': 1.0}, chance=True),
    'densenet_bc_l100_k12': Network('cifar:densenet_bc_l100_k12', 32, 10, 16, 64),
    'densenet_bc_l100_k12_remat': Network(
        'cifar:densenet_bc_l100_k12', 32, 10, 16, 64, {'model.remat': True},
        {'model.remat': False}),
    # Always the whole fractal: with single columns, the two sides would draw different ones.
    'fractalnet20':         Network('cifar:fractalnet20', 32, 10, 32, 100,
                                    {'model.global_drop_path': 0.0}),
    'fractalnet20_columns': Network('cifar:fractalnet20', 32, 10, 32, 100,
                                    plain={'model.global_drop_path': 0.0}, chance=True),
    'vgg16_bn_32':          Network('imagenet:vgg16_bn', 32, 10, 64, 128,
                                    {'model.hidden': (), 'padding': 4}),
    'vgg16':                Network('imagenet:vgg16', 224, 1000, 4, 128),
    'resnet50':             Network('imagenet:resnet50', 224, 1000, 4, 256,
                                    {'model.stride_in': '3x3'}),
    'densenet121':          Network('imagenet:densenet121', 224, 1000, 4, 128),
    # The paper's widths, padded and with batch normalization, on masks of two classes.
    'unet':                 Network('base', 128, 2, 4, 32, {
        'task': 'segment', 'model.name': 'unet_padded', 'model.norm': 'batch'}),
    # Low rates keep the weights, and so the work, as they are.
    'yolo_v1':              Network('base', 448, 20, 4, 64, {
        'task': 'detect', 'model.name': 'yolo_v1', 'learning_rate': 1e-6}),
    'faster_rcnn_resnet50_fpn': Network('base', 512, 90, 1, 16, {
        'task': 'detect', 'model.name': 'faster_rcnn_resnet50_fpn', 'learning_rate': 1e-6},
                                        sampled=True),
}


def batch_of(name, accelerator):
    """The usual number of images per step of the network."""
    return NETWORKS[name].large if accelerator else NETWORKS[name].batch


def recipe(name, batch, dtype, changes):
    """The training's config. Images are on the device and are not recoloured, and momentum SGD has
    torch's order, so that both sides do the same."""
    network = NETWORKS[name]
    file, *argument = network.config.split(':')
    config = importlib.import_module(f'configs.{file}').get_config(*argument)
    config.update_from_flattened_dict({
        'stream': False, 'color': 0.0, 'color_jitter': 0.0, 'order': 'torch', 'batch_size': batch,
        'dtype': dtype, 'devices': 1, **network.changes, **changes})
    return config


class Made(NamedTuple):
    """A config, and the parts that train.train builds from it."""

    config: object
    training: train.Training
    normalize: data.Normalization


def made_of(name, batch, dtype, arrays, changes=()):
    """A recipe built for examples, see `examples`."""
    config = recipe(name, batch, dtype, dict(changes))
    normalize = data.normalization(arrays['image'], config.mean, config.std)
    shapes = {field: array[:1] for field, array in arrays.items()}
    return Made(config, train.build(config, range(NETWORKS[name].classes), shapes, normalize,
                                    50_000), normalize)


def target(name):
    """What the network learns of each image: its 'label', its 'mask' or its 'boxes'."""
    return tasks.target(recipe(name, 1, 'float32', {}).task)


def examples(name, batch):
    """Random images and their labels, masks or boxes with labels; the work hardly depends on their
    contents."""
    network, rng = NETWORKS[name], np.random.default_rng(0)
    count = max(IMAGES[network.side], batch)
    pixels = (count, network.side, network.side)
    images = rng.integers(0, 256, (*pixels, 3), np.uint8)
    if target(name) == 'mask':
        return {'image': images, 'mask': rng.integers(0, network.classes, pixels, np.uint8)}
    if target(name) == 'boxes':
        # An object in each quarter of an image: no two have their centres in a cell of YOLO's.
        quarters = network.side / 7 * np.array([[0, 0], [4, 0], [0, 4], [4, 4]])
        places = rng.uniform(0, 3 / 7 * network.side, (count, 4, 2, 2)) + quarters[:, None]
        return {'image': images, 'boxes': np.concatenate(
                    [places.min(2), places.max(2) + 1], -1).astype(np.float32),
                'labels': rng.integers(0, network.classes, (count, 4), np.int32)}
    return {'image': images, 'label': rng.integers(0, network.classes, count, np.int32)}


class Step:
    """The compiled update of a training on one device, as train.train runs it."""

    def __init__(self, made, state, resident, size=1):
        self.mesh, self.size, self.batch = parallel.data_mesh(1), size, made.config.batch_size
        self.state = parallel.replicate(jax.tree.map(jnp.copy, state), self.mesh)
        self.resident = resident
        self.key = parallel.replicate(jax.random.key(1), self.mesh)
        self.mapped = parallel.parallelize(
            made.training.step if size == 1 else made.training.steps, self.mesh)
        self.rng = np.random.default_rng(1)

    def indices(self, *shape):
        count = len(self.resident['image'])
        position = np.arange(self.batch, dtype=np.int32)
        return {'index': self.rng.integers(0, count, (self.batch, *shape), np.int32),
                'position': np.broadcast_to(position.reshape(-1, *(1,) * len(shape)),
                                            (self.batch, *shape))}

    def __call__(self, count):
        """Makes `count` updates, as a side of `compare`."""
        while count > 0:
            now = min(count, self.size)
            self.state, values = self.mapped(self.state, self.resident, *self.inputs(now))
            count -= now
        jax.block_until_ready(values)

    def inputs(self, count):
        """The indices and the key for a call of `count` steps."""
        if self.size == 1:
            return self.indices(), self.key
        return self.indices(self.size), (self.key, np.int32(count))

    def program(self):
        """The compiled program; the costs that XLA gives are those of a single step."""
        batch, key = self.inputs(self.size)
        batch = jax.device_put(batch, NamedSharding(self.mesh, P(parallel.AXIS)))
        return self.mapped.lower(self.state, self.resident, batch, key).compile()


def memory(program):
    """Bytes of a program's arguments, results and temporaries; donated arrays count once."""
    found = program.memory_analysis()
    return (found.argument_size_in_bytes + found.output_size_in_bytes
            + found.temp_size_in_bytes - found.alias_size_in_bytes)


def check_memory(program, name):
    """Raises Unmeasured if the program does not fit in the free memory."""
    stats, left = jax.devices()[0].memory_stats() or {}, math.inf
    if 'bytes_limit' in stats:
        left = stats['bytes_limit'] - stats['bytes_in_use']
    elif (meminfo := Path('/proc/meminfo')).exists() and jax.default_backend() == 'cpu':
        left = 1024 * int(re.search(r'MemAvailable: +(\d+)', meminfo.read_text())[1])
    if memory(program) > left:
        raise Unmeasured(f'needs {memory(program) / 2**30:.1f} GiB, of which {left / 2**30:.1f} '
                         f'are left: take a smaller batch ({name}:8)')


def training(name, batch, setting):
    """Measures a training step on data on the device: our step, our step without the feature of the
    row, PyTorch's, and PyTorch's compiled."""
    network = NETWORKS[name]
    arrays = examples(name, batch)
    made = made_of(name, batch, setting.dtype, arrays)
    shape = arrays['image'].shape[1:]
    state = made.training.init(jax.random.key(0))
    resident = parallel.replicate(arrays, parallel.data_mesh(1))
    sides = {'cnnjax': Step(made, state, resident, setting.steps_per_call)}
    program = sides['cnnjax'].program()
    check_memory(program, f'train_{name}')
    facts = {'memory': {'cnnjax': memory(program)}}
    if network.plain:
        plain = made_of(name, batch, setting.dtype, arrays, network.plain)
        sides['cnnjax_plain'] = Step(plain, state, resident, setting.steps_per_call)
        facts['memory']['cnnjax_plain'] = memory(sides['cnnjax_plain'].program())
    with torch_side(name, made, state, arrays, setting, facts) as theirs:
        if theirs:
            sides['torch'] = setting.torch.training(*theirs, made.config)
            if (peak := setting.torch.peak_memory(sides['torch'])) is not None:
                facts['memory']['torch'] = peak
            # Each choice, or each number of boxes, would be compiled.
            if setting.compile_mode and not (network.chance or network.sampled):
                add_compiled(sides, facts, setting, setting.torch.training(
                    *theirs, made.config, setting.compile_mode))
        result = measure(sides, facts, setting, f'train_{name}', chance=network.chance)
    if not (network.chance or network.sampled):
        facts |= roofline(made.training.net, shape, batch, program, setting,
                          result['cnnjax']['seconds'])
    return result | {'batch': batch} | facts


@contextlib.contextmanager
def torch_side(name, made, state, arrays, setting, facts):
    """(network, data) in PyTorch, checked against ours; None if there is none, with the reason in
    `facts`."""
    if setting.torch is None:
        yield None
        return
    side = arrays['image'].shape[1]
    try:
        variables = jax.device_get({'params': state.params, 'batch_stats': state.batch_stats})
        network = setting.torch.networks.build(made.config.model.name, made.training.net,
                                               variables, side)
        there = setting.torch.Data(arrays, made.normalize)
        if missing := getattr(network, 'missing', ''):
            facts['missing'] = missing
        if name not in setting.checked:
            compare_losses(name, made, state, arrays, network, there, setting)
            setting.checked.add(name)
    except Unmeasured as error:
        facts['missing'] = str(error)
        yield None
        return
    try:
        yield network, there
    finally:
        setting.torch.release()


def add_compiled(sides, facts, setting, steps):
    """Adds the compiled side 'torch_compile', or the reason why it has no time of its own."""
    try:
        facts['torch_compile_first'] = timed(steps, 1)
        steps(1)
    except RuntimeError as error:
        facts['missing'] = f'torch.compile: {str(error).splitlines()[0]}'
        return
    if why := setting.torch.fault():
        facts['missing'] = f'torch.compile: {why}'
    else:
        sides['torch_compile'] = steps


def measure(sides, facts, setting, name, **options):
    """setting.measure(...) without the compiled side's time, if that was not compiled after all."""
    result = setting.measure(sides, name, **options)
    if 'torch_compile' in sides:
        if why := setting.torch.fault():
            facts['missing'] = f'torch.compile: {why}'
            del result['torch_compile'], result['ratios']['torch_compile']
        elif count := setting.torch.without_cuda_graphs():
            facts['missing'] = f'torch.compile: {count} of its programs ran without CUDA graphs'
    return result


def compare_losses(name, made, state, arrays, network, there, setting):
    """Raises AssertionError unless both sides have the same loss for the same weights and images,
    in training mode but without random parts. Where the loss is of random samples, the mean sum of
    the scores of the detections is compared."""
    count = min(CHECKED, made.config.batch_size)
    some = {field: array[:count] for field, array in arrays.items()}
    rates = getattr(made.training.net, 'dropout', 0.0)
    certain = {'dropout': (0.0,) * len(rates) if isinstance(rates, tuple) else 0.0, 'survival': 1.0,
               'local_drop_path': 0.0, 'global_drop_path': 0.0, 'remat': False}
    net = made.training.net
    net = net.clone(dtype='float32', **{field: value for field, value in certain.items()
                                        if hasattr(net, field)})
    sampled = NETWORKS[name].sampled

    @jax.jit
    def value(params, batch_stats, examples):
        images = made.normalize(examples['image'])
        variables = {'params': params, 'batch_stats': batch_stats}
        if sampled:
            return net.detections(net.apply(variables, images)[0])['scores'].sum(1).mean()

        def apply(images, **arguments):
            (outputs, taps), changed = net.apply(
                variables, images, train=True, mutable=['batch_stats'],
                rngs={'drop_path': jax.random.key(0)}, **arguments)
            return outputs, taps, changed

        examples = {**examples, 'image': images, 'keys': jax.random.split(jax.random.key(0), count)}
        return tasks.create(made.config.task, net).loss(apply, examples, WholeBatch())[0]

    # A GPU would round float32 products to TF32. A CPU does not, so that the checked program is
    # also the one that is timed.
    precision = None if jax.default_backend() == 'cpu' else 'highest'
    with jax.default_matmul_precision(precision):
        ours = float(value(state.params, state.batch_stats, some))
    theirs = setting.torch.loss_of(network, there, count, sampled)
    assert abs(ours - theirs) <= 1e-3 * max(1, abs(ours)), (
        f'{name}: the loss is {ours} here and {theirs} in PyTorch: not the same network')


def roofline(net, shape, batch, program, setting, seconds):
    """How near a step comes to the device's best speed.

    The operations are those of the model, 3 times the forward pass's multiply-adds (see
    cnnjax/summary.py) times 2, whatever the compiler changes. The bytes are XLA's count of what all
    fused operations of the compiled program read and write. This includes what a cache keeps from
    one operation to the next, so it is no strict bound.
    """
    flops = 3 * 2 * batch * summary.summarize(net, shape).multiply_adds
    best, costs = setting.best(), program.cost_analysis()
    bytes_accessed = costs.get('bytes accessed', 0.0)
    bound = max(flops / best['flops'], bytes_accessed / best['bytes'])
    return {'flops': flops, 'bytes': bytes_accessed, 'bound': bound,
            'share_of_peak': flops / seconds / best['flops'], 'efficiency': bound / seconds}


def inference(name, batch, setting):
    """Measures the logits, or the detections, of images on the device."""
    arrays = examples(name, batch)
    made = made_of(name, batch, setting.dtype, arrays)
    state = made.training.init(jax.random.key(0))
    images = jax.device_put(arrays['image'][:batch])

    @jax.jit
    def logits(params, batch_stats, images):
        net = made.training.net
        outputs, _ = net.apply({'params': params, 'batch_stats': batch_stats},
                               made.normalize(images), train=False)
        return net.detections(outputs) if hasattr(net, 'detections') else outputs

    facts = {'batch': batch}
    sides = {'cnnjax': advance(lambda: logits(state.params, state.batch_stats, images))}
    with torch_side(name, made, state, arrays, setting, facts) as theirs:
        if theirs:
            sides['torch'] = setting.torch.inference(*theirs, batch, setting.dtype)
            if setting.compile_mode and not NETWORKS[name].sampled:
                add_compiled(sides, facts, setting, setting.torch.inference(
                    *theirs, batch, setting.dtype, setting.compile_mode))
        return measure(sides, facts, setting, f'infer_{name}:{batch}') | facts
