"""A picture of an architecture: its layers as blocks, as high and deep as their maps, as wide as
they have channels, with arrows from each to those that read it."""

import itertools
import math
import os
import re
from typing import Any, NamedTuple

from cnnjax import plots
from cnnjax.summary import Summary

# The height of the largest map; depth over height; the space between columns.
HEIGHT, SLANT, GAP = 2.6, 0.30, 0.34
# The smallest letters, as a share of 11 points, and those of captions.
SMALLEST, CAPTION = 0.6, 0.72
LARGEST = 32  # With more layers, runs of equal ones are drawn as one.
COLORS = {'image': '#d9d9d9', 'convolution': '#f2b36b', 'block': '#e8845c', 'pool': '#7fb3d5',
          'up-sampling': '#a9dbe0', 'join, crop': '#c9c2e8', 'full layer': '#8fc79a'}


class Node(NamedTuple):
    name: str
    label: str
    shape: tuple[int, ...]
    kind: str  # a key of COLORS
    inputs: tuple[str, ...]
    runs: int = 1  # how many layers it stands for


def draw(summary: Summary, path: str | os.PathLike[str]) -> None:
    """Draws the rows of a summary (`summary.fold` it first) to a PNG file."""
    from matplotlib.figure import Figure  # here, because the import takes half a second

    nodes = graph(summary)
    columns = columns_of(nodes)
    tallest = max(n for node in nodes for n in node.shape[:-1] or (1,))
    most = max(node.shape[-1] for node in nodes)
    sizes = {node.name: size(node, tallest, most) for node in nodes}

    def reach(node):
        return max((columns[node.name] - columns[name] for name in node.inputs), default=0)

    # In a column the layers with the longest arrows, which pass over the others, are on top.
    ranks = [sorted((node for node in nodes if columns[node.name] == rank), key=reach, reverse=True)
             for rank in range(max(columns.values()) + 1)]
    single = all(len(members) == 1 for members in ranks)
    places, x = _arranged(ranks, sizes)
    top = max(y + sizes[name][0] * (1 + SLANT) / 2 for name, (_, y) in places.items())
    bottom = min(y - sizes[name][0] * (1 + SLANT) / 2 for name, (_, y) in places.items())

    arcs = [(a, node.name) for node in nodes for a in node.inputs
            if columns[node.name] - columns[a] > 1]
    farthest = max((places[b][0] - places[a][0] for a, b in arcs), default=0)
    longest = max(len(node.label) for node in nodes)
    below, above = (0.3 + 0.115 * max(longest, 14) if single else 0.9), arch(farthest) + 0.3
    span = x, top - bottom + below + above
    # Inches per unit: at most a wide slide, or as wide as the labels need.
    scale = max(min(1.0, 24 / span[0]), needed(ranks, places, sizes, single))
    figure = Figure(figsize=(max(span[0] * scale, 7) + 0.4, span[1] * scale + 1.1), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1 - 1.0 / figure.get_figheight()))
    axes.set(xlim=(-0.25 if single else -0.6, max(x, 7 / scale)),
             ylim=(bottom - below, top + above), aspect='equal')
    axes.axis('off')
    font = 11 * max(scale, SMALLEST)
    names = {node.name: node for node in nodes}

    for node in nodes:
        for source in node.inputs:
            connect(axes, places, sizes, names[source], node, top,
                    columns[node.name] - columns[source] > 1)
    for node in sorted(nodes, key=lambda node: places[node.name][0]):
        left, middle = places[node.name]
        cuboid(axes, node, left, middle, *sizes[node.name])
        center = left + sizes[node.name][1] / 2
        shape = ' × '.join(map(str, node.shape))
        if single:  # below all blocks, so that the names stand on one line
            for text, side, weight, color in ((node.label, 'right', 'bold', 'black'),
                                              (shape, 'left', 'normal', '0.35')):
                axes.annotate(text, (center, bottom - 0.15), (-2 if side == 'right' else 2, 0),
                              textcoords='offset points', rotation=90, va='top', ha=side,
                              fontsize=0.9 * font, fontweight=weight, color=color)
        else:
            low = middle - sizes[node.name][0] * (1 + SLANT) / 2
            # Arrows to lower blocks of a column pass behind the text.
            axes.text(center, low - 0.06, '\n'.join(caption(node)), va='top', ha='center',
                      fontsize=CAPTION * font, linespacing=1.15, zorder=2,
                      bbox={'facecolor': 'white', 'linewidth': 0, 'pad': 0.6})
    _entitle(figure, summary, dict.fromkeys(node.kind for node in nodes))
    plots.save(figure, path)


def caption(node: Node) -> list[str]:
    """The lines below a block that is not the only one of its column."""
    return [*re.split(r'[_/](?=[a-z])', node.label), ' × '.join(map(str, node.shape))]


