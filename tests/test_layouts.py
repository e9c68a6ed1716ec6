"""Folders of pictures with boxes, in the forms of COCO, PASCAL VOC and YOLO, as users have them."""

import json

import numpy as np
import pytest
from PIL import Image

from cnnjax import data, dataset, train
from cnnjax.data import annotations, layouts
from cnnjax.errors import UserError
from configs import base

SHAPE = 40, 60  # height, width
# The pictures in the order of their names: (class, left, top, right, bottom) of their objects.
OBJECTS = {'a': [('cat', 0, 0, 20, 30), ('dog', 10, 5, 60, 40)], 'b': [],
           'c': [('dog', 3, 4, 5, 9)]}


def save(path, shape=SHAPE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(path, **options)


def coco(root, split='train', objects=OBJECTS, shape=SHAPE):
    """COCO's own folders. The ids of the categories leave gaps and are in no order."""
    ids, rows = {'dog': 18, 'cat': 7}, []
    for i, name in enumerate(objects):
        save(root / split / f'{name}.jpg')
        rows += [{'id': 100 * i + j, 'image_id': 50 - i, 'category_id': ids[of], 'area': 11.5,
                  'bbox': [left, top, right - left, bottom - top], 'iscrowd': int(of == 'cat'),
                  'segmentation': []}
                 for j, (of, left, top, right, bottom) in enumerate(objects[name])]
    file = root / 'annotations' / f'instances_{split}.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({
        'images': [{'id': 50 - i, 'file_name': f'{name}.jpg', 'height': shape[0],
                    'width': shape[1]} for i, name in enumerate(objects)],
        'categories': [{'id': key, 'name': name} for name, key in ids.items()],
        'annotations': rows}))
    return file


def xml(path, objects, shape=SHAPE, offset=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ''.join(
        f'<object><name>{of}</name><difficult>{int(of == "cat")}</difficult><part><name>head</name>'
        f'</part><bndbox><ymin>{top + offset}</ymin><xmin>{left + offset}</xmin><xmax>{right}'
        f'</xmax><ymax>{bottom}.0</ymax></bndbox></object>'
        for of, left, top, right, bottom in objects)
    path.write_text(f'<annotation><size><width>{shape[1]}</width><height>{shape[0]}</height>'
                    f'<depth>3</depth></size>{rows}</annotation>')


def voc(root, split='train', objects=OBJECTS):
    for name, own in objects.items():
        save(root / 'JPEGImages' / f'{name}.jpg')
        xml(root / 'Annotations' / f'{name}.xml', own)
    file = root / 'ImageSets' / 'Main' / f'{split}.txt'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join([*objects, '']))
    return root / 'Annotations'


def beside(root, split='train', objects=OBJECTS):
    """labelImg's: no file for a picture without objects."""
    for name, own in objects.items():
        save(root / split / f'{name}.png')
        if own:
            xml(root / split / f'{name}.xml', own)
    return root / split


def yolo(root, split='train', objects=OBJECTS, places='{split}/images {split}/labels'):
    """Empty and missing files, blank lines, and numbers of few digits."""
    pictures, labels = (root / place.replace('{split}', split) for place in places.split())
    labels.mkdir(parents=True, exist_ok=True)
    for name, own in objects.items():
        save(pictures / f'{name}.jpg')
        lines = [f'{("cat", "dog").index(of)} {(left + right) / 120:.7f} {(top + bottom) / 80:.7f} '
                 f'{(right - left) / 60:.7f} {(bottom - top) / 40:.7f}'
                 for of, left, top, right, bottom in own]
        (labels / f'{name}.txt').write_text('\n'.join([*lines, '', '']))
    (root / 'classes.txt').write_text('cat\ndog\n')
    return labels


def load(root, split='train', **options):
    return data.load('folder', split, str(root), target='boxes', **options)


FORMS = {'coco': coco, 'voc': voc, 'beside': beside, 'yolo': yolo}


