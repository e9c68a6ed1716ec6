"""Classes as colours: PASCAL VOC's, over a picture and in a palette PNG."""

import numpy as np
from PIL import Image

from cnnjax import overlays
from cnnjax.data import geometry, masks


def test_the_colors_are_those_of_pascal_voc():
    colors = overlays.colors()
    assert colors.shape == (256, 3)
    assert len({tuple(color) for color in colors.tolist()}) == 256
    for label, color in ((0, (0, 0, 0)), (1, (128, 0, 0)), (2, (0, 128, 0)), (3, (128, 128, 0)),
                         (4, (0, 0, 128)), (8, (64, 0, 0)), (15, (192, 128, 128)),
                         (20, (0, 64, 128)), (255, (224, 224, 192))):
        assert tuple(colors[label]) == color


def test_an_overlay_mixes_colors_with_an_outline_and_stripes_what_is_ignored():
    image = np.full((4, 6, 3), (100, 50, 200), np.uint8)
    labels = np.zeros((4, 6), np.uint8)
    labels[1, 1:3] = 1, 15
    labels[:, 4:] = geometry.IGNORE
    painted = overlays.overlay(image, labels, 0.25)
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[1, 1], (107, 38, 150))  # 3/4 image, 1/4 (128, 0, 0)
    np.testing.assert_array_equal(painted[1, 2], (123, 70, 182))  # 3/4 image, 1/4 (192, 128, 128)
    outline = [(0, 1), (0, 2), (1, 0), (1, 3), (2, 1), (2, 2)]
    own = image.copy()
    own[tuple(zip(*outline, strict=True))] = 255
    own[1, 1:3] = painted[1, 1:3]
    np.testing.assert_array_equal(painted[:, :4], own[:, :4])
    stripes = {tuple(color) for color in painted[:, 4:].reshape(-1, 3).tolist()}
    assert stripes == {(224, 224, 192), (112, 112, 96)}
    gray = overlays.overlay(image[..., :1], labels, 0.25)
    np.testing.assert_array_equal(gray[1, 1], (107, 75, 75))
    np.testing.assert_array_equal(overlays.overlay(image, labels, 1.0)[1, 1], (128, 0, 0))


def test_a_written_mask_has_its_classes_and_their_colors(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    overlays.write(tmp_path / 'a.png', labels)
    with Image.open(tmp_path / 'a.png') as image:
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert('RGB')), overlays.colors()[labels])
    np.testing.assert_array_equal(masks.read(tmp_path / 'a.png'), labels)  # as in a training
    picture = overlays.overlay(np.zeros((8, 32, 3), np.uint8), labels)
    overlays.write(tmp_path / 'b.png', picture)
    with Image.open(tmp_path / 'b.png') as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
