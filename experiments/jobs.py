"""Where an experiment runs: in this process, or as a job of submitit
(https://github.com/facebookincubator/submitit): on a Slurm cluster, in a process of its own on this
machine, or, to debug, in this one.

A job that Slurm preempts, or whose time is over, is queued again and goes on from its checkpoint:
Slurm sends SIGUSR2, the training saves and hands the signal on to submitit's handler, which stores
what `Job.checkpoint` returns and calls `scontrol requeue`.
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
from pathlib import Path

import jax
from absl import logging

from cnnjax import cluster, config_file, parallel, workdir
from cnnjax.data import formats
from cnnjax.errors import UserError
from experiments import RUNS

# Minutes after which a job must make room, where resources has no timeout_min.
TIMEOUT = {'slurm': 24 * 60, 'local': 365 * 24 * 60, 'debug': 0}
REQUEUES = 100  # how often its time may be over: each time it goes on where it was
SHARED = ('train', 'evaluate', 'reproduce')  # experiments that several processes can do together
# Fields of a config in which the processes of a run may differ: each has its own disk and cores.
LOCAL = ('data_dir', 'loader_threads', 'loader_workers', 'profile')
ROOT = Path(__file__).parent.parent


class Job:
    """An experiment in its directory: a function without arguments that can be pickled.

    Called again, in another process, it resumes. `label` precedes what is said about it. Raises
    UserError where there is no such experiment.
    """

    label = ''

    def __init__(self, config, directory):
        if config.experiment not in RUNS:
            raise UserError(f"experiment='{config.experiment}' is none of {', '.join(RUNS)}")
        self.config, self.directory = config, directory
        self.processes, self.verbosity = (None, None, None), logging.ERROR

    def __call__(self):
        connect(self.processes, self.verbosity)
        with cluster.together():
            cluster.agree(**facts(self.config, self.directory))
            if self.label and cluster.first():
                print(self.label, flush=True)
            self.run()

    def run(self):
        """The experiment itself, in all its processes."""
        if jax.process_count() > 1 and self.config.experiment not in SHARED:
            raise UserError(f"experiment='{self.config.experiment}' runs in one process, on all "
                            f'of its devices; of several processes are {", ".join(SHARED)}')
        with workdir.claim(self.directory, self.config):
            RUNS[self.config.experiment](self.config, self.directory)

    def checkpoint(self):
        """What submitit calls when this process must end: the job that takes its place."""
        from submitit import helpers

        return helpers.DelayedSubmission(self)


def facts(config, directory):
    """What must be the same in all processes of a run: {name: value}, for cluster.agree."""
    code = hashlib.sha256()
    for path in sorted(ROOT.glob('cnnjax/**/*.py')) + sorted(ROOT.glob('experiments/**/*.py')):
        code.update(path.read_bytes())
    values = {name: value for name, value in config_file.flat(config).items()
              if name.rpartition('.')[2] not in LOCAL}
    versions = {name: importlib.metadata.version(name) for name in workdir.PACKAGES}
    return {'workdir': os.path.abspath(directory), 'config': values, 'code': code.hexdigest()[:16],
            'python': platform.python_version(), 'version': versions}


@functools.cache
def connect(processes, verbosity):
    """cluster.connect, once in a process: a sweep runs many jobs in it. Raises UserError where the
    devices that JAX_PLATFORMS names are not there."""
    logging.set_verbosity(verbosity)
    formats.quiet()
    # Of optax and flax, adam and average pools do not run where the environment asks for less.
    jax.config.update('jax_numpy_dtype_promotion', 'standard')
    jax.config.update('jax_numpy_rank_promotion', 'allow')
    sys.stdout.reconfigure(errors='backslashreplace')  # a job's may know no other than ASCII
    cluster.connect(*processes)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of a known kind, 'cuda'
        reason = str(error).splitlines() or ['no such device is here, or jax lacks its plugin: '
                                             'leave it out to take the devices that there are']
        raise UserError(f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}: {reason[0]}'
                        ) from error
    parallel.cache_programs()


class Place:
    """Runs jobs: here where `executor` is '', or through submitit's 'slurm', 'local' or 'debug'.

    Args:
      directory: the logs go to its folder `submitit`.
      executor: as above.
      resources: parameters of submitit, 'timeout_min=600,slurm_partition=gpu'.
      processes: what cluster.connect takes: (coordinator, processes, process, wait).
      verbosity: of absl's logging.

    Raises:
      UserError: what does not fit together, or is not installed.
    """

    def __init__(self, directory, executor='', resources='', processes=(None, None, None),
                 verbosity=logging.ERROR):
        self.directory, self.executor = directory, executor
        self.processes, self.verbosity = processes, verbosity
        if executor and processes[:3] != (None, None, None):
            raise UserError(f'executor={executor} starts the processes itself: leave out '
                            'coordinator, processes and process')
        if resources and not executor:
            raise UserError('resources are for an executor: give --executor=slurm or local too')
        if executor:
            self.submitit = create(executor, Path(directory).absolute(), parse(resources))

    def run(self, jobs):
        """Runs or submits the jobs, and returns whether none has failed so far."""
        for job in jobs:
            job.processes, job.verbosity = self.processes, self.verbosity
        if not self.executor:
            return all([self.here(job) for job in jobs])  # a list: all are run in any case
        for job in jobs:  # now: a queue may be long
            workdir.check_free(job.directory, job.config.experiment)
        if self.executor == 'slurm':
            self.submit(jobs)
            return True
        return all([self.wait(job) for job in jobs])

    def here(self, job):
        """Runs a job in this process and returns whether it succeeded."""
        try:
            job()
        except (UserError, OSError) as error:  # the latter: a full disk, say
            tell(job, error)
            return False
        return True

    def wait(self, job):
        """Runs a job in a process of its own ('debug': in this one) and returns whether it
        succeeded."""
        submitted = self.submitit.submit(job)
        if self.executor == 'local':
            print(f'{colon(job)}job {submitted.job_id} writes {submitted.paths.stdout}', flush=True)
        error = submitted.exception()
        if error:
            tell(job, error, f'\nlog: {submitted.paths.stderr}' * (self.executor == 'local'))
        elif self.executor == 'local':
            print(f'{colon(job)}job {submitted.job_id} succeeded', flush=True)
        return not error

    def submit(self, jobs):
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


def colon(job):
    return job.label and f'{job.label}: '


def tell(job, error, log=''):
    print(f'error: {colon(job)}{reason(error)}{log}', file=sys.stderr, flush=True)


def reason(error):
    """What went wrong in a job, without the traceback that submitit brings along."""
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


def parse(resources):
    """'nodes=2,slurm_partition=gpu' -> {'nodes': 2, 'slurm_partition': 'gpu'}

    A comma within a value is no end of it: 'slurm_exclude=node[1,2],nodes=2'. Python's values are
    read as such: numbers, True, lists of strings.
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


