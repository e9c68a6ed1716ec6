"""The time of each convolution in a training step, beside PyTorch's.

    OMP_WAIT_POLICY=passive \\
        python launch.py --config=configs/convolution_speed.py --workdir=runs/convolution_speed

Finds every distinct convolution of a network and times its forward pass and both gradients, in
turn with PyTorch's if torch is installed (torch==2.13.0). Then it times the whole training step of
this library. Writes convolution_speed.json, convolution_speed.md and figures/convolution_speed.png.
It takes half a minute for resnet20 on two cores. docs/cpu.md has the results on a CPU.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'convolution_speed'

    config.network = 'resnet20'  # a name of cnnjax.models.names()
    config.image_size = 32  # side of the square images in pixels
    config.batch_size = 128  # images per step
    config.dtype = 'float32'  # the type of activations: 'float32' or 'bfloat16'
    config.rounds = 15  # rounds; each times all implementations of a convolution in turn
    config.step_rounds = 10  # how many whole training steps to time; 0: none
    # On a busy machine the processor time of all cores is steadier. It says nothing about
    # accelerators.
    config.clock = 'wall'  # the clock: 'wall' or 'processor'
    return config
