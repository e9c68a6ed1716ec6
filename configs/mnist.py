"""LeNet-5 and Maxout on MNIST (28 x 28 handwritten digits, 10 classes, 60,000 + 10,000).

    python launch.py --config=configs/prepare.py:mnist --workdir=runs/prepare      (once)
    python launch.py --config=configs/mnist.py:lenet5_1998 --workdir=runs/lenet5_1998

`lenet5_1998` is the paper's network, `lenet5` today's variant; `maxout_mnist` is the convolutional
network of section 5.1 in Goodfellow et al. 2013. PAPER below has the published test errors.

LeNet: as in the paper, the digits stand in the middle of 32 x 32 pixels, the background is -0.1 and
the ink 1.175. The paper makes 20 passes over the set, one example at a time, with rates from a
diagonal approximation of the Hessian. We use momentum SGD on small batches, with a rate of our
choice that falls by about as much. The paper's distortions are affine; --config.padding=2 gives
translations only.

Maxout: as in the authors' mnist.yaml, the images are divided by 255, and the filters have largest
norms. There the rate falls by 1.00004 with each step, the momentum rises from 0.5 to 0.7 in 250
epochs, and errors on a validation set end the training; our cosine, momentum and length are a
choice.
"""

from cnnjax.errors import UserError
from configs import base

# Published test errors in %; "+" is with distortions.
PAPER = {'lenet5_1998': {'source': 'LeCun et al. 1998, section III.C',
                         'measured': 'after 20 passes; with distortions, affine ones',
                         'error': {'mnist': 0.95, 'mnist+': 0.8}},
         'maxout_mnist': {'source': 'Goodfellow et al. 2013, Table 2', 'measured': '',
                          'error': {'mnist': 0.45}}}


def get_config(network='lenet5'):
    config = base.get_config()
    config.dataset = 'mnist'
    config.model.name = network
    config.border = 2
    config.mean, config.std = '0.0784314', '0.7843137'  # 0.1 / 1.275 and 1 / 1.275
    config.batch_size = 32
    config.epochs = 20.0
    config.drops = (12, 17)
    config.weight_decay = 0.0
    config.report_every = 500
    if network == 'lenet5':
        config.learning_rate = 0.01
    elif network == 'lenet5_1998':  # its logits are distances, and large
        config.learning_rate = 0.001
    elif network == 'maxout_mnist':
        config.border, config.mean, config.std = 0, '0', '1'
        config.batch_size = 128
        config.epochs = 200.0
        config.learning_rate = 0.05
        config.schedule = 'cosine'
        config.momentum = 0.7
        config.max_norm = 'h0: 0.9, h1: 1.9365, h2: 1.9365, y: 1.9365'
        config.order = 'caffe'
    else:
        raise UserError(f"no recipe for '{network}' on MNIST: lenet5, lenet5_1998 or maxout_mnist")
    return config
