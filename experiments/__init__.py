"""The experiments that `launch.py` runs: experiment x is the function run(config, directory) in
x.py, in this folder or in a subfolder. An experiment of many trainings is the function
sweep(config, place) instead, which runs them at a jobs.Place and returns whether all succeeded."""

import importlib
import re
from pathlib import Path

from cnnjax.errors import UserError, suggest

FOLDER = Path(__file__).parent


def find(name):
    """The function, `run` or `sweep`, of the experiment `name`. Only its module is imported.

    Raises:
      UserError: there is no such experiment; the message lists those that there are.
    """
    modules: dict[str, Path] = {}
    for path in sorted(FOLDER.rglob('[a-z]*.py'), key=lambda path: (len(path.parts), path)):
        if re.search(r'^def (run|sweep)\(', path.read_text('utf-8', 'replace'), re.M):
            modules.setdefault(path.stem, path.relative_to(FOLDER.parent).with_suffix(''))
    if name not in modules:
        raise UserError(f"experiment='{name}' is none of {', '.join(sorted(modules))}"
                        f'{suggest(name, modules)}')
    module = importlib.import_module('.'.join(modules[name].parts))
    return getattr(module, 'run', None) or module.sweep
