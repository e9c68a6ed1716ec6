"""Labelled images: sources, the input pipeline, augmentation."""

from cnnjax.data.augment import Normalization, augment, normalization
from cnnjax.data.identity import Identity, differences, identity
from cnnjax.data.pipeline import Crops, Resident, Stream
from cnnjax.data.sources import Missing, load, load_if_named, matched, spread, subset

__all__ = ['Crops', 'Identity', 'Missing', 'Normalization', 'Resident', 'Stream', 'augment',
           'differences', 'identity', 'load', 'load_if_named', 'matched', 'normalization', 'spread',
           'subset']
