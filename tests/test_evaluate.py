"""Published weights are evaluated as they were published: the hub's own crop, interpolation and
normalization."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import skimage.data
from huggingface_hub import constants
from PIL import Image

from cnnjax import trained, weights
from configs import evaluate as recipe
from configs import features as features_recipe
from experiments import codes, evaluate
from tests.golden import make

SOURCE = 'timm/mobilenetv1_025.test'
MEAN, STD = np.float32([0.5, 0.4, 0.3]), np.float32([0.25, 0.2, 0.3])


def published(hub, **pretrained):
    """A hub's cache, laid by hand, with a network of two classes."""
    repository = hub / f'models--{SOURCE.replace("/", "--")}'
    snapshot = repository / 'snapshots' / 'abc'
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / 'refs').mkdir(exist_ok=True)
    (repository / 'refs' / 'main').write_text('abc')
    layout = weights.layout('mobilenet_v1_025', num_classes=2)
    safetensors.numpy.save_file({name: make.tensor(name, shape) for name, shape in layout.items()
                                 if shape}, snapshot / 'model.safetensors')
    (snapshot / 'config.json').write_text(json.dumps({
        'architecture': 'mobilenetv1_025', 'label_names': ['cat', 'owl'], 'pretrained_cfg': {
            'mean': MEAN.tolist(), 'std': STD.tolist(), 'input_size': [3, 32, 32], **pretrained}}))


@pytest.fixture
def pictures(tmp_path):
    """60 x 90 pixels, fine patterns: how they are cut and scaled changes every pixel."""
    photo, found = skimage.data.astronaut(), []
    for i, name in enumerate(('cat', 'cat', 'owl', 'owl', 'owl')):
        found.append(Image.fromarray(photo[60 * i:60 * i + 60, 100:190]))
        for split in ('train', 'test'):
            folder = tmp_path / 'data' / split / name
            folder.mkdir(parents=True, exist_ok=True)
            found[-1].save(folder / f'{i}.png')
    return found


@pytest.mark.parametrize(('pretrained', 'side', 'kind'), [
    ({'crop_pct': 0.8, 'interpolation': 'bicubic'}, 40, Image.Resampling.BICUBIC),
    ({'crop_pct': 1.0, 'interpolation': 'bilinear'}, 32, Image.Resampling.BILINEAR),
])
def test_crop_and_interpolation_of_the_hub(pretrained, side, kind, pictures, tmp_path, monkeypatch):
    """The loss that the user reads is that of pictures that Pillow scales and cuts alone."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    published(tmp_path / 'hub', **pretrained)
    wide = [picture.resize((side * 3 // 2, side), kind) for picture in pictures]
    left, top = (side * 3 // 2 - 32) // 2, (side - 32) // 2
    crops = np.stack([np.asarray(picture)[top:top + 32, left:left + 32] for picture in wide])

    config = features_recipe.get_config()
    config.data_dir = str(tmp_path / 'data')
    network = trained.load(SOURCE)
    batch, = codes.load(config, 'test', network).test_batches(5)
    assert np.abs(batch['image'].astype(int) - crops).max() <= 1
    otherwise = network._replace(evaluation={})
    batch, = codes.load(config, 'test', otherwise).test_batches(5)
    assert (np.abs(batch['image'].astype(int) - crops).max() > 1) == (side == 40)

    logits = network.net.apply(network.variables, (crops / np.float32(255) - MEAN) / STD)[0]
    labels = np.array([0, 0, 1, 1, 1])
    expected = -jax.nn.log_softmax(logits)[np.arange(5), labels].mean()
    config = recipe.get_config()
    config.update(source=SOURCE, dataset='folder', data_dir=str(tmp_path / 'data'), split='test',
                  devices=1)
    evaluate.run(config, tmp_path / 'run')
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['count'] == 5
    assert results['loss'] == pytest.approx(float(expected), rel=1e-4)
