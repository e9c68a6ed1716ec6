"""DeepDream against google's notebook, written in NumPy; its files, resuming and errors.

https://github.com/google/deepdream, dream.ipynb
"""

import itertools
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy import ndimage

from cnnjax import models, plots
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.images import objectives, optimize, pictures, run
from cnnjax.trained import Trained
from configs import dream as configs
from experiments import dream

MEAN = np.float32([104, 116, 122])  # The notebook's mean, in levels from 0 to 255.


def network(channels=3, **fields):
    """A small VGG for images of 8 x 8 or more, whose input is 0 to 255 less the mean."""
    fields = {'groups': ((3,), (3, 3), (3,)), 'widths': (4, 6, 5), 'hidden': (), 'num_classes': 2,
              **fields}
    net = models.create('vgg11', **fields)
    shape = (16, 16, channels)
    variables = jax.jit(net.init)(jax.random.key(1), jnp.zeros((1, *shape)))
    normalize = Normalization(MEAN[:channels] / 255, np.float32([1 / 255]))
    return Trained(net, variables, normalize, ('a', 'b'), shape, None)


@pytest.fixture
def config(monkeypatch):
    """Dreams of the small network about a 20 x 24 crop of a photograph, in a few steps."""
    monkeypatch.setattr(dream.trained, 'load', lambda *_: network())
    config = configs.get_config()
    config.update(layers='relu2_1', size=24, octaves=2, steps=3, jitter=4, report_every=1)
    return config


def photograph(height=20, width=24):
    return pictures.read('skimage:astronaut', (height, width))


def ascend_with(config, trained):
    """`ascend` of `dream.octaves`, without files."""
    tx = dream.optimizer(config)

    def ascend(octave, images):
        problem = dream.problem(config, trained, dream.mixture(config, trained), images.shape[1:])
        return np.asarray(optimize.optimize(problem, tx, config.steps, jax.random.key(0),
                                            images=images).images)
    return ascend


def offsets(key, step, jitter):
    """(oy, ox): how the transform of step number `step`, from 1, shifts an image."""
    side = 2 * jitter + 3
    image = jnp.zeros((side, side, 1)).at[0, 0].set(1)
    shifted = dream.transforms.jitter(jitter)(jax.random.fold_in(key, step), image)
    place = np.array(np.unravel_index(np.argmax(shifted), (side, side)))
    return np.where(place > jitter, place - side, place)


def l2_gradient(trained, layer):
    """Of x [3, H, W] = image - mean: the notebook's `backward` after `objective_L2`."""
    plain = trained._replace(normalize=Normalization(np.zeros(3), np.ones(1)))

    @jax.jit
    def gradient(x):
        activation, backward = jax.vjp(
            lambda x: plain.taps(jnp.moveaxis(x, 0, -1)[None])[layer], x)
        return backward(activation)[0]
    return gradient


def make_step(gradient, x, ox, oy, step_size=1.5):
    """The notebook's `make_step` on x [3, H, W] = image - mean."""
    x = np.roll(np.roll(x, ox, -1), oy, -2)
    g = np.asarray(gradient(np.float32(x)))
    x = x + step_size / np.abs(g).mean() * g
    x = np.roll(np.roll(x, -ox, -1), -oy, -2)
    bias = MEAN[:, None, None]
    return np.clip(x, -bias, 255 - bias)


def test_google_is_the_notebook():
    google = configs.get_config('google')
    assert (google.octaves, google.scale, google.steps, google.jitter) == (4, 1.4, 10, 32)
    assert google.step == pytest.approx(1.5 / 255)
    assert (google.kind, google.normalize, google.carry) == ('l2', 'mean_abs', 'detail')
    assert ':' not in google.layers  # the notebook's objective is of all channels


def test_a_default_that_no_other_system_has_is_in_no_preset():
    for preset in set(configs.PRESETS) - {'cnnjax'}:
        config = configs.get_config(preset)
        assert {config.flip, config.turns, config.bands, config.natural_colors} == {0}, preset


