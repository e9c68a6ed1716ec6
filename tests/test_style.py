"""Style transfer from the config to the pictures, on a tiny network with random weights."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from cnnjax import models, plots, reports, trained, weights
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.images import descent, pictures
from cnnjax.models.vgg import VGG
from configs import style as configs
from configs import texture as texture_configs
from experiments import style


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A network and pictures: a wide one, a square one, and two plain colours with noise."""
    folder = tmp_path_factory.mktemp('style')
    fields = {'widths': (6, 8, 8, 8, 8), 'hidden': (), 'num_classes': 2, 'pool': 'average'}
    net = models.create('vgg11', **fields)
    for name, mean in (('net', (0.5, 0.5, 0.5)), ('gray', (0.4,))):
        shape = (32, 32, len(mean))
        variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, *shape)))
        normalize = Normalization(np.float32(mean), np.float32([0.25] * len(mean)))
        weights.save(weights.Weights('vgg11', net, variables, normalize, ('a', 'b'), shape),
                     folder / f'{name}.safetensors')
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
    rows = reports.read_metrics(tmp_path)
    assert [row['step'] for row in rows] == list(range(1, 21))
    assert rows[11]['style'] < rows[0]['style']
    assert {'loss', 'content', 'style', 'variation', 'gradient'} <= rows[0].keys()
    for path in ('figures/style.png', 'figures/loss.png', 'snapshots/48/00012.png',
                 'snapshots/60/00008.png'):
        assert (tmp_path / path).exists()
    # The same command again reads what is finished.
    (tmp_path / 'figures' / 'wide.png').unlink()
    np.testing.assert_array_equal(result(folder, tmp_path, **fields), image)
    assert reports.read_metrics(tmp_path) == rows


def test_the_distances_to_content_and_style(folder, tmp_path):
    """A picture that hardly changes is its content, and its own style."""
    other = {'styles': f'{folder}/wide.png,{folder}/red.png', 'style_weights': (1.0, 0.0)}
    for name, fields in (('same', other), ('red', other | {'style_weights': (0.0, 1.0)})):
        result(folder, tmp_path / name, steps=(1,), learning_rate=0.004, average=0.0, **fields)
    found = {name: json.loads((tmp_path / name / 'results.json').read_text())['wide']
             for name in ('same', 'red')}
    assert found['same']['style_distance'] < 0.05 < 0.2 < found['red']['style_distance']
    assert max(each['content_distance'] for each in found.values()) < 0.05


@pytest.mark.parametrize('padding', ['edge', 'zero'])
def test_the_padding_of_the_config_is_that_of_the_convolutions(folder, tmp_path, monkeypatch,
                                                               padding):
    """A flat image has flat maps if edges are continued."""
    network = trained.load(folder / 'net.safetensors')
    seen = []
    monkeypatch.setattr(style, 'write', lambda *_: seen.append(
        network.taps(np.full((1, 32, 32, 3), 0.3, np.float32))['conv1_1']))
    style.run(config(folder, padding=padding), tmp_path)
    assert (np.ptp(seen[0], (1, 2)).max() < 1e-6) == (padding == 'edge')


def test_lbfgs_from_noise(folder, tmp_path):
    style.run(config(folder, 'gatys2016', steps=(4,)), tmp_path)
    losses = [row['loss'] for row in reports.read_metrics(tmp_path)]
    assert losses[3] < losses[0]


@pytest.mark.parametrize('preset', configs.PRESETS)
def test_presets_fit_together(preset):
    made = configs.get_config(preset)
    style.check(made)
    problem, _ = style.formulate(made, None, (64, 64, 3))
    assert problem.objective.tileable
    assert len(made.sizes) >= len(made.steps)


@pytest.mark.parametrize('preset', ['johnson', 'neural-style-pt', 'anishathalye'])
def test_presets_that_start_from_noise_leave_no_gray_square(folder, tmp_path, preset):
    """Their weights are for activations as large as those of Caffe's VGG-19; as they were, the
    variation won, and the picture stayed gray."""
    layers = {'style_layers': 'relu1_1,relu2_1', 'content_layers': 'relu2_1',
              'style_layer_weights': (1.0, 1.0)}
    style.run(config(folder, preset, init='noise', noise=0.001, steps=(20,), report_every=20,
                     **layers), tmp_path)
    image = pictures.read(tmp_path / 'figures' / 'wide.png')
    assert (image.std((0, 1)) > 10 / 255).all()


