"""Contrast normalization and whitening against numpy and scikit-learn; a run keeps its matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from cnnjax import atomic, dataset_json, train, trained, weights
from cnnjax.data import normalization, whitening
from cnnjax.errors import UserError
from tests import kill
from tests.kill import Killed, assert_same_run
from tests.test_train import changed

RNG = np.random.default_rng(0)
# 600 images of 4 x 4 colour pixels that resemble their neighbours.
SMOOTH = np.uint8(255 * (RNG.random((600, 4, 4, 3)) + 2 * RNG.random((600, 1, 1, 3))) / 3)


def contrast(images):
    """pylearn2's, pixel by pixel, in [0, 255]."""
    flat = np.float64(images).reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return 55 * flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_it_is_that_of_sklearns_components():
    """PCA's whitened components, shrunk by the bias and turned back to pixels."""
    normalize = normalization(SMOOTH, 'channel', 'channel', whiten=True)
    flat = contrast(SMOOTH)
    pca = PCA(svd_solver='full').fit(flat)
    variances = pca.explained_variance_ * (len(flat) - 1) / len(flat)
    expected = pca.transform(flat) / np.sqrt(variances + 0.1) @ pca.components_
    for given in (SMOOTH, jnp.asarray(SMOOTH), np.float32(SMOOTH / 255)):
        found = np.asarray(normalize(given))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.reshape(600, -1), expected, atol=2e-4)
    np.testing.assert_allclose(normalize(SMOOTH[3]), found[3], atol=1e-4)  # one image alone


def test_the_whitened_set_has_the_shrunk_identity_as_its_covariance():
    normalize = normalization(SMOOTH, 'channel', 'channel', whiten=True)
    found = np.float64(normalize(SMOOTH)).reshape(600, -1)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    variances = np.linalg.eigvalsh(np.cov(contrast(SMOOTH).T, bias=True))
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(found.T, bias=True)),
                               np.sort(variances / (variances + whitening.BIAS)), atol=1e-4)


def test_flat_images_become_gray_and_have_a_gradient():
    normalize = normalization(SMOOTH, 'channel', 'channel', whiten=True)
    flat = np.full((2, 4, 4, 3), 0.3, np.float32)
    np.testing.assert_allclose(whitening.contrast_normalized(flat), 0)
    slope = jax.jit(jax.grad(lambda image: (normalize(image) ** 2).sum()))
    assert np.isfinite(slope(flat)).all()
    image = np.float32(SMOOTH[:1] / 255)
    step = np.float32(RNG.normal(size=image.shape) * 1e-3)
    rise = ((normalize(image + step) ** 2).sum() - (normalize(image - step) ** 2).sum()) / 2
    np.testing.assert_allclose((slope(image) * step).sum(), rise, rtol=1e-2)
    assert normalize.undone(np.asarray(normalize(SMOOTH[:2]))).dtype == np.uint8


@pytest.mark.parametrize(('images', 'given', 'message'), [
    (SMOOTH, {'mean': 'pixel', 'std': 'channel'}, "leave out mean='pixel' and std='channel'"),
    (None, {'mean': 'channel', 'std': 'channel'}, 'in memory: leave out stream'),
    (np.zeros((1, 80, 80, 3), np.uint8), {'mean': 'channel', 'std': 'channel'},
     r'a matrix of 19,200 x 19,200 for images of \[80, 80, 3\]: take smaller ones'),
])
def test_what_cannot_be_whitened(images, given, message):
    with pytest.raises(UserError, match=message):
        normalization(images, **given, whiten=True)


@pytest.fixture
def config(tiny):
    return changed(tiny, whiten=True, model__name='convnet', model__widths=None, flip=True,
                   padding=1, eval_every=0.0, checkpoint_every=2.0, devices=2)


@pytest.mark.parametrize('content', [b'', b'matrix', b'PK\x03\x04 is how an archive begins'])
def test_a_file_may_hold_anything(content, tmp_path):
    (tmp_path / whitening.FILE).write_bytes(content)
    assert whitening.read(tmp_path, 'digest') is None


def test_an_archive_of_arrays_is_no_matrix(tmp_path):
    with (tmp_path / whitening.FILE).open('wb') as file:
        np.savez(file, np.zeros((2, 2), np.float32))
    assert whitening.read(tmp_path, 'digest') is None


def test_a_run_keeps_its_matrix(config, tmp_path, monkeypatch, capsys):
    """It resumes with the same bits, even without the file, and its network whitens."""
    train.train(config, tmp_path / 'whole')
    with monkeypatch.context() as patch:
        patch.setattr(train.reports.Metrics, 'write', kill.dying_after(3))
        with pytest.raises(Killed):
            train.train(config, tmp_path / 'parts')
    path = tmp_path / 'parts' / whitening.FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match='whitening.npy is lost or damaged: start the training'):
        dataset_json.read(tmp_path / 'parts')
    train.train(config, tmp_path / 'parts')
    assert 'whitening.npy was lost or damaged: it is computed again' in capsys.readouterr().out
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 6)

    network = trained.load(tmp_path / 'whole', 'latest')
    digits = np.uint8(load_digits().images[..., None] * 255 / 16)
    np.testing.assert_array_equal(network.normalize.whitening, np.load(path))
    other = digits[:20, :6, :6]
    with pytest.raises(UserError, match='whole images of 8 x 8 pixels only'):
        network(other)
    with pytest.raises(UserError, match='images of 6 x 6 pixels: the network was trained on white'):
        network.taps(other)
    assert network.fitting(other[0].shape) == (8, 8)

    weights.save(network, tmp_path / 'saved.safetensors')
    again = trained.load(tmp_path / 'saved.safetensors')
    np.testing.assert_array_equal(again(digits[:20]), network(digits[:20]))

    # The recorded matrix is that of the data, and not of other data.
    recorded = dataset_json.read(tmp_path / 'whole')
    for other, what in ((recorded.normalize._replace(whitening=None), 'then, none now'),
                        (recorded.normalize._replace(
                            whitening=2 * recorded.normalize.whitening), 'whitening: ')):
        with pytest.raises(UserError, match=what):
            dataset_json.normalization(tmp_path, recorded, recorded.image_shape, other)


def test_whole_pictures_are_refused_before_the_training(config, tmp_path):
    with pytest.raises(UserError, match="crops='dense': the network was trained on whitened"):
        train.train(changed(config, crops='dense', image_size=8), tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_of_a_whitened_run_go_on_with_its_matrix(config, tmp_path):
    train.train(changed(config, steps=2), tmp_path / 'first')
    train.train(changed(config, steps=2, whiten=False, init_from=str(tmp_path / 'first')),
                tmp_path / 'second')
    first, second = (dataset_json.read(tmp_path / name) for name in ('first', 'second'))
    np.testing.assert_array_equal(first.normalize.whitening, second.normalize.whitening)
    values = atomic.read_json(tmp_path / 'first' / dataset_json.FILE)
    assert values['whitening'] == second.whitening
