"""Training as several processes, which a cluster starts, preempts or kills."""

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
from jax._src import distributed  # jax has no public name for the service's key-value store.
from jax.experimental import multihost_utils

from cnnjax import limits
from cnnjax.errors import UserError

# The signals that schedulers and people send before they kill; Slurm's --signal is often USR1 or
# USR2.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
PERIOD = 1  # Seconds between two signs of life.
SILENCE = 30  # Seconds without a sign of life after which a process counts as dead.
SHOWN = 5  # The most differences between processes in a message.
# Keys in the store of jax's coordination service, which runs in the first process.
FAILED, ALIVE, FACTS = 'cnnjax/failed', 'cnnjax/alive', 'cnnjax/facts'
_meetings = itertools.count()
_ending = threading.Lock()


def connect(coordinator: str | None = None, processes: int | None = None,
            process: int | None = None, wait: int = 120) -> None:
    """Joins the processes of one training; must be called before jax does anything else.

    Without arguments, jax detects Slurm, Open MPI, Kubernetes and TPU pods; elsewhere a process
    trains alone. Every process must see the same working directory. If one fails, the others end
    with its message. If one is killed, they end at the next reduction, on CPUs sometimes with a
    message of gloo's, or after SILENCE seconds; if the first is killed, jax aborts the others at
    once, with a message of its own.

    Args:
      coordinator: 'host:port' of process 0, with a port that is free there.
      processes: the number of processes.
      process: the number of this process, from 0.
      wait: how many seconds this process waits for the others before it ends with a message.

    Raises:
      UserError: the arguments do not fit together.
    """
    given = {'coordinator': coordinator, 'processes': processes, 'process': process}
    if coordinator is None and (processes is not None or process is not None):
        raise UserError('processes and process need a coordinator: the host:port of process 0')
    if coordinator is not None and not coordinator.rpartition(':')[2].isdigit():
        raise UserError(f"coordinator='{coordinator}' is not of the form host:port")
    limits.check({'wait': wait}, {'wait': limits.Number(1, 10 ** 6)})
    if coordinator is None and os.environ.get('SLURM_NTASKS') == '1':
        return  # jax would take only one device, the one with this process's local number.
    # If a process dies, jax aborts the others; the stacks of all threads would bury its message.
    faulthandler.disable()
    # If a process never starts, jax aborts too; this alarm gives a clear message before that.
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
            return  # There is no cluster.
        raise UserError(f'{given}: {error}') from error
    except RuntimeError as error:
        if coordinator is None and 'before any JAX calls' in str(error):
            return  # jax has been used before, as in a notebook.
        raise UserError(f'the processes of this run did not find each other '
                        f'({str(error).splitlines()[0]}): is {coordinator} reachable from all, and '
                        'were all started?') from error
    finally:
        alarm.cancel()
    _Watch(min(wait, SILENCE)).start()


class _Watch(threading.Thread):
    """A thread that gives signs of life, and ends this process with a message if another one failed
    or gave no sign for `wait` seconds."""

    def __init__(self, wait):
        super().__init__(daemon=True)
        self.client: Any = distributed.global_state.client
        self.wait = wait
        self.leaving = threading.Event()
        atexit.register(self.leave)  # This thread calls jax, so it must end before jax does.

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
                return  # The first process is gone; jax will end this one.
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
    """The message of the first process that failed; None if none has."""
    return dict(client.key_value_dir_get(f'{FAILED}/')).get(f'{FAILED}/first')


def _end(message):
    """Ends this process at once; a normal exit would wait for all processes of the run."""
    _ending.acquire()  # Never released, so that only the first thread prints.
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if distributed.global_state.process_id == 0:  # The others must still read from its store.
        time.sleep(3 * PERIOD)
    os._exit(1)


def agree(**facts: Any) -> None:
    """Raises UserError in all processes of a run unless all have the same facts.

    All processes must call this equally often.

    Args:
      facts: values for JSON; dicts and lists are compared value by value.
    """
    run: Any = distributed.global_state  # jax.process_count() would wait for the others' devices
    if run.num_processes == 1:
        return
    meeting = f'{FACTS}/{next(_meetings)}'
    run.client.key_value_set(f'{meeting}/{run.process_id}', json.dumps(facts, default=str))
    # Loading data may take another process hours. If it dies, _Watch ends this one.
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
    """Turns lists into dicts, so that they are compared item by item."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    return {str(name): _indexed(v) for name, v in value.items()} if isinstance(
        value, dict) else value


def first() -> bool:
    """Whether this is the first process, which prints and writes for all."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Generator[None]:
    """A context in which an error in one process ends all, so that none waits for it forever.

    An error ends this process at once with its message, and through _Watch the others too.
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
        with contextlib.suppress(Exception):  # The store may be gone with the first process.
            if failed := _failure(run.client):
                message = failed  # the original failure
            else:
                run.client.key_value_set(f'{FAILED}/first', message)
        _end(message)


class Preemption:
    """Tells a loop between two steps that it must save and stop; a context manager.

    SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 are only noted; the same signal again ends the process at
    once. With several processes a signal to any of them stops all after the same step, through
    jax's preemption service, which listens for SIGTERM.
    """

    def __init__(self):
        self.signal = None
        self._handlers = {}
        self._asked = 0

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Only this one gets signals.
            # The preemption service has its own handler for SIGTERM, outside of Python.
            mine = SIGNALS[1:] if jax.distributed.is_initialized() else SIGNALS
            self._handlers = {number: signal.signal(number, self._note) for number in mine}
        return self

    def __exit__(self, kind, *_):
        self._restore()
        if kind is None and self.signal:  # The signal came after the last step.
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
        """Whether to stop now. All processes must ask equally often, between two steps."""
        if jax.distributed.is_initialized():
            self._asked += 1
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self.signal is not None

    def leave(self) -> NoReturn:
        """Ends the process as the signal would have, with the exit code 128 + its number.

        If there was another handler before (submitit's asks Slurm to requeue the job), it runs
        instead.
        """
        number = self.signal or signal.SIGTERM  # None: another process got the signal
        self._restore()
        handler = self._handlers.get(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)
        raise SystemExit(128 + number)
