"""Runs an experiment in this process, or as a job of submitit
(https://github.com/facebookincubator/submitit): on a Slurm cluster, in another process on this
machine or, for debugging, in this process.

A job that Slurm preempts, or whose time is over, is queued again and resumes from its checkpoint:
Slurm sends SIGUSR2, the training saves a checkpoint and passes the signal to submitit's handler,
which stores what `Job.checkpoint` returns and calls `scontrol requeue`.
"""

import ast
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from cnnjax import cluster, config_file, parallel, quiet, user_network, workdir
from cnnjax.errors import UserError

# How many minutes a job may take if `resources` has no timeout_min.
TIMEOUT = {'slurm': 24 * 60, 'local': 365 * 24 * 60, 'debug': 0}
REQUEUES = 100  # How often a job whose time is over may be queued again.
SHARED = ('train', 'evaluate', 'reproduce')  # The experiments that several processes can share.
# The fields of a config that may differ between the processes of a run, since each process has its
# own disk and its own cores.
LOCAL = ('data_dir', 'loader_threads', 'loader_workers', 'profile')
ROOT = Path(__file__).parent.parent


class Job:
    """A job is called without arguments to run the function `experiment` with a config and a
    directory. It can be pickled; a call in another process resumes the experiment.

    `label` precedes every message about the job.
    """

    label = ''

    def __init__(self, config: ConfigDict, directory: str,
                 experiment: Callable[[ConfigDict, str], Any]):
        self.config, self.directory, self.experiment = config, directory, experiment
        self.processes, self.verbosity = (None, None, None), logging.ERROR

    def __call__(self) -> None:
        connect(self.processes, self.verbosity)
        with cluster.together():
            cluster.agree(**facts(self.config, self.directory))
            if self.label and cluster.first():
                print(self.label, flush=True)
            self.run()

    def run(self) -> None:
        """Runs the experiment itself, in each of its processes."""
        if jax.process_count() > 1 and self.config.experiment not in SHARED:
            raise UserError(f"experiment='{self.config.experiment}' runs in one process, on all "
                            f'of its devices; of several processes are {", ".join(SHARED)}')
        with workdir.claim(self.directory, self.config):
            self.experiment(self.config, self.directory)

    def checkpoint(self) -> Any:
        """The job that replaces this one; submitit calls this when the process must end."""
        from submitit import helpers

        return helpers.DelayedSubmission(self)


def facts(config: ConfigDict, directory: str) -> dict[str, Any]:
    """The facts, {name: value}, that all processes of a run must share; for cluster.agree."""
    code = hashlib.sha256()
    for path in sorted(ROOT.glob('cnnjax/**/*.py')) + sorted(ROOT.glob('experiments/**/*.py')):
        code.update(path.read_bytes())
    code.update(user_network.digest(config_file.flat(config).get('model.name') or '').encode())
    values = {name: value for name, value in config_file.flat(config).items()
              if name.rpartition('.')[2] not in LOCAL}
    versions = {name: importlib.metadata.version(name) for name in workdir.PACKAGES}
    return {'workdir': os.path.abspath(directory), 'config': values, 'code': code.hexdigest()[:16],
            'python': platform.python_version(), 'version': versions}


@functools.cache
def connect(processes: tuple[Any, ...], verbosity: int) -> None:
    """Calls cluster.connect once in a process, which may run many jobs of a sweep.

    Raises:
      UserError: the devices that JAX_PLATFORMS names are not there.
    """
    logging.set_verbosity(verbosity)
    quiet.pictures()
    # The environment may ask jax for stricter promotion, under which optax's adam and flax's
    # average pools fail.
    jax.config.update('jax_numpy_dtype_promotion', 'standard')
    jax.config.update('jax_numpy_rank_promotion', 'allow')
    stdout: Any = sys.stdout
    stdout.reconfigure(errors='backslashreplace')  # A job's output may be ASCII.
    cluster.connect(*processes)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX_PLATFORMS=cuda raises the latter
        reason = str(error).splitlines() or ['no such device is here, or jax lacks its plugin: '
                                             'leave it out to take the devices that there are']
        raise UserError(f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}: {reason[0]}'
                        ) from error
    parallel.cache_programs()


