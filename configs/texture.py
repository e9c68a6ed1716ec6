"""A texture like that of a picture, from noise, of any size.

    python launch.py --config=configs/texture.py --workdir=runs/texture
    python launch.py --config=configs/texture.py --config.styles=wall.jpg \\
        --config.sizes=128,256,512,1024 --config.style_scale=0.25 --workdir=runs/wall

A texture is a style transfer without a content. `sizes` are those of the texture, and `style_scale`
is how long the picture is beside it: 0.5 makes a texture twice as long as its picture. Opposite
sides fit each other, so that copies of the texture cover a plane without a seam (`tileable`). The
argument is a preset: `cnnjax`, or `gatys2015` for Gatys, Ecker & Bethge 2015, "Texture Synthesis
Using Convolutional Neural Networks", https://arxiv.org/abs/1505.07376, whose network is VGG-19 with
average pools: --config.source=timm/vgg19.tv_in1k.
"""

from configs import style

PRESETS = {
    'cnnjax': {},  # the settings below
    'gatys2015': style.LBFGS | {  # figure 1: the Gram matrices of five layers, with equal weights
        'style_layers': 'relu1_1,pool1,pool2,pool3,pool4', 'style_convention': 'gatys2016',
        'style_layer_weights': (), 'style_weight': 1e3, 'tv_weight': 0.0, 'pool': 'average',
        'activations': 'relative', 'sizes': (256,), 'tileable': False},
}


def get_config(preset='cnnjax'):
    config = style.get_config()
    settings = {
        'content_layer_weights': (), 'content_weight': 0.0, 'styles': 'skimage:brick',
        'style_scale': 0.5, 'sizes': (96, 192, 384), 'steps': (150, 100, 60), 'init': 'noise',
        'noise': 0.05, 'tileable': True}
    if preset not in PRESETS:
        raise ValueError(f"the argument is a preset: {', '.join(PRESETS)}; not '{preset}'")
    config.update(settings | PRESETS[preset] | {'content': '', 'content_layers': ''})
    return config
