"""What an evaluation leaves in its directory.

    results.json      the numbers; it is written last, and tells that all of this is there
    predictions.csv   of a classifier: a row for each example, with its most probable classes
    confusion.csv, figures/   see figures.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax import atomic, data, evaluate, figures, tables
from cnnjax.trained import Trained

RESULTS = 'results.json'
PREDICTIONS = 'predictions.csv'


def write(directory: str | Path, network: Trained, examples: data.Resident | data.Stream,
          results: Mapping[str, Any], about: Mapping[str, str]) -> None:
    """Writes the report of an evaluation. Of several processes only the first calls it.

    Args:
      examples: those of the evaluation.
      results: what evaluate.evaluate found.
      about: what was evaluated, {'source': ..., 'checkpoint': ..., 'dataset': ..., 'split': ...}.
    """
    directory = Path(directory)
    (directory / RESULTS).unlink(missing_ok=True)
    figures.evaluation(directory, network, examples, results)
    if 'top' in results:
        atomic.write_text(directory / PREDICTIONS, predictions(
            data.names(examples.examples), examples.classes, results))
    atomic.write_json(directory / RESULTS, {**about, **evaluate.numbers(results)})


def complete(directory: str | Path) -> bool:
    """Whether a report was written wholly in the directory."""
    return (Path(directory) / RESULTS).exists()


def predictions(names: Sequence[str] | None, classes: Sequence[str],
                results: Mapping[str, Any]) -> str:
    """A table as CSV with a row for each example of a classification, in the order of the set."""
    count = results['top'].shape[1]
    rows = zip(names or [f'example {i}' for i in range(len(results['label']))], *(
        results[name].tolist() for name in ('label', 'true_probability', 'top', 'probabilities')),
        strict=True)
    return tables.comma_separated(
        ['name', 'truth', 'prediction', 'probability', 'true_probability',
         *(f'{what}{i}' for i in range(2, count + 1) for what in ('class', 'probability'))],
        ([name, classes[label], classes[top[0]], f'{found[0]:.6f}', f'{true:.6f}',
          *(cell for place, value in zip(top[1:], found[1:], strict=True)
            for cell in (classes[place], f'{value:.6f}'))]
         for name, label, true, top, found in rows))
