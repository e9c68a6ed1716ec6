"""Classes as colours: PASCAL VOC's, over a picture and in a palette PNG."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

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


def test_a_caption_never_leaves_its_picture():
    image = np.random.default_rng(0).integers(0, 256, (20, 90, 1)).astype(np.uint8)
    picture = overlays.captioned(image, 'a name that is far too long for this small picture')
    assert picture.dtype == np.uint8
    assert picture.shape == (2 * 20 + 23, 2 * 90, 3)  # 15 pixels of letters and half as much
    np.testing.assert_array_equal(picture[:40], np.repeat(image, 3, 2).repeat(2, 0).repeat(2, 1))
    text = picture[40:].min(-1) < 128
    assert text.any()
    assert not text[:, [0, -1]].any()
    np.testing.assert_array_equal(overlays.captioned(image, 'one\nline'),
                                  overlays.captioned(image, 'one line'))


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


@pytest.fixture
def names_drawn(monkeypatch):
    """The (left, top, right, bottom) of the names that are drawn, and their texts."""
    places, texts, brush = [], [], ImageDraw.ImageDraw

    def rectangle(self, edge, fill=None, outline=None, width=1, own=brush.rectangle):
        if fill is not None:
            places.append((edge[0], edge[1], edge[2] + 1, edge[3] + 1))
        own(self, edge, fill, outline, width)

    def text(self, at, text, *rest, own=brush.text):
        texts.append(text)
        own(self, at, text, *rest)

    monkeypatch.setattr(brush, 'rectangle', rectangle)
    monkeypatch.setattr(brush, 'text', text)
    return places, texts


def test_boxes_are_where_their_objects_are(names_drawn):
    """A picture of 60 x 40 pixels is enlarged 8 times. Each line lies inside the edge of its box,
    in the colour of the class, and what is not under a line or a name is the picture."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    boxes = np.float32([[10, 10, 20, 30], [0, 0, 60, 40], [5, 5, 9, 9]])
    painted = overlays.boxes(image, boxes, np.array([1, 14, -1]), [*'abcdefghijklmno'])
    large = image.repeat(8, 0).repeat(8, 1)
    assert painted.shape == large.shape
    assert names_drawn[1] == ['o', 'b']  # the last of them first: it is on top
    changed = (painted != large).any(-1)
    left, top, right, bottom = names_drawn[0][1]
    for color, lines in (((0, 128, 0), [(100, 80), (239, 120), (160, 80), (160, 159)]),
                         ((192, 128, 128), [(160, 0), (319, 240), (160, 479)])):
        for row, column in lines:
            assert tuple(painted[row, column]) == color
    assert tuple(painted[160, 79]) == (255, 255, 255)  # the white edge outside
    assert bottom == 80 or top == 240
    assert 0 <= left < right <= 480
    assert not changed[90:230, 90:150].any()
    gray = overlays.boxes(image[..., :1], boxes, np.array([1, 14, -1]), [*'abcdefghijklmno'])
    assert (gray[100, 100] == image[12, 12, 0]).all()
    unchanged = overlays.boxes(large, np.zeros((1, 4), np.float32), np.array([-1]), ('a',))
    np.testing.assert_array_equal(unchanged, large)


def test_names_stay_in_the_picture_and_apart(names_drawn):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-10, 74, (60, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    boxes[:4] = [[0, 0, 64, 64], [0, 0, 0, 0], [64, 64, 64, 64], [60, 0, 64, 2]]
    classes = ('a', 'a name that is much longer than the picture, which is only 64 pixels wide')
    for shape in ((64, 64, 3), (600, 900, 1), (3, 64, 3)):
        scale = np.float32([shape[1] / 64, shape[0] / 64] * 2)
        overlays.boxes(np.zeros(shape, np.uint8), boxes * scale[None], np.arange(60) % 2, classes)
        factor = -(-480 // max(shape[:2]))
        for left, top, right, bottom in names_drawn[0]:
            assert 0 <= left < right <= factor * shape[1]
            assert top >= 0
            assert bottom <= factor * shape[0]
        names_drawn[0].clear()
    assert '…' in ''.join(names_drawn[1])
    # Boxes of one place: each name has its own.
    overlays.boxes(np.zeros((64, 64, 3), np.uint8), np.float32([[20, 20, 40, 40]] * 4),
                   np.zeros(4, int), classes, scores=np.float32([0.5, 0.9, 0.25, 0.126]))
    painted = np.zeros((512, 512), int)
    for left, top, right, bottom in names_drawn[0]:
        painted[top:bottom, left:right] += 1
    assert painted.max() == 1
    assert names_drawn[1][-4:] == ['a 0.90', 'a 0.50', 'a 0.25', 'a 0.13']
    assert names_drawn[0][0][3] == 160  # The best is above its box.


def test_boxes_that_do_not_count_and_unusual_names(names_drawn):
    image = np.zeros((480, 480, 3), np.uint8)
    boxes = np.float32([[100, 100, 200, 200], [300, 300, 400, 400]])
    painted = overlays.boxes(image, boxes, np.array([0, 254]), ('$5_$ 猫\r\n\udce9', *'x' * 254),
                             ignore=np.array([True, False]))
    assert tuple(painted[150, 100]) == (224, 224, 192)
    assert tuple(painted[350, 300]) == (128, 0, 0)  # the colours begin again
    assert names_drawn[1] == ['x', r'$5_$ \u732b \udce9']
