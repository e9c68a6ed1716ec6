"""Eigenfaces: a low-dimensional space of faces, which detects and repairs faces.

Turk & Pentland 1991, "Eigenfaces for Recognition", https://doi.org/10.1162/jocn.1991.3.1.71. The
components are those of scikit-learn's PCA. A face is always judged by a space of other faces: they
are divided into folds, and each fold is judged by the space of the other folds.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax import atomic, limits, plots, workdir
from cnnjax.errors import UserError
from cnnjax.limits import Whole

FACES = 100  # The first 100 pictures of scikit-image's set are faces.
LIMITS = {'components': Whole(1, some=True), 'folds': Whole(2, FACES), 'detect': Whole(1),
          'repair': Whole(1), 'shown': Whole(1), 'seed': limits.SEED, 'hidden': Whole()}
MEASURES = {
    'distance': 'norm of what projection into face space leaves of a picture: Turk & Pentland',
    'standardized': 'the same of pictures less their mean, divided by their norm, in a face space '
                    'of such faces',
    'within': 'Mahalanobis distance of the projection from the mean face: Moghaddam & Pentland '
              '1997, https://doi.org/10.1109/34.598227, equation 9',
}
REPAIRS = {
    'least squares': 'the face whose visible pixels are nearest',
    'projection': 'projection of the face with the hidden pixels black',
    'mean face': 'hidden pixels of the mean face',
}


class Fold(NamedTuple):
    """The results of one fold; lists [k] have an entry for each number of components."""

    space: Any
    areas: dict[str, list[float]]  # {name of MEASURES: [k]}, areas under the ROC curve
    scores: dict[str, tuple]  # {name of MEASURES: (faces, others)} for config.detect components
    errors: dict[str, list[float]]  # {which faces: [k]}, reconstruction errors
    repairs: dict[str, list[float]]  # {name of REPAIRS: [k]}, errors of the hidden pixels


def run(config, directory):
    """Writes results.json and the four figures that configs/embed.py names."""
    from sklearn import model_selection  # here, because the import takes seconds

    pictures = load()
    shape = pictures.shape[1:]
    check(config, shape)
    faces, others = np.split(pictures.reshape(len(pictures), -1), [FACES])
    seen = visible(config.hidden, shape)
    kept = model_selection.KFold(config.folds, shuffle=True, random_state=config.seed)
    parts = [(faces[own], faces[held]) for own, held in kept.split(faces)]
    folds = [judge(config, own, held, others, seen) for own, held in parts]
    everything = fit(faces, max(config.components))
    roc = {name: curve(folds, name) for name in MEASURES}
    results = gather(config, folds, everything, seen, roc) | {'others': len(others)}
    directory = Path(directory)
    workdir.write_config(directory, config)
    atomic.write_json(directory / 'results.json', results)
    figures = directory / 'figures'
    draw_faces(figures, config, folds[0].space, parts[0][1][:config.shown], seen, shape)
    draw_curves(figures, config, results, roc)
    draw_eigenfaces(figures, everything, shape)
    report(results, directory)


def judge(config, own, held, others, seen):
    """The `Fold` of a space of its own faces [N, pixels], for held-out faces and other pictures."""
    most = max(*config.components, config.detect, config.repair)
    space, standard = fit(own, most), fit(standardize(own), most)
    judged = {k: (measure(space, standard, held, k), measure(space, standard, others, k))
              for k in {*config.components, config.detect}}
    return Fold(
        space,
        {name: [area(*(values[name] for values in judged[k])) for k in config.components]
         for name in MEASURES},
        {name: tuple(values[name] for values in judged[config.detect]) for name in MEASURES},
        {name: [rms(project(space, part, k) - part) for k in config.components]
         for name, part in (('faces of the space', own), ('other faces', held))},
        {name: [rms((repair(space, held, seen, k, name) - held)[:, ~seen])
                for k in config.components] for name in REPAIRS})


def curve(folds, name):
    """(shares of faces refused, shares of others refused): the ROC curve of a measure over all
    folds."""
    from sklearn import metrics

    near, far = (np.concatenate(values) for values in
                 zip(*(fold.scores[name] for fold in folds), strict=True))
    negative, positive, _ = metrics.roc_curve(*labelled(near, far))
    return negative, positive


def gather(config, folds, everything, seen, roc):
    """The numbers of results.json."""
    def over_folds(field):
        values = [getattr(fold, field) for fold in folds]
        return {name: statistics([each[name] for each in values]) for name in values[0]}

    return {
        'faces': FACES, 'folds': config.folds,
        'components': config.components, 'measures': MEASURES, 'repairs': REPAIRS,
        'variance': np.cumsum(everything.explained_variance_ratio_)[
            np.array(config.components) - 1].tolist(),
        'reconstruction_rmse': over_folds('errors'), 'roc_area': over_folds('areas'),
        'equal_error_rate': {name: equal_error(*both) for name, both in roc.items()},
        'equal_error_components': config.detect,
        'hidden': config.hidden, 'hidden_share': float((~seen).mean()),
        'repair_rmse': over_folds('repairs')}


def load():
    """float64 [200, 25, 25] in [0, 1]: 100 faces of the set Labeled Faces in the Wild (Huang et al.
    2007) and 100 other pictures, which come with scikit-image."""
    import skimage.data

    return skimage.data.lfw_subset()


def check(config, shape):
    """Raises UserError if a value of the config makes no sense."""
    limits.check(config, LIMITS)
    most = FACES - -(-FACES // config.folds) - 1  # the number of independent differences of faces
    for field in ('components', 'detect', 'repair'):
        if np.max(config[field]) > most:
            raise UserError(f'{field}={config[field]}: with folds={config.folds} a face space has '
                            f'at most {most} components')
    if len(config.hidden) != 4 or not all(config.hidden[2:]) or any(
            first + length > side for first, length, side in
            zip(config.hidden[:2], config.hidden[2:], shape, strict=True)) or (
            tuple(config.hidden[2:]) == tuple(shape)):
        raise UserError(f'hidden={config.hidden}: top, left, height and width of a part of '
                        f'{shape[0]} x {shape[1]} pixels')


def visible(hidden, shape):
    """bool [pixels], true outside the rectangle (top, left, height, width)."""
    seen = np.ones(shape, bool)
    top, left, height, width = hidden
    seen[top:top + height, left:left + width] = False
    return seen.ravel()


def fit(faces, components):
    """scikit-learn's PCA of faces [N, pixels]."""
    from sklearn import decomposition

    return decomposition.PCA(min(components, len(faces) - 1), svd_solver='full').fit(faces)