@pytest.mark.parametrize('form', FORMS)
def test_all_forms_are_read_alike(tmp_path, form, capsys):
    FORMS[form](tmp_path)
    source = load(tmp_path)
    assert source.classes == ('cat', 'dog')
    for examples in (source.examples, source.examples.undecoded):
        assert len(examples) == 3
        for i, own in enumerate(OBJECTS.values()):
            example = examples[i]
            assert np.asarray(example['image']).shape == (*SHAPE, 3)
            expected = [box for _, *box in own] + [[0] * 4] * (2 - len(own))
            np.testing.assert_allclose(example['boxes'], expected, atol=1e-4)
            labels = [('cat', 'dog').index(of) for of, *_ in own] + [-1] * (2 - len(own))
            assert example['labels'].tolist() == labels
            assert {name: array.dtype.name for name, array in example.items()
                    if name != 'image'} == {
                'boxes': 'float32', 'labels': 'int32',
                **({'ignore': 'bool'} if form != 'yolo' else {}),
                **({'area': 'float32'} if form == 'coco' else {})}
            if form != 'yolo':
                assert example['ignore'].tolist() == [label == 0 for label in labels]
            if form == 'coco':
                assert example['area'].tolist() == [11.5 * (label >= 0) for label in labels]
    ignored = '' if form == 'yolo' else '; 1 object ignored'
    assert capsys.readouterr().out == (f'{tmp_path}, train: 3 images with 3 objects of 2 classes; '
                                       f'1 image without objects{ignored}\n')
    np.testing.assert_array_equal(source.examples[-1]['boxes'], example['boxes'])
    with pytest.raises(IndexError):
        source.examples[3]


@pytest.mark.parametrize('places', [
    '{split}/images {split}/labels', 'images/{split} labels/{split}', '{split} {split}'])
def test_the_places_of_yolos_files(tmp_path, places):
    for split in ('train', 'val'):
        yolo(tmp_path, split, places=places)
    (tmp_path / 'classes.txt').unlink()
    with pytest.raises(data.Missing, match='classes.txt is not there: it names the classes'):
        load(tmp_path)
    for names in ('[cat, dog]', '{1: dog, 0: cat}', '\n - cat\n - dog'):
        (tmp_path / 'data.yaml').write_text(f'train: images/train\nnc: 2\nnames: {names}\n')
        assert load(tmp_path, 'val').classes == ('cat', 'dog')
    for names, message in (
            ('nc: 2', 'has no list of names: KeyError'),
            ('names: cat', 'no list of names: .*it is .*cat'),
            ('names: {0: cat, 2: dog}', r'no list of names: KeyError\(1\)'),
            ('names: [cat, cat]', 'each class needs a name of its own, not cat, cat'),
            ('names: ["", dog]', 'each class needs a name of its own')):
        (tmp_path / 'data.yaml').write_text(names)
        with pytest.raises(UserError, match=f'data.yaml.*{message}'):
            load(tmp_path)


def test_a_single_class_is_enough(tmp_path):
    yolo(tmp_path, objects={'a': [('cat', 1, 2, 3, 4)]})
    (tmp_path / 'classes.txt').write_text('cat\n')
    assert load(tmp_path).classes == ('cat',)


def test_other_places_of_a_json_file(tmp_path):
    file = coco(tmp_path)
    then = data.identity(load(tmp_path))
    for name in ('train.json', 'train/_annotations.coco.json'):
        file = file.rename(tmp_path / name)
        assert len(load(tmp_path).examples) == 3
    replace(file, '"a.jpg"', '"./a.jpg"')
    replace(file, '"b.jpg"', f'"{tmp_path}/train/b.jpg"')
    assert data.identity(load(tmp_path)) == then
    replace(file, '"./a.jpg"', '"a.jpg"')
    other = tmp_path / 'elsewhere' / 'own train.json'
    other.parent.mkdir()
    file.rename(other)
    assert len(load(tmp_path, annotations='elsewhere/own {split}.json').examples) == 3
    with pytest.raises(data.Missing, match='{split}.json: .*/elsewhere/train.json is not there'):
        load(tmp_path, annotations='elsewhere/{split}.json')
    (tmp_path / 'train').rename(tmp_path / 'photos')
    with pytest.raises(data.Missing, match='lists 3 pictures; the first, a.jpg, is in none of'):
        load(tmp_path, annotations=str(other))


