"""Deeply-Supervised Nets (Lee et al. 2014), section 3: https://arxiv.org/abs/1409.5185

Network in Network with two max-pools, no last ReLU and a "companion" classifier on the output of
every mlpconv layer's first convolution, before its ReLU. The sizes are of the authors' released
model, https://github.com/s9xie/DSN.

The paper's companion losses count only above a threshold gamma, and their weights alpha fall during
the training. The released code has neither: it adds the losses as they are, for the first 50,000 of
its 200,000 steps, and so do we; the recipe in configs/recipes/cifar.py says how to leave them out
of the later steps.
"""

from cnnjax.models.nin import NIN, SIZES, WIDTHS

#                      pools           last ReLU  weight of the companions
COLUMNS = ('widths', 'sizes', 'poolings', 'last_relu', 'auxiliary_weight')
TABLE = {
    'dsn': (WIDTHS, SIZES, ('max', 'max'), False,     1.0),
}
MODULE = NIN