class Place:
    """Runs jobs in this process, or through submitit.

    Args:
      directory: its folder `submitit` gets the logs.
      executor: '' for this process, or submitit's 'slurm', 'local' or 'debug'.
      resources: parameters of submitit, such as 'timeout_min=600,slurm_partition=gpu'.
      processes: the arguments of cluster.connect: (coordinator, processes, process, wait).
      verbosity: the level of absl's logging.

    Raises:
      UserError: the arguments do not fit together, or submitit is not installed.
    """

    def __init__(self, directory: str, executor: str = '', resources: str = '',
                 processes: tuple[Any, ...] = (None, None, None), verbosity: int = logging.ERROR):
        self.directory, self.executor = directory, executor
        self.processes, self.verbosity = processes, verbosity
        if executor and processes[:3] != (None, None, None):
            raise UserError(f'executor={executor} starts the processes itself: leave out '
                            'coordinator, processes and process')
        if resources and not executor:
            raise UserError('resources are for an executor: give --executor=slurm or local too')
        if executor:
            self.submitit = create(executor, Path(directory).absolute(), parse(resources))

    def run(self, jobs: Sequence[Job]) -> bool:
        """Runs or submits the jobs, and returns whether none has failed so far."""
        for job in jobs:
            job.processes, job.verbosity = self.processes, self.verbosity
        if not self.executor:
            return all([self.here(job) for job in jobs])  # The list runs all, even after a failure.
        for job in jobs:  # Check now: in the queue a job may wait for long.
            workdir.check_free(job.directory, job.config.experiment)
        if self.executor == 'slurm':
            self.submit(jobs)
            return True
        return all([self.wait(job) for job in jobs])

    def here(self, job: Job) -> bool:
        """Runs a job in this process and returns whether it succeeded."""
        try:
            job()
        except (UserError, OSError) as error:  # OSError: a full disk, for example
            tell(job, error)
            return False
        return True

    def wait(self, job: Job) -> bool:
        """Runs a job in another process ('debug': this one); returns whether it succeeded."""
        submitted = self.submitit.submit(job)
        if self.executor == 'local':
            print(f'{colon(job)}job {submitted.job_id} writes {submitted.paths.stdout}', flush=True)
        error = submitted.exception()
        if error:
            tell(job, error, f'\nlog: {submitted.paths.stderr}' * (self.executor == 'local'))
        elif self.executor == 'local':
            print(f'{colon(job)}job {submitted.job_id} succeeded', flush=True)
        return not error

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submits the jobs to Slurm, several as one array, and says how to follow them."""
        import submitit

        try:
            submitted = self.submitit.submit_array(jobs)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError,
                OSError) as error:
            raise UserError(f'the job was not submitted: {str(error).strip()}') from error
        number = submitted[0].job_id.split('_')[0]
        print(f'job {number}: '
              + (f'an array of {len(jobs)} runs' if len(jobs) > 1 else 'submitted'))
        for job, entry in zip(jobs, submitted, strict=True):
            print(f'{colon(job)}tail -F {shlex.quote(str(entry.paths.stdout))}')
        print(f'queue:  squeue --jobs={number}\ncancel: scancel {number}', flush=True)


def colon(job: Job) -> str:
    return job.label and f'{job.label}: '


def tell(job: Job, error: Exception, log: str = '') -> None:
    print(f'error: {colon(job)}{reason(error)}{log}', file=sys.stderr, flush=True)


def reason(error: Exception) -> str:
    """What went wrong in a job, without the traceback that submitit adds to it."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    trace = text.split('-' * 22 + '\n')[1] if 'with trace:' in text else text
    _, told, message = trace.rpartition('cnnjax.errors.UserError: ')
    if told:
        return message.strip()
    lines = [line for line in trace.splitlines() if line.strip()] or [type(error).__name__]
    if 'with trace:' in text or len(lines) == 1:
        return lines[-1].strip()
    return f'{lines[0]} ... {lines[-1].strip()}'


