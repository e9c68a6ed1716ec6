"""Where the time of a training step goes, convolution by convolution, beside PyTorch's.

    OMP_WAIT_POLICY=passive \\
        python launch.py --config=configs/convolutions.py --workdir=runs/convolutions

Finds every distinct convolution of a network and times it alone, forward and both gradients, in
turn with PyTorch's where torch is installed (torch==2.13.0), and the whole training step of this
library. Writes convolutions.json, convolutions.md and figures/convolutions.png. Half a minute for
resnet20 on two cores. docs/cpu.md is what it finds on a CPU.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'convolutions'

    config.network = 'resnet20'  # of cnnjax.models
    config.image_size = 32  # the side of its square images
    config.batch_size = 128  # images per step
    config.dtype = 'float32'  # of activations: 'float32' or 'bfloat16'
    config.rounds = 15  # of which each times every convolution of a shape, one after the other
    config.step_rounds = 10  # whole training steps that are timed; 0: none
    # On a busy machine the time on all cores together is the steadier one; not for accelerators.
    config.clock = 'wall'  # or 'processor', that one
    return config
