"""A narrow VGG-16 on photographs that come with scikit-image and scikit-learn.

    python launch.py --config=configs/photos.py --workdir=runs/embedded

Nothing is downloaded. Each of the 154 classes is a place in a photograph. After 8 epochs the test
error is 87.6 % (top 5: 59.0 %, chance 99.4 %): test crops lie beside those of the training, not on
them.

`trained.load('embedded')` is the network of this run, meant for optimizing images. It has average
pools (Gatys et al. 2016, section 2, https://arxiv.org/abs/1508.06576). Batch normalization, without
which it would learn nothing in a quarter of an hour, has been folded into the convolutions. The
file was written, from the repository's root, by

    from cnnjax import trained, weights
    from cnnjax.models import vgg

    run = trained.load('runs/embedded')
    folded = run._replace(name='vgg16', net=run.net.clone(batch_norm=False),
                          variables=vgg.fold_batch_norm(run.variables))
    weights.save(folded, 'cnnjax/embedded.safetensors')
"""

from configs import base


def get_config():
    config = base.get_config()
    config.dataset = 'photos'
    config.image_size = 48
    config.model.name = 'vgg16_bn'  # these widths give 0.97 million parameters, 3.9 MB
    config.model.widths = (32, 64, 96, 112, 112)
    config.model.hidden = ()
    config.model.pool = 'average'
    config.std = 'channel'
    config.flip = True
    config.padding = 4
    config.padding_mode = 'reflect'
    config.color = 0.1
    config.batch_size = 32
    config.epochs = 8.0
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
