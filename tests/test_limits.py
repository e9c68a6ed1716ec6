"""Every kind of limit refuses values outside it and names the field."""

import pytest

from cnnjax import limits
from cnnjax.errors import UserError
from cnnjax.limits import Names, Number, Whole

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(('limit', 'fits', 'refused'), [
    (Number(0, 1), (0, 1, 0.5, (), (0, 1.0)), (-1e-9, 1.1, NAN, INF, 'x', None, True, (0.5, NAN))),
    (Number(above=0), (1e-300, 1e12), (0, -INF, NAN, 1e13, INF)),
    (Number(0, below=1), (0, 0.999), (1, 1.5, -0.1, NAN)),
    (Number(0, some=True), (0, (1,)), ((), [])),
    (Whole(1), (1, 2 ** 31 - 1, (), (1, 2)), (0, 2 ** 31, 1.0, 1.5, NAN, INF, (1, 2.0), ((1, 2),))),
    (Whole(1, 3, some=True), ((1, 3),), ((), (4,))),
    (('adam', 'sgd'), ('adam',), ('', 'adam,sgd', 'SGD')),
    ((8, 16), (8,), (7, '8')),
    (Names(), ('a', ' a , b'), ('', ' ', ',')),
    (Names(('a', 'b'), some=False), ('', 'b,a'), ('c', 'a,c')),
])
def test_limits(limit, fits, refused):
    for value in fits:
        limits.check({'field': value}, {'field': limit})
    for value in refused:
        with pytest.raises(UserError, match='^field='):
            limits.check({'field': value}, {'field': limit})


@pytest.mark.parametrize(('limit', 'value', 'message'), [
    (Number(0), (1, -1), r'field=\(1, -1\): take 0 or a larger number'),
    (Number(above=0), NAN, 'field=nan: take a number above 0'),
    (Whole(0, 9), 10, 'field=10: take 9 or a smaller number'),
    (Whole(), 1.5, 'field=1.5: give whole numbers'),
    (Number(), ('x',), r"field=\('x',\): 'x' is no number"),
    (('l2', 'mean'), 'l3', "field='l3' is none of 'l2', 'mean'"),
    (Names(('a', 'b')), 'a,c', "field='a,c': 'c' is none of a, b"),
    (Names(), ' ', "field=' ' is empty: give at least one"),
])
def test_messages(limit, value, message):
    with pytest.raises(UserError, match=f'^{message}$'):
        limits.check({'field': value}, {'field': limit})


def test_names():
    assert limits.names(' a,b ,, c') == ('a', 'b', 'c')