def needed(ranks: list[list[Node]], places: dict[str, tuple[float, float]],
           sizes: dict[str, tuple[float, float]], single: bool) -> float:
    """The least inches per unit at which labels of neighbouring columns, in the smallest letters,
    do not touch."""
    letter = SMALLEST * 11 / 72  # inches
    # An upright label has two lines; letters are at most 0.75 as wide as high.
    widths = [2.6 * letter if single else max(
        0.75 * CAPTION * letter * len(line) for node in members for line in caption(node))
        for members in ranks]
    middles = [[places[node.name][0] + sizes[node.name][1] / 2 for node in members]
               for members in ranks]
    return max(((a + b) / 2 / (min(right) - max(left)) for a, b, left, right in zip(
        widths, widths[1:], middles, middles[1:], strict=False)), default=0.0)


def _arranged(ranks, sizes):
    """({layer: (left side, middle of the front and its depth)}, the width of them all); `ranks` are
    the layers of each column, from the top down."""
    places: dict[str, tuple[float, float]] = {}
    x, between = 0.0, 1.05
    for members in ranks:
        heights = [sizes[node.name][0] * (1 + SLANT) for node in members]
        y = (sum(heights) + between * (len(members) - 1)) / 2
        for node, height in zip(members, heights, strict=True):
            places[node.name] = (x, y - height / 2)
            y -= height + between
        x += GAP + max(sizes[node.name][1] + depth_of(node, sizes[node.name][0])
                       for node in members)
        if any(len(others) > 1 for others in ranks):
            x = max(x, places[members[0].name][0] + 0.95) + GAP / 2
    return places, x


def _entitle(figure, summary, kinds):
    """Writes the name and the costs of a network above its diagram, and what the colours mean."""
    from matplotlib.patches import Patch

    height, width = figure.get_figheight(), figure.get_figwidth()
    figure.text(0.25 / width, 1 - 0.2 / height, summary.name, va='top', fontsize=18,
                fontweight='bold')
    figure.text(0.25 / width, 1 - 0.6 / height,
                f'{amount(summary.params)} parameters, '
                f'{amount(summary.multiply_adds)} multiply-adds',
                va='top', fontsize=12, color='0.3')
    figure.legend(handles=[Patch(facecolor=COLORS[kind], edgecolor='0.3', label=kind)
                           for kind in kinds], loc='upper right', ncols=len(kinds), frameon=False,
                  fontsize=10, bbox_to_anchor=(1 - 0.15 / width, 1 - 0.1 / height))