def test_vocs_of_two_years_together(tmp_path):
    """The papers train on both: 07+12."""
    for year, name in (('VOC2007', 'x'), ('VOC2012', 'y')):
        voc(tmp_path / year, 'trainval', {f'{name}{of}': own for of, own in OBJECTS.items()})
        voc(tmp_path / year, 'test', {'z': OBJECTS['c']})
    both = load(tmp_path, 'VOC2007/trainval+VOC2012/trainval')
    assert [path.rpartition('/')[2] for path in both.examples.paths] == [
        'xa.jpg', 'xb.jpg', 'xc.jpg', 'ya.jpg', 'yb.jpg', 'yc.jpg']
    assert len(load(tmp_path, 'VOC2012/test').examples) == 1
    assert len(load(tmp_path / 'VOC2012', 'test').examples) == 1
    with pytest.raises(data.Missing, match='VOC2007/ImageSets/Main/val.txt, which names the pict'):
        load(tmp_path, 'VOC2007/val')


def test_names_of_vocs_pictures_may_have_spaces(tmp_path):
    """Lists of the pictures of one class have a number behind each name."""
    voc(tmp_path, objects={'a b': OBJECTS['a'], 'c': OBJECTS['c']})
    (tmp_path / 'ImageSets' / 'Main' / 'train.txt').write_text('c  1\na b\n')
    assert [path.rpartition('/')[2] for path in load(tmp_path).examples.paths] == [
        'c.jpg', 'a b.jpg']
    (tmp_path / 'ImageSets' / 'Main' / 'train.txt').write_text('d e\n')
    with pytest.raises(UserError, match='train.txt names d, which is not in'):
        load(tmp_path)


def test_a_json_file_may_have_numbers_as_texts(tmp_path):
    file = coco(tmp_path)
    replace(file, '"height": 40', '"height": "40"')
    assert len(load(tmp_path).examples) == 3
    replace(file, '"height": "40"', '"height": "41"')
    with pytest.raises(UserError, match='a.jpg has 41 x 60 pixels .height x width. there'):
        load(tmp_path)


def test_ids_of_coco_are_kept_for_results(tmp_path):
    found = annotations.coco(coco(tmp_path))
    assert found.category_ids == {'cat': 7, 'dog': 18}
    assert tuple(found.category_ids) == load(tmp_path).classes
    assert found.image_ids == {'a.jpg': 50, 'b.jpg': 49, 'c.jpg': 48}


def test_what_other_programs_write_into_cocos_files(tmp_path):
    """Numbers as texts, no area, and no or a wrong kind of size."""
    file = coco(tmp_path)
    replace(file, '"area": 11.5', '"area": null')
    replace(file, '"height": 40', '"height": "40"')
    replace(file, '"height": 40', '"height": []')
    replace(file, '[0, 0, 20, 30]', '["0", "0", "20", "30"]')
    replace(file, '"iscrowd": 0', '"iscrowd": "0"')
    found = load(tmp_path).examples[0]
    assert found['area'].tolist() == [600, 11.5]
    assert found['ignore'].tolist() == [True, False]
    np.testing.assert_array_equal(found['boxes'][0], [0, 0, 20, 30])


@pytest.mark.parametrize('form', ['coco', 'voc'])
def test_objects_that_are_all_ignored_are_refused(tmp_path, form):
    FORMS[form](tmp_path, objects={'a': [('cat', 1, 2, 3, 4)] * 2})
    with pytest.raises(UserError, match=f'{tmp_path}, train: all 2 objects are marked as difficult'
                                        ' or as a crowd, and such do not count'):
        load(tmp_path)


