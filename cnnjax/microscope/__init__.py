"""A site that shows what a network's units respond to, in plain files: it opens from disk.

    index.html, style.css, script.js   the pages, which are the same for every network
    manifest.json                      every number, for other programs
    data/manifest.js                   what all pages need
    data/LAYER/units.js                what the page of a layer needs
    data/LAYER/N.js                    what the pages of units N, N + 1 ... need
    data/LAYER/maps.js                 what the page of a layer's atlas and grid needs
    data/classes/N.js                  what the page of a class needs
    images/LAYER/UNIT-KIND.png         positive, negative, facets, patches, projections
    images/LAYER/atlas.png, grid.png   pictures of that page, and images/photograph.png

A page that is opened from disk may not read other files, but it may run them: data are scripts
that hand JSON to microscope.receive. Every file is written whole or not at all.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import atomic
from cnnjax.errors import UserError

PAGES = ('index.html', 'style.css', 'script.js')
DIGITS = 5  # significant ones of every number: a page shows three


def install(directory: str | Path) -> None:
    """Copies the pages to the directory."""
    for name in PAGES:
        atomic.write_text(Path(directory) / name, Path(__file__).with_name(name).read_text('utf-8'))


def write(directory: str | Path, key: str, value: Any) -> None:
    """Writes data/KEY.js; `value` as in `plain`."""
    text = json.dumps(plain(value), separators=(',', ':'), allow_nan=False)
    atomic.write_text(_path(directory, key), text.join(_call(key)))


def read(directory: str | Path, key: str) -> Any:
    """The value of data/KEY.js; None where there is none.

    Raises:
      UserError: the file is damaged.
    """
    path, (before, after) = _path(directory, key), _call(key)
    try:
        text = path.read_text('utf-8')
        if not (text.startswith(before) and text.endswith(after)):
            raise ValueError('it does not hand over JSON')
        return json.loads(text[len(before):-len(after)])
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f'{path} is damaged: {error}') from error


def write_manifest(directory: str | Path, manifest: Mapping[str, Any],
                   units: Mapping[str, Sequence[Any]]) -> None:
    """Writes data/manifest.js, and manifest.json with the records of `units`, {layer: [...]}."""
    write(directory, 'manifest', manifest)
    layers = [{**layer, 'units': units[layer['name']]} for layer in manifest['layers']]
    atomic.write_json(Path(directory) / 'manifest.json', plain({**manifest, 'layers': layers}))


def plain(value: Any) -> Any:
    """Dicts, sequences, arrays and numbers as JSON has them: what is not finite is null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = float(f'{value:.{DIGITS}g}')
        return int(value) if value.is_integer() else value
    return value


def _call(key):
    """What stands before and after the value in data/KEY.js."""
    return f'microscope.receive({json.dumps(key)},', ');\n'


def _path(directory, key):
    return Path(directory) / 'data' / f'{key}.js'
