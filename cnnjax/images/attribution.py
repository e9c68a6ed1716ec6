"""Where in an image a network sees a class: maps of the image's pixels.

    maps = METHODS['RISE'](network, images, classes)  # [N, H, W]

Each function takes images [N, H, W, C], uint8 or floats in [0, 1], and their N classes, as numbers.
class_scores.py says what the score S_c of a class is, and activation_maps.py and occlusions.py have
the maps made in these ways. The deletion and insertion scores of faithfulness.py compare maps.
"""

import functools

import jax
import numpy as np
from jax.typing import ArrayLike

from cnnjax.errors import UserError
from cnnjax.images.activation_maps import grad_cam, grad_cam_plus_plus, layer_cam, score_cam
from cnnjax.images.class_scores import asked, own
from cnnjax.images.occlusions import occlusion, rise
from cnnjax.images.rules import with_rule
from cnnjax.trained import Trained


def gradient(network: Trained, images: ArrayLike, classes: ArrayLike, *,
             rule: str = 'gradient') -> np.ndarray:
    """max over colours of |dS_c / dI| (Simonyan et al. 2013, section 3,
    https://arxiv.org/abs/1312.6034); with the rule 'guided' or 'deconvnet' of all ReLUs in place of
    their derivative, the saliency of Springenberg et al. 2014, https://arxiv.org/abs/1412.6806, or
    of Zeiler & Fergus 2013."""
    images, classes, places = asked(network, images, classes)
    found = _gradient(with_rule(network.net, rule), network.variables, network.normalize, images,
                      classes, places)
    return np.abs(found).max(-1)


def smooth_gradient(network: Trained, images: ArrayLike, classes: ArrayLike, *, samples: int = 50,
                    noise: float = 0.15, seed: int = 0) -> np.ndarray:
    """`gradient`, of the mean gradient over noisy copies of the image (SmoothGrad: Smilkov et al.
    2017, equation 1, https://arxiv.org/abs/1706.03825).

    Args:
      samples: n, the number of copies; the paper finds no difference beyond 50.
      noise: the standard deviation, sigma / (x_max - x_min); the paper takes 0.1 to 0.2.
      seed: of the noise.
    """
    images, classes, places = asked(network, images, classes)
    if samples < 1 or not noise >= 0:
        raise UserError(f'samples={samples}, noise={noise}: take 1 copy or more, and noise of 0 or '
                        'more')
    deviation = noise * np.ptp(images, axis=(1, 2, 3), keepdims=True)
    total = np.zeros(images.shape, np.float32)
    for sample in range(samples):
        key = jax.random.fold_in(jax.random.key(seed), sample)
        noisy = images + deviation * jax.random.normal(key, images.shape, images.dtype)
        total += _gradient(network.net, network.variables, network.normalize, noisy, classes,
                           places)
    return np.abs(total / samples).max(-1)


def integrated_gradients(network: Trained, images: ArrayLike, classes: ArrayLike, *,
                         baseline: ArrayLike = 0.0, steps: int = 64) -> np.ndarray:
    """(I - I') * the mean of dS_c / dI from the baseline I' to I, summed over colours; signed
    (Sundararajan et al. 2017, equations 1 and 3, https://arxiv.org/abs/1703.01365).

    Complete: a map adds up to S_c(I) - S_c(I'), up to the error of the sum that stands for the
    integral. Where the paper's equation 3 takes the ends of `steps` intervals, this takes their
    middles, whose error is smaller.

    Args:
      baseline: I', a number (0 is black, as in the paper), [C] or [H, W, C].
      steps: m, the paper takes 20 to 300.
    """
    images, classes, places = asked(network, images, classes)
    if steps < 1:
        raise UserError(f'steps={steps}: take 1 or more')
    difference = images - np.asarray(baseline, np.float32)
    total = np.zeros(images.shape, np.float32)
    for step in range(steps):
        between = images - (1 - (step + 0.5) / steps) * difference
        total += _gradient(network.net, network.variables, network.normalize,
                           np.asarray(between, np.float32), classes, places)
    return (difference * total / steps).sum(-1)


def random(network: Trained, images: ArrayLike, classes: ArrayLike, *,
           seed: int = 0) -> np.ndarray:
    """Independent numbers in [0, 1], which know neither the network nor the image: the map that
    every other one must beat."""
    images, _, _ = asked(network, images, classes)
    return np.random.default_rng(seed).random(images.shape[:3], np.float32)


METHODS = {'gradient': gradient, 'SmoothGrad': smooth_gradient,
           'integrated gradients': integrated_gradients, 'Grad-CAM': grad_cam,
           'Grad-CAM++': grad_cam_plus_plus, 'LayerCAM': layer_cam, 'Score-CAM': score_cam,
           'occlusion': occlusion, 'RISE': rise, 'random': random}
SEEDED = ('SmoothGrad', 'RISE', 'random')  # These take a `seed`.


@functools.partial(jax.jit, static_argnames='net')
def _gradient(net, variables, normalize, images, classes, places):
    network = Trained(net, variables, normalize, (), images.shape[1:], None)
    # The score of an image depends on no other image: the gradient of the sum has that of each.
    return jax.grad(lambda images: own(network(images), classes, places).sum())(images)