def amount(number: float) -> str:
    """138357544 -> '138.4 M'"""
    power = min(max(int(math.log10(max(number, 1))) // 3, 0), 4)
    return f'{number / 1000 ** power:.4g} {" KMGT"[power]}'.strip()


def graph(summary: Summary) -> list[Node]:
    """The nodes to draw: the image and the taps, without those that only activate or normalize."""
    rows: list[Any] = [row for row in summary.rows if row.shape is not None]
    read = {name for row in rows for name in row.inputs}
    rows = [row for row in rows if row.name in read or row is rows[-1]]
    shapes, standing = {'image': summary.image_shape}, {}  # {tap: the node that stands for it}
    strides = {'image': (1.0,)}
    nodes = [Node('image', 'image', summary.image_shape, 'image', ())]
    for row in rows:
        inputs = tuple(dict.fromkeys(standing.get(name, name) for name in row.inputs)) or ('image',)
        if not row.params and len(inputs) == 1 and row.shape == shapes[inputs[0]]:
            standing[row.name] = inputs[0]
            continue
        shapes[row.name], strides[row.name] = row.shape, row.stride
        before = max((strides[name] for name in inputs), key=lambda stride: stride or ())
        nodes.append(Node(row.name, row.name.split('/')[-1], row.shape,
                          kind_of(row, before, shapes[inputs[0]]), inputs))
    return nodes if len(nodes) <= LARGEST else join_runs(nodes)


def kind_of(row: Any, before: tuple[float, ...], shape: tuple[int, ...] = ()) -> str:
    """The kind of a layer that reads maps of at most that stride `before` it, and that shape.

    Maxout is a pool across channels (Goodfellow et al. 2013, https://arxiv.org/abs/1302.4389).
    """
    if not row.multiply_adds:
        if len(row.inputs) < 2 and row.shape[:-1] == shape[:-1] and row.shape[-1:] < shape[-1:]:
            return 'pool'
        coarser = bool(row.stride) and row.stride[0] > before[0]  # FractalNet pools its joins.
        if len(row.inputs) > 1 and not coarser or row.stride == before or row.name == 'flatten':
            return 'join, crop'
        return 'up-sampling' if row.stride and 0 < row.stride[0] < before[0] else 'pool'
    if len(row.shape) == 1:
        return 'full layer'
    if row.stride != before and re.fullmatch(r'pool\d*', row.name.split('/')[-1]):
        return 'pool'  # It learns its weights, as those of Lee et al. 2016 do.
    return 'block' if row.name not in row.depends else 'convolution'


def join_runs(nodes: list[Node]) -> list[Node]:
    """Three or more layers of one shape, each reading the one before, as one node."""
    def likeness(node):
        return node.shape, node.kind, re.sub(r'\d+$', '', node.name)

    runs = []
    for node in nodes:
        before = runs[-1][-1] if runs else None
        if before and likeness(before) == likeness(node) and before.name in node.inputs:
            runs[-1].append(node)
        else:
            runs.append([node])
    runs = list(itertools.chain.from_iterable(
        [run] if len(run) > 2 else [[node] for node in run] for run in runs))
    standing = {node.name: run[-1].name for run in runs for node in run}
    joined = []
    for run in runs:
        inputs = dict.fromkeys(standing[name] for node in run for name in node.inputs)
        first, last = run[0], run[-1]
        label = last.name if len(run) == 1 else f'{first.name} … {last.name.split("_")[-1]}'
        joined.append(last._replace(label=label, runs=len(run), inputs=tuple(
            name for name in inputs if name != last.name)))
    return joined


def columns_of(nodes: list[Node]) -> dict[str, int]:
    """The column of every node: as far right as those that read it allow."""
    left = {}
    for node in nodes:
        left[node.name] = max((left[name] + 1 for name in node.inputs), default=0)
    columns = dict.fromkeys(left, max(left.values()))
    for node in reversed(nodes):
        for name in node.inputs:
            columns[name] = min(columns[name], columns[node.name] - 1)
    first = columns['image']
    return {name: column - first for name, column in columns.items()}


def size(node: Node, tallest: int, most: int) -> tuple[float, float]:
    """(height, width) of a block, roots and logarithms so that small ones stay visible."""
    channels = math.log2(node.shape[-1] + 1) / math.log2(most + 1)
    if len(node.shape) == 1:  # a column of neurons
        return 0.5 + 1.3 * channels, 0.12
    side = max(node.shape[:-1])
    return HEIGHT * math.sqrt(side / tallest), 0.06 + 0.5 * channels ** 2 + 0.05 * (node.runs > 1)


def depth_of(node: Node, height: float) -> float:
    return SLANT * height if len(node.shape) > 1 else 0.05


def cuboid(axes: Any, node: Node, left: float, middle: float, height: float,
           width: float) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Polygon

    depth = depth_of(node, height)
    low = middle - (height + depth) / 2
    color = to_rgb(COLORS[node.kind])

    def face(points, light):
        shade = [min(1.0, part * light) for part in color]
        axes.add_patch(Polygon(points, facecolor=shade, edgecolor='0.25', linewidth=0.7, zorder=3,
                               joinstyle='round'))

    right, high = left + width, low + height
    face([(left, low), (right, low), (right, high), (left, high)], 1.0)
    face([(left, high), (right, high), (right + depth, high + depth), (left + depth, high + depth)],
         1.12)
    face([(right, low), (right + depth, low + depth), (right + depth, high + depth),
          (right, high)], 0.82)
    if node.runs > 1:
        axes.text(left + width / 2, high + depth + 0.1, f'× {node.runs}', ha='center',
                  fontsize=9, color='0.2', zorder=4)


def arch(length: float) -> float:
    """How high an arrow of this length rises."""
    return 0.0 if not length else 0.35 + 0.28 * math.sqrt(length)


def connect(axes: Any, places: dict[str, tuple[float, float]],
            sizes: dict[str, tuple[float, float]], source: Node, target: Node, top: float,
            far: bool) -> None:
    """An arrow; one that passes other columns goes over them."""
    from matplotlib.patches import FancyArrowPatch, PathPatch
    from matplotlib.path import Path as Curve

    (x0, y0), (x1, y1) = places[source.name], places[target.name]
    (h0, w0), (h1, w1) = sizes[source.name], sizes[target.name]
    d0, d1 = depth_of(source, h0), depth_of(target, h1)
    start = x0 + w0 + d0 / 2
    style = {'color': '0.4', 'linewidth': 1.0, 'zorder': 1}
    if not far:
        axes.add_patch(FancyArrowPatch((start, y0), (x1, y1), arrowstyle='-|>', shrinkA=0,
                                       shrinkB=0, mutation_scale=7, **style))
        return
    a = (x0 + w0 / 2 + d0 / 2, y0 + (h0 + d0) / 2)
    b = (x1 + w1 / 2 + d1 / 2, y1 + (h1 + d1) / 2)
    rise = top + 4 / 3 * arch(b[0] - a[0])
    axes.add_patch(PathPatch(Curve([a, (a[0], rise), (b[0], rise), b],
                                   [Curve.MOVETO] + 3 * [Curve.CURVE4]), fill=False, **style))
