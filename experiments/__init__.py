"""What `launch.py` runs: the name in `config.experiment` -> run(config, workdir)."""

from experiments import evaluate, features, prepare, summarize, train

RUNS = {
    'train': train.run,
    'evaluate': evaluate.run,
    'prepare': prepare.run,
    'summarize': summarize.run,
    'features': features.run,
}
