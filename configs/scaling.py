"""How a training scales to many devices: the collectives of the compiled step, and a model of them.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
        python launch.py --config=configs/scaling.py --workdir=runs/scaling

Reads the collectives of one training step from its compiled program, for several numbers of
(pretended) devices; computes the time of a step with a reduction of these bytes over named
interconnects; compares with published measurements. Writes scaling.json, scaling.md and
figures/scaling.png. docs/scaling.md is what it finds.

With --config.measured=resnet50,vgg16 --config.measured_batch=256 the step of these networks is
timed on one device of this machine, and takes the place of `step_seconds`.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'scaling'

    # The program: compiled, not run.
    config.compiled = 'resnet20'  # the network whose step is compiled, a cheap one
    config.compiled_devices = (1, 2, 4, 8)  # for so many; those that are not there are left out
    config.compiled_batch = 8  # images per device
    config.parallel = 'shard_map,pmap,jit'  # the ways to run it, see configs/base.py

    # The step of one device.
    config.models = 'resnet50,vgg16,densenet121,resnet110,fractalnet20'  # at the paper's image size
    config.batch_size = 256  # images per device, for images/s; the same for any number of devices
    config.step_seconds = (0.05, 0.1, 0.2)  # assumed for each network that is not measured
    config.measured = 'resnet20'  # networks whose step is timed here, 'resnet50,vgg16'; '': none
    config.measured_batch = 32  # images per step
    config.measured_steps = 5  # timed after the first; the median counts
    config.dtype = 'float32'  # of activations while timing; gradients are float32 in any case

    # The reduction.
    config.clusters = 'ethernet_100,infiniband_400,nvlink_900,tpu_v5p'  # names in CLUSTERS
    config.devices = (8, 16, 32, 64, 128, 256, 512, 1024)  # in all
    config.algorithm = 'best'  # between nodes: 'ring', 'tree' or the faster, which NCCL picks
    config.utilization = 1.0  # share of a link's speed that is reached: nccl-tests' busbw / link
    config.message = 30 * 2 ** 20  # bytes: the compiler's limit of what it combines, on GPUs
    config.backward = 2 / 3  # share of the step that is backward: two convolutions in three

    # The interconnect called 'own'.
    config.own_per_node = 8  # devices in a node
    config.own_inside = 450.0  # GB/s that a device sends inside its node, while it receives as many
    config.own_inside_latency = 2.0  # microseconds
    config.own_between = 12.5  # GB/s that a node sends to others, over all of its network cards
    config.own_between_latency = 20.0  # microseconds
    return config