def test_steps_are_made_on_the_mirrored_and_turned_image(config):
    """The gradient of a step is that of the changed image, changed back."""
    trained, image = network(), photograph(24, 24)
    config.update(jitter=0, flip=True, turns=True, bands=0, natural_colors=False, steps=1,
                  step=1.5 / 255)
    problem = dream.problem(config, trained, dream.mixture(config, trained), image.shape)
    result = optimize.optimize(problem, dream.optimizer(config), 1, jax.random.key(8),
                               images=image[None]).images[0]
    gradient = l2_gradient(trained, 'relu2_1')

    def changed(image, flip, turn):
        return np.rot90(image[:, ::-1] if flip else image, turn)

    def steps():
        for flip, turn in itertools.product((False, True), range(4)):
            x = np.moveaxis(255 * changed(image, flip, turn) - MEAN, -1, 0)
            x = np.moveaxis(make_step(gradient, np.ascontiguousarray(x), 0, 0), 0, -1)
            x = np.rot90((x + MEAN) / 255, -turn)
            yield x[:, ::-1] if flip else x

    distances = sorted(np.abs(result - step).max() for step in steps())
    assert distances[0] < 1e-5  # one of the eight
    assert distances[1] > 0.01


@pytest.mark.parametrize('steps', [1, 6])
def test_the_update_is_googles(steps):
    trained, layer = network(), 'relu2_1'
    config = configs.get_config('google')
    config.update(layers=layer, steps=steps)
    image = photograph(40, 48)
    problem = dream.problem(config, trained, dream.mixture(config, trained), image.shape)
    key = jax.random.key(3)
    result = optimize.optimize(problem, dream.optimizer(config), steps, key, images=image[None])
    x = np.moveaxis(255 * image - MEAN, -1, 0)
    own, gradient = jax.random.split(key, 1)[0], l2_gradient(trained, layer)
    for step in range(1, steps + 1):
        oy, ox = offsets(own, step, 32)
        x = make_step(gradient, x, ox, oy)
    expected = (np.moveaxis(x, 0, -1) + MEAN) / 255
    assert np.abs(expected - image).max() > 0.02
    assert (expected == 0).any() or (expected == 1).any()  # the clip acts
    np.testing.assert_allclose(result.images[0], expected, rtol=0, atol=1e-5)


def test_shifts_are_uniform_up_to_the_jitter_in_both_directions():
    image = jnp.zeros((65, 65, 1)).at[0, 0].set(1)
    keys = jax.random.split(jax.random.key(0), 6500)
    shift = jax.jit(jax.vmap(lambda key: jnp.argmax(dream.transforms.jitter(32)(key, image))))
    for places in np.unravel_index(np.asarray(shift(keys)), (65, 65)):
        counts = np.bincount(places, minlength=65)  # all of -32 ... 32, about 100 times each
        assert counts.min() > 50
        assert counts.max() < 160


@pytest.mark.parametrize('preset', configs.PRESETS)
def test_a_gradient_of_zero_moves_nothing(preset):
    tx = dream.optimizer(configs.get_config(preset))
    image = jnp.ones((12, 12, 3))
    updates, _ = tx.update(jnp.zeros_like(image), tx.init(image), image)
    assert not np.any(updates)


def test_a_step_has_the_size_of_the_config():
    gradient = jax.random.normal(jax.random.key(0), (12, 12, 3))
    for normalize, size in {'mean_abs': lambda g: np.abs(g).mean(), 'std': np.std,
                            'l2': np.linalg.norm}.items():
        config = configs.get_config()
        config.update(normalize=normalize, step=1.5 / 255)
        tx = dream.optimizer(config)
        updates, _ = tx.update(gradient, tx.init(gradient), gradient)
        assert size(np.asarray(updates)) == pytest.approx(1.5 / 255, rel=1e-5)


def test_detail_is_carried_as_in_the_notebook():
    config = configs.get_config('google')
    image = photograph(45, 64)
    image = np.stack([image, image[:, ::-1]])
    add = np.sin(np.arange(7000)).astype(np.float32)

    def ascend(x):  # any step that depends on the image
        return 0.8 * x + 0.1 * np.resize(add, x.shape)

    found = dream.octaves(config, network(), image,
                          lambda octave, images: np.stack([ascend(x) for x in images]))
    for picture, result in zip(image, found, strict=True):
        octaves = [picture]
        for _ in range(3):
            octaves.append(ndimage.zoom(octaves[-1], (1 / 1.4, 1 / 1.4, 1), order=1))
        detail = np.zeros_like(octaves[-1])
        for octave, base in enumerate(octaves[::-1]):
            if octave > 0:
                (h, w), (h1, w1) = base.shape[:2], detail.shape[:2]
                detail = ndimage.zoom(detail, (h / h1, w / w1, 1), order=1)
            x = ascend(base + detail)
            detail = x - base
        np.testing.assert_allclose(result, x, rtol=0, atol=1e-6)
    assert [shape[:2] for shape in dream.shapes(config, network(), (45, 64, 3))] == [
        octave.shape[:2] for octave in octaves[::-1]]


