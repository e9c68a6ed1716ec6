"""Runs a config in a working directory:

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Any field of the config can be overridden: --config.batch_size=32 --config.model.name=vgg11. A
config that takes an argument gets it after a colon: --config=configs/cifar.py:resnet110.

--sweep runs all variants that the config's sweep() yields. --executor=slurm submits a job, with
--resources=timeout_min=600,nodes=2,tasks_per_node=8,gpus_per_node=8,slurm_partition=gpu.
"""

import gc
import itertools
import os
import re
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from cnnjax import config_file
from cnnjax.errors import UserError


class ConfigFile(flags.ArgumentParser):
    """Reads a config as `parse` does, because ml_collections' parser explains fewer mistakes."""

    def parse(self, file):
        return config_file.load(file).lock()


try:
    CONFIG = config_flags.DEFINE_config_file('config', help_string='A config file.')
except flags.Error as error:  # DEFINE_config_file reads the --flagfile too
    sys.exit(f'error: {str(error).removeprefix("ERROR:: ")}')
flags.FLAGS['config'].parser = ConfigFile()
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
                            'others to come.')

HELP = {'--help', '-help', '-h', '--helpshort', '-?'}
# What absl and ml_collections say about a wrong value, and what we say instead.
VALUES = {'invalid literal for int()': 'give a whole number',
          'could not convert string to float': 'give a number',
          "('Non-boolean argument": 'give True or False',
          'Error while parsing string': 'give values with commas between them, as in 1,2'}


def parse(argv):
    """Parses the flags. A mistake ends the program with a line that suggests what was meant or
    lists what there is. --help lists the configs or, with --config, the fields of that config."""
    config = None
    try:
        argv[:] = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
        file = given(argv, 'config')
        if file is not None:
            config = config_file.load(file)
        if len(argv) == 1 or HELP & set(argv):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # no traceback with `| head`
            print(config_file.explain(file, config) if config else usage())
            sys.exit(len(argv) == 1)
        for argument in argv if config else ():
            if field := re.match(r'--?(?:no)?config\.([^=]*)', argument):
                config_file.check_field(config, field[1])
        if config:
            leave_out_none(argv, config_file.flat(config))
        arguments = flags.FLAGS(argv)
        if len(arguments) > 1:
            raise UserError(f"'{arguments[1]}' is not a flag: all arguments start with --" + (
                f'; did you mean --config={arguments[1]}?' if config is None else ''))
        if config is None:
            raise UserError('--config is missing: what to run, as in --config=configs/quickstart.py'
                            '; python launch.py --help lists the configs')
        if WORKDIR.value is None:
            raise UserError('--workdir is missing: the directory for all that the run writes, as '
                            'in --workdir=runs/quickstart')
    except UserError as error:
        sys.exit(f'error: {error}')
    except flags.UnrecognizedFlagError as error:
        near = config_file.did_you_mean(config, error.flagname) if config else ''
        sys.exit(f'error: --{error.flagname} is not a flag{near}' if near else f'error: {error}')
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = str(error.args[0] if error.args else error)
        for reason, remedy in VALUES.items():
            start, found, _ = message.partition(f': {reason}')
            message = f'{start}: {remedy}' if found else message
        sys.exit(f'error: {message.removeprefix("ERROR:: ").removeprefix("flag ")}')
    return arguments


def given(argv, name):
    """The last value of a flag in the arguments, '--name=value' or '--name', 'value'."""
    values = [following if argument in (f'--{name}', f'-{name}') else argument.partition('=')[2]
              for argument, following in itertools.zip_longest(argv, argv[1:])
              if re.match(f'--?{name}(=|$)', argument)]
    return values[-1] if values else None


def leave_out_none(argv, values):
    """Removes '--config.data_dir=None' from `argv` if the field is None in `values`, because the
    parser would read the string 'None' or ask for a number."""
    for i in reversed(range(len(argv))):
        name, equals, value = argv[i].partition('=')
        following = argv[i + 1:i + 2] if not equals else []
        field = re.fullmatch(r'--?config\.(.+)', name)
        if field and ''.join([value, *following]) == 'None' and values.get(field[1], '') is None:
            del argv[i:i + 1 + len(following)]


def usage():
    """What --help prints without a config."""
    return f"""{__doc__}
Configs:
{config_file.overview()}

The fields of one, its variants and examples: python launch.py --config=configs/cifar.py --help

Flags:
{flags.FLAGS.module_help(sys.modules[__name__]).strip().partition(os.linesep)[2]}"""


def main(argv):
    del argv  # All of it is flags, which are parsed.
    verbosity = flags.FLAGS['verbosity']  # limits orbax, which logs each file
    # Imported after the flags are parsed, so that a mistake in them shows at once.
    import experiments
    from cnnjax import cluster, jobs, sweeps, workdir

    try:
        with cluster.together():
            directory = workdir.located(WORKDIR.value)
            place = jobs.Place(directory, EXECUTOR.value, RESOURCES.value,
                               (COORDINATOR.value, PROCESSES.value, PROCESS.value, WAIT.value),
                               verbosity.value if verbosity.present else logging.ERROR)
            if SWEEP.value:
                file = flags.FLAGS['config']
                succeeded = sweeps.run(CONFIG.value, place, config_flags.get_config_filename(file),
                                       config_flags.get_override_values(file), experiments.find)
            else:
                experiment = experiments.find(CONFIG.value.experiment)
                if experiment.__name__ == 'sweep':
                    succeeded = experiment(CONFIG.value, place)
                else:
                    succeeded = place.run([jobs.Job(CONFIG.value, directory, experiment)])
    except (UserError, OSError) as error:  # OSError: a full disk, for example
        sys.exit(f'error: {error}')
    return 0 if succeeded else 1


def ask_for_huge_pages():
    """Starts Python again with glibc's tunable for huge pages, unless it is set already.

    XLA allocates the memory of each step anew. Where Linux gives huge pages only on demand, small
    pages cost 6 to 25 percent of a step on the CPU (docs/cpu.md). glibc reads the tunable only when
    the process starts.
    """
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    if sys.platform == 'linux' and 'glibc.malloc.hugetlb' not in tunables:
        os.environ['GLIBC_TUNABLES'] = f'{tunables}:glibc.malloc.hugetlb=1'.lstrip(':')
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == '__main__':
    ask_for_huge_pages()
    # Importing and tracing make many objects that stay. With Python's own threshold, a tenth of the
    # time to the first step goes into searching them for garbage.
    gc.set_threshold(10_000)
    sys.stdout.reconfigure(errors='backslashreplace')  # a terminal may be ASCII
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:
        sys.exit(130)
