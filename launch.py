"""Runs a config in a working directory:

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart

Any field of the config can be overridden: --config.batch_size=32 --config.model.name=vgg11. A
config that takes an argument gets it after a colon: --config=configs/cifar.py:resnet110.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from cnnjax.errors import UserError

CONFIG = config_flags.DEFINE_config_file('config', lock_config=True, help_string='A config file.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run: everything it writes.')
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
    if not flags.FLAGS['verbosity'].present:
        logging.set_verbosity(logging.ERROR)  # orbax tells of every file it writes
    import experiments  # after the flags: a mistake in them is told at once

    if CONFIG.value.experiment not in experiments.RUNS:
        sys.exit(f"error: experiment='{CONFIG.value.experiment}' is none of "
                 f'{", ".join(experiments.RUNS)}')
    try:
        experiments.RUNS[CONFIG.value.experiment](CONFIG.value, WORKDIR.value)
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    app.run(main, flags_parser=parse)