def parse(resources: str) -> dict[str, Any]:
    """'nodes=2,slurm_partition=gpu' -> {'nodes': 2, 'slurm_partition': 'gpu'}

    A value may hold commas: 'slurm_exclude=node[1,2],nodes=2'. Numbers, True and lists of strings
    are read as Python reads them.
    """
    parameters = {}
    resources = resources.strip(' ,')
    for entry in re.split(r',(?=\s*\w+=)', resources) if resources else []:
        name, equals, value = (part.strip() for part in entry.partition('='))
        if not equals or not name.isidentifier() or not value:
            raise UserError(f"resources: '{entry}' is not of the form name=value, as in "
                            'timeout_min=600,gpus_per_node=8')
        if name in parameters:
            raise UserError(f'resources: {name} is given twice')
        try:
            parameters[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parameters[name] = value
    return parameters


def create(name: str, directory: Path, parameters: dict[str, Any]) -> Any:
    """submitit's executor of that name, with its parameters."""
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"executor={name} needs submitit: pip install -e '.[slurm]'") from error
    if '%' in str(directory):
        raise UserError(f"workdir={directory}: submitit replaces '%': take a path without it")
    if 'slurm_time' in parameters:
        raise UserError('resources: give timeout_min, in minutes, instead of slurm_time')
    if name == 'local' and parameters.get('tasks_per_node', 1) != 1:
        raise UserError('tasks_per_node: a local job is one process, which takes all devices')
    if parameters.get('nodes', 1) != 1 and 'gpus_per_node' in parameters:
        # On Slurm, jax expects one process for each GPU.
        parameters.setdefault('tasks_per_node', parameters['gpus_per_node'])
    options = {}
    if name != 'debug':
        options = {f'{name}_python': python(name == 'local'
                                            and 'gpus_per_node' not in parameters),
                   f'{name}_max_num_timeout': parameters.pop('slurm_max_num_timeout', REQUEUES)}
    try:
        executor = submitit.AutoExecutor(directory / 'submitit', cluster=name, **options)
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)  # It warns of a name without its prefix.
            executor.update_parameters(**{'name': directory.name, 'timeout_min': TIMEOUT[name],
                                          **parameters})
    except RuntimeError as error:
        raise UserError(f'executor={name}: there is no srun here; give this command where sbatch '
                        'works, on a login node of the cluster') from error
    except OSError as error:
        raise UserError(f'workdir={directory} cannot be written: {error.strerror}') from error
    except (NameError, AssertionError, TypeError, ValueError, UserWarning) as error:
        raise UserError(f'resources: {str(error).splitlines()[0]}') from error
    if name == 'slurm':
        # submitit's default, 'submitit', is refused by clusters that check wckeys; None sends none.
        executor.parameters['wckey'] = parameters.get('slurm_wckey')
        # Some clusters queue a preempted job again only if the job asks for it.
        more = executor.parameters.setdefault('additional_parameters', {})
        if 'no-requeue' not in more:
            more['requeue'] = True
    return executor


def python(same_gpus: bool) -> str:
    """The command that starts Python in a job.

    The job finds this code from any directory. With `same_gpus` it sees the same GPUs as this
    process; otherwise submitit's local executor hides all GPUs beyond gpus_per_node.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    command = ['env', f'PYTHONPATH={path}']
    if same_gpus:
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        command.insert(1, '--unset=CUDA_VISIBLE_DEVICES' if visible is None
                       else f'CUDA_VISIBLE_DEVICES={visible}')
    return shlex.join([*command, sys.executable])
