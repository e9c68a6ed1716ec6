"""Tables in Markdown and as CSV."""

from cnnjax import tables


def test_cells_take_the_room_they_need():
    assert tables.markdown(('network', 'layers'), [('vgg19', 19), ('a|\nb', '')]) == (
        '| network | layers |\n'
        '| --- | --- |\n'
        '| vgg19 | 19 |\n'
        '| a\\| b |  |\n')


def test_columns_are_aligned_where_people_read_the_file():
    assert tables.markdown(('network', 'n', 'error'), [('vgg19', '19', '7.5')], left=1) == (
        '| network |   n | error |\n'
        '| ------- | --: | ----: |\n'
        '| vgg19   |  19 |   7.5 |\n')


def test_a_table_may_have_no_rows():
    empty = tables.markdown(('a', 'b'), [], left=2)
    assert empty.splitlines() == ['| a   | b   |', '| --- | --- |']


def test_names_of_files_that_are_no_text_are_escaped():
    found = tables.comma_separated(('name', 'n'), [('a, "b"', 1), ('caf\udce9', 2)])
    assert found == 'name,n\n"a, ""b""",1\ncaf\\udce9,2\n'
    assert found.encode()
