"""Style transfer from the config to the pictures, on a tiny network with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile

from cnnjax import models, weights, workdir
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.images import pictures
from configs import style as configs
from experiments import style


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A network and pictures: a wide one, a square one, and two plain colours with noise."""
    folder = tmp_path_factory.mktemp('style')
    fields = {'widths': (6, 8, 8, 8, 8), 'hidden': (), 'num_classes': 2, 'pool': 'average'}
    net = models.create('vgg11', **fields)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    normalize = Normalization(np.float32([0.5] * 3), np.float32([0.25] * 3))
    weights.save(weights.Weights('vgg11', net, variables, normalize, ('a', 'b'), (32, 32, 3)),
                 folder / 'net.safetensors')
    rng = np.random.default_rng(0)
    for name, shape, color in (('wide', (32, 48), (0.5, 0.5, 0.5)),
                               ('other', (32, 48), (0.3, 0.5, 0.7)),
                               ('square', (40, 40), (0.5, 0.5, 0.5)),
                               ('red', (48, 48), (0.85, 0.15, 0.15)),
                               ('blue', (48, 48), (0.15, 0.15, 0.85))):
        pictures.write(folder / f'{name}.png', color + rng.normal(0, 0.1, (*shape, 3)))
    for name, columns in (('left', slice(24)), ('right', slice(24, None)), ('all', slice(None))):
        mask = np.zeros((32, 48))
        mask[:, columns] = 1
        pictures.write(folder / f'{name}.png', mask)
    return folder


def config(folder, preset='cnnjax', **fields):
    made = configs.get_config(preset)
    made.update({'source': str(folder / 'net.safetensors'), 'sizes': (48,), 'steps': (6,),
                 'content': f'{folder}/wide.png', 'styles': f'{folder}/red.png',
                 'content_layers': 'relu3_2', 'style_layers': 'relu1_1,relu3_1',
                 'style_layer_weights': (), 'report_every': 3} | fields)
    return made


def result(folder, directory, name='wide.png', **fields):
    style.run(config(folder, **fields), directory)
    return pictures.read(directory / 'figures' / name)


def test_two_sizes_lower_the_loss_and_leave_pictures(folder, tmp_path):
    default = configs.get_config()
    fields = {'sizes': (48, 60), 'steps': (12, 8), 'style_layers': default.style_layers,
              'style_layer_weights': default.style_layer_weights}
    image = result(folder, tmp_path, **fields)
    assert image.shape == (40, 60, 3)
    rows = workdir.read_metrics(tmp_path)
    assert [row['step'] for row in rows] == list(range(1, 21))
    assert rows[11]['style'] < rows[0]['style']
    assert {'loss', 'content', 'style', 'variation', 'gradient'} <= rows[0].keys()
    for path in ('figures/style.png', 'figures/loss.png', 'snapshots/48/00012.png',
                 'snapshots/60/00008.png'):
        assert (tmp_path / path).exists()
    # The same command again reads what is finished.
    (tmp_path / 'figures' / 'wide.png').unlink()
    np.testing.assert_array_equal(result(folder, tmp_path, **fields), image)
    assert workdir.read_metrics(tmp_path) == rows


def test_lbfgs_from_noise(folder, tmp_path):
    style.run(config(folder, 'gatys2016', steps=(4,)), tmp_path)
    losses = [row['loss'] for row in workdir.read_metrics(tmp_path)]
    assert losses[3] < losses[0]


@pytest.mark.parametrize('preset', configs.PRESETS)
def test_presets_fit_together(preset):
    made = configs.get_config(preset)
    style.check(made)
    problem, _ = style.formulate(made, None, (64, 64, 3))
    assert problem.objective.tileable
    assert len(made.sizes) >= len(made.steps)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match='gatys2016'):
        configs.get_config('picasso')


def test_each_region_takes_its_own_style(folder, tmp_path):
    image = result(folder, tmp_path, styles=f'{folder}/red.png,{folder}/blue.png',
                   content_masks=f'{folder}/left.png,{folder}/right.png',
                   style_masks=f'{folder}/all.png,{folder}/all.png', steps=(40,), rescale=False,
                   content_weight=0.0, style_weight=1e3, learning_rate=0.05,
                   style_convention='gordicaleksa')
    left, right = image[:, :18].mean((0, 1)), image[:, -18:].mean((0, 1))
    assert left[0] > right[0] + 0.1
    assert right[2] > left[2] + 0.1


