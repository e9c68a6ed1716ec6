"""Pictures of more than 8 bits, and which of their numbers is white."""

import threading
from typing import NamedTuple

import numpy as np
from PIL import Image

from cnnjax.errors import UserError

DARK = 1 / 4  # A picture no brighter than this share of white may have another white.


class Deep(NamedTuple):
    """A picture of more than 8 bits."""

    numbers: np.ndarray  # [H, W] or [H, W, 3], integers or floating-point numbers; black is 0
    white: float

    def reduced(self) -> Image.Image:
        """Pillow's image of the upper 8 bits; floating-point numbers are rounded to 8 bits."""
        if self.numbers.dtype.kind == 'u' and self.white > 255:
            levels = self.numbers // ((int(self.white) + 1) // 256)
        else:
            levels = np.rint(self.numbers * (255 / self.white))
        return Image.fromarray(levels.astype(np.uint8))


class Bits(NamedTuple):
    """What a file says about its numbers."""

    depth: int
    kind: str = 'u'  # numpy's kind: 'u', 'i' or 'f'
    inverted: bool = False  # whether 0 is white
    largest: int | None = None  # the largest number, if the file names one
    scaled: bool = False  # whether numbers up to `largest` were scaled to all bits: see _white


def deep(numbers: np.ndarray, bits: Bits, name: str) -> Deep:
    """The Deep picture of the numbers in a file, gray or the channels of a TIFF file."""
    if not np.isfinite(numbers).all():
        raise UserError(f'{name} holds numbers that are not finite (NaN or infinity)')
    low, high = numbers.min(), numbers.max()
    white = _white(numbers, high, bits)
    if white is None:
        kind = {'u': 'integers', 'i': 'signed integers'}[bits.kind]
        raise UserError(f'{name} holds {kind} of {bits.depth} bits, from {low} to {high}: which '
                        'is white? Save the picture with 8 or 16 bits, or name the largest number '
                        '(255, say) in the TIFF tag MaxSampleValue')
    if low < 0 or high > white:
        raise UserError(f'{name} holds numbers from {low:g} to {high:g}, not from 0 to {white}: '
                        'which are black and white? Scale them to [0, 1], or save the picture with '
                        '8 or 16 bits')
    if bits.kind != 'f':
        numbers = numbers.astype(np.uint32 if bits.depth > 16 else np.uint16)
        if white == 2 ** bits.depth - 1:
            check_dark(high / white, name)
    if bits.inverted:
        numbers = white - numbers
    return Deep(numbers, white)


def _white(numbers, high, bits):
    """The number that is white; None if it is not known."""
    if bits.kind == 'f':
        return 1
    largest = bits.largest
    # A largest number like 1000 was found in the picture, as TIFF means the tag; one like 1023 says
    # how many bits are used.
    if largest and 3 <= largest < 2 ** bits.depth - 1 and not largest & (largest + 1):
        if not bits.scaled:
            return largest
        # Scaled numbers this small end with bits that are all 0, or almost. Files with other last
        # bits name sBIT without scaling.
        if high <= largest and (numbers % (2 ** bits.depth // (largest + 1)) > 1).any():
            return largest
    return 2 ** bits.depth - 1 if bits.kind == 'u' and bits.depth <= 16 else None


_dark = []  # the dark picture that was named; a process names only one
_telling = threading.Lock()


def check_dark(brightest: float, name: str) -> None:
    """Prints a note about the first picture of more than 8 bits that is nearly black."""
    if not 0 < brightest <= DARK:
        return
    with _telling:
        if _dark:
            return
        _dark.append(name)
        print(f'note: {name} has more than 8 bits, and its largest number is {brightest:.1%} of '
              'its white: it is read as a dark picture. If it holds 8, 10, 12 or 14 bits of each '
              'number, scale them to all bits or name the largest (4095, say) in the TIFF tag '
              'MaxSampleValue (other such pictures are not named)', flush=True)
