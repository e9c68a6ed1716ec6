"""What clusters do to a training: start it as several processes, preempt it, kill one of them."""

import atexit
import contextlib
import faulthandler
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from typing import Any, NoReturn

import jax
from flax import traverse_util
from jax._src import distributed  # the service's store of keys and values has no public name
from jax.experimental import multihost_utils

from cnnjax import limits
from cnnjax.errors import UserError

# What schedulers and people send before they kill: Slurm's --signal is often USR1 or USR2.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
PERIOD = 1  # seconds between two signs of life
SILENCE = 30  # seconds without a sign of life, after which a process counts as dead
SHOWN = 5  # a message names at most so many differences between processes
# Keys in the store of jax's coordination service, which the first process holds.
FAILED, ALIVE, FACTS = 'cnnjax/failed', 'cnnjax/alive', 'cnnjax/facts'
_meetings = itertools.count()
_ending = threading.Lock()


def connect(coordinator: str | None = None, processes: int | None = None,
            process: int | None = None, wait: int = 120) -> None:
    """Joins the processes of one training; to be called before all else that jax does.

    Without arguments Slurm, Open MPI, Kubernetes and TPU pods are detected by jax, and a process
    that stands alone stays so. Every process must see the same working directory. Where one fails,
    the others end too, with its message; where one is killed, at the next reduction or after
    SILENCE seconds. Where the first is killed, jax aborts the others at once, in its own words.

    Args:
      coordinator: 'host:port' of process 0, a free port there.
      processes: how many there are.
      process: the number of this one, from 0.
      wait: seconds that this one waits for the others; then it ends, with a message.

    Raises:
      UserError: arguments that do not fit.
    """
    given = {'coordinator': coordinator, 'processes': processes, 'process': process}
    if coordinator is None and (processes is not None or process is not None):
        raise UserError('processes and process need a coordinator: the host:port of process 0')
    if coordinator is not None and not coordinator.rpartition(':')[2].isdigit():
        raise UserError(f"coordinator='{coordinator}' is not of the form host:port")
    limits.check({'wait': wait}, {'wait': limits.Number(1, 10 ** 6)})
    if coordinator is None and os.environ.get('SLURM_NTASKS') == '1':
        return  # jax would take a single device, the one with the process's number on this host
    # Where a process dies, jax aborts the others: the stacks of all threads would bury its message.
    faulthandler.disable()
    # It also aborts where a process never comes: this alarm goes off before jax's time is over.
    alarm = threading.Timer(wait, _end, [
        f'error: the processes of this run did not find each other in {wait} seconds: were all '
        f'started, and is {coordinator or "the first"} reachable from all? Where starting takes '
        'longer, give a longer --wait'])
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(coordinator, processes, process,
                                   initialization_timeout=wait + 60,
                                   heartbeat_timeout_seconds=wait + 60)
    except (ValueError, TypeError) as error:
        if coordinator is None and 'coordinator_address' in str(error):
            return  # no cluster
        raise UserError(f'{given}: {error}') from error
    except RuntimeError as error:
        if coordinator is None and 'before any JAX calls' in str(error):
            return  # as in a notebook, where jax has been used before
        raise UserError(f'the processes of this run did not find each other '
                        f'({str(error).splitlines()[0]}): is {coordinator} reachable from all, and '
                        'were all started?') from error
    finally:
        alarm.cancel()
    _Watch(min(wait, SILENCE)).start()


class _Watch(threading.Thread):
    """Ends this process, with a message, where another one failed or gave no sign of life for
    `wait` seconds; until then it gives signs itself."""

    def __init__(self, wait):
        super().__init__(daemon=True)
        self.client: Any = distributed.global_state.client
        self.wait = wait
        self.leaving = threading.Event()
        atexit.register(self.leave)  # it runs before jax's own exit: this thread calls jax

    def run(self):
        seen = dict.fromkeys(range(distributed.global_state.num_processes), ('', time.monotonic()))
        for sign in itertools.count():
            if self.leaving.wait(PERIOD):
                return
            try:
                self.give(str(sign))
                signs = {int(key.rpartition('/')[2]): value
                         for key, value in self.client.key_value_dir_get(f'{ALIVE}/')}
                failed = _failure(self.client)
            except jax.errors.JaxRuntimeError:
                return  # the first process has gone: jax notices
            if failed:
                _end(failed)
            for process, (last, when) in seen.items():
                if signs.get(process, '') not in (last, 'left'):
                    seen[process] = signs[process], time.monotonic()
                elif signs.get(process) != 'left' and time.monotonic() - when > self.wait:
                    _end(f'error: process {process} of {len(seen)} has given no sign of life for '
                         f'{self.wait} seconds: its own output, or the system\'s log, says why. '
                         'Start all again with the same command: they resume from the last '
                         'checkpoint')

    def give(self, sign):
        key = f'{ALIVE}/{distributed.global_state.process_id}'
        self.client.key_value_set(key, sign, allow_overwrite=True)

    def leave(self):
        self.leaving.set()
        self.join(self.wait)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.give('left')


