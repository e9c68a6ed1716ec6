"""What the papers share: convolution, pooling, normalization. NHWC and HWIO throughout.

What is said here of images [N, H, W, C] holds for sequences [N, T, C] and volumes [N, D, H, W, C],
too: the number of axes of an array decides.

Padding is explicit and symmetric: XLA's 'SAME' pads strided layers on one side only, which is not
what the papers (or Caffe, or torch) compute.
"""

from cnnjax.layers.activations import beats, larger, maxout, relu
from cnnjax.layers.convolutions import (
    Conv,
    UpConv,
    caffe_xavier,
    continued_edges,
    conv,
    he_normal,
    torch_linear,
)
from cnnjax.layers.full_layers import flatten, fully_convolutional
from cnnjax.layers.maps import (
    Taps,
    append_channels,
    check_size,
    nested,
    numpy_for,
    repeat_edges,
    same,
    subsample,
)
from cnnjax.layers.normalization import (
    BatchNorm,
    FrozenBatchNorm,
    activated,
    local_response_normalization,
)
from cnnjax.layers.pooling import (
    adaptive_average_pool,
    average_pool,
    blur_pool,
    fractional_max_pool,
    global_average_pool,
    global_max_pool,
    max_pool,
    pooling_boundaries,
)

__all__ = ['BatchNorm', 'Conv', 'FrozenBatchNorm', 'Taps', 'UpConv', 'activated',
           'adaptive_average_pool', 'append_channels', 'average_pool', 'beats', 'blur_pool',
           'caffe_xavier', 'check_size', 'continued_edges', 'conv', 'flatten',
           'fractional_max_pool', 'fully_convolutional', 'global_average_pool', 'global_max_pool',
           'he_normal', 'larger', 'local_response_normalization', 'max_pool', 'maxout', 'nested',
           'numpy_for', 'pooling_boundaries', 'relu', 'repeat_edges', 'same', 'subsample',
           'torch_linear']