def test_names_with_spaces_in_vocs_lists(tmp_path):
    voc(tmp_path, objects={'a b': OBJECTS['c'], 'c': OBJECTS['c']})
    replace(tmp_path / 'ImageSets' / 'Main' / 'train.txt', 'c', 'c  1')
    assert [path.rpartition('/')[2] for path in load(tmp_path).examples.paths] == [
        'a b.jpg', 'c.jpg']


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(('form', 'change', 'message', 'kind'), [
    ('yolo', ('0.1666667 0.3750000', '0.1666667 1.3750000'),
     r'labels/a.txt, line 1: the box 0, 40, 20, 70 \(left, top, right, bottom\) is not inside the '
     'picture of 40 x 60 pixels', 'outside of the picture'),
    ('yolo', ('0.1666667 0.3750000', '10 15'), 'line 1: 10 15 .* are not shares of the picture',
     'outside of the picture'),
    ('yolo', ('0.1666667', 'nan'), 'line 1: the box nan, .* is not finite', 'not finite'),
    ('yolo', ('0.3333333', '0'), r'line 1: the box 10, 0, 10, 30 .* has no area', 'without area'),
    ('yolo', ('0.3333333', '-0.3333333'), 'line 1: the box .* has no area', 'without area'),
    ('yolo', ('0.3333333', '0.3333333 0.9'), 'line 1: it has 6 columns, not the 5', 'malformed'),
    ('yolo', ('0.3333333', 'x'), 'line 1: not all of .* are numbers', 'malformed'),
    ('yolo', ('0 0.1666667', '2 0.1666667'), 'line 1: the class 2 is not one of the 2, which are '
     'counted from 0', 'of an unknown class'),
    ('yolo', ('0 0.1666667', '-1 0.1666667'), 'line 1: the class -1', 'of an unknown class'),
    ('yolo', ('0 0.1666667', '0.5 0.1666667'), 'line 1: the class 0.5', 'of an unknown class'),
    ('voc', ('<xmax>20', '<xmax>0'), r"Annotations/a.xml, object 1, 'cat': the box 0, 0, 0, 30 .* "
     'has no area', 'without area'),
    ('voc', ('<xmax>20', '<xmax>70'), 'object 1.* is not inside', 'outside of the picture'),
    ('voc', ('<xmax>20', '<xmax>inf'), 'object 1.* is not finite', 'not finite'),
    ('voc', ('<xmax>20', '<xmax>'), "object 1, 'cat': its bndbox lacks a number", 'malformed'),
    ('voc', ('<name>cat', '<name> '), "object 1, '': its class has no name",
     'of an unknown class'),
    ('coco', ('[0, 0, 20, 30]', '[0, 0, 0, 30]'), 'instances_train.json, annotation 0 of a.jpg: '
     'the box 0, 0, 0, 30 .* has no area', 'without area'),
    ('coco', ('[0, 0, 20, 30]', '[0, 0, 20, 300]'), 'not inside', 'outside of the picture'),
    ('coco', ('[0, 0, 20, 30]', '[0, 0, 20, NaN]'), 'not finite', 'not finite'),
    ('coco', ('[0, 0, 20, 30]', '[0, 0, 20]'), r'bbox is not x, y, width, height: \[0, 0, 20\]',
     'malformed'),
    ('coco', ('[0, 0, 20, 30]', f'[0, 0, 20, {10 ** 400}]'), 'bbox is not x, y', 'malformed'),
    ('coco', ('[0, 0, 20, 30]', '"0 0 20 30"'), "bbox is not .*: '0 0 20 30'", 'malformed'),
    ('coco', ('[0, 0, 20, 30]', '[5, 5, 1e-9, 3]'), 'no area in the picture', 'without area'),
    ('coco', ('"area": 11.5', '"area": NaN'), 'area is no number of pixels: nan', 'malformed'),
    ('coco', ('"area": 11.5', '"area": "big"'), 'area is no number of .*big', 'malformed'),
    ('coco', ('"category_id": 7', '"category_id": 8'), 'there is no category 8',
     'of an unknown class')])
def test_an_object_that_cannot_be_used_is_named_or_left_out(tmp_path, capsys, form, change, message,
                                                            kind):
    path = FORMS[form](tmp_path)
    replace({'yolo': path / 'a.txt', 'voc': path / 'a.xml', 'coco': path}[form], *change)
    with pytest.raises(UserError, match=f'(?s){message}.*--config.bad_boxes=skip'):
        load(tmp_path)
    if form == 'voc':  # Only a list of classes can tell that a name is wrong.
        (tmp_path / 'classes.txt').write_text('dog\ncat\n')
    source = load(tmp_path, bad_boxes='skip')
    assert source.examples[0]['labels'].tolist() == [source.classes.index('dog')]
    assert f'; objects left out: 1 {kind}' in capsys.readouterr().out