def _failure(client):
    """The message of the first process that failed, None where none has."""
    return dict(client.key_value_dir_get(f'{FAILED}/')).get(f'{FAILED}/first')


def _end(message):
    """Ends this process at once: a usual exit would wait until all processes of the run end."""
    _ending.acquire()  # it is never released: only the first thread that comes here prints
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if distributed.global_state.process_id == 0:  # it holds the store, which others must read
        time.sleep(3 * PERIOD)
    os._exit(1)


def agree(**facts: Any) -> None:
    """Raises UserError in all processes of a run unless each has the same facts.

    Args:
      facts: what JSON can hold; dicts and lists are compared value by value. All processes call
        this equally often.
    """
    run: Any = distributed.global_state  # jax.process_count() would wait for the others' devices
    if run.num_processes == 1:
        return
    meeting = f'{FACTS}/{next(_meetings)}'
    run.client.key_value_set(f'{meeting}/{run.process_id}', json.dumps(facts, default=str))
    # Loading the data may take one of them hours; if it dies, _Watch ends this one.
    first, *others = (traverse_util.flatten_dict(_indexed(json.loads(
        run.client.blocking_key_value_get(f'{meeting}/{process}', 2 ** 31 - 1))), sep='.')
        for process in range(run.num_processes))
    different = {}
    for process, other in enumerate(others, 1):
        for name in {**first, **other}:
            if (mine := first.get(name)) != (theirs := other.get(name)):
                different.setdefault(
                    name, f'{name}: {mine!r} in process 0, {theirs!r} in process {process}')
    if different:
        lines = [*different.values()][:SHOWN]
        more = [f'and {len(different) - SHOWN} more'] if len(different) > SHOWN else []
        raise UserError('\n  '.join(['the processes of a run must be the same in all of these:',
                                     *lines, *more]))


def _indexed(value):
    """Lists as dicts, so that they are compared item by item."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    return {str(name): _indexed(v) for name, v in value.items()} if isinstance(
        value, dict) else value


def first() -> bool:
    """Whether this process is the one that prints and writes what only one must."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Generator[None]:
    """Where several processes train, an error in one must not leave the others waiting for it.

    It ends this process at once, with its message, and through _Watch the others with the same.
    """
    try:
        yield
    except Exception as error:
        # jax.process_count() would wait for the others' devices.
        run: Any = distributed.global_state
        if run.num_processes == 1:
            raise
        who = f'process {run.process_id} of {run.num_processes}'
        if isinstance(error, UserError):
            message = f'error: {who}: {error}'
        else:
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            message = (f'error: {who} cannot go on: {reason}\n'
                       'Where another process died, its own output says why. Start all again with '
                       'the same command: they resume from the last checkpoint')
        with contextlib.suppress(Exception):  # the store has gone with the first process
            if failed := _failure(run.client):
                message = failed  # the reason why this one cannot go on
            else:
                run.client.key_value_set(f'{FAILED}/first', message)
        _end(message)


class Preemption:
    """Tells a loop, between two of its steps, that it must save and stop; a context manager.

    SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 are only noted; the same one again is acted upon at once.
    With several processes a signal to any of them stops all after the same step (jax's preemption
    service, which listens for SIGTERM).
    """

    def __init__(self):
        self.signal = None
        self._handlers = {}
        self._asked = 0

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # only it gets signals
            # The preemption service has a handler for SIGTERM, unknown to Python.
            mine = SIGNALS[1:] if jax.distributed.is_initialized() else SIGNALS
            self._handlers = {number: signal.signal(number, self._note) for number in mine}
        return self

    def __exit__(self, kind, *_):
        self._restore()
        if kind is None and self.signal:  # the signal came after the last step
            self.leave()

    def _restore(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if self.signal == number:
            self._restore()
            signal.raise_signal(number)
            return
        self.signal = signal.Signals(number)
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)

    def reached(self) -> bool:
        """Whether to stop now; all processes ask equally often, between two steps."""
        if jax.distributed.is_initialized():
            self._asked += 1
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self.signal is not None

    def leave(self) -> NoReturn:
        """Ends the process as its signal would have: with exit code 128 + its number.

        Where somebody else handled the signal before (submitit, which asks Slurm to requeue the
        job), that handler runs instead.
        """
        number = self.signal or signal.SIGTERM  # where another process got the signal
        self._restore()
        handler = self._handlers.get(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)
        raise SystemExit(128 + number)