def test_contents_of_one_shape_share_a_batch_with_the_result_of_each_alone(folder, tmp_path):
    together = result(folder, tmp_path / 'together', 'other.png',
                      content=f'{folder}/wide.png,{folder}/square.png,{folder}/other.png')
    alone = result(folder, tmp_path / 'alone', 'other.png', content=f'{folder}/other.png')
    np.testing.assert_allclose(together, alone, atol=2 / 255)
    assert pictures.read(tmp_path / 'together' / 'figures' / 'square.png').shape == (48, 48, 3)


def test_tiles_give_the_same_picture(folder, tmp_path):
    fields = {'style_layers': 'relu1_1,relu2_1', 'content_layers': 'relu2_1', 'sizes': (96,),
              'steps': (4,)}
    whole = result(folder, tmp_path / 'whole', **fields)
    tiled = result(folder, tmp_path / 'tiled', tile=24, **fields)
    np.testing.assert_allclose(tiled, whole, atol=1.5 / 255)


def test_luminance_keeps_the_colours_of_the_content(folder, tmp_path):
    image = result(folder, tmp_path, color='luminance', bits=16, name='wide.tif')
    content = pictures.read(folder / 'wide.png')
    assert tifffile.imread(tmp_path / 'figures' / 'wide.tif').dtype == np.uint16
    inside = ((image > 0) & (image < 1)).all(-1)
    chroma = image - (image @ pictures.LUMA)[..., None]
    expected = content - (content @ pictures.LUMA)[..., None]
    np.testing.assert_allclose(chroma[inside], expected[inside], atol=1e-3)


def test_matched_styles_take_the_colours_of_the_content(folder, tmp_path):
    fields = {'content_weight': 0.0, 'steps': (30,), 'learning_rate': 0.05}
    plain = result(folder, tmp_path / 'plain', **fields)
    matched = result(folder, tmp_path / 'matched', color='match', **fields)
    redness = [image[..., 0].mean() - image[..., 2].mean() for image in (plain, matched)]
    assert redness[0] > redness[1] + 0.1


@pytest.mark.parametrize(('fields', 'message'), [
    ({'style_layers': 'relu1_1,relu9_1'}, "'relu9_1'.*did you mean"),
    ({'content_layers': 'fc8', 'tile': 16}, "'fc8'"),
    ({'sizes': (96,), 'tile': 4, 'content_layers': 'relu1_1', 'style_layers': 'relu1_1'},
     'larger tile'),
    ({'content': 'nowhere.jpg'}, 'nowhere.jpg'),
    ({'content': 'a/me.jpg,b/me.png'}, 'under its own name'),
    ({'content': 'skimage:nobody'}, 'astronaut'),
    ({'styles': ''}, 'styles is empty'),
    ({'style_weights': (1.0, 2.0)}, 'each of the 1 styles'),
    ({'optimizer': 'lbfgs'}, 'clipping'),
    ({'optimizer': 'sgd'}, "'adam', 'lbfgs'"),
    ({'steps': (0,)}, r'steps=\(0,\)'),
    ({'tv_form': 'smooth'}, 'total variation'),
    ({'style_convention': 'gram'}, 'gatys2016'),
    ({'content_masks': 'a.png'}, 'each region needs both'),
    ({'sizes': (16,)}, r'wide.png at 11 x 16 pixels: .* at least 32 x 32'),
    ({'content': 'THIN'}, r'thin.png at 1 x 48 pixels: '),
    ({'learning_rate': float('nan')}, 'learning_rate'),
])
def test_what_does_not_fit_is_refused(folder, tmp_path, fields, message):
    if fields.get('content') == 'THIN':
        fields = fields | {'content': f'{tmp_path}/thin.png'}
        pictures.write(tmp_path / 'thin.png', np.full((1, 60, 3), 0.5))
    with pytest.raises(UserError, match=message):
        style.run(config(folder, **fields), tmp_path)
    # Nothing is in the way of the next try.
    assert not list(tmp_path.glob('checkpoints/*/[0-9]*'))
