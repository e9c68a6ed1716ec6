"""Pictures of sequences and volumes."""

import numpy as np

from cnnjax import plots, thumbnails


def test_images_stay_as_they_are():
    images = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    assert thumbnails.of(images) is images


def test_a_sequence_becomes_a_curve_for_each_channel():
    """On one scale from 0 or the smallest number, at the bottom, to 1 or the largest."""
    ramp = np.linspace(0, 1, 50)
    sequences = np.stack([np.stack([ramp, 0 * ramp], 1), np.stack([1 - ramp, 0 * ramp + 1], 1)])
    for scale, offset in ((1, 0), (12, 0), (8, -4)):  # The last goes from -4 to 4.
        pictures = thumbnails.of(np.float32(sequences * scale + offset))
        assert (pictures.shape, pictures.dtype) == ((2, 96, 160, 3), np.uint8)
        for picture, rises, flat in zip(pictures, (True, False), (0.95, 0.05), strict=True):
            first, second = (places(picture, color) for color in plots.class_colors(2))
            assert (np.diff(first[:, 0]) <= 0).all() == rises  # Row 0 is the uppermost.
            assert np.ptp(first[:, 0]) > 80
            assert np.ptp(first[:, 1]) > 140
            assert np.abs(second[:, 0] - flat * 96).max() <= 2
    # One scale for all: the second has half of the first's range.
    half = thumbnails.of(np.float32([[[0], [2]], [[0], [1]]]))
    low, high = (np.ptp(places(picture, plots.class_colors(1)[0])[:, 0]) for picture in half[::-1])
    assert 0.4 < low / high < 0.6


def places(picture, color):
    """The mean row, and the column, of the pixels of that colour in each column; smooth lines are
    partly white."""
    ink, own = 1 - picture / 255, 1 - color
    share = ink @ own / (own @ own)
    shown = (share > 0.2) & (np.abs(ink - share[..., None] * own).max(-1) < 0.05)
    columns = np.flatnonzero(shown.any(0))
    return np.array([[np.flatnonzero(shown[:, column]).mean(), column] for column in columns])


def test_a_sequence_of_one_step_is_a_level_line():
    picture, = thumbnails.of(np.full((1, 1, 1), 0.25, np.float32))
    line = places(picture, plots.class_colors(1)[0])
    assert len(line) > 140
    assert np.abs(line[:, 0] - (0.95 - 0.9 / 4) * 96).max() <= 2


def test_a_volume_becomes_a_strip_of_its_slices():
    volumes = np.arange(2 * 20 * 3 * 4, dtype=np.uint8).reshape(2, 20, 3, 4, 1)
    few, = thumbnails.of(volumes[:1, :3])
    assert few.shape == (3, 4 * 3 + 2, 1)
    assert (few[:, [4, 9]] == 255).all()  # lines between the slices
    for i in range(3):
        np.testing.assert_array_equal(few[:, 5 * i:5 * i + 4], volumes[0, i])
    many = thumbnails.of(volumes)
    assert many.shape == (2, 3, 8 * 5 - 1, 1)
    np.testing.assert_array_equal(many[:, :, :4], volumes[:, 0])
    np.testing.assert_array_equal(many[:, :, -4:], volumes[:, -1])


def test_channels_without_colours_are_averaged():
    volumes = np.zeros((1, 2, 3, 4, 2), np.uint8)
    volumes[..., 1] = 100
    assert (thumbnails.of(volumes)[:, :, :4] == 50).all()
    assert thumbnails.of(np.zeros((1, 2, 3, 4, 3), np.uint8)).shape == (1, 3, 9, 3)


def test_floats_of_volumes_share_one_scale():
    volumes = np.zeros((2, 1, 1, 3, 1), np.float32)
    volumes[0, ..., 0], volumes[1, ..., 0] = [-1, 0, 1], [0.5, 3, -1]
    np.testing.assert_array_equal(thumbnails.of(volumes)[:, 0, :, 0],
                                  [[0, 64, 128], [96, 255, 0]])
    within = np.float32([[[[[0], [0.5], [1]]]]])  # Numbers from 0 to 1 stay so.
    np.testing.assert_array_equal(thumbnails.of(within)[0, 0, :, 0], [0, 128, 255])
