"""Examples (images with their targets): sources, the input pipeline and augmentation."""

from cnnjax.data import class_folders, policies, splits
from cnnjax.data.augment import augment
from cnnjax.data.crops import Crops
from cnnjax.data.examples import (
           Missing,
           Source,
           check_examples,
           counted,
           from_arrays,
           matched,
           names,
           spread,
           subset,
)
from cnnjax.data.identity import Identity, differences, identity
from cnnjax.data.mixing import mixed
from cnnjax.data.normalize import Normalization, normalization
from cnnjax.data.pipeline import Resident, Stream, picture_shapes, recut
from cnnjax.data.proposals import proposed
from cnnjax.data.sources import (
    FROM_PYTHON,
    SHIPPED,
    load,
    load_if_named,
    load_labelled,
)
from cnnjax.data.weight_maps import weighted

__all__ = ['FROM_PYTHON', 'SHIPPED', 'Crops', 'Identity', 'Missing', 'Normalization', 'Resident',
           'Source', 'Stream', 'augment', 'check_examples', 'class_folders', 'counted',
           'differences', 'from_arrays', 'identity', 'load', 'load_if_named', 'load_labelled',
           'matched', 'mixed', 'names', 'normalization', 'picture_shapes', 'policies', 'proposed',
           'recut', 'splits', 'spread', 'subset', 'weighted']