def test_the_first_losses_are_those_of_vgg19(folder):
    """Those that neural-style-pt's INSTALL.md shows, where the image is still gray and its
    activations are nearly 0, less their weights: any network has the same."""
    layers = configs.get_config('johnson').style_layers
    made = config(folder, 'johnson', content_layers='relu4_2', style_layers=layers)
    red = pictures.read(folder / 'red.png', 32)
    shared, codes = style.targets(made, trained.load(made.source), red[None], [red])
    printed = (29890.998, 658038.625, 145283.672, 11347409.0, 563.369)
    for layer, loss in zip(layers.split(','), printed, strict=True):
        [second] = shared['style'][layer]['second']
        assert 100 * ((second / len(second)) ** 2).mean() == pytest.approx(loss, rel=2e-3)
    assert 5 * (codes['relu4_2']['content'] ** 2).mean() == pytest.approx(1616196.125, rel=2e-3)


def test_activations_count_as_in_the_convention_of_the_preset(folder, monkeypatch):
    """Weights without biases, for inputs over a standard deviation, and the same for Caffe's
    inputs, whose activations are larger: each loss is the same in both. So a VGG of full width,
    and here a narrow one in its place, needs no more than the ratio of the inputs."""
    made = config(folder, 'johnson')
    torch = trained.load(made.source)
    assert style.like_vgg19(made, torch)
    monkeypatch.setattr(VGG, 'widths', torch.net.widths)
    assert not style.like_vgg19(made, torch)
    torch = torch._replace(variables=jax.tree.map(
        lambda leaf: leaf if leaf.ndim > 1 else jnp.zeros_like(leaf), torch.variables))
    levels = torch.normalize._replace(std=np.full(3, 1 / 255, np.float32))
    caffe = torch._replace(normalize=levels)
    content, look = (pictures.read(folder / f'{name}.png', 48) for name in ('wide', 'red'))
    values = {}
    for name, network in (('torch', torch), ('caffe', caffe)):
        shared, codes = style.targets(made, network, content[None], [look])
        problem, _ = style.formulate(made, network, content.shape)
        aux = shared | {'maps': {layer: {'content': maps['content'][0]}
                                 for layer, maps in codes.items()}}
        values[name] = descent.loss(problem, network.variables, content[::-1], jax.random.key(0),
                                     aux)[1]
    assert style.convention(made, caffe) == pytest.approx(1)
    assert style.convention(made, torch) == pytest.approx(1 / (255 * 0.25))
    for term in ('content', 'style', 'variation'):
        np.testing.assert_allclose(values['torch'][term], values['caffe'][term], rtol=1e-4)
    # crowsonkb means torchvision's: the reverse.
    made = config(folder, 'crowsonkb')
    assert style.convention(made, torch) == pytest.approx(0.226 / 0.25)
    assert style.convention(made, caffe) == pytest.approx(255 * 0.226)


def test_a_network_may_be_given_levels(folder, capsys):
    """gordicaleksa gives torchvision's VGG-19 levels less the mean, not divided by anything."""
    made = config(folder, 'gordicaleksa')
    image = pictures.read(folder / 'wide.png')[None]
    plain, given = trained.load(made.source), style.load(made)
    assert 'levels from 0 to 255' in capsys.readouterr().out
    expected = plain.net.apply(plain.variables, 255 * (image - plain.normalize.mean))[1]
    np.testing.assert_allclose(given.taps(image)['relu3_1'], expected['relu3_1'], rtol=1e-4)


def test_noise_is_around_the_mean_of_the_network(folder):
    network = trained.load(str(folder / 'gray.safetensors'))
    image = style.first(config(folder, 'anishathalye', init='noise', noise=0.256), network,
                        jax.random.key(0), np.zeros((1, 40, 40, 1), np.float32), [])
    assert image.mean() == pytest.approx(0.4, abs=1e-4)
    assert image.std() == pytest.approx(0.256 / 255, rel=0.05)


def test_what_the_systems_fix_besides_their_loss():
    def fields(preset):
        made = configs.get_config(preset)
        return made.memory, made.side, made.sizes, made.activations

    assert fields('johnson') == fields('neural-style-pt') == (100, 'longer', (512,), 'caffe')
    assert fields('gordicaleksa') == (100, 'height', (400,), 'levels')
    assert fields('gatys-notebook') == (100, 'shorter', (512, 800), 'caffe')
    assert fields('anishathalye')[1:] == ('width', (512,), 'caffe')
    assert fields('tensorflow')[1:] == ('longer', (512,), 'caffe')
    assert fields('crowsonkb')[1::2] == ('longer', 'torchvision')
    assert fields('gatys2016')[3] == 'relative'


