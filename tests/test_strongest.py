"""The strongest images of every unit against a full sort, and the file that keeps them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from cnnjax import data, models, parallel
from cnnjax.errors import UserError
from cnnjax.images import strongest
from cnnjax.trained import Trained

SHAPE = (12, 8, 3)
LAYERS = ('relu1_1', 'conv2_2', 'pool2', 'fc8')
CLASSES = ('zero', 'one', 'two', 'none')  # The last class has no image.


def resident(images, labels, classes=CLASSES):
    examples = [{'image': image, 'label': label}
                for image, label in zip(images, labels, strict=True)]
    return data.Resident(data.Source(examples, classes), data.Crops())


def network_of_whole_numbers():
    """Weights of -1, 0 and 1: on black and white images everything is a whole number, computed
    exactly in any order, and equal scores abound."""
    net = models.create('vgg11', groups=((3,), (3, 3)), widths=(4, 6), hidden=(), num_classes=4)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.integers(-1, 2, x.shape).astype(np.float32), shapes)
    normalize = data.Normalization(np.zeros(3, np.float32), np.ones(1, np.float32))
    return Trained(net, variables, normalize, CLASSES, SHAPE, None)


@pytest.fixture(scope='module')
def network():
    return network_of_whole_numbers()


@pytest.fixture(scope='module')
def stream():
    rng = np.random.default_rng(1)
    images = 255 * rng.integers(0, 2, (23, *SHAPE), dtype=np.uint8)
    images[[9, 17]] = images[4]  # the same image three times
    return resident(images, rng.integers(0, 3, 23))


@pytest.fixture(scope='module')
def taps(network, stream):
    return jax.device_get(jax.jit(network.taps)(stream.data['image']))


@pytest.fixture(scope='module')
def found(network, stream):
    done = []
    units = strongest.search(network, LAYERS, stream, 5, batch_size=8, progress=done.append)
    assert done == [8, 8, 7]  # the last batch is padded
    return units


@pytest.mark.parametrize('layer', LAYERS)
def test_strongest_is_a_full_sort(found, taps, layer):
    maps = taps[layer].reshape(23, -1, taps[layer].shape[-1])
    best = maps.max(1).T  # [C, N]
    order = np.argsort(-best, 1, kind='stable')[:, :5]  # equal ones by their place in the set
    scores = np.take_along_axis(best, order, 1)
    assert layer == 'fc8' or any(len(set(row)) < 5 for row in scores)  # so there are some
    np.testing.assert_array_equal(found[layer].images, order)
    np.testing.assert_array_equal(found[layer].scores, scores)
    np.testing.assert_array_equal(found[layer].maximum, best.max(1))
    for unit, places in enumerate(order):
        for image, position in zip(places, found[layer].positions[unit], strict=True):
            tap = taps[layer][image, ..., unit]
            first = np.unravel_index(tap.argmax(), tap.shape) or (0, 0)
            assert tuple(position) == first


@pytest.mark.parametrize('layer', LAYERS)
def test_statistics(found, taps, stream, layer):
    maps = taps[layer].reshape(23, -1, taps[layer].shape[-1]).astype(float)
    best, labels, units = maps.max(1), stream.data['label'], found[layer]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(units.mean, maps.mean((0, 1)))
    close(units.deviation, maps.std((0, 1)))
    close(units.active, (best > 0).mean(0))
    for label in range(3):
        close(units.class_means[label], best[labels == label].mean(0))
    assert np.isnan(units.class_means[3]).all()


def test_several_devices_are_one(network, stream, found):
    """Shares of three images, of which the last batch lacks four: one device has none."""
    several = strongest.search(network, LAYERS, stream, 5, batch_size=7,
                                mesh=parallel.data_mesh(3))
    for layer, units in found.items():
        for field in ('scores', 'images', 'positions', 'active'):
            np.testing.assert_array_equal(getattr(several[layer], field), getattr(units, field))
        for field in ('mean', 'deviation', 'class_means'):
            np.testing.assert_allclose(getattr(several[layer], field), getattr(units, field),
                                       rtol=1e-5, atol=1e-5)


def test_a_resnet_and_a_streamed_set():
    net = models.create('resnet20', blocks=(1, 1, 1), widths=(3, 4, 5), num_classes=2)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    normalize = data.Normalization(np.float32([0.4, 0.5, 0.6]), np.float32([0.2] * 3))
    network = Trained(net, variables, normalize, ('a', 'b'), (8, 8, 3), None)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    examples = [{'image': image, 'label': i % 2} for i, image in enumerate(images)]
    stream = data.Stream(data.Source(examples, ('a', 'b')), data.Crops(8, shorter_side=(8, 8)),
                         threads=1)
    names = ('conv1', 'conv2_1', 'conv4_1', 'pool')
    found = strongest.search(network, names, stream, 3, batch_size=4)
    taps = jax.device_get(jax.jit(network.taps)(images))
    for name in names:
        tap = taps[name].reshape(7, -1, taps[name].shape[-1])
        best = tap.max(1).T
        np.testing.assert_array_equal(found[name].images, np.argsort(-best, 1)[:, :3])
        np.testing.assert_allclose(found[name].scores, -np.sort(-best, 1)[:, :3], atol=1e-5)
        np.testing.assert_allclose(found[name].deviation, tap.std((0, 1)), atol=1e-5)
    np.testing.assert_array_equal(strongest.look_up(stream, [5, 0, 5]), images[[5, 0, 5]])


def test_zeros_of_either_sign_are_equal():
    """-0 and 0 go by their place; top_k alone puts 0 first."""
    seen = (np.zeros(1, np.int32), {'layer': strongest._nothing(1, 2, 1)})
    tap = jnp.float32([-0.0, 0, -0.0]).reshape(3, 1)
    _, seen = strongest._add(seen, {'layer': tap}, jnp.arange(3), jnp.zeros(3, int),
                           jnp.ones(3, bool))
    assert seen['layer'].images.tolist() == [[0, 1]]


def test_a_small_deviation_beside_a_large_mean():
    net = models.create('convnet', width=2, num_classes=2)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 6, 1), dtype=np.uint8)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
    variables['params']['conv']['bias'] += 1000
    normalize = data.Normalization(np.float32([0.5]), np.float32([0.25]))
    network = Trained(net, variables, normalize, ('a', 'b'), (6, 6, 1), None)
    labels = np.arange(40) % 2
    found = strongest.search(network, ['conv'], resident(images, labels, ('a', 'b')), 1, 4)
    tap = np.float64(jax.jit(network.taps)(images)['conv'])
    np.testing.assert_allclose(found['conv'].mean, tap.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found['conv'].deviation, tap.std((0, 1, 2)), rtol=1e-3)


@pytest.fixture(scope='module')
def origin(stream):
    return strongest.Origin('f' * 64, data.identity(stream), {'layers': ','.join(LAYERS)})


def test_saved_and_loaded(found, origin, tmp_path):
    path = tmp_path / 'below' / 'units.npz'
    strongest.save(path, found, origin)
    loaded, before = strongest.load(path)
    assert before == origin
    assert list(loaded) == list(found)
    assert [each.name for each in path.parent.iterdir()] == ['units.npz']
    for layer, units in found.items():
        for one, other in zip(loaded[layer], units, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / 'empty.npz').touch()
    np.savez(tmp_path / 'other.npz', x=np.zeros(3))
    np.save(tmp_path / 'array.npy', np.zeros(3))
    for broken in (path, *(tmp_path / name for name in ('nothing.npz', 'empty.npz', 'other.npz',
                                                        'array.npy'))):
        with pytest.raises(UserError, match=f'{broken.name} does not hold the strongest images'):
            strongest.load(broken)


def test_units_are_kept_for_the_network_and_the_set_they_were_made_from(found, origin, stream,
                                                                        tmp_path, capsys):
    path = tmp_path / 'units.npz'
    assert strongest.kept(path, origin) is None
    strongest.save(path, found, origin)
    same = strongest.kept(path, origin._replace(identity=data.identity(stream)))
    np.testing.assert_array_equal(same['fc8'].images, found['fc8'].images)
    assert not capsys.readouterr().out
    images, labels = stream.data['image'].copy(), stream.data['label']
    images[5, 0, 0] ^= 255
    other = data.identity(resident(images, labels))
    for changed, message in (
            (origin._replace(weights='0'), 'the weights of the network are others'),
            (origin._replace(fields={'layers': 'fc8'}), 'layers: relu1_1,.* then, fc8 now'),
            (origin._replace(identity=other), r'of another size or content: example 5 \('),
            (origin._replace(identity=data.identity(resident(images[1:], labels[1:]))),
             'examples of a class: '),
            (origin._replace(identity=data.identity(resident(images, labels, CLASSES[::-1]))),
             'classes in another order')):
        with pytest.raises(UserError, match=f'(?s)units.npz .* another workdir.*{message}'):
            strongest.kept(path, changed)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match='units.npz is a directory.*move it away'):
        strongest.kept(path, origin)


def damaged(path, found, origin):
    """Yields (what it is, a damaged file's bytes)."""
    strongest.save(path, found, origin)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in (*range(120), *rng.integers(120, len(whole), 60).tolist(),
                  *range(len(whole) - 300, len(whole))):
        flipped = bytes([whole[place] ^ rng.integers(1, 256)])
        yield place, whole[:place] + flipped + whole[place + 1:]
    for share in (0, 0.3, 0.9, 0.999):
        yield share, whole[:int(share * len(whole))]
    units = found['fc8']
    for changes in ({'images': units.images + 1000}, {'images': -1 - units.images},
                    {'scores': units.scores[:, :2]}, {'positions': units.positions[..., :1]},
                    {'mean': units.mean[1:]}, {'active': units.active.astype(np.float64)},
                    {'class_means': units.class_means[1:]}, {'images': units.images.astype(float)},
                    {'scores': units.scores * np.float32(np.nan)}, {'mean': np.array([{}] * 4)},
                    {'scores': units.scores[:, :0]}):
        strongest.save(path, {'fc8': units._replace(**changes)}, origin)
        yield changes, path.read_bytes()


def test_a_damaged_file_is_said_and_made_anew(found, origin, tmp_path, capsys):
    """Whatever byte is another: what is loaded is what was saved, or nothing is."""
    path = tmp_path / 'units.npz'
    for what, content in list(damaged(path, {'fc8': found['fc8']}, origin)):
        path.write_bytes(content)
        loaded = strongest.kept(path, origin)
        said = capsys.readouterr().out
        if loaded is None:
            assert said.startswith(f'{path} does not hold the strongest images of units: '), what
            assert said.endswith('; it is made anew\n'), what
        else:  # a field of the zip archive that does not affect its contents
            assert isinstance(what, int), what
            for one, other in zip(loaded['fc8'], found['fc8'], strict=True):
                np.testing.assert_array_equal(one, other, err_msg=str(what))


def test_places_are_not_found_by_comparing_what_is_computed_twice():
    """The maximum of a tap may come from another computation of it, with other roundings, than
    the tap that it is compared with: no place would be that of the maximum."""
    seen = (np.zeros(3, np.int32), {'layer': strongest._nothing(4, 2, 3)})
    program = jax.make_jaxpr(strongest._add)(
        seen, {'layer': jnp.zeros((5, 6, 7, 4))}, jnp.arange(5), jnp.zeros(5, int),
        jnp.ones(5, bool))

    def equalities(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ('eq', 'ne'):
                yield [value.aval for value in equation.invars]
            for inner in jaxprs_in_params(equation.params):
                yield from equalities(inner)

    for values in equalities(program.jaxpr):
        assert any(value.shape == () or value.dtype.kind in 'iub' for value in values), values


def test_the_pass_keeps_its_types_where_the_environment_asks_for_strict_ones(network):
    """JAX_ENABLE_X64, JAX_NUMPY_DTYPE_PROMOTION=strict, JAX_NUMPY_RANK_PROMOTION=raise."""
    seen = (np.zeros(4, np.int32), {'fc8': strongest._nothing(4, 2, 4)})
    with (jax.enable_x64(True), jax.numpy_dtype_promotion('strict'),
          jax.numpy_rank_promotion('raise')):
        found = jax.eval_shape(lambda images, seen: strongest._add(
            seen, {'fc8': network.taps(images)['fc8']}, jnp.arange(5, dtype='int32'),
            jnp.zeros(5, 'int32'), jnp.ones(5, bool)),
            jax.ShapeDtypeStruct((5, *SHAPE), 'uint8'), seen)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), seen)


def test_errors(network, stream):
    with pytest.raises(UserError, match='the 24 strongest of 23 images: take 1 to 23'):
        strongest.search(network, ['conv1_1'], stream, 24)
    with pytest.raises(UserError, match='at least one image'):
        strongest.search(network, ['conv1_1'], stream, batch_size=0)
    with pytest.raises(UserError, match="'conv2_9' is not in the network .* mean conv2_"):
        strongest.search(network, ['conv2_9'], stream)
    variables = jax.tree.map(np.copy, network.variables)
    variables['params']['conv1_1']['bias'][2] = np.nan
    with pytest.raises(UserError, match="'relu1_1' are not finite in 1 of its 4 units"):
        strongest.search(network._replace(variables=variables), ['relu1_1'], stream)