def standardize(pictures):
    """Pictures [N, pixels] less their mean, divided by their norm; constant pictures become 0."""
    pictures = pictures - pictures.mean(1, keepdims=True)
    norm = np.linalg.norm(pictures, axis=1, keepdims=True)
    return pictures / np.where(norm > 1e-6, norm, np.inf)


def project(space, pictures, components):
    """The nearest points of the face space of the first `components`, [N, pixels]."""
    basis = space.components_[:components]
    return space.mean_ + (pictures - space.mean_) @ basis.T @ basis


def measure(space, standard, pictures, components):
    """{name of MEASURES: [N]}, larger for pictures that are less like faces."""
    coordinates = space.transform(pictures)[:, :components]
    within = np.sqrt((coordinates ** 2 / space.explained_variance_[:components]).sum(1))
    standardized = standardize(pictures)
    return {'distance': np.linalg.norm(pictures - project(space, pictures, components), axis=1),
            'standardized': np.linalg.norm(
                standardized - project(standard, standardized, components), axis=1),
            'within': within}


def repair(space, pictures, seen, components, kind='least squares'):
    """Pictures [N, pixels] with those that are not `seen` filled in.

    The least-squares solution c of A c = b, where A is the rows of the eigenfaces at the visible
    pixels and b these pixels less the mean face, is that of the Moore-Penrose inverse
    V Sigma^-1 U^T of A = U Sigma V^T.
    """
    basis, mean = space.components_[:components], space.mean_
    if kind == 'mean face':
        filled = np.broadcast_to(mean, pictures.shape)
    elif kind == 'projection':
        filled = project(space, np.where(seen, pictures, 0), components)
    else:
        filled = mean + (pictures - mean)[:, seen] @ np.linalg.pinv(basis[:, seen]) @ basis
    return np.where(seen, pictures, filled)


def labelled(near, far):
    """(classes, scores) for scikit-learn: other pictures, class 1, should score higher."""
    return np.repeat([0, 1], [len(near), len(far)]), np.concatenate([near, far])


