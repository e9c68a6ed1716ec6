"""What the program keeps other libraries from saying; importing cnnjax keeps them from nothing.

Nothing is imported here, since most starts wait for no picture.
"""

import logging
import warnings


def pictures() -> None:
    """Keeps this process from telling what Pillow and tifffile say of damage that they get over (of
    EXIF data, say). Damage of the pixels, or too many of them, is a UserError in any case."""
    warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')
    warnings.filterwarnings('ignore', 'Image size .* exceeds limit', RuntimeWarning)
    for name in ('PIL', 'tifffile'):
        logging.getLogger(name).setLevel(logging.CRITICAL)