def test_images_are_carried_as_by_gordicaleksa_and_tensorflow():
    config = configs.get_config('tensorflow')
    image, seen = photograph(40, 50), []

    def ascend(octave, images):
        seen.append(images.shape[1:3])
        return images + 0.01

    result = dream.octaves(config, network(), image[None], ascend)[0]
    assert seen == [(24, 30), (31, 38), (40, 50), (52, 65), (68, 85)]
    assert result.shape == image.shape
    half = dream.resize(image[None], (24, 30, 3))[0]  # between the middles of pixels
    expected = ndimage.zoom(image, (24 / 40, 30 / 50, 1), order=1, mode='nearest', grid_mode=True)
    np.testing.assert_allclose(half, expected, atol=1e-5)
    shapes = dream.shapes(configs.get_config('gordicaleksa'), network(), (400, 600, 3))
    assert shapes == [(69, 103, 3), (123, 185, 3), (222, 333, 3), (400, 600, 3)]


def test_the_guided_gradient_is_the_best_match():
    activation = np.random.default_rng(0).normal(size=(6, 7, 5)).astype(np.float32)
    codes = np.random.default_rng(1).normal(size=(11, 5)).astype(np.float32)
    objective = objectives.dream('relu2_1', 'guided')
    found = jax.grad(lambda a: objective({'relu2_1': a}, {'guide': {'relu2_1': codes}})['dream'])(
        activation)
    x, y = activation.reshape(-1, 5).T, codes.T  # the notebook's [channels, positions]
    best = y[:, x.T.dot(y).argmax(1)]
    np.testing.assert_allclose(-found, best.T.reshape(activation.shape), rtol=1e-6)


def test_a_guide_gives_the_codes_of_all_its_positions(config):
    config.update(kind='guided', guide='skimage:grass', guide_size=16)
    codes = dream.guide(config, network(), ('relu2_1', 'relu3_1'))['guide']
    assert {name: code.shape for name, code in codes.items()} == {'relu2_1': (64, 6),
                                                                  'relu3_1': (16, 5)}


def test_a_mixture_sums_its_layers_and_channels(config):
    trained = network()
    config.update(kind='l2', layers='relu1_1:0+2,relu3_1', weights=(2.0, 0.5))
    taps = {name: tap[0] for name, tap in trained.taps(photograph()[None]).items()}
    value = dream.mixture(config, trained)(taps)['dream']
    squares = [float((tap**2).sum()) for tap in (taps['relu1_1'][..., [0, 2]], taps['relu3_1'])]
    assert float(value) == pytest.approx(-(2 * squares[0] + 0.5 * squares[1]) / 2, rel=1e-5)


def test_a_picture_too_narrow_to_be_smoothed_is_refused(config):
    trained = network(groups=((3,),), widths=(4,))
    config.smooth = 0.5
    dream.fits(config, trained, ('relu1_1',), (5, 9, 3), 2, 'a.png')
    with pytest.raises(UserError, match=r'octave 2 of 2 is 4 x 9 .*: smooth=0.5 needs 5 pixels'):
        dream.fits(config, trained, ('relu1_1',), (4, 9, 3), 2, 'a.png')


def test_the_zoom_is_the_notebooks():
    config, image, s = configs.get_config('google'), photograph(), 0.05
    h, w = image.shape[:2]
    expected = ndimage.affine_transform(image, [1 - s, 1 - s, 1], [h * s / 2, w * s / 2, 0],
                                        order=1)
    np.testing.assert_allclose(dream.move(config, image), expected, atol=1e-6)


def test_frames_turn_anticlockwise_and_move_down_and_right():
    config, image = configs.get_config(), np.zeros((20, 20, 1), np.float32)
    image[10, 15] = 1  # to the right of the centre, (10, 10)
    config.update(zoom=0.0, rotate=90.0)
    np.testing.assert_allclose(dream.move(config, image)[5, 10], 1, atol=1e-6)  # above it
    config.update(rotate=0.0, translate=(2.0, 1.0))
    assert dream.move(config, image)[12, 16] == 1


def test_tiles_give_the_same_dream(config):
    image = photograph(40, 48)[None]
    results = []
    for tile in (0, 16):
        config.tile = tile
        ascend = ascend_with(config, network())
        results.append(dream.octaves(config, network(), image, ascend))
    assert np.abs(results[0] - image).max() > 0.02
    np.testing.assert_allclose(*results, atol=2e-5)


