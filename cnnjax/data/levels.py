"""The numbers of pictures of more than 8 bits: which is white."""

import threading
from typing import NamedTuple

import numpy as np
from PIL import Image

from cnnjax.errors import UserError

DARK = 1 / 4  # share of white: a deep picture that is nowhere brighter may have another white


class Deep(NamedTuple):
    """A picture of more than 8 bits."""

    numbers: np.ndarray  # [H, W] or [H, W, 3], integers or floating-point numbers; black is 0
    white: float

    def reduced(self) -> Image.Image:
        """Pillow's image of 8 bits: the upper ones; of floating-point numbers the nearest level."""
        if self.numbers.dtype.kind == 'u' and self.white > 255:
            levels = self.numbers // ((int(self.white) + 1) // 256)
        else:
            levels = np.rint(self.numbers * (255 / self.white))
        return Image.fromarray(levels.astype(np.uint8))


class Bits(NamedTuple):
    """What a file says of its numbers."""

    depth: int
    kind: str = 'u'  # unsigned, or 'i' or 'f' as in numpy
    inverted: bool = False  # 0 is white
    largest: int | None = None  # a number that is said to be the largest one
    scaled: bool = False  # ... where numbers of so few bits were scaled to all bits: see _white


def deep(numbers: np.ndarray, bits: Bits, name: str) -> Deep:
    """Numbers as they are in the file, gray or of the channels of a TIFF file -> Deep."""
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
    """The number that is white, or None."""
    if bits.kind == 'f':
        return 1
    largest = bits.largest
    # A number like 1000 was counted in the picture (as TIFF means it), one like 1023 says how many
    # bits there are.
    if largest and 3 <= largest < 2 ** bits.depth - 1 and not largest & (largest + 1):
        if not bits.scaled:
            return largest
        # Scaled ones end with zeros or, rounded or repeated, with hardly more, where they are so
        # small. Files that hold other numbers say sBIT and do not scale.
        if high <= largest and (numbers % (2 ** bits.depth // (largest + 1)) > 1).any():
            return largest
    return 2 ** bits.depth - 1 if bits.kind == 'u' and bits.depth <= 16 else None


_dark = []  # the picture that was told to be dark: one in a process
_telling = threading.Lock()


def check_dark(brightest: float, name: str) -> None:
    """Tells of the first picture of more than 8 bits that is nearly black."""
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
