"""A table as a picture: the paper's numbers, ours, and their differences in colours."""

from cnnjax import plots
from experiments.tables.cells import UNKNOWN
from experiments.tables.text import ours, shown

MOST = 3.0  # points of difference that have the full colour
EMPTY = '0.96'


def draw(found, path):
    """Draws the contents of a table's json file."""
    from matplotlib.figure import Figure  # here, because the import takes half a second

    rows, columns = found['rows'], found['columns']
    facts = ['parameters', 'seconds'] if found['own'] else []
    height, width = 0.27 if found['own'] else 0.42, 1.25  # one number in a cell, or two
    label = 0.075 * max(len(row['label']) for row in rows) + 0.3
    size = (label + width * len(columns + facts) + 0.15, height * len(rows) + 1.35)
    figure = Figure(figsize=size, dpi=200)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    axes.text(0.1, 0.3, found['title'], fontsize=11, weight='bold', va='center')
    axes.text(0.1, 0.58, legend(found), fontsize=7.5, color='0.35', va='center')
    for j, column in enumerate(columns + facts):
        axes.text(label + (j + 0.5) * width, 0.95, column, fontsize=9, weight='bold', ha='center',
                  va='center')
    best = {column: min((row['cells'][column]['ours'] for row in rows
                         if row['cells'][column]['ours'] is not None), default=None)
            for column in columns}
    for i, row in enumerate(rows):
        middle = 1.15 + (i + 0.5) * height
        axes.text(0.1, middle, row['label'], fontsize=9, va='center')
        for j, column in enumerate(columns):
            cell = row['cells'][column]
            _cell(axes, (label + j * width, middle), (width, height), cell,
                  color(cell, best[column] if found['own'] else None), found['own'])
        for j, fact in enumerate(facts, len(columns)):
            said = '' if row[fact] is None else (
                f'{row[fact]:,}' if fact == 'parameters' else f'{row[fact]:.1f}')
            axes.text(label + (j + 0.5) * width, middle, said, fontsize=9, ha='center', va='center')
    plots.save(figure, path)


def legend(found):
    """The line that says what the numbers are."""
    shortened = any(cell['ours'] is not None and (cell['length'] or cell['seeds'])
                    for row in found['rows'] for cell in row['cells'].values())
    star = '; *: shortened, or not all seeds' if shortened else ''
    if found['own']:
        return ('the darker, the closer to the best of its column; the seconds are those of the '
                'training steps' + star)
    return (f"the paper's number above, ours below; green is better, red is worse, by {MOST:g} "
            f'points or more in full colour{star}')


def color(cell, best):
    """The colour of a cell: by the difference from the paper or, in a table of our own, from the
    `best` of its column."""
    from matplotlib import colormaps

    if cell['ours'] is None:
        return EMPTY
    if best is not None:
        return colormaps['Greens'](0.65 - 0.6 * min((cell['ours'] - best) / (2 * MOST), 1))
    if cell['difference'] is None or cell['length']:
        return '0.88'
    most = 0.3 if cell['measure'] == 'ratio' else MOST
    return colormaps['RdYlGn'](0.5 - 0.4 * max(-1, min(cell['difference'] / most, 1)))


def _cell(axes, place, size, cell, background, own):
    from matplotlib.patches import Rectangle

    (left, middle), (width, height) = place, size
    if not own and cell['paper'] == UNKNOWN and cell['ours'] is None:
        axes.text(left + width / 2, middle, UNKNOWN, fontsize=9, color='0.6', ha='center',
                  va='center')
        return
    axes.add_patch(Rectangle((left + 0.03, middle - height / 2 + 0.025), width - 0.06,
                             height - 0.05, color=background, linewidth=0))
    offset = 0 if own else 0.09
    if not own:
        axes.text(left + width / 2, middle - 0.08, cell['paper'], fontsize=7, color='0.25',
                  ha='center', va='center')
    if cell['ours'] is None:
        state = cell['state'].partition(':')[0] if cell['state'].startswith('failed') else (
            cell['state'])
        axes.text(left + width / 2, middle + offset, state, fontsize=6.5, color='0.45',
                  style='italic', ha='center', va='center')
        return
    said = ours(cell) if len(ours(cell)) <= 16 else shown(cell['ours'], cell['measure'])
    axes.text(left + width / 2, middle + offset, said, fontsize=8.5, weight='bold', ha='center',
              va='center')
    if cell['length'] or cell['seeds']:
        axes.text(left + width - 0.08, middle - 0.08, '*', fontsize=8, ha='right', va='center')
