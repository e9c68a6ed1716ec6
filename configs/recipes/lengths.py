"""The length of a training, and another one with the same schedule."""


def stretch(config, factor):
    """Makes the training so many times as long, with all that happens at some time of it."""
    config.epochs *= factor
    config.steps = round(config.steps * factor)
    config.drops = tuple(drop * factor for drop in config.drops)
    config.warmup *= factor
    config.average_start *= factor


def epochs(config, examples):
    """How many epochs of so many examples the training has."""
    return config.steps * config.batch_size / examples if config.steps else config.epochs