def test_a_run_writes_pictures_and_goes_on_where_it_was_stopped(config, tmp_path, monkeypatch):
    """Two pictures of one shape and one of another; stopped within an octave of the second."""
    Image.fromarray(np.uint8(255 * photograph(24, 16))).save(tmp_path / 'tall.png')
    config.images = f'skimage:coffee,{tmp_path}/tall.png,skimage:coffee'
    monkeypatch.setattr(dream, 'pictures', types.SimpleNamespace(**vars(pictures)))
    written = {}

    def keep(path, image):
        written[str(path.relative_to(tmp_path))] = image
        pictures.write(path, image)

    monkeypatch.setattr(dream.pictures, 'write', keep)
    dream.run(config, tmp_path / 'whole')
    save = dream.Run._snapshot

    def stop(run, name, step, images):
        save(run, name, step, images)
        if (name, step) == ('group2-octave1', 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dream.Run, '_snapshot', stop)
        with pytest.raises(KeyboardInterrupt):
            dream.run(config, tmp_path / 'parts')
    assert not (tmp_path / 'parts' / 'figures' / 'dream-1.png').exists()
    dream.run(config, tmp_path / 'parts')
    for i, shape in enumerate([(16, 24), (24, 16), (16, 24)]):
        name = f'figures/dream-{i}.png'
        assert pictures.read(tmp_path / 'parts' / name).shape == (*shape, 3)
        np.testing.assert_array_equal(written[f'parts/{name}'], written[f'whole/{name}'])
    rows = [(tmp_path / name / 'metrics.jsonl').read_text() for name in ('whole', 'parts')]
    assert rows[0] == rows[1]
    assert len(rows[0].splitlines()) == 2 * 2 * 3
    assert len(list((tmp_path / 'parts' / 'snapshots').glob('group1-octave2/*.png'))) == 6
    assert np.any(written['whole/figures/dream-0.png'] != written['whole/figures/dream-2.png'])
    config.steps = 4
    with pytest.raises(UserError, match='steps: 3 there, 4 here'):
        dream.run(config, tmp_path / 'parts')


def test_frames_become_an_animation_of_programs_compiled_once(config, tmp_path, monkeypatch):
    """Stopped within the second frame and started again, all files are those of a run never
    stopped; frames are kept, and the animation shows them."""
    calls, problem = [], dream.problem
    monkeypatch.setattr(dream, 'problem', lambda *args: calls.append(args[-1]) or problem(*args))
    said, draw = [], plots.pictures
    monkeypatch.setattr(plots, 'pictures', lambda rows, path, title: said.append(
        [title, *(text for text, _ in rows[0])]) or draw(rows, path, title))
    config.update(images='noise', frames=2, steps=2, step=0.1, seconds=0.25)
    dream.run(config, tmp_path / 'whole')
    assert calls == [(17, 17, 3), (24, 24, 3)]
    assert said == [[f'{config.source} (VGG): DeepDream of {config.layers}', 'before: noise',
                     'after']]
    report = dream.Run._report

    def stop(run, name, *rest):
        report(run, name, *rest)
        if name == 'frame0001-octave2':
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dream.Run, '_report', stop)
        with pytest.raises(KeyboardInterrupt):
            dream.run(config, tmp_path / 'parts')
    assert not (tmp_path / 'parts' / 'frames' / '0001.png').exists()
    dream.run(config, tmp_path / 'parts')
    names = ['frames/0000.png', 'frames/0001.png', 'figures/dream.png', 'figures/dream.webp',
             'figures/before_after.png']
    contents = [(tmp_path / 'whole' / name).read_bytes() for name in names]
    assert [(tmp_path / 'parts' / name).read_bytes() for name in names] == contents
    assert contents[1] == contents[2] != contents[0]
    frames = [np.asarray(Image.open(tmp_path / 'whole' / name), float) for name in names[:2]]
    apart = np.abs(frames[1] - frames[0]).mean()
    for animation in ('webp', 'gif', 'apng'):  # A GIF has 256 colours, an APNG loses nothing.
        path = tmp_path / f'dream.{animation}'
        pictures.animate(path, [frame.astype(np.float32) / 255 for frame in frames], 0.25)
        if animation == config.animation:
            assert path.read_bytes() == contents[3]
        with Image.open(path) as film:
            shown = [(np.asarray(frame.convert('RGB'), float), frame.info['duration'])
                     for frame in ImageSequence.Iterator(film)]
        assert [duration for _, duration in shown] == [250, 250]
        for (image, _), frame in zip(shown, frames, strict=True):
            assert np.abs(image - frame).mean() <= (0 if animation == 'apng' else apart / 4)


