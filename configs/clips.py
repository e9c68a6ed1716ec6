"""A three-dimensional ResNet that tells in which direction clips of photographs move.

    python launch.py --config=configs/clips.py --workdir=runs/clips
    python launch.py --config=configs/clips.py:frames --workdir=runs/frames

The argument is 'clips' (default), 5 frames each, or 'frames': the same network sees the middle
frame of each clip as an image, from which the direction cannot be told (cnnjax/data/clips.py).
"""

from cnnjax.errors import UserError
from configs import base

PAPER = {}  # No paper has test errors of this recipe.


def get_config(data='clips'):
    if data not in ('clips', 'frames'):
        raise UserError(f"the argument is 'clips' or 'frames', not '{data}'")
    config = base.get_config()
    config.dataset = {'clips': 'clips', 'frames': 'clip_frames'}[data]
    config.model.name = 'resnet20'
    config.model.widths = (8, 16, 32)
    config.batch_size = 64
    config.epochs = 8.0
    config.schedule = 'cosine'
    config.learning_rate = 0.1
    config.nesterov = True
    config.weight_decay = 5e-4
    config.report_every = 16
    config.eval_every = 1.0
    config.checkpoint_every = 0.0
    return config
