"""Speed beside PyTorch, interleaved in one run (PyTorch where it is installed: torch==2.13.0, with
torchvision for 'input').

    python launch.py --config=configs/benchmark.py --workdir=runs/benchmark

Writes results.json and results.md: the median seconds of a step, their quartiles, and the ratio
PyTorch / cnnjax (above 1: cnnjax is faster).
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'benchmark'
    # Computations with their sizes.
    config.rows = 'style_256,style_512,visualization_224,units_48,input_224'
    config.rounds = 7  # of which each measures both sides, in turn
    config.steps = 1  # of each side in a round
    return config
