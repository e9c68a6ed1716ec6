"""Loops and branches of a forward pass."""

import flax.linen as nn

from cnnjax import models, summary


def test_a_loop_is_the_unrolled_network():
    """The last receptive fields and the sums of a network whose blocks are compiled once."""
    fields = {'blocks': (4, 2, 3), 'widths': (2, 4, 4)}
    unrolled, loop = (summary.summarize(models.create('resnet20', scan=scan, **fields))
                      for scan in (False, True))
    assert (loop.params, loop.multiply_adds) == (unrolled.params, unrolled.multiply_adds)
    found = [{row.name: row.size for row in each.rows} for each in (unrolled, loop)]
    for name in ('conv2_1', 'conv2_3', 'conv3_2', 'conv4_3', 'pool'):
        assert found[0][name] == found[1][name]


class Gated(nn.Module):
    """A branch that is not always computed."""

    num_classes: int = 2
    image_shape = (8, 8, 3)

    @nn.compact
    def __call__(self, images, train=False):
        conv = nn.Conv(3, (3, 3), name='conv')
        if self.is_initializing():
            return conv(images), {}
        x = nn.cond(images.sum() > 0, lambda net, x: conv(x), lambda net, x: x, self, images)
        return x, {'x': x}


def test_the_costliest_branch_counts():
    found = summary.summarize(Gated())
    assert found.multiply_adds == 8 * 8 * 27 * 3
    assert found.params == 27 * 3 + 3