def area(near, far):
    """The area under the ROC curve: how often another picture is farther than a face."""
    from sklearn import metrics

    return metrics.roc_auc_score(*labelled(near, far))


def equal_error(negative, positive):
    """The error rate at which faces and other pictures are misjudged equally often."""
    return float(np.interp(0, negative - (1 - positive), negative))


def rms(values):
    return float(np.sqrt(np.mean(values ** 2)))


def statistics(values):
    """Mean and standard deviation of values [folds, numbers of components] over the folds."""
    return {'mean': np.mean(values, 0).tolist(), 'deviation': np.std(values, 0).tolist()}


def draw_eigenfaces(directory, space, shape):
    """Draws the mean face and the first eigenfaces, each on its own scale, where gray is 0."""
    first = [('mean face', space.mean_.reshape(shape), None)]
    for i, (face, share) in enumerate(zip(space.components_[:17],
                                          space.explained_variance_ratio_, strict=False), 1):
        first.append((f'eigenface {i}\n{100 * share:.1f} % of variance',
                      (0.5 + face / np.abs(face).max() / 2).reshape(shape), None))
    plots.gallery([first[i:i + 9] for i in range(0, len(first), 9)],
                  directory / 'eigenfaces.png', 1.1, f'Eigenfaces of {FACES} faces')


def draw_faces(directory, config, space, faces, seen, shape):
    """Draws held-out faces, reconstructed with more and more components, and repaired."""
    def picture(face):
        return face.reshape(shape).clip(0, 1)

    columns = [(f'{k} eigenface{"s" * (k > 1)}', project(space, faces, k))
               for k in config.components]
    columns = [('face', faces), *columns]
    plots.gallery([[(title if title == 'face' else f'{title}\nerror {rms(found[i] - face):.3f}',
                     picture(found[i]), None) for title, found in columns]
                   for i, face in enumerate(faces)], directory / 'reconstructions.png', 1.1,
                  'Faces by the eigenfaces of other faces',
                  'error: root of the mean square over the pixels, which are in [0, 1]')
    filled = {name: repair(space, faces, seen, config.repair, name) for name in REPAIRS}
    rows = []
    for i, face in enumerate(faces):
        rows.append([('face', picture(face), None),
                     ('hidden', picture(np.where(seen, face, 0)), None),
                     *((f'{name}\nerror {rms((found[i] - face)[~seen]):.3f}', picture(found[i]),
                        None) for name, found in filled.items())])
    plots.gallery(rows, directory / 'repair.png', 1.2,
                  f'Hidden pixels, repaired by {config.repair} eigenfaces of other faces',
                  'error: root of the mean square over the hidden pixels, which are in [0, 1]')


def draw_curves(directory, config, results, roc):
    counts = {'xlabel': 'eigenfaces', 'xscale': 'log'}

    def by_components(values):
        return {name: (config.components, row['mean'], row['deviation'])
                for name, row in values.items()}

    plots.lines([
        {'lines': by_components(results['reconstruction_rmse']), 'title': 'reconstruction',
         'ylabel': 'error (RMS)', **counts},
        {'lines': by_components(results['roc_area']) | {
            'chance': (config.components, [0.5] * len(config.components))}, 'dashed': ['chance'],
         'title': 'faces against other pictures', 'ylabel': 'area under the ROC curve', **counts},
        {'lines': roc | {'chance': ([0, 1], [0, 1])}, 'dashed': ['chance'],
         'title': f'ROC, {config.detect} eigenfaces', 'xlabel': 'share of faces refused',
         'ylabel': 'share of other pictures refused'},
        {'lines': by_components(results['repair_rmse']), 'title': 'hidden pixels repaired',
         'ylabel': 'error (RMS)', **counts},
    ], directory / 'curves.png', f'Eigenfaces of {FACES} faces, by cross-validation over '
                                 f'{config.folds} folds')


def report(results, directory):
    for name, row in results['roc_area'].items():
        areas = '  '.join(f'{k}: {mean:.3f}' for k, mean in
                          zip(results['components'], row['mean'], strict=True))
        print(f'{name:>12}  ROC area by components  {areas}')
    for name, row in results['repair_rmse'].items():
        errors = '  '.join(f'{k}: {mean:.3f}' for k, mean in
                           zip(results['components'], row['mean'], strict=True))
        print(f'{name:>13}  error of hidden pixels   {errors}')
    print(f'figures: {Path(directory) / "figures"}')
