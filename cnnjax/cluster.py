"""What clusters do to a training: start it as several processes, preempt it, kill one of them."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from cnnjax.errors import UserError

# What schedulers and people send before they kill: Slurm's --signal is often USR1 or USR2.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
HEARTBEAT = 30  # seconds of silence after which a process counts as dead, and all others end


def connect(coordinator=None, processes=None, process=None):
    """Joins the processes of one training; to be called before all else that jax does.

    Without arguments Slurm, Open MPI, Kubernetes and TPU pods are detected by jax, and a process
    that stands alone stays so. Every process must see the same working directory. Where one dies,
    the others end too, at once or after HEARTBEAT seconds: `together` says so, or jax.

    Args:
      coordinator: 'host:port' of process 0, a free port there.
      processes: how many there are.
      process: the number of this one, from 0.

    Raises:
      UserError: arguments that do not fit, or the others did not come.
    """
    given = {'coordinator': coordinator, 'processes': processes, 'process': process}
    if coordinator is None and (processes is not None or process is not None):
        raise UserError('processes and process need a coordinator: the host:port of process 0')
    if coordinator is not None and not coordinator.rpartition(':')[2].isdigit():
        raise UserError(f"coordinator='{coordinator}' is not of the form host:port")
    if coordinator is None and os.environ.get('SLURM_NTASKS') == '1':
        return  # jax would take one of its devices only, that of its number on the host
    # Where a process dies, jax aborts the others: the stacks of all threads would bury its words.
    faulthandler.disable()
    try:
        jax.distributed.initialize(coordinator, processes, process,
                                   heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, TypeError) as error:
        if coordinator is None and 'coordinator_address' in str(error):
            return  # no cluster
        raise UserError(f'{given}: {error}') from error
    except RuntimeError as error:
        if coordinator is None and 'before any JAX calls' in str(error):
            return  # in a notebook, say
        # Not reached, or not in time.
        raise UserError(f'the processes of this run did not find each other '
                        f'({str(error).splitlines()[0]}): is {coordinator} reachable from all, and '
                        'were all started?') from error


def first():
    """Whether this process is the one that prints and writes what only one must."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together():
    """Where several processes train, an error in one must not leave the others waiting for it.

    It ends this process at once, with its message: without the farewell for which jax would wait
    for the others, whose next reduction then fails because the connection is closed.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        who = f'process {jax.process_index()} of {jax.process_count()}'
        if isinstance(error, UserError):
            message = f'error: {who}: {error}'
        else:
            message = (f'error: {who} cannot go on: {str(error).splitlines()[0]}\n'
                       'Where another process died, its own output says why. Start all again with '
                       'the same command: they resume from the last checkpoint')
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)


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
        if threading.current_thread() is threading.main_thread():  # others get no signals
            # The preemption service has a handler for SIGTERM, unknown to Python.
            mine = SIGNALS[1:] if jax.distributed.is_initialized() else SIGNALS
            self._handlers = {number: signal.signal(number, self._note) for number in mine}
        return self

    def __exit__(self, kind, *_):
        self._restore()
        if kind is None and self.signal:  # it came after the last step
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

    def reached(self):
        """Whether to stop now; all processes ask equally often, between two steps."""
        if jax.distributed.is_initialized():
            self._asked += 1
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self.signal is not None

    def leave(self):
        """Ends the process as its signal would have: with exit code 128 + its number.

        Where somebody else handled the signal before (submitit, which asks Slurm to requeue the
        job), that handler runs instead.
        """
        number = self.signal or signal.SIGTERM  # another process got it
        self._restore()
        handler = self._handlers.get(number)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)
        raise SystemExit(128 + number)
