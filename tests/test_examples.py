"""Tools for examples that several sources share."""

from cnnjax import data


def test_a_subset_is_some_of_the_examples_in_order():
    source = data.sources.digits('test')
    assert data.spread(450, 3).tolist() == [0, 224, 449]
    assert data.spread(3, 0).tolist() == data.spread(3, 9).tolist() == [0, 1, 2]
    some = data.subset(source, [7, 3])
    assert len(some.examples) == 2
    assert some.classes == source.classes
    assert [example is source.examples[i] for example, i in
            zip(some.examples, (7, 3), strict=True)] == [True, True]
