"""Further cases of gradients.py, in a file for each kind of network.

A file has CASES, as gradients.py has, and a function of the same name as each case, (net, images,
fields) -> outputs, where `net` is a torch_layers.Torch.
"""

import importlib
import pkgutil

MODULES = [importlib.import_module(f'{__name__}.{found.name}')
           for found in pkgutil.iter_modules(__path__)]
CASES = {case: row for module in MODULES for case, row in module.CASES.items()}
FUNCTIONS = {case: getattr(module, case) for module in MODULES for case in module.CASES}
