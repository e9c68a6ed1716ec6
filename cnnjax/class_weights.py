"""Weights of the classes by their inverse frequency, for sets in which some classes are rare."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from cnnjax import data
from cnnjax.dataset import Sets
from cnnjax.errors import UserError


def balanced(counts: Sequence[int] | np.ndarray) -> tuple[float, ...]:
    """n / (K n_c) for each class, where n_c of all n examples are of the class c, and K classes
    have examples: all of these then weigh alike, and an example weighs 1 on average. Classes
    without examples get 0.

    It is scikit-learn's rule, after King & Zeng 2001, "Logistic Regression in Rare Events Data":
    https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight.html
    """
    counts = np.asarray(counts, np.float64)
    some = counts > 0
    weights = np.where(some, counts.sum() / (some.sum() * np.where(some, counts, 1)), 0)
    return tuple(weights.tolist())


def resolved(config: ConfigDict, sets: Sets) -> ConfigDict:
    """The config with numbers for its class_weights if it wants them `balanced`: by the images of
    each class in the training set, or the pixels of each class in its masks. The weight of a class
    among tags is how many images do not have it for each that does, so that both weigh alike.

    Raises:
      UserError: how many images each class has is not known.
    """
    if not config.balanced:
        return config
    examples = sets.train
    if 'tags' in examples.shapes:
        config = config.copy_and_resolve_references()
        config.update({'class_weights': of_tags(examples), 'balanced': False})
        return config
    if 'mask' in examples.shapes:
        counts = examples.pixels[:len(examples.classes)]
    elif examples.data:
        counts = np.bincount(examples.data['label'], minlength=len(examples.classes))
    else:
        counts = sets.splits[config.train_split].counts
    if counts is None:
        raise UserError('balanced=True: how many images each class has is not known without '
                        f'reading all of {config.dataset}: give the numbers as class_weights, or '
                        'set stream=False')
    config = config.copy_and_resolve_references()
    config.update({'class_weights': balanced(counts), 'balanced': False})
    return config


def of_tags(examples: data.Resident | data.Stream) -> tuple[float, ...]:
    """(N - n_c) / n_c for each class, which n_c of the N examples have; 1 for a class that none or
    all of them have, where this would leave nothing to learn.

    Raises:
      UserError: the tags are not known without reading all examples.
    """
    tags = (examples.data or {}).get('tags', getattr(examples.examples, 'tags', None))
    if tags is None:
        raise UserError('balanced=True: how many images have each class is not known without '
                        'reading all: give the numbers as class_weights, or set stream=False')
    counts = np.asarray(tags).sum(0, dtype=np.float64)
    others = len(tags) - counts
    return tuple(np.where(counts * others > 0, others / np.maximum(counts, 1), 1).tolist())