def create(name, directory, parameters):
    """submitit's executor."""
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
        # As jax has it on Slurm: one process for each GPU.
        parameters.setdefault('tasks_per_node', parameters['gpus_per_node'])
    options = {}
    if name != 'debug':
        options = {f'{name}_python': python(name == 'local'
                                            and 'gpus_per_node' not in parameters),
                   f'{name}_max_num_timeout': parameters.pop('slurm_max_num_timeout', REQUEUES)}
    try:
        executor = submitit.AutoExecutor(directory / 'submitit', cluster=name, **options)
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)  # names without their prefix
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
        # 'submitit' by default, which sites that check such keys refuse; None leaves it out.
        executor.parameters['wckey'] = parameters.get('slurm_wckey')
        # Some clusters queue a preempted job again, or let it be queued, only where it says so.
        more = executor.parameters.setdefault('additional_parameters', {})
        if 'no-requeue' not in more:
            more['requeue'] = True
    return executor


def python(same_gpus):
    """The command that starts Python in a job.

    It finds this code from whatever directory. With `same_gpus` it sees the GPUs that this process
    sees: submitit's local executor hides those that no gpus_per_node asks for.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    command = ['env', f'PYTHONPATH={path}']
    if same_gpus:
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        command.insert(1, '--unset=CUDA_VISIBLE_DEVICES' if visible is None
                       else f'CUDA_VISIBLE_DEVICES={visible}')
    return shlex.join([*command, sys.executable])
