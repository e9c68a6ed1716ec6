"""Silences other libraries when the program runs; importing cnnjax silences nothing.

The libraries are not imported here, because most starts do not need them.
"""

import logging
import warnings


def pictures() -> None:
    """Silences warnings of Pillow and tifffile about damage that does not matter, such as in EXIF
    data. Damaged pixels, or too many of them, are a UserError in any case."""
    warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')
    warnings.filterwarnings('ignore', 'Image size .* exceeds limit', RuntimeWarning)
    for name in ('PIL', 'tifffile'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
