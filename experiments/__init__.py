"""What `launch.py` runs: the name in `config.experiment` -> run(config, workdir)."""

from experiments import (
    benchmark,
    dream,
    eigenfaces,
    embed,
    equivariance,
    evaluate,
    features,
    invert,
    microscope,
    prepare,
    reproduce,
    scaling,
    style,
    summarize,
    train,
    visualize,
)

RUNS = {
    'train': train.run,
    'evaluate': evaluate.run,
    'prepare': prepare.run,
    'reproduce': reproduce.run,
    'summarize': summarize.run,
    'features': features.run,
    'invert': invert.run,
    'dream': dream.run,
    'style': style.run,
    'embed': embed.run,
    'eigenfaces': eigenfaces.run,
    'equivariance': equivariance.run,
    'microscope': microscope.run,
    'visualize': visualize.run,
    'benchmark': benchmark.run,
    'scaling': scaling.run,
}
