"""Outlines of digits as sequences."""

import numpy as np

from cnnjax.data import digit_outlines, digits, sources

ROWS, COLUMNS = np.indices((33, 33)) - 16


def test_each_scan_has_an_outline(capsys):
    for split, count, counts in (('train', '1,347', '131 to 137'), ('test', '450', '43 to 46')):
        source, scans = sources.load('digit_outlines', split), digits.load(split)
        assert capsys.readouterr().out == (f'digit_outlines, {split}: {count} sequences of 10 '
                                           f'classes ({counts} of each)\n')
        assert source.classes == tuple('0123456789')
        assert [example['label'] for example in source.examples] == [
            example['label'] for example in scans.examples]
        for example in source.examples:
            sequence = example['image']
            assert (sequence.shape, sequence.dtype) == ((64, 2), np.float32)
            assert sequence[0, 0] == sequence[:, 0].min()  # begins at the uppermost point
            assert np.abs(sequence).max() <= 2 + 1 / 4  # in the scan or half a pixel beside it
            # Equal steps along the curve are at most so long in a straight line, also the last,
            # which closes it.
            steps = np.linalg.norm(sequence - np.roll(sequence, 1, 0), axis=1)
            assert steps.max() < 1.5 * steps.mean()
        again = digit_outlines.load(split).examples
        np.testing.assert_array_equal(again[5]['image'], source.examples[5]['image'])


def test_the_outline_of_a_ring_is_its_outer_circle():
    radius = np.hypot(ROWS, COLUMNS)
    ring = np.where((radius > 5) & (radius < 12), 255, 0).astype(np.uint8)
    found = digit_outlines.outline(ring)
    assert np.abs(np.linalg.norm(found, axis=1) - 12 / (33 / 4)).max() < 0.1
    assert found[0, 0] == found[:, 0].min()
    assert abs(found[0, 1]) < 0.6
    angles = np.unwrap(np.arctan2(*found.T))
    assert abs(abs(angles[-1] - angles[0]) - 2 * np.pi * 63 / 64) < 0.1  # once around
    # The same in half of the brightness, and moved: a point has its row and its column.
    np.testing.assert_allclose(digit_outlines.outline(ring // 2), found, atol=0.02)
    shifted = np.roll(ring, (2, -3), (0, 1))
    np.testing.assert_allclose(digit_outlines.outline(shifted) - found,
                               np.broadcast_to(np.float32([2, -3]) / (33 / 4), (64, 2)), atol=1e-5)


def test_the_outline_is_that_of_the_longest_line():
    scan = np.where(np.hypot(ROWS, COLUMNS - 6) < 6, 255, 0).astype(np.uint8)
    alone = digit_outlines.outline(scan)
    scan[:4, :4] = 255  # a spot above it
    np.testing.assert_array_equal(digit_outlines.outline(scan), alone)
