"""A narrow VGG-16 on photographs that come with scikit-image and scikit-learn.

    python launch.py --config=configs/photos.py --workdir=runs/embedded

Nothing is downloaded. Each of the 154 classes is a place in a photograph, to be recognized at any
angle, at other sizes and in other colours (Dosovitskiy et al. 2014,
https://arxiv.org/abs/1406.6909). After 16 epochs, 80 minutes on two busy cores, the test error is
84 % (top 5: 47 %, chance 99.4 and 96.8 %): test crops lie beside those of the training, not on
them. The best checkpoint, that of epoch 15, has 83 %.

`trained.load('embedded')` is the network of this run, meant for optimizing images. Its pools are
blurred (Zhang 2019, https://arxiv.org/abs/1904.11486), so that gradients have no checkerboard.
Batch normalization has been folded into the convolutions. The file was written, from the
repository's root, by

    from cnnjax import trained, weights
    from cnnjax.models import vgg

    run = trained.load('runs/embedded')
    folded = run._replace(name='vgg16', net=run.net.clone(batch_norm=False),
                          variables=vgg.fold_batch_norm(run.variables))
    weights.save(folded, 'cnnjax/embedded.safetensors', dtype='float16')
"""

from configs import base


def get_config():
    config = base.get_config()
    config.dataset = 'photos'
    config.image_size = 48
    config.model.name = 'vgg16_bn'  # 1.85 million parameters, 3.7 MB in 16 bits
    config.model.widths = (40, 80, 128, 160, 160)
    config.model.hidden = ()
    config.model.pool = 'blur'
    config.std = 'channel'
    config.flip = True
    config.padding = 4
    config.padding_mode = 'reflect'
    config.rotation = 180.0
    config.scale = (0.7, 1.5)
    config.color_jitter = 0.3
    config.hue = 0.05
    config.batch_size = 32
    config.epochs = 16.0
    config.schedule = 'cosine'
    config.learning_rate = 0.05
    config.warmup = 0.3
    config.warmup_shape = 'linear'
    config.nesterov = True
    config.weight_decay = 5e-4
    config.decay = 'kernels'
    config.report_every = 20
    config.eval_every = 1.0
    return config
