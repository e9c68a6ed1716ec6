"""Clusters for the scaling model: their links' speeds, and efficiencies that others measured."""

from typing import NamedTuple

from cnnjax.collectives import Link


class Cluster(NamedTuple):
    """Devices in nodes. Bandwidths are those of one direction, in bytes/s; vendors often give the
    sum of both."""

    title: str
    per_node: int
    inside: Link | None  # the link of a device to others in its node; None for nodes of one device
    between: Link  # the link of a node to others, all of its network cards together
    most: int  # the largest number of devices that such a cluster can have


# Vendors publish the speeds; the latencies are assumed, of the usual order. nccl-tests measures
# both.
NVLINK_1, NVLINK_2, NVLINK_3, NVLINK_4 = (Link(bandwidth, 2e-6) for bandwidth in (
    80e9, 150e9, 300e9, 450e9))  # P100, V100, A100 and H100: 160, 300, 600, 900 GB/s both ways
UNLIMITED = 2 ** 20
CLUSTERS = {
    'ethernet_100': Cluster('8 GPUs a node, 100 Gb/s Ethernet', 8, NVLINK_4, Link(12.5e9, 20e-6),
                            UNLIMITED),
    'infiniband_400': Cluster('8 GPUs a node, 400 Gb/s InfiniBand', 8, NVLINK_4, Link(50e9, 5e-6),
                              UNLIMITED),
    # One card per GPU: https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html
    'infiniband_8x400': Cluster('8 GPUs a node, 8 x 400 Gb/s InfiniBand', 8, NVLINK_4,
                                Link(400e9, 5e-6), UNLIMITED),
    # Up to 256 H100: https://developer.nvidia.com/blog/nvidia-hopper-architecture-in-depth/
    'nvlink_900': Cluster('NVLink throughout, 900 GB/s both ways', 1, None, NVLINK_4, 256),
    # 1200 GB/s both ways: https://cloud.google.com/tpu/docs/v5p; 6144 chips in the largest job
    'tpu_v5p': Cluster('TPU v5p, ICI of 1200 GB/s both ways', 1, None, Link(600e9, 1e-6), 6144),
    'ethernet_50': Cluster('8 P100 a node, 50 Gb/s Ethernet', 8, NVLINK_1, Link(6.25e9, 20e-6),
                           UNLIMITED),
    'dgx1': Cluster('one node of 8 V100', 8, NVLINK_2, Link(6.25e9, 20e-6), 8),
    'dgx_a100': Cluster('one node of 8 A100', 8, NVLINK_3, Link(50e9, 5e-6), 8),
}


class Published(NamedTuple):
    """A measured efficiency: images/s per device on `devices` devices, divided by images/s per
    device on `before` devices."""

    what: str
    model: str
    cluster: str
    before: int
    devices: int
    seconds: float  # the time of a step on `before` devices
    efficiency: float


NVIDIA = 'NVIDIA DeepLearningExamples, ResNet-50 v1.5 for PyTorch, '
PUBLISHED = (
    # https://arxiv.org/abs/1706.02677, abstract: 256 GPUs run 90 epochs in one hour with batches of
    # 8192, hence 0.26 s per step; this is about 90 % of the speed of 8 GPUs, hence 0.23 s there.
    # Section 4: 50 Gb/s.
    Published('Goyal et al. 2017, P100', 'resnet50', 'ethernet_50', 8, 256,
              0.9 * 3600 / (90 * 1_281_167 / 8192), 0.9),
    # https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/Classification/ConvNets/
    # resnet50v1.5, training performance: images/s with 1 and with 8 GPUs. A GPU's batches have 256
    # images, or 112 in FP32 on V100 (configs.yml).
    Published(NVIDIA + 'V100, FP32', 'resnet50', 'dgx1', 1, 8, 112 / 367, 2855 / 8 / 367),
    Published(NVIDIA + 'V100, mixed', 'resnet50', 'dgx1', 1, 8, 256 / 1200, 8322 / 8 / 1200),
    Published(NVIDIA + 'A100, TF32', 'resnet50', 'dgx_a100', 1, 8, 256 / 938, 7248 / 8 / 938),
    Published(NVIDIA + 'A100, mixed', 'resnet50', 'dgx_a100', 1, 8, 256 / 2470, 16621 / 8 / 2470),
)
