"""Runs a config in a working directory:

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Any field of the config can be overridden: --config.batch_size=32 --config.model.name=vgg11. A
config that takes an argument gets it after a colon: --config=configs/cifar.py:resnet110.

--sweep runs all that the config's sweep() yields; --executor=slurm submits instead, with
--resources=timeout_min=600,nodes=2,tasks_per_node=8,gpus_per_node=8,slurm_partition=gpu.
"""

import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from cnnjax.errors import UserError

CONFIG = config_flags.DEFINE_config_file('config', lock_config=True, help_string='A config file.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run: everything it writes.')
SWEEP = flags.DEFINE_bool('sweep', False, "Run what the config's sweep() yields, each in its own "
                          'directory of the workdir, and write a table of the test errors.')
EXECUTOR = flags.DEFINE_enum('executor', '', ['', 'slurm', 'local', 'debug'],
                             "submitit's executor: slurm submits jobs, local starts processes of "
                             'this machine, debug runs them in this process.')
RESOURCES = flags.DEFINE_string('resources', '', "submitit's parameters of the executor: "
                                'timeout_min=600,gpus_per_node=8,slurm_partition=gpu')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'host:port of process 0, where several '
                                  'processes train on a cluster that is not detected.')
PROCESSES = flags.DEFINE_integer('processes', None, 'With coordinator: how many processes.')
PROCESS = flags.DEFINE_integer('process', None, 'With coordinator: the number of this one, from 0.')
WAIT = flags.DEFINE_integer('wait', 120, 'With several processes: seconds that each waits for the '
                            'others to come, and for one that falls silent.')
flags.mark_flags_as_required(['config', 'workdir'])


def parse(argv):
    """Parses the flags; a mistake in them ends in one line, which names the nearest field."""
    try:
        arguments = flags.FLAGS(argv)
        assert CONFIG.value.experiment  # a config that could not be read raises here
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = str(error.args[0] if error.args else error)
        # What a config itself refuses, its argument for example, comes with a whole traceback.
        _, refused, reason = message.rpartition('ValueError: ')
        sys.exit(f'error: {reason.strip() if refused else message}')
    return arguments


def main(argv):
    if len(argv) > 1:
        sys.exit(f"error: '{argv[1]}' is not a flag: all arguments start with --")
    verbosity = flags.FLAGS['verbosity']  # of orbax, which tells of every file it writes
    # After the flags: a mistake in them is told at once.
    from cnnjax import cluster
    from experiments import jobs, sweeps

    try:
        with cluster.together():
            place = jobs.Place(WORKDIR.value, EXECUTOR.value, RESOURCES.value,
                               (COORDINATOR.value, PROCESSES.value, PROCESS.value, WAIT.value),
                               verbosity.value if verbosity.present else logging.ERROR)
            if SWEEP.value:
                file = flags.FLAGS['config']
                succeeded = sweeps.run(CONFIG.value, place, config_flags.get_config_filename(file),
                                       config_flags.get_override_values(file))
            else:
                succeeded = place.run([jobs.Job(CONFIG.value, WORKDIR.value)])
    except UserError as error:
        sys.exit(f'error: {error}')
    return 0 if succeeded else 1


def ask_for_huge_pages():
    """Starts Python again with glibc's tunable for huge pages, unless it is set already.

    XLA takes the memory of each step anew, and where Linux gives huge pages only on demand, 6 to 25
    percent of a step on the CPU go into small ones (docs/cpu.md). glibc reads it only at the start.
    """
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    if sys.platform == 'linux' and 'glibc.malloc.hugetlb' not in tunables:
        os.environ['GLIBC_TUNABLES'] = f'{tunables}:glibc.malloc.hugetlb=1'.lstrip(':')
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == '__main__':
    ask_for_huge_pages()
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:
        sys.exit(130)
