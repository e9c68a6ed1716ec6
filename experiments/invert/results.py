"""How much of a code survives in its reconstructions: the numbers, and the files with them."""

import math

import numpy as np

from cnnjax import atomic, plots, tables, trained
from cnnjax.images import pictures

NORMALIZATION = {
    'error': '|code(reconstruction) - code(image)|^2 / |code(image)|^2, Euclidean norms',
    'pair_error': 'the same over the mean of |code(image i) - code(image j)|^2, all pairs i != j '
                  'of these images',
    'restart_spread': 'standard deviation of `error` over the restarts of an image, averaged over '
                      'the images',
    'class_kept': 'share of the images (of maps of scores: of the pixels) whose reconstruction has '
                  'the same most likely class',
}


def error(found, codes):
    """[N], the squared distances of `found` from `codes`, divided by their squared norms."""
    found, codes = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (found, codes))
    return ((found - codes) ** 2).sum(1) / (codes ** 2).sum(1)


def statistics(errors, kept, codes, same):
    """The row of a layer, with the numbers that NORMALIZATION defines.

    Args:
      errors: [images, restarts]; `kept`: [images], the restart that is kept.
      codes: [images, ...], the codes of the images.
      same: [images], whether the class survives, or in which share of the pixels; None: it is
        not known.
    """
    errors = np.asarray(errors, np.float64)
    count, best = len(errors), errors[np.arange(len(errors)), kept]
    flat = np.asarray(codes, np.float64).reshape(count, -1)
    squares = (flat ** 2).sum(1)
    # The sum over all pairs includes the N zeros of the diagonal, which the mean leaves out.
    pairs = 2 * (count * squares.sum() - (flat.sum(0) ** 2).sum()) / max(count * (count - 1), 1)
    pair_errors = best * squares / pairs if pairs > 0 else None

    def moments(name, values):
        if values is None:
            return {name: None, f'{name}_standard_error': None}
        spread = values.std(ddof=1) / math.sqrt(count) if count > 1 else None
        return {name: float(values.mean()),
                f'{name}_standard_error': None if spread is None else float(spread)}

    return {'code': list(np.shape(codes)[1:]), **moments('error', best),
            **moments('pair_error', pair_errors),
            'restart_spread': (float(errors.std(1, ddof=1).mean())
                               if errors.shape[1] > 1 else None),
            'class_kept': None if same is None else float(np.mean(same)),
            'errors': errors.tolist(), 'kept': np.asarray(kept).tolist(),
            'classes_kept': None if same is None else np.asarray(same).tolist()}


def write(directory, config, network, names, images, best, rows):
    """Writes the reconstructions, the figure and the table."""
    for layer, found in {'original': images, **best}.items():
        for name, image in zip(names, found, strict=True):
            pictures.write(directory / 'reconstructions' / layer.replace('/', '.') / f'{name}.png',
                           image)
    figure = directory / 'figures' / 'inversions.png'
    errors = {layer: np.asarray(row['errors'])[np.arange(len(names)), row['kept']]
              for layer, row in rows.items()}
    plots.inversions(figure, names, images, best, errors,
                     f'{trained.called(network, config.source)}, inverted from its layers')
    atomic.write_json(directory / 'results.json', {
        'source': str(config.source), 'checkpoint': config.checkpoint, 'images': list(names),
        'image_shape': list(images.shape[1:]), 'restarts': config.restarts, 'match': config.match,
        'definitions': NORMALIZATION, 'layers': rows})
    table = text(rows)
    notes = [f'{len(names)} images of {" x ".join(map(str, images.shape[1:]))}: '
             f'mean and standard error. error: {NORMALIZATION["error"]}; by pairs: '
             f'{NORMALIZATION["pair_error"]}; spread: {NORMALIZATION["restart_spread"]}; class '
             f'kept: {NORMALIZATION["class_kept"]}. The codes are those of reconstructions clipped '
             'to [0, 1].']
    if any(row['class_kept'] is None for row in rows.values()):
        notes.append('class kept: not known, since the network has no scores of classes for images '
                     'of this size.')
    atomic.write_text(directory / 'results.md', '\n\n'.join([
        f'Reconstructions from the layers of {config.source}', table, *notes]) + '\n')
    print(table)
    print(*notes[1:], f'figure: {figure}', f'table: {directory / "results.md"}', sep='\n')


def text(rows):
    """The table in aligned Markdown."""
    def number(mean, deviation=None):
        if mean is None:
            return '-'
        return f'{mean:.3g}' + (f' ± {deviation:.1g}' if deviation is not None else '')

    header = ('layer', 'code', 'error', 'error by pairs', 'spread of restarts', 'class kept')
    lines = [(layer, ' x '.join(map(str, row['code'])),
              number(row['error'], row['error_standard_error']),
              number(row['pair_error'], row['pair_error_standard_error']),
              number(row['restart_spread']),
              '-' if row['class_kept'] is None else f'{row["class_kept"]:.0%}')
             for layer, row in rows.items()]
    return tables.markdown(header, lines, left=2).rstrip()