def test_errors_name_the_first_few_objects(tmp_path):
    voc(tmp_path, objects={'a': [('cat', 5, 5, 5, 9)] * 3 + [('cat', 1, 1, 2, 2)] * 2,
                           'b': [('dog', 7, 7, 8, 1)] * 2})
    with pytest.raises(UserError) as error:
        load(tmp_path)
    lines = str(error.value).splitlines()
    assert [line.strip().partition(': ')[0] for line in lines[1:4]] == [
        f'{tmp_path}/Annotations/a.xml, object {i}, \'cat\'' for i in (1, 2, 3)]
    assert lines[4] == '  and 2 more objects'


def test_names_that_are_not_in_classes_txt(tmp_path):
    voc(tmp_path)
    (tmp_path / 'classes.txt').write_text('cat\nfox\n')
    with pytest.raises(UserError, match="a.xml, object 2, 'dog': 'dog' is no class; known are cat"):
        load(tmp_path)


def test_boxes_may_exceed_the_picture_by_a_rounded_pixel(tmp_path):
    """VOC's numbers begin at 1, yet some programs write 0; in uint16, 0 - 1 would be 65535."""
    xml(beside(tmp_path) / 'a.xml', [('cat', 0, 0, 20, 30), ('dog', 10, 5, 61, 40)], offset=0)
    boxes = load(tmp_path).examples[0]['boxes']
    assert boxes.tolist() == [[0, 0, 20, 30], [9, 4, 60, 40]]


