"""The formats of files that tell where objects are in pictures: COCO's, PASCAL VOC's and YOLO's.

Objects have boxes in pixels of the upright picture, from its left and upper border. What is wrong
with one of them becomes its Flaw; what makes the whole file useless is a UserError.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from cnnjax.data.objects import Flaw, Object
from cnnjax.errors import UserError

LARGEST_AREA = 2.0 ** 63  # in pixels


class Coco(NamedTuple):
    """A json file of COCO (https://cocodataset.org/#format-data). The ids are those of the file,
    which leave gaps; results in COCO's form need them."""

    objects: dict[str, list[Object]]  # {file name of each picture: its objects}
    shapes: dict[str, tuple[float | None, float | None]]  # {file name: (height, width)}, if told
    image_ids: dict[str, int]  # {file name: id}
    category_ids: dict[str, int]  # {class: id}, in the order of the ids
    strangers: int  # how many objects belong to pictures that the file does not list


def coco(path: Path) -> Coco:
    """The contents of a json file of COCO. Crowds are ignored objects.

    Raises:
      UserError: the file cannot be read, or is not of that form.
    """
    values = _json(path)
    try:
        names = _by_id(path, values['categories'], 'name', str)
        names = {key: names[key] for key in sorted(names)}
        listed = _by_id(path, values['images'], 'file_name', os.path.normpath)
        shapes = {listed[image['id']]: (_number(image.get('height')), _number(image.get('width')))
                  for image in values['images']}
        found, strangers = {name: [] for name in listed.values()}, 0
        for i, annotation in enumerate(values.get('annotations', ()), 1):
            if annotation['image_id'] in listed:
                name = listed[annotation['image_id']]
                place = f'annotation {annotation.get("id", f"at position {i}")} of {name}'
                found[name].append(_coco_object(annotation, names, place))
            else:
                strangers += 1
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{path} has not the form of COCO, with images, annotations and '
                        f'categories: {error!r}') from None
    return Coco(found, shapes, {name: key for key, name in listed.items()},
                {name: key for key, name in names.items()}, strangers)


def _by_id(path, entries, name, read):
    """{id: name} of the entries of a file, which must all differ in both."""
    found = [(entry['id'], read(entry[name])) for entry in entries]
    for what, values in zip(('id', name), zip(*found, strict=True), strict=False):
        twice, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise UserError(f'{path} has {count} entries of the {what} {twice!r}: give each '
                            'its own')
    return dict(found)


def _json(path):
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path} is no readable json file: {error}') from None


def _coco_object(annotation, names, place):
    number = annotation.get('category_id')
    if number not in names:
        return Object(place, flaw=Flaw('of an unknown class', f'there is no category {number!r}'))
    box, area = annotation.get('bbox'), annotation.get('area')
    sides = [_number(side) for side in box] if isinstance(box, list) else []
    if len(sides) != 4 or None in sides:
        return Object(place, flaw=Flaw('malformed', f'bbox is not x, y, width, height: {box!r}'))
    left, top, width, height = sides
    pixels = width * height if area is None else _number(area)
    if area is not None and (pixels is None or not 0 <= pixels <= LARGEST_AREA):
        return Object(place, flaw=Flaw('malformed', f'area is no number of pixels: {area!r}'))
    ignored = bool(_number(annotation.get('iscrowd')) or _number(annotation.get('ignore')))
    return Object(place, (left, top, left + width, top + height), names[number], ignored, pixels)


def voc(path: Path, shape: Sequence[int]) -> list[Object]:
    """The objects in an xml file of PASCAL VOC for a picture [H, W, ...]; difficult ones are
    ignored. Its numbers count pixels from 1, and the last ones are inside the box.

    Raises:
      UserError: the file cannot be read, or is for a picture of another size.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise UserError(f'{path} is no readable xml file: {error}') from None
    check_shape(path, [_number(root.findtext(f'size/{side}')) for side in ('height', 'width')],
                shape)
    found = []
    for i, each in enumerate(root.findall('object'), 1):
        name = (each.findtext('name') or '').strip()
        place = f'object {i}, {name!r}'
        sides = [_number(each.findtext(f'bndbox/{side}'))
                 for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        if None in sides:
            found.append(Object(place, flaw=Flaw('malformed', 'its bndbox lacks a number')))
        else:
            left, top, right, bottom = sides
            found.append(Object(place, (left - 1, top - 1, right, bottom), name,
                                bool(_number(each.findtext('difficult')))))
    return found


def _number(value) -> Any:
    """The number that a file has there, perhaps as a text; None if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def yolo(path: Path, shape: Sequence[int], classes: Sequence[str]) -> list[Object]:
    """The objects in a txt file of YOLO for a picture [H, W, ...]. A line has the number of the
    class, and the box's centre x and y, width and height as shares of the picture's.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is no readable text file: {error}') from None
    return [_yolo_object(line.split(), f'line {i}', shape, classes)
            for i, line in enumerate(lines, 1) if line.strip()]


def _yolo_object(words, place, shape, classes):
    if len(words) != 5:
        return Object(place, flaw=Flaw('malformed', f'it has {len(words)} columns, not the 5 of a '
                                       'class and a box: class, x, y, width, height'))
    try:
        number, x, y, width, height = map(float, words)
    except ValueError:
        return Object(place, flaw=Flaw('malformed', f'not all of {" ".join(words)} are numbers'))
    if number not in range(len(classes)):
        return Object(place, flaw=Flaw('of an unknown class', f'the class {words[0]} is not one of '
                                       f'the {len(classes)}, which are counted from 0'))
    if max(x, y, width, height) > 2:
        return Object(place, flaw=Flaw('outside of the picture', f'{" ".join(words[1:])} are not '
                                       "shares of the picture's sides, from 0 to 1"))
    left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return Object(place, (left * shape[1], top * shape[0], right * shape[1], bottom * shape[0]),
                  classes[int(number)])


def check_shape(path: Path, told: Sequence[float | None], shape: Sequence[int],
                name: str = 'its picture') -> None:
    """Raises UserError if a file tells a (height, width) that its picture [H, W, ...] has not."""
    if all(told) and tuple(told) != tuple(shape[:2]):
        height, width = told
        turned = tuple(told) == tuple(shape[1::-1])
        raise UserError(
            f'{path}: {name} has {height:g} x {width:g} pixels (height x width) there, but '
            f'{shape[0]} x {shape[1]} in its own file'
            + ', perhaps turned by its EXIF orientation: save it upright' * turned)
