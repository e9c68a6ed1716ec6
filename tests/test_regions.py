"""Features of regions against torchvision's values, and against loops in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import boxes, regions
from tests.golden import regions as golden
from tests.test_gradients import comparisons


@pytest.fixture(scope='module')
def theirs():
    with np.load(golden.GOLDEN) as file:
        return dict(file)


def weighed(align, weights):
    """(the regions, the gradient of their weighed sum) of a map or maps, compiled."""
    def run(maps, some):
        found, back = jax.vjp(lambda maps: align(maps, some), maps)
        return found, back(jnp.asarray(weights))[0]

    return jax.jit(run)


@pytest.mark.parametrize('form', ['products', 'gather'])
@pytest.mark.parametrize('case', golden.ALIGNED)
def test_roi_align_and_its_gradient_are_torchvisions(case, form, theirs):
    size, stride, samples, aligned = golden.ALIGNED[case]
    align = functools.partial(regions.roi_align, size=size, stride=stride, samples=samples,
                              aligned=aligned, form=form)
    weights = golden.draw(f'weights {case}', *theirs[case].shape)
    with jax.enable_x64(True):
        found, gradient = weighed(align, weights)(golden.draw(f'map {case}', *golden.MAP),
                                                  golden.boxes(case))
    np.testing.assert_allclose(found, theirs[case], atol=1e-12)
    np.testing.assert_allclose(gradient, theirs[f'{case} gradient'], atol=1e-12)


@pytest.mark.parametrize('form', ['products', 'gather'])
def test_the_pyramid_is_torchvisions(form, theirs):
    some = golden.pyramid_boxes()
    maps = [golden.draw(f'level {i}', *shape) for i, shape in enumerate(golden.PYRAMID)]
    align = functools.partial(regions.pyramid_roi_align, size=golden.SIZE, strides=golden.STRIDES,
                              form=form)
    weights = golden.draw('weights pyramid', *theirs['pyramid'].shape)
    with jax.enable_x64(True):
        levels = regions.pyramid_level(jnp.asarray(some), golden.STRIDES)
        found, gradients = weighed(align, weights)(maps, some)
    np.testing.assert_array_equal(levels, theirs['pyramid levels'])
    assert levels[:6].tolist() == [0, 1, 1, 2, 2, 3]
    np.testing.assert_array_equal(regions.pyramid_level(jnp.float32(some), golden.STRIDES), levels)
    np.testing.assert_allclose(found, theirs['pyramid'], atol=1e-12)
    for i, gradient in enumerate(gradients):
        gradient = np.ravel(gradient)
        products = [gradient.sum(), *(golden.draw(f'direction {i} {j}', gradient.size) @ gradient
                                      for j in range(3))]
        np.testing.assert_allclose(products, theirs['pyramid gradients'][i], atol=1e-10)


def test_levels_of_boxes_without_area_and_of_other_pyramids():
    some = jnp.float32([[0, 0, 0, 0], [0, 0, 5000, 5000], [9, 9, 3, 3], [0, 0, 112, 112]])
    np.testing.assert_array_equal(regions.pyramid_level(some, (4, 8, 16, 32)), [0, 3, 0, 1])
    np.testing.assert_array_equal(regions.pyramid_level(some, (8, 16)), [0, 1, 0, 0])


def align_in_numpy(features, box, size, stride, samples):
    """As the compiled operators of torchvision do it; not aligned."""
    height, width, channels = features.shape
    left, top, right, bottom = np.float64(box) / stride
    step = np.maximum([bottom - top, right - left], 1) / size

    def value(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return np.zeros(channels)
        y, x = np.clip([y, x], 0, [height - 1, width - 1])
        total = 0
        for i, j in itertools.product(range(height), range(width)):
            total += max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0) * features[i, j]
        return total

    return np.array([[np.mean([
        value(*([top, left] + step * ([p, q] + (np.array(at) + 0.5) / samples)))
        for at in np.ndindex(samples, samples)], 0) for q in range(size)] for p in range(size)])


def test_samples_outside_the_map():
    """The side of a map counts until one feature further; a box that small is enlarged there."""
    features = golden.draw('outside', 5, 6, 2)
    some = np.float64([[20, 16, 24, 20], [-20, -9, 8, 40], [23.9, 19.9, 24, 20], [40, 40, 50, 50],
                       [0, 0, 0, 0]])
    expected = np.stack([align_in_numpy(features, box, 3, 4.0, 2) for box in some])
    assert not expected[3].any()
    for form in ('products', 'gather'):
        align = jax.jit(functools.partial(regions.roi_align, size=3, stride=4.0, form=form))
        with jax.enable_x64(True):
            found = align(features, some)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize('pyramid', [False, True])
def test_accelerators_have_the_same_gradient_without_a_scatter(pyramid, monkeypatch):
    """They would add in any order, with other bits each time; and no equality of two computed
    floats decides anything. More regions than one chunk."""
    monkeypatch.setattr(regions, 'CHUNK', 4)
    maps = [np.float32(golden.draw(f'map {i}', 2, 12 // 2 ** i, 14 // 2 ** i, 3)) for i in range(2)]
    some = jnp.float32(np.stack([golden.regions(f'boxes {i}', 9, 300, 350) for i in range(2)]))
    weights = np.float32(golden.draw('weights', 2, 9, 2, 2, 3))

    def total(maps, some):
        if pyramid:
            align = functools.partial(regions.pyramid_roi_align, size=2, strides=(32, 64))
        else:
            align = functools.partial(regions.roi_align, size=2, stride=32)
        found = jax.vmap(align)(maps, some)
        pooled = 0 if pyramid else jax.vmap(lambda features, some: regions.roi_pool(
            features, some, 2, 32))(maps, some)
        return ((found + pooled) * weights).sum()

    maps = maps if pyramid else maps[0]
    found = jax.jit(jax.grad(total))(maps, some)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    traced = jax.jit(jax.grad(lambda *inputs: total(*inputs))).trace(maps, some)
    assert 'scatter' not in str(traced.jaxpr)
    assert not list(comparisons(traced.jaxpr.jaxpr))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found,
                 traced.lower().compile()(maps, some))


def test_boxes_have_no_gradient():
    def total(some, features):
        return (regions.roi_align(features, some, 2, 8.0) + regions.roi_pool(features, some, 2, 8.0)
                + regions.roi_align(features, some, 2, 8.0, form='products')).sum()

    gradient = jax.jit(jax.grad(total))(jnp.float32([[3, 4, 20, 30]]),
                                        jnp.float32(golden.draw('map', 5, 6, 2)))
    assert not gradient.any()


def pool_in_numpy(features, box, size, stride):
    """Caffe's loops. Rounding halves up is as there for what is not negative."""
    left, top, right, bottom = np.floor(np.float64(box) / stride + 0.5).astype(int)
    extents = max(bottom - top + 1, 1), max(right - left + 1, 1)
    found = np.zeros((size, size, features.shape[-1]))
    for p, q in np.ndindex(size, size):
        rows, columns = (slice(*np.clip([low + n * extent // size,
                                         low - (-(n + 1) * extent // size)], 0, limit))
                         for low, n, extent, limit in zip((top, left), (p, q), extents,
                                                          features.shape, strict=False))
        if features[rows, columns].size:
            found[p, q] = features[rows, columns].max((0, 1))
    return found


@pytest.mark.parametrize('size', [1, 3, 7])
def test_roi_pool_has_caffes_bins_and_the_gradient_of_a_maximum(size):
    """Boxes end up to one feature after the map, whose size was rounded down, and are smaller than
    the bins, single points and all of the image."""
    features = golden.draw('to pool', 9, 11, 2)
    some = np.concatenate([golden.regions('to pool', 20, 150, 184), [
        [0, 0, 184, 152], [40, 56, 40, 56], [175.9, 151.9, 184, 152], [8, 8, 24, 24],
        [7.99, 0, 23.99, 9]]])
    expected = np.stack([pool_in_numpy(features, box, size, 16.0) for box in some])
    pool = functools.partial(regions.roi_pool, size=size, stride=16.0)
    weights = golden.draw('weights', *expected.shape)
    with jax.enable_x64(True):
        found, gradient = weighed(pool, weights)(features, some)
        alone = jax.jit(pool)(features, some)  # without a gradient it is computed differently
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(alone, expected)
    total = np.zeros(features.shape)
    for place in zip(*np.nonzero(expected), strict=True):  # no two features are equal
        total[..., place[-1]] += np.where(features[..., place[-1]] == expected[place],
                                          weights[place], 0)
    np.testing.assert_allclose(gradient, total, atol=1e-12)


def test_roi_pool_of_equal_features_takes_the_first():
    pool = jax.jit(jax.value_and_grad(
        lambda x: regions.roi_pool(x, jnp.float32([[0, 0, 3, 3]]), 1, 1.0).sum()))
    gradient = pool(jnp.zeros((4, 4, 1)))[1]
    assert float(gradient[0, 0, 0]) == gradient.sum() == 1
    nan = jnp.zeros((4, 4, 1)).at[1, 2].set(jnp.nan)  # is not hidden
    assert np.isnan(pool(nan)[0])
    assert np.isnan(regions.roi_pool(nan, jnp.float32([[0, 0, 3, 3]]), 1, 1.0)).all()


def test_torchvisions_boxes(theirs):
    """Its coder, generator of anchors, IoU and matcher."""
    def run(coded, overlapping):
        some, anchors, deltas = coded
        weights, overlaps = (10.0, 10.0, 5.0, 5.0), boxes.iou(*overlapping)
        return {'encoded': boxes.encode(some, anchors, weights),
                'decoded': boxes.decode(deltas, anchors, weights), 'overlaps': overlaps,
                'matched': boxes.match(overlaps, 0.2, 0.5, True)[0],
                'matched without': boxes.match(overlaps, 0.2, 0.5)[0]}

    with jax.enable_x64(True):
        for name, array in jax.jit(run)(golden.coded(), golden.overlapping()).items():
            np.testing.assert_allclose(array, theirs[name], rtol=1e-12, err_msg=name)
    shapes = np.float32([[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]])
    # Doubled sizes are rounded by themselves: 64 sqrt(2) / 2 = 45.25.
    larger = np.float32([[-45, -23, 45, 23], [-32, -32, 32, 32], [-23, -45, 23, 45]])
    found = [boxes.anchors(shapes, (7, 9), (50 // 7, 70 // 9)),
             boxes.anchors(larger, (4, 5), (50 // 4, 70 // 5))]
    np.testing.assert_array_equal(np.concatenate(found), theirs['anchors'])


@pytest.mark.parametrize('form', ['products', 'gather'])
def test_types_of_features(form):
    some, features = jnp.float32([[3, 4, 20, 30]]), jnp.float32(golden.draw('map', 5, 6, 2))
    align = functools.partial(regions.roi_align, size=2, stride=8.0, form=form)
    half = align(features.astype(jnp.bfloat16), some)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), align(features, some), atol=0.03)

    def total(features, some):
        return align(features, some).sum() + regions.roi_pool(features, some, 2, 8.0).sum()

    with jax.enable_x64(True), jax.numpy_dtype_promotion('strict'):
        shape = jax.eval_shape(jax.value_and_grad(total), features, some)
    assert {str(leaf.dtype) for leaf in shape} == {'float32'}