@pytest.mark.parametrize('form', ['coco', 'beside', 'yolo'])
def test_boxes_are_those_of_the_upright_picture(tmp_path, form):
    """Orientation 6 turns a stored picture of 60 x 40 pixels upright, to 40 x 60."""
    path = FORMS[form](tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture, = tmp_path.rglob('a.[jp][pn]g')
    save(picture, SHAPE[::-1], exif=exif)
    source = load(tmp_path)
    assert source.examples[0]['image'].shape == (*SHAPE, 3)
    np.testing.assert_allclose(source.examples[0]['boxes'][1], (10, 5, 60, 40), atol=1e-4)
    save(picture, SHAPE, exif=exif)  # now turned to 60 x 40
    if form == 'yolo':
        return  # Its shares fit any size.
    file = path if form == 'coco' else path / 'a.xml'
    with pytest.raises(UserError, match=f'{file}: .* has 40 x 60 pixels .height x width. there, '
                                        'but 60 x 40 in its own file, perhaps turned by its EXIF'):
        load(tmp_path)


@pytest.mark.parametrize(('form', 'name', 'content', 'message'), [
    ('voc', 'a.xml', '<annotation>', 'a.xml is no readable xml file: no element found'),
    ('voc', 'b.xml', None, 'b.xml is no readable xml file: .* No such file'),
    ('yolo', 'a.txt', b'\xff\xfe\x00', 'a.txt is no readable text file'),
    ('coco', '', '{', 'no readable json file'),
    ('coco', '', '[]', 'has not the form of COCO'),
    ('coco', '', '{"images": [], "annotations": []}', "has not the form of COCO.*'categories'"),
    ('coco', '', '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}], '
     '"categories": []}', "2 entries of the file_name 'a.jpg'"),
    ('coco', '', '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "./a.jpg"}], '
     '"categories": []}', "2 entries of the file_name 'a.jpg'"),
    ('coco', '', '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}], '
     '"categories": []}', '2 entries of the id 1'),
    ('coco', '', '{"images": [], "categories": []}', 'lists no images')])
def test_a_damaged_file_is_named(tmp_path, form, name, content, message):
    path = FORMS[form](tmp_path)
    path = path / name if name else path
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_unreadable_pictures_are_named_or_left_out(tmp_path, capsys):
    voc(tmp_path)
    (tmp_path / 'JPEGImages' / 'b.jpg').write_bytes(b'\xff\xd8')
    with pytest.raises(UserError, match='JPEGImages/b.jpg is not a readable image'):
        load(tmp_path)
    (tmp_path / 'Annotations' / 'c.xml').write_text('<annotation>')
    source = load(tmp_path, bad_images='skip')
    assert [path.rpartition('/')[2] for path in source.examples.paths] == ['a.jpg']
    out = capsys.readouterr().out
    assert out.count('skipped: ') == 2
    assert '; left out: 2 unreadable' in out
    coco(tmp_path / 'coco')
    (tmp_path / 'coco/train/a.jpg').unlink()
    with pytest.raises(UserError, match='train/a.jpg is not a readable image: .* No such file'):
        load(tmp_path / 'coco')
    assert len(load(tmp_path / 'coco', bad_images='skip').examples) == 2


def test_what_is_left_out_is_said(tmp_path, capsys):
    labels = yolo(tmp_path)
    (labels / 'z.txt').write_text('0 0.5 0.5 0.1 0.1\n')
    (labels / 'b.txt').unlink()
    (labels.parent / 'images' / 'notes.doc').write_text('no picture')
    load(tmp_path)
    assert '; left out: 1 .doc, 1 .txt without a picture\n' in capsys.readouterr().out
    coco(tmp_path / 'coco')
    replace(tmp_path / 'coco/annotations/instances_train.json', '"image_id": 48', '"image_id": 1')
    load(tmp_path / 'coco')
    assert 'left out: 1 in unlisted pictures' in capsys.readouterr().out


def test_folders_without_boxes_say_what_is_needed(tmp_path):
    with pytest.raises(UserError, match="dataset='folder' with boxes needs data_dir"):
        data.load('folder', 'train', target='boxes')
    with pytest.raises(data.Missing, match='this folder is not there'):
        load(tmp_path / 'none')
    with pytest.raises(data.Missing, match="has no boxes of the split 'train' in a form that is "
                                           'known here. For COCO it needs annotations/instances_'):
        load(tmp_path)
    save(tmp_path / 'train' / 'a.jpg')
    with pytest.raises(UserError, match='has no txt or xml file of the pictures in'):
        load(tmp_path)
    xml(tmp_path / 'train' / 'a.xml', [])
    with pytest.raises(UserError, match='train: no picture has an object that can be used'):
        load(tmp_path)
    (tmp_path / 'train' / 'a.txt').write_text('')
    with pytest.raises(UserError, match='has both txt and xml files'):
        load(tmp_path)


def test_pictures_and_boxes_are_no_classes(tmp_path):
    """A forgotten task would look for pictures among the boxes."""
    yolo(tmp_path)
    with pytest.raises(UserError, match='has the folders images and labels. To learn the labels, '
                                        'set config.task=detect'):
        data.load('folder', 'train', str(tmp_path))


def test_a_picture_of_two_kinds_of_files(tmp_path):
    yolo(tmp_path)
    save(tmp_path / 'train' / 'images' / 'a.png')
    with pytest.raises(UserError, match='have one name but for the suffix'):
        load(tmp_path)


def configured(root, **fields):
    config = base.get_config()
    config.update({'task': 'detect', 'dataset': 'folder', 'data_dir': str(root), 'batch_size': 2,
                   **fields})
    return config


@pytest.mark.parametrize('form', ['coco', 'beside'])
def test_classes_of_training_and_test_are_matched_by_name(tmp_path, form):
    """The test lists only dogs, or other ids."""
    FORMS[form](tmp_path)
    FORMS[form](tmp_path, 'test', {'c': OBJECTS['c']})
    if form == 'coco':
        replace(tmp_path / 'annotations/instances_test.json', '"id": 7, "name": "cat"',
                '"id": 70, "name": "cat"')
        assert load(tmp_path, 'test').classes == ('dog', 'cat')
    sets = dataset.load_sets(configured(tmp_path), tmp_path, None)
    assert sets.train.classes == sets.test.classes == ('cat', 'dog')
    assert sets.test.data['labels'].tolist() == [[1]]
    FORMS[form](tmp_path, 'test', {'c': [('dog', 1, 1, 5, 5)]})
    name = 'annotations/instances_test.json' if form == 'coco' else 'test/c.xml'
    replace(tmp_path / name, '"dog"' if form == 'coco' else 'dog', '"fox"' if form == 'coco'
            else 'fox')
    with pytest.raises(UserError, match='test has the class fox, which the training set does not'):
        dataset.load_sets(configured(tmp_path), tmp_path, None)


@pytest.mark.parametrize('form', FORMS)
def test_a_change_of_a_box_changes_the_set(tmp_path, form):
    path = FORMS[form](tmp_path)
    then = data.identity(load(tmp_path))
    assert data.identity(load(tmp_path)) == then
    assert (then.examples, then.counts) == (3, None)
    file, old, new = {'yolo': (path / 'a.txt', '0.1666667', '0.1766667'),
                      'coco': (path, '[0, 0, 20, 30]', '[0, 0, 21, 30]')}.get(
        form, (path / 'a.xml', '<xmax>20', '<xmax>21'))
    replace(file, old, new)
    line, = data.differences(then, data.identity(load(tmp_path)))
    assert line.startswith('of another size or content: ')
    assert 'a.' in line


def test_fits_and_streams_of_a_folder(tmp_path):
    """The first batches of a resident set and of a stream have the same boxes."""
    coco(tmp_path)
    found = {}
    for stream in (False, True):
        config = configured(tmp_path, fit='letterbox', image_size=30, stream=stream,
                            shorter_side=(20, 20), test_shorter_side=20)
        prepared = dataset.prepare(config, dataset.source(config, 'train'))
        assert prepared.shapes.keys() == {'image', 'boxes', 'labels', 'ignore', 'area', 'frame',
                                          'size'}
        found[stream] = prepared.data or next(prepared.test_batches(3))
    for name in ('image', 'boxes', 'labels', 'ignore', 'area', 'frame', 'size'):
        np.testing.assert_array_equal(found[False][name], found[True][name])
    np.testing.assert_array_equal(found[True]['frame'][0], (0, 0, 30, 20))
    np.testing.assert_array_equal(found[True]['boxes'][0], ((0, 0, 10, 15), (5, 2.5, 30, 20)))
    assert not found[True]['image'][:, 20:].any()


def test_objects_outside_of_the_middle_are_counted(tmp_path, capsys):
    yolo(tmp_path)  # The middle of 60 x 40 pixels is 40 x 40.
    config = configured(tmp_path, image_size=40)
    dataset.prepare(config, dataset.source(config, 'train'))
    assert capsys.readouterr().out.endswith(
        "fit='crop' keeps the middle of each picture and loses 1 object\n")


def test_a_run_on_a_folder_goes_on_only_with_the_same_boxes(detecting, tmp_path):
    """Pictures without objects are among those it learns from."""
    for split in ('train', 'test'):
        yolo(tmp_path / 'set', split)
    with detecting.unlocked():
        detecting.update({'dataset': 'folder', 'data_dir': str(tmp_path / 'set'), 'fit': 'stretch',
                          'batch_size': 2, 'steps': 2, 'eval_every': 0.0, 'stream': True,
                          'checkpoint_every': 0.0, 'jitter': 0.2, 'hue': 0.1, 'saturation': 1.5,
                          'exposure': 1.5, 'mean': '0.5', 'std': '0.5', 'loader_threads': 1})
    row = train.train(detecting, tmp_path / 'run')
    assert row['step'] == 2
    assert np.isfinite(row['train/loss'])
    replace(tmp_path / 'set/train/labels/a.txt', '0.1666667', '0.1766667')
    with detecting.unlocked():
        detecting.steps = 4
    with pytest.raises(UserError, match=r'not the data(?s:.*)train: of another size or content: '
                                        r'train/images/a\.jpg'):
        train.train(detecting, tmp_path / 'run')


def test_recognition_needs_no_split_in_its_name(tmp_path):
    voc(tmp_path)
    layout = layouts.recognized(tmp_path, 'train')
    assert layout.fields == ('ignore',)
    assert len(layout.pictures) == 3
