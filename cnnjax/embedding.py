"""Codes of images in the plane: PCA, and t-SNE (van der Maaten & Hinton 2008,
https://www.jmlr.org/papers/v9/vandermaaten08a.html), by scikit-learn."""

from typing import NamedTuple

import numpy as np


class Reduced(NamedTuple):
    """A code reduced to two dimensions, and how much that loses."""

    pca: np.ndarray  # [N, 2]
    tsne: np.ndarray  # [N, 2]
    variance: list[float]  # the two principal components' shares of the variance
    divergence: float  # the divergence that t-SNE minimized, in nats


def reduce(code: np.ndarray, *, components: int = 50, perplexity: float = 30.0,
           metric: str = 'euclidean', seed: int = 0) -> Reduced:
    """The `Reduced` of a code [N, features].

    Args:
      components: of the PCA that t-SNE starts from, where the metric is 'euclidean'.
      perplexity: about how many neighbours of an image count; less than N.
      metric: 'euclidean' or 'cosine', of t-SNE.
    """
    import threadpoolctl  # here, because the imports take seconds
    from sklearn import decomposition, manifold

    pca = decomposition.PCA(min(components, *code.shape), random_state=seed)
    principal = pca.fit_transform(code)
    tsne = manifold.TSNE(perplexity=perplexity, init='pca', random_state=seed, metric=metric,
                         verbose=2 * (len(code) > 2000))  # shows the progress
    # The threads wait for one another, so on a busy machine two are many times slower than one.
    with threadpoolctl.threadpool_limits(None if len(code) > 2000 else 1, 'openmp'):
        given = principal if metric == 'euclidean' else code
        # t-SNE starts from two components or more. A code of one number gets a second one that is
        # 0, which changes no distance.
        points = tsne.fit_transform(np.pad(given, ((0, 0), (0, max(0, 2 - given.shape[1])))))
    variance = np.pad(pca.explained_variance_ratio_[:2], (0, max(0, 2 - pca.n_components_)))
    plane = np.pad(principal[:, :2], ((0, 0), (0, max(0, 2 - principal.shape[1]))))
    return Reduced(plane, points, variance.tolist(), float(tsne.kl_divergence_))