@pytest.mark.parametrize(('side', 'shape'), [
    ('longer', (20, 30, 3)), ('width', (20, 30, 3)), ('shorter', (30, 45, 3)),
    ('height', (30, 45, 3))])
def test_sides(side, shape):
    made = configs.get_config()
    made.side = side
    normalize = Normalization(np.zeros(3, np.float32), np.ones(3, np.float32))
    any_size = trained.Trained(None, {}, normalize, (), (8, 8, 3), None)
    assert style.sized(made, any_size, np.zeros((40, 60, 3), np.float32), 30).shape == shape
    assert style.sized(made, any_size, np.zeros((40, 60, 3), np.float32), 20, 1.5).shape == shape
    turned = style.sized(made, any_size, np.zeros((60, 40, 3), np.float32), 30).shape
    assert turned == {'longer': (30, 20, 3), 'shorter': (45, 30, 3), 'height': (30, 20, 3),
                      'width': (45, 30, 3)}[side]


def test_a_gray_network_has_a_style_too(folder, tmp_path):
    fields = {'source': str(folder / 'gray.safetensors'), 'steps': (3,)}
    style.run(config(folder, **fields), tmp_path / 'gray')
    with Image.open(tmp_path / 'gray' / 'figures' / 'wide.png') as image:
        assert image.mode == 'L'
        assert image.size == (48, 32)
    # The colours of the content come back where they are asked for.
    image = result(folder, tmp_path / 'luminance', 'other.png', color='luminance',
                   content=f'{folder}/other.png', init=f'{folder}/red.png', **fields)
    assert image[..., 2].mean() > image[..., 0].mean() + 0.2


def test_pictures_are_named_apart_from_our_figures_and_each_other(folder, tmp_path, monkeypatch):
    said, draw = [], plots.pictures
    monkeypatch.setattr(plots, 'pictures', lambda rows, path, title: said.extend(
        [title, *([text for text, _ in row] for row in rows)]) or draw(rows, path, title))
    (tmp_path / 'more').mkdir()
    for name in ('loss.png', 'style.png', 'wide.png'):
        shutil.copy(folder / 'other.png', tmp_path / 'more' / name)
    contents = [folder / 'wide.png', *sorted((tmp_path / 'more').iterdir())]
    style.run(config(folder, steps=(2,), content=','.join(map(str, contents))), tmp_path / 'run')
    assert sorted(path.name for path in (tmp_path / 'run' / 'figures').iterdir()) == [
        'loss-2.png', 'loss.png', 'style-2.png', 'style.png', 'wide-2.png', 'wide.png']
    assert said[0].endswith('(vgg11): style transfer')
    assert ['content: wide-2', 'style: red', 'result'] in said[1:]
    figures = tmp_path / 'run' / 'figures'
    assert pictures.read(figures / 'loss-2.png').shape == (32, 48, 3)
    assert pictures.read(figures / 'loss.png').shape != (32, 48, 3)
    equal = pictures.read(figures / 'wide-2.png') - pictures.read(figures / 'style-2.png')
    assert np.abs(equal).max() < 3 / 255
    assert np.abs(pictures.read(figures / 'wide.png') - pictures.read(figures / 'wide-2.png')
                  ).max() > 0.1


def test_a_size_may_come_twice(folder, tmp_path):
    style.run(config(folder, sizes=(48, 48), steps=(2, 3)), tmp_path)
    assert [row['step'] for row in reports.read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert (tmp_path / 'snapshots' / '48-2' / '00003.png').exists()


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match='gatys2016'):
        configs.get_config('picasso')


