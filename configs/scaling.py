"""How training scales to many devices: a model of the communication in the compiled step.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
        python launch.py --config=configs/scaling.py --workdir=runs/scaling

Reads the collectives of one training step from its compiled program, for several numbers of
(pretended) devices. From their bytes it computes the time of a step over named interconnects, and
compares it with published measurements. Writes scaling.json, scaling.md and figures/scaling.png.
docs/scaling.md has the results.

The steps of one device are those that docs/gpu.md has of an H200. `--config.steps` takes others;
with --config.measured=resnet50,vgg16 --config.measured_batch=256 the steps of these networks are
timed on one device of this machine and take their place.
"""

import ml_collections

# Training steps in bfloat16, see docs/gpu.md.
H200 = ('resnet50:256:33.0,vgg16:128:24.4,densenet_bc_l100_k12:64:14.3,resnet110:128:8.36,'
        'fractalnet20:100:4.90,resnet20:128:1.45')


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'scaling'

    # The program, which is compiled but not run.
    config.compiled = 'resnet20'  # the network whose step is compiled; a small one is enough
    config.compiled_devices = (1, 2, 4, 8)  # numbers of devices to compile for, as far as there are
    config.compiled_batch = 8  # images per device
    config.parallel = 'shard_map,pmap,jit'  # the ways to run on many devices, see configs/base.py

    # The step of one device, with images of the paper's size.
    config.steps = H200  # network:images:milliseconds; the images are those of each device
    config.measured = ''  # networks whose step is timed here instead, 'resnet50,vgg16'; '': none
    config.measured_batch = 32  # images per timed step
    config.measured_steps = 5  # how many steps are timed, after the first; the median counts
    config.dtype = 'float32'  # the type of activations while timing; gradients are always float32

    # The reduction.
    config.clusters = 'ethernet_100,infiniband_400,infiniband_8x400,nvlink_900'  # in CLUSTERS
    config.devices = (8, 16, 32, 64, 128, 256, 512, 1024)  # total numbers of devices
    config.algorithm = 'best'  # between nodes: 'ring', 'tree' or 'best', the faster, as in NCCL
    config.utilization = 1.0  # share of a link's speed that is reached: nccl-tests' busbw / link
    config.message = 30 * 2 ** 20  # bytes of a message on GPUs, about: parallel.MESSAGE
    config.backward = 2 / 3  # the backward pass's share of the step: two of three convolutions

    # The interconnect called 'own'.
    config.own_per_node = 8  # devices in a node
    config.own_inside = 450.0  # GB/s that a device sends, and receives, inside its node
    config.own_inside_latency = 2.0  # microseconds of latency inside a node
    config.own_between = 12.5  # GB/s that a node sends to others, over all of its network cards
    config.own_between_latency = 20.0  # microseconds of latency between nodes
    return config
