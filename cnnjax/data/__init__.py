"""Examples (images with their targets): sources, the input pipeline and augmentation."""

from cnnjax.data.augment import augment
from cnnjax.data.crops import Crops
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
from cnnjax.data.mixing import mixed
from cnnjax.data.normalize import Normalization, normalization
from cnnjax.data.pipeline import Resident, Stream
from cnnjax.data.proposals import proposed
from cnnjax.data.sources import (
    FROM_PYTHON,
    SHIPPED,
    counted,
    load,
    load_if_named,
    load_labelled,
)
from cnnjax.data.weight_maps import weighted

__all__ = ['FROM_PYTHON', 'SHIPPED', 'Crops', 'Identity', 'Missing', 'Normalization', 'Resident',
           'Source', 'Stream', 'augment', 'check_examples', 'counted', 'differences',
           'from_arrays', 'identity', 'load', 'load_if_named', 'load_labelled', 'matched', 'mixed',
           'normalization', 'proposed', 'spread', 'subset', 'weighted']