def test_each_region_takes_its_own_style(folder, tmp_path):
    image = result(folder, tmp_path, styles=f'{folder}/red.png,{folder}/blue.png',
                   content_masks=f'{folder}/left.png,{folder}/right.png',
                   style_masks=f'{folder}/all.png,{folder}/all.png', steps=(40,), activations='own',
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


def texture(folder, directory, **fields):
    made = texture_configs.get_config()
    made.update({'source': str(folder / 'net.safetensors'), 'styles': f'{folder}/red.png',
                 'style_layers': 'relu1_1,relu3_1', 'style_layer_weights': (),
                 'report_every': 30} | fields)
    style.run(made, directory)
    return pictures.read(directory / 'figures' / 'texture.png')


def test_a_texture_larger_than_its_picture_has_its_colours(folder, tmp_path):
    image = texture(folder, tmp_path, sizes=(48, 72), steps=(30,), aspect=1.5, style_scale=0.7,
                    style_convention='tensorflow')
    assert image.shape == (48, 72, 3)  # the picture is 48 x 48, and seen at 50 x 50
    color = image.mean((0, 1))
    assert color[0] > color[1:].max() + 0.2
    rows = reports.read_metrics(tmp_path)
    assert 'content' not in rows[0]
    assert rows[-1]['style'] < rows[0]['style'] / 2


def test_a_tileable_texture_is_cut_at_another_place_at_each_step(folder):
    """What is beyond its border comes in on the other side, so that no place is always a seam."""
    made = texture_configs.get_config()
    made.update({'source': str(folder / 'net.safetensors'), 'style_layers': 'relu1_1,relu3_1',
                 'style_layer_weights': ()})
    network = trained.load(made.source)
    image = np.random.default_rng(0).random((40, 40, 3), np.float32)
    shared, _ = style.targets(made, network, image[None], [pictures.read(folder / 'red.png')])
    seen = {}
    for tileable in (True, False):
        made.tileable = tileable
        problem, _ = style.formulate(made, network, image.shape)
        seen[tileable] = [float(descent.loss(problem, network.variables, image, jax.random.key(i),
                                             shared)[0]) for i in range(2)]
    assert seen[False][0] == seen[False][1] != seen[True][0] != seen[True][1]
    made.tileable = True
    np.testing.assert_allclose(
        style.enlarged(made, np.roll(image, (3, 5), (0, 1)), (80, 80)),
        np.roll(style.enlarged(made, image, (80, 80)), (6, 10), (0, 1)), atol=1e-5)
    problem, _ = style.formulate(made, network, image.shape)
    rolled = problem.transform(jax.random.key(0), image)
    assert any(np.array_equal(rolled, np.roll(image, (down, right), (0, 1)))
               for down in range(-20, 21) for right in range(-20, 21))


@pytest.mark.parametrize('preset', texture_configs.PRESETS)
def test_presets_of_textures_fit_together(preset):
    made = texture_configs.get_config(preset)
    style.check(made)
    problem, _ = style.formulate(made, None, (64, 64, 3))
    assert problem.objective.tileable
    assert (problem.transform is None) == (not made.tileable)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'init': 'content'}, "init='content' and .*without a content"),
    ({'color': 'match'}, "color='match': without a content"),
    ({'optimizer': 'lbfgs', 'bound': 'none'}, 'tileable=True moves the picture'),
    ({'content': 'a.png', 'content_layers': 'relu1_1'}, 'tileable=True moves the picture'),
    ({'sizes': (16,)}, r'texture at 16 x 16 pixels: .* at least 32 x 32')])
def test_what_does_not_fit_a_texture_is_refused(folder, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        texture(folder, tmp_path, **fields)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'style_layers': 'relu1_1,relu9_1'}, "'relu9_1'.*did you mean"),
    ({'content_layers': 'fc8', 'tile': 16}, "'fc8'"),
    ({'sizes': (96,), 'tile': 4, 'content_layers': 'relu1_1', 'style_layers': 'relu1_1'},
     'larger tile'),
    ({'content': 'nowhere.jpg'}, 'nowhere.jpg'),
    ({'content': 'skimage:nobody'}, 'astronaut'),
    ({'styles': ' '}, "styles=' ' is empty"),
    ({'content': ' ,'}, "content=' ,' is empty"),
    ({'style_layers': ', '}, "style_layers=', ' is empty"),
    ({'content_layers': ''}, "content_layers='' is empty"),
    ({'style_layer_weights': (1.0,)}, 'style_layer_weights=.*each of the 2 style_layers a weight'),
    ({'content_layer_weights': (1.0, 2.0)}, 'content_layer_weights=.*each of the 1 content_layers'),
    ({'side': 'left'}, "side='left' is none of 'longer'"),
    ({'activations': 'large'}, "activations='large' is none of 'own'"),
    ({'style_scale': 1e4}, r'sizes=\(48,\) with .*style_scale=10000'),
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
