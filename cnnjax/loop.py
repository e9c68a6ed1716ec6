"""The training loop: batches -> updates -> reports, evaluations and checkpoints."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from cnnjax import checkpoint, cluster, early_stopping, reports
from cnnjax.errors import UserError
from cnnjax.evaluate import numbers
from cnnjax.plan import Plan
from cnnjax.progress import Profile, Progress
from cnnjax.step import TrainState


class Update(NamedTuple):
    """The compiled step. `call(state, batches)` makes one update for each of at most `size` batches
    and returns the new state and the metrics."""

    size: int
    call: Callable


class Services(NamedTuple):
    """The parts of a loop that save, show and stop the training."""

    checkpoints: checkpoint.Checkpoints
    metrics: reports.Metrics
    progress: Progress
    profile: Profile
    preemption: cluster.Preemption
    errors: list[float]  # one for each evaluation so far, see early_stopping.errors


def run(state: TrainState, batches: Iterator[dict[str, Any]], update: Update,
        evaluate: Callable[[Any], dict[str, Any]], lengths: Plan,
        services: Services, name: str = 'test') -> dict[str, Any]:
    """Makes all steps from state.step to the end, and returns the last row. Between two reports it
    never waits for the devices.

    It ends before the last step if `lengths.patience` evaluations have found no lower error.

    Args:
      batches: an iterator that begins with the batch of the next step.
      update: an Update.
      evaluate: see evaluate.evaluator.
      lengths: a Plan.
      services: the Services.
      name: the rows call the evaluated set so: 'test' or 'val'.
    """
    done = start = int(state.step)
    row: dict[str, Any] = {}
    # The metrics since the last row; those of recent calls are still on the devices.
    pending: list[Any] = [(1, values) for values in services.metrics.pending]
    while done < lengths.steps:
        services.profile.step(done - start, state)
        count = min(update.size, lengths.until_due(done))
        state, values = update.call(state, list(itertools.islice(batches, count)))
        pending.append((count, values))
        if done == start:
            jax.block_until_ready(values)
            services.progress.compiled(count)
        done += count
        services.progress.advance(count)
        evaluating = lengths.due(done, lengths.eval_every)
        saving = evaluating or lengths.due(done, lengths.checkpoint_every)
        reporting = saving or lengths.due(done, lengths.report_every)
        stopping = services.preemption.reached()
        if not (reporting or stopping):
            continue
        # A report never spans a checkpoint: a resumed run writes the same rows.
        pending = fetched(pending)
        now = lengths.at(state.opt_state)
        check_finite(pending, done, now, services.checkpoints)
        error = None
        if reporting:
            row = report(pending, done, now, services.progress.rate())
            pending = []
            if evaluating:
                results = evaluate(state.variables)
                row |= {f'{name}/{key}': value for key, value in numbers(results).items()
                        if key != 'count'}
                error = results['error']
                state = heard(state, done, error, lengths, services.errors)
                if lengths.histograms_due(done):
                    services.metrics.weights(done, state.params)
            services.metrics.write(row)
        if saving or stopping:
            services.checkpoints.save(done, state, error, services.metrics.past(pending))
        if reporting:
            services.progress.report(row)
        if stopping:
            stop(done, lengths, services)
        if early_stopping.due(services.errors, lengths.patience):
            services.progress.print(
                f'stopped early, after step {done} of {lengths.steps}: the error was lowest after '
                f'step {services.checkpoints.best()}')
            break
    return row


def fetched(pending: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Any]:
    """The metrics of each step, as dicts of numbers, from [(number of steps, their metrics)]."""
    return [{name: np.ravel(of_all)[i] for name, of_all in values.items()}
            for count, values in jax.device_get(pending) for i in range(count)]


def check_finite(pending: Sequence[Mapping[str, Any]], done: int, lengths: Plan,
                 checkpoints: checkpoint.Checkpoints) -> None:
    """Raises UserError if the metrics of the last steps up to step `done` are not finite."""
    for i, values in enumerate(pending, done - len(pending) + 1):
        if not all(map(np.isfinite, values.values())):
            raise UserError(
                f'step {i}: ' + ', '.join(f'{name} is {v}' for name, v in values.items())
                + f'. Lower learning_rate (it was {np.asarray(lengths.rate(i - 1)):g}) or warm up; '
                + (f'checkpoint {checkpoints.latest()} in {checkpoints.directory} is intact'
                   if checkpoints.latest() else 'there is no checkpoint before it'))


def heard(state: TrainState, done: int, error: float, lengths: Plan,
          errors: list[float]) -> TrainState:
    """The state after an evaluation with that error, which is added to `errors`. The last one may
    come early, and no step follows it: it is not heard."""
    if not lengths.eval_every or done % lengths.eval_every:
        return state
    errors.append(error)
    if not lengths.plateau:
        return state
    return state._replace(opt_state=lengths.plateau.after(state.opt_state, done, error))


def report(pending: Sequence[Mapping[str, Any]], done: int, lengths: Plan,
           images_per_second: float | None) -> dict[str, Any]:
    """The row of metrics.jsonl after `done` steps, with the mean metrics since the last row."""
    row = {'step': done, 'epoch': done / lengths.steps_per_epoch,
           'learning_rate': float(np.asarray(lengths.rate(done - 1))),
           **{f'train/{name}': float(np.mean([values[name] for values in pending]))
              for name in pending[0]}}
    return row | ({'images_per_second': images_per_second} if images_per_second else {})


def stop(done: int, lengths: Plan, services: Services) -> NoReturn:
    """Ends the process of a preempted run after its checkpoint is written."""
    services.checkpoints.wait()
    services.progress.print(f'asked to stop: saved after step {done} of {lengths.steps}; the same '
                         'command goes on from there')
    services.preemption.leave()
