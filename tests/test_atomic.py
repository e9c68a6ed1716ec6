"""Files are written whole or not at all."""

import json
import os

import pytest

from cnnjax import atomic


def test_what_raises_leaves_the_file_before(tmp_path):
    path = tmp_path / 'a.txt'
    atomic.write_text(path, 'before')
    with pytest.raises(IsADirectoryError), atomic.replacing(path) as unfinished:
        unfinished.write_text('half') and tmp_path.read_bytes()
    assert os.listdir(tmp_path) == ['a.txt']
    assert path.read_text() == 'before'


@pytest.mark.parametrize('text', [os.fsdecode(b'caf\xe9'), 'é😀', '\ud83d', r'\udce9', r'\\udce9',
                                  r'\u005c', '\\\udce9', r'\xe9', r'C:\users\udo'])
def test_any_name_is_written_as_json_that_all_read(tmp_path, text):
    atomic.write_json(tmp_path / 'a.json', {text: [text, (text, 1, None)]})
    json.dumps(json.loads((tmp_path / 'a.json').read_text()), ensure_ascii=False).encode()  # UTF-8
    assert atomic.read_json(tmp_path / 'a.json') == {text: [text, [text, 1, None]]}
