"""The diagnosis of optimizations that fail."""

import numpy as np

from cnnjax.images import diagnosis


def test_health():
    values = {'loss': np.ones((3, 2)), 'gradient': np.ones((3, 2))}
    values['gradient'][:, 1] = 0
    assert diagnosis.health(values) == ''
    assert diagnosis.health(values, 1) == 'the gradient of the objective is exactly 0'
    values['gradient'][1, 0] = np.inf
    assert diagnosis.health(values, 0) == 'the gradient is not finite'


def test_what_says_nothing_of_the_descent():
    gray, broken = np.full((2, 2, 3), 0.5), np.full((2, 2, 3), np.nan)
    assert diagnosis.unfallen([]) == diagnosis.unfallen([1, 2, 3]) == ''
    assert 'not fallen' in diagnosis.unfallen([1, 2, 3, 4])
    assert 'not moved' in diagnosis.unmoved(gray, gray)
    assert diagnosis.unmoved(gray, broken) == ''  # its loss or its gradient is what is broken
