"""Selecting layers and channels by a text."""

import pytest

from cnnjax import models, summary
from cnnjax.errors import UserError
from cnnjax.images import selection


def test_layers_by_name_and_depth():
    net = models.create('vgg11', groups=((3,), (3,), (3,)), widths=(12, 8, 6), hidden=(),
                        num_classes=3)
    rows = summary.summarize(net, (8, 8, 3)).rows
    shapes = {row.name: row.shape for row in rows if row.shape is not None}
    assert tuple(selection.by_depth('', shapes)) == (
        'relu1_1', 'relu2_1', 'relu3_1', 'pool3', 'fc8')
    assert tuple(selection.by_depth('all', shapes)) == tuple(shapes)
    assert selection.by_depth('fc8, relu1_1:2+0', shapes) == {'relu1_1': (2, 0), 'fc8': ()}
    with pytest.raises(UserError, match='did you mean relu3_1'):
        selection.by_depth('relu3_2', shapes)


def test_the_layers_of_maps():
    net = models.create('resnet20', num_classes=3)
    rows = {row.name: row for row in summary.summarize(net, (16, 16, 3)).rows}
    shapes = {name: row.shape for name, row in rows.items() if row.shape is not None}
    names = selection.maps(rows, shapes, 20)
    assert 'conv2_1' in names  # the output of a block
    assert not any('/' in name for name in names)
    assert 'pool' not in names  # without positions
