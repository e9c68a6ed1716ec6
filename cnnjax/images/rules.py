"""Backward rules of the ReLU (Springenberg et al. 2014, section 4, figure 1):
https://arxiv.org/abs/1412.6806

Each function here computes the ReLU, bit for bit, and differs in what it passes back. g is the
gradient at its output, x its input:

- 'gradient'    g where x > 0: the derivative, Simonyan et al. 2013, https://arxiv.org/abs/1312.6034
- 'deconvnet'   g where g > 0: Zeiler & Fergus 2013, https://arxiv.org/abs/1311.2901. Since the
  gradient of a max-pool is the unpooling with switches, and that of a convolution the transposed
  filters, the gradient of a network with this rule is the deconvnet's projection, exactly.
- 'guided'      g where x > 0 and g > 0: Springenberg et al.'s guided backpropagation
- 'redirected'  g where x > 0; but in an example of which nothing at all would pass, g wherever
  a step of gradient descent would not push x farther below zero. It gets an image started on which
  the wanted unit is dead, and biases the image if kept for long: lucid, which it is from, returns
  to the gradient after 16 steps. Its sign assumes that the objective is minimised.
  https://github.com/tensorflow/lucid/blob/master/lucid/misc/redirected_relu_grad.py

The other layers keep their gradients (a normalization is differentiated, where Zeiler & Fergus's
reconstruction leaves it out). Where a pooling window has several maxima, as the zeros behind a
ReLU, the first in row-major order takes all, as in Caffe and torch. A rule is no derivative, and
has no forward mode: jvp, jacfwd and hessian raise TypeError.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError, suggest


def _rules(relu, ceiling):
    """{name: function} for a ReLU that is constant below 0 and above `ceiling`."""

    def passed(x, g):
        return jax.vjp(relu, x)[1](g)[0]

    def deconvnet(x, g):
        return nn.relu(g)

    def guided(x, g):
        return passed(x, nn.relu(g))

    def redirected(x, g):
        through = passed(x, g)
        axes = tuple(range(1, x.ndim))  # All axes of an example; the first axis is the batch.
        alive = jnp.any(through != 0, axes, keepdims=True)
        # At x = 0, where lucid calls a unit alive, no gradient passes in JAX.
        outward = ((x <= 0) & (g > 0)) | ((x >= ceiling) & (g < 0))
        return jnp.where(alive, through, jnp.where(outward, 0, g))

    return {'gradient': relu} | {rule.__name__: _function(relu, rule)
                                 for rule in (deconvnet, guided, redirected)}


def _function(relu, rule):
    """`relu` forward, `rule(x, g)` backward."""
    function = jax.custom_vjp(lambda x: relu(x))
    function.defvjp(lambda x: (relu(x), x), lambda x, g: (rule(x, g),))
    return function


RULES = _rules(layers.relu, math.inf)
RULES6 = _rules(nn.relu6, 6)  # for networks like timm's MobileNet, whose ReLU also ends at 6


def with_rule(net: nn.Module, name: str) -> nn.Module:
    """The network with the backward rule `name` in all its ReLUs; outputs and weights stay.

    The same as `net.clone(relu=RULES[name])`, or RULES6 where the network's ReLU is `nn.relu6`.
    A network with another activation is itself by the rule 'gradient'.

    Raises:
      UserError: no rule of that name; a network without ReLUs, or with another activation.
    """
    if name not in RULES:
        raise UserError(f"no backward rule is named '{name}'; there are {', '.join(RULES)}"
                        f'{suggest(str(name), RULES)}')
    own = getattr(net, 'relu', None)
    for rules in (RULES, RULES6):
        if own in rules.values() or rules is RULES and own is nn.relu:
            return net.clone(relu=rules[name])
    if name == 'gradient':
        return net
    if own is None:
        raise UserError(f'{type(net).__name__} has no ReLUs that the rule {name} could take the '
                        "place of: take 'gradient'; or in a network of your own, add the field "
                        '`relu: Callable = layers.relu` and call self.relu')
    raise UserError(f'{type(net).__name__} has the activation {own}; layers.relu and nn.relu6 have '
                    f"the backward rule {name}: take 'gradient'")
