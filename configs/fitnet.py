"""A thin, deep network learns the digits from the quickstart's ResNet, its teacher.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart
    python launch.py --config=configs/fitnet.py:hint --workdir=runs/fitnet-hint
    python launch.py --config=configs/fitnet.py:taught --workdir=runs/fitnet-taught

These are the two stages of FitNets (Romero et al. 2014, https://arxiv.org/abs/1412.6550): with
'hint' a middle layer learns to predict a layer of the teacher; 'taught' starts from there, and the
whole network learns from the labels and from the teacher's probabilities. 'alone' learns from the
labels only. All begin with LSUV's weights, because a narrow network of 13 layers does not learn
from the tiny ones of the paper. The paper's networks are in configs/cifar.py: fitnet4_hint and
fitnet4.
"""

from cnnjax.errors import UserError, suggest
from configs import quickstart

PAPER = {}  # No paper has test errors of this recipe.
STAGES = ('hint', 'taught', 'alone')


def get_config(stage='alone'):
    if stage not in STAGES:
        raise UserError(f"the argument is {', '.join(STAGES)}, not '{stage}'"
                        f'{suggest(stage, STAGES)}')
    config = quickstart.get_config()
    config.model.name = 'fitnet4'
    config.model.widths = ((8,) * 4, (12,) * 4, (16,) * 3)
    config.model.hidden = (24,)
    config.model.pieces = (2, 2)
    config.init = 'lsuv'
    config.learning_rate = 0.005
    if stage != 'alone':
        config.teacher = 'runs/quickstart'
    if stage == 'hint':
        config.loss = 'hint'
        config.guided_layer, config.hint_layer = 'maxout6', 'conv3_2'
        config.hint_activation = 'relu'
        config.learning_rate = 0.0003
    elif stage == 'taught':
        config.init, config.init_from = 'network', 'runs/fitnet-hint'
        config.loss = 'cross_entropy+4*distillation'
        config.distillation_fall = config.epochs
    return config
