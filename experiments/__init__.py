"""What `launch.py` runs: the name in `config.experiment` -> run(config, workdir)."""

from experiments import (
    benchmark,
    dream,
    evaluate,
    features,
    invert,
    prepare,
    style,
    summarize,
    train,
)

RUNS = {
    'train': train.run,
    'evaluate': evaluate.run,
    'prepare': prepare.run,
    'summarize': summarize.run,
    'features': features.run,
    'invert': invert.run,
    'dream': dream.run,
    'style': style.run,
    'benchmark': benchmark.run,
}
