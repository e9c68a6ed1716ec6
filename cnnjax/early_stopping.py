"""Early stopping: a training ends when its error has not fallen for a while.

Goodfellow, Bengio & Courville 2016, "Deep Learning", algorithm 7.1:
https://www.deeplearningbook.org/contents/regularization.html. Whether a training ends depends on
the errors of its evaluations alone, which every checkpoint holds, so that a resumed training ends
where an uninterrupted one does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cnnjax import reports
from cnnjax.errors import UserError
from cnnjax.limits import Whole

LIMITS = {'patience': Whole()}


def check(config: ConfigDict) -> None:
    """Raises UserError if a config would end early, but has no evaluations during the training."""
    if config.patience and not config.eval_every:
        raise UserError(f'patience={config.patience} counts evaluations, and eval_every=0 has none '
                        'before the end: set eval_every')


def errors(past: Mapping[str, Any], every: int) -> list[float]:
    """The errors of the evaluations so far, from the `past` of a checkpoint (see reports.Metrics).
    Only those after a multiple of `every` steps: a run that is to go on longer has another last
    evaluation."""
    rows = [row for row in past.get('rows', ()) if every and row['step'] % every == 0]
    return [row[f'{judged}/error'] for row in rows if (judged := reports.evaluated(row))]


def due(errors: Sequence[float], patience: int) -> bool:
    """Whether none of the last `patience` errors is below all before them; never if that is 0."""
    return 0 < patience < len(errors) and min(errors[-patience:]) >= min(errors[:-patience])
