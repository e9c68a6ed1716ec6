"""Examples (images with their targets): sources, the input pipeline and augmentation."""

from cnnjax.data.augment import Normalization, augment, normalization
from cnnjax.data.examples import (
           Missing,
           Source,
           check_examples,
           from_arrays,
           matched,
           spread,
           subset,
)
from cnnjax.data.identity import Identity, differences, identity
from cnnjax.data.pipeline import Crops, Resident, Stream
from cnnjax.data.sources import FROM_PYTHON, load, load_if_named, load_labelled

__all__ = ['FROM_PYTHON', 'Crops', 'Identity', 'Missing', 'Normalization', 'Resident', 'Source',
           'Stream', 'augment', 'check_examples', 'differences', 'from_arrays', 'identity', 'load',
           'load_if_named', 'load_labelled', 'matched', 'normalization', 'spread', 'subset']