def test_every_preset_dreams(config, tmp_path):
    for preset in configs.PRESETS:
        own = configs.get_config(preset)
        own.update(layers='relu2_1', size=48, steps=2, frames=1, images='noise')
        own.lock()
        dream.run(own, tmp_path / preset)
        assert pictures.read(tmp_path / preset / 'figures' / 'dream.png').shape == (48, 48, 3)
    with pytest.raises(ValueError, match='gogle.*google'):
        configs.get_config('gogle')


def test_a_key_belongs_to_its_stage():
    """It counts groups, frames and octaves in the order of the run, whatever ran before."""
    config = configs.get_config()
    config.update(seed=3, frames=2, octaves=4)
    root, stages = jax.random.key(3), itertools.product(range(3), range(2), range(4))
    for number, stage in enumerate(stages, 1):
        assert dream.stage_key(config, *stage) == jax.random.fold_in(root, number), stage


def test_a_gray_network_dreams_in_gray(config, tmp_path, monkeypatch):
    monkeypatch.setattr(dream.trained, 'load', lambda *_: network(1))
    dream.run(config, tmp_path)
    with Image.open(tmp_path / 'figures' / 'dream.png') as image:
        assert image.mode == 'L'


def test_rules_and_pools_change_the_network(config):
    config.update(relu='guided', pool='average')
    net = dream.load(config).net
    assert net.relu is dream.rules.RULES['guided']
    assert net.pool is models.POOLS['average']


@pytest.mark.parametrize(('fields', 'message'), [
    ({'layers': 'relu2_9'}, r"layer 'relu2_9' is not .* did you mean relu2_"),
    ({'layers': 'relu2_1:0+6'}, "'relu2_1' has the channels 0 to 5, not 6"),
    ({'layers': 'relu2_1:all'}, "the channels of 'relu2_1:all' are no whole numbers"),
    ({'weights': (1.0, 2.0)}, r'weights=\(1.0, 2.0\): give each of the 1 layers one'),
    ({'layers': ''}, "layers='' is empty"),
    ({'layers': ', '}, "layers=', ' is empty"),
    ({'octaves': 6}, r'octave 3 of 6 is 6 x 9 pixels.*VGG needs.*octaves=3\) or a larger size'),
    ({'layers': 'fc8', 'octaves': 1}, "layer 'fc8' is not in the network at this size"),
    ({'size': 7, 'octaves': 1}, 'octave 1 of 1 is 5 x 7 pixels.*take a larger size'),
    ({'images': 'thin.png'}, 'thin.png: octave 2 of 2 is 1 x 24 pixels, which.*less narrow'),
    ({'images': 'nan.tif'}, 'nan.tif holds numbers that are not finite'),
    ({'images': 'none.png'}, 'none.png'),
    ({'images': ''}, "images: name a picture, or 'noise'"),
    ({'kind': 'l3'}, "kind='l3' is none of 'l2', 'log', 'mean', 'guided'"),
    ({'kind': 'guided'}, 'needs a guide'),
    ({'guide': 'skimage:grass'}, 'only this kind does'),
    ({'kind': 'guided', 'guide': 'skimage:grass', 'guide_size': 4},
     'guide: skimage:grass at 4 x 4 pixels does not fit.*larger guide_size'),
    ({'steps': 0}, 'steps=0: take 1 or a larger number'),
    ({'scale': 1.0}, 'scale=1.0: an octave is larger'),
    ({'step': 0.0}, 'step=0.0'),
    ({'octaves_above': 1}, "need carry='image'"),
    ({'zoom': 1.0}, 'zoom=1.0'),
    ({'translate': (1.0,)}, 'translate='),
    ({'seconds': 0.0}, 'seconds=0.0'),
    ({'animation': 'mp4'}, "animation='mp4' is none of 'gif'"),
    ({'relu': 'leaky'}, "relu='leaky' is none of"),
    ({'jitter': -1}, 'jitter=-1'),
])
def test_mistakes_are_named(config, tmp_path, monkeypatch, fields, message):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((1, 40, 3), np.uint8)).save('thin.png')
    Image.fromarray(np.full((30, 30), np.nan, np.float32)).save('nan.tif')
    config.update(fields)
    with pytest.raises(UserError, match=message):
        dream.run(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_every_field_is_read_and_explained():
    source = Path(dream.__file__).read_text() + Path(run.__file__).read_text()
    text = Path(configs.__file__).read_text()
    for name in set(configs.get_config()) - {'experiment'}:
        assert f'config.{name}' in source or f"'{name}'" in source, f'{name} is never read'
        assert re.search(rf'    config\.{name} = .*  # ', text) or name == 'seed', name
