"""The length of a training, and another one with the same schedule."""


def stretch(config, factor):
    """Multiplies the length of the training, and every time within it, by the factor."""
    config.epochs *= factor
    config.steps = round(config.steps * factor)
    config.drops = tuple(drop * factor for drop in config.drops)
    config.warmup *= factor
    config.average_start *= factor
    config.distillation_fall *= factor


def epochs(config, examples):
    """How many epochs of so many examples the training has."""
    return config.steps * config.batch_size / examples if config.steps else config.epochs
