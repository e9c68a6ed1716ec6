"""Clips of windows that move over photographs."""

import numpy as np
import pytest

from cnnjax.data import clips, sources
from cnnjax.errors import UserError

SHIFTS = {'up left': (-1, -1), 'up': (-1, 0), 'up right': (-1, 1), 'left': (0, -1), 'right': (0, 1),
          'down left': (1, -1), 'down': (1, 0), 'down right': (1, 1)}  # where the content moves


def moved(frame, following, rows, columns):
    """Whether the content of a frame is so many pixels further in the following one."""
    before, after = ([slice(max(sign * n, 0), min(sign * n, 0) or None) for n in (rows, columns)]
                     for sign in (-1, 1))
    return np.array_equal(frame[*before], following[*after])


def test_the_content_moves_in_the_direction_of_the_label():
    for split in ('train', 'test'):
        source, speeds = clips.load(split), set()
        assert source.classes == tuple(SHIFTS)
        for example in (source.examples[i] for i in range(32)):
            clip, shift = example['image'], SHIFTS[source.classes[example['label']]]
            assert (clip.shape, clip.dtype) == ((5, 16, 16, 1), np.uint8)
            fitting = {(other, speed) for other in SHIFTS.values() for speed in (1, 2) if all(
                moved(*pair, *(speed * n for n in other))
                for pair in zip(clip[:-1], clip[1:], strict=True))}
            assert {other for other, _ in fitting} == {shift}  # no other direction fits
            speeds |= {speed for _, speed in fitting}
        assert speeds == {1, 2}


def test_every_class_has_as_many_clips(capsys):
    for split, count in (('train', 2048), ('test', 512)):
        source = sources.load('clips', split)
        photographs = {'train': 14, 'test': 6}[split]
        assert capsys.readouterr().out == (
            f'clips of {photographs} photographs, {split}: {count:,} volumes of 8 classes\n')
        assert len(source.examples) == count
        assert [source.examples[i]['label'] for i in range(-16, 0)] == 2 * [*range(8)]
    with pytest.raises(IndexError):
        source.examples[count]
    with pytest.raises(UserError, match="clips has the splits 'train' and 'test', not 'val'"):
        sources.load('clips', 'val')


def test_the_test_has_photographs_of_its_own():
    learned, tested = (clips.load(split).examples for split in ('train', 'test'))
    assert not {entry.content for entry in learned.listing()} & {
        entry.content for entry in tested.listing()}
    assert [min(photo.shape) for photo in learned.photographs + tested.photographs] == 20 * [128]
    # A clip of the test is found in a photograph of the test, and in none of the training.
    window = tested[3]['image'][2, ..., 0]

    def shown(photo):
        windows = np.lib.stride_tricks.sliding_window_view(photo, window.shape)
        return (windows == window).all((2, 3)).any()

    assert any(map(shown, tested.photographs))
    assert not any(map(shown, learned.photographs))


def test_a_clip_is_always_the_same_and_a_still_is_its_middle_frame():
    once, again, stills = (clips.load('train', still).examples for still in (False, False, True))
    for i in (0, 7, 2047):
        np.testing.assert_array_equal(once[i]['image'], again[i]['image'])
        np.testing.assert_array_equal(stills[i]['image'], once[i]['image'][2])
        assert stills[i]['label'] == once[i]['label']
    assert not np.array_equal(once[0]['image'], once[8]['image'])
    assert sources.load('clip_frames', 'test').about == (
        'frames of 6 photographs, test: 512 images of 8 classes')


def test_the_middle_frame_lies_anywhere_in_every_direction(monkeypatch):
    """Where the pixels of a photograph tell their own row or column."""
    monkeypatch.setattr(clips, 'BLANK', 0)
    for ramp in (np.indices((128, 128), np.uint8)):
        frames = clips.Clips((ramp,), 'train', still=True)
        places = np.array([frames[i]['image'][0, 0, 0] for i in range(len(frames))])
        assert (places.min(), places.max()) == (4, 108)  # all frames are in the photograph
        means = places.reshape(-1, 8).mean(0)
        assert np.abs(means - 56).max() < 8  # the standard error is 1.9
