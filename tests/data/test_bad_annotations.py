"""Annotation files as people have them: each kind of fault is read with a count, or is refused."""

import copy
import json
from pathlib import Path

import pytest

from core.config.errors import UserError
from core.data.coco import CocoDetection
from core.data.records import parse_records
from core.data.tables import read_tables
from tests.support.dbs_files import annotation, coco_content

FILE = Path("instances_train.json")


def opened(content, **options):
    """Opens a dataset that is not on the disk, from the text of its annotation file."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    tables = read_tables(parse_records(data, FILE))
    return CocoDetection(FILE, Path("images"), tables=tables, **options)


def changed(table, row, **fields):
    """The content of a valid file with some fields of one record replaced; ``...`` removes one."""
    content = copy.deepcopy(coco_content())
    record = content[table][row] | fields
    content[table][row] = {key: value for key, value in record.items() if value is not ...}
    return content


def with_boxes(*boxes, **extra):
    return coco_content(
        annotations=[annotation(n, 30, 90, box, **extra) for n, box in enumerate(boxes)]
    )


# Content, the line that counts the repair, and how many boxes the dataset then has.
REPAIRED = {
    "area as text": (changed("annotations", 0, area="721.73"), "area of 1 annotation read from", 4),
    "area as text with spaces": (
        changed("annotations", 0, area=" 9e1 "),
        "area of 1 annotation read",
        4,
    ),
    "area null": (changed("annotations", 0, area=None), "1 of 4 boxes have no usable area", 4),
    "area missing": (changed("annotations", 0, area=...), "1 of 4 boxes have no usable area", 4),
    "area a list": (changed("annotations", 0, area=[["12"]]), "1 of 4 boxes have no usable", 4),
    "area NaN": (changed("annotations", 0, area=float("nan")), "1 of 4 boxes have no usable", 4),
    "area negative": (changed("annotations", 0, area=-5), "1 of 4 boxes have no usable area", 4),
    "area very large": (changed("annotations", 0, area=10**400), "1 of 4 boxes have no usable", 4),
    "area larger than the image": (changed("annotations", 0, area=5000), "1 of 4 boxes have no", 4),
    "iscrowd 'false'": (
        changed("annotations", 0, iscrowd="false"),
        "iscrowd of 1 annotation read from text, such as 'false' of annotation 11",
        4,
    ),
    "iscrowd null": (changed("annotations", 0, iscrowd=None), "iscrowd of 1 annotation read as", 4),
    "iscrowd 0.0": (changed("annotations", 0, iscrowd=0.0), "read from a number with a decimal", 4),
    "image_id as text": (
        changed("annotations", 0, image_id="2.0"),
        "image_id of 1 annotation read from text, such as '2.0' of annotation 11",
        4,
    ),
    "category_id with a decimal point": (
        changed("annotations", 0, category_id=90.0),
        "category_id of 1 annotation read from a number with a decimal point, such as 90.0",
        4,
    ),
    "bbox of text": (
        changed("annotations", 0, bbox=["10", "5.0", 20, 10]),
        "bbox of 1 annotation read from text",
        4,
    ),
    "bbox with NaN": (
        changed("annotations", 0, bbox=[float("nan"), 5, 20, 10]),
        "1 of 4 boxes have no extent in their image and are dropped, such as annotation 11",
        3,
    ),
    "bbox with 'nan'": (changed("annotations", 0, bbox=["nan", 5, 20, 10]), "boxes have no", 3),
    "bbox without width": (changed("annotations", 0, bbox=[5, 5, 0, 9]), "boxes have no extent", 3),
    "bbox of a negative height": (changed("annotations", 0, bbox=[5, 5, 9, -9]), "have no", 3),
    "bbox beside the image": (changed("annotations", 0, bbox=[90, 5, 9, 9]), "have no extent", 3),
    "bbox that reaches out": (
        changed("annotations", 0, bbox=[70, 5, 90, 9]),
        "1 of 4 boxes are",
        4,
    ),
    "every box twice": (
        coco_content(
            annotations=[
                {**row, "id": row["id"] + more}
                for row in coco_content()["annotations"]
                for more in (0, 100)
            ]
        ),
        "4 of 8 boxes are in the file before and are dropped, such as annotation 111",
        4,
    ),
    "image id as text": (changed("images", 0, id="30"), "id of 1 image read from text", 4),
    "width as text": (changed("images", 0, width="60"), "width of 1 image read from text", 4),
    "height with a decimal point": (changed("images", 0, height=40.0), "height of 1 image read", 4),
    "category id as text": (changed("categories", 0, id="90"), "id of 1 category read from", 4),
    "class name a number": (changed("categories", 0, name=7), "name of 1 category read from", 4),
    "class name with a lone surrogate": (
        changed("categories", 0, name="a\ud800b"),
        "name of 1 category with U+FFFD for characters that are none (lone surrogates), such as "
        "'a\\ud800b' of category 90",
        4,
    ),
    "class name with a line break": (
        changed("categories", 0, name="a\r\nb"),
        "name of 1 category without its control characters, such as 'a\\r\\nb' of category 90",
        4,
    ),
    "annotation ids missing": (changed("annotations", 0, id=...), None, 4),
    "annotation ids null": (changed("annotations", 0, id=None), None, 4),
    "annotation ids repeated": (changed("annotations", 0, id=12), None, 4),
    "annotation id of any kind": (changed("annotations", 0, id=[{}]), None, 4),
    "one file under two ids": (changed("images", 1, file_name="thirty.jpg"), None, 4),
    "only one image": (
        coco_content(
            images=coco_content()["images"][:1], annotations=coco_content()["annotations"][1::2]
        ),
        None,
        2,
    ),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(coco_content()).encode(), None, 4),
}

REFUSED = {
    "iscrowd 'maybe'": (changed("annotations", 0, iscrowd="maybe"), "11 has iscrowd 'maybe'; it"),
    "iscrowd 2": (changed("annotations", 0, iscrowd=2), "has iscrowd 2; it must be 0 or 1"),
    "iscrowd a list": (changed("annotations", 0, iscrowd=[0]), r"has iscrowd \[0\]; it must be"),
    "image_id null": (changed("annotations", 0, image_id=None), "annotation 11 has image_id None"),
    "image_id true": (changed("annotations", 0, image_id=True), "annotation 11 has image_id True"),
    "image_id a list": (changed("annotations", 0, image_id=[["12"]]), r"image_id \[\['12'\]\], wh"),
    "image_id with a fraction": (changed("annotations", 0, image_id=2.5), "has image_id 2.5"),
    "image_id of no image": (changed("annotations", 0, image_id=3), "which no image of the file"),
    "category_id missing": (changed("annotations", 0, category_id=...), "has category_id None"),
    "category_id NaN": (changed("annotations", 0, category_id=float("nan")), "category_id nan"),
    "category_id of no category": (changed("annotations", 0, category_id=0), "category_id 0, whi"),
    "category_id very large": (
        changed("annotations", 0, category_id=10**300),
        r"has category_id 10+\.\.\.0+, which no category",
    ),
    "bbox null": (changed("annotations", 0, bbox=None), "annotation 11 has bbox None; it must be"),
    "bbox missing": (changed("annotations", 0, bbox=...), "annotation 11 has bbox None; it must"),
    "bbox of three": (changed("annotations", 0, bbox=[1, 2, 3]), r"has bbox \[1, 2, 3\]; it must"),
    "bbox nested": (changed("annotations", 0, bbox=[[1, 2, 3, 4]]), r"has bbox \[\[1, 2, 3, 4\]\]"),
    "bbox of units": (changed("annotations", 0, bbox=["1px", 2, 3, 4]), r"has bbox \['1px', 2"),
    "bbox of truth values": (changed("annotations", 0, bbox=[True, 2, 3, 4]), r"bbox \[True, 2"),
    "bbox too large": (changed("annotations", 0, bbox=[10**400, 2, 3, 4]), r"has bbox \[10+\.\.\."),
    "bbox an object": (changed("annotations", 0, bbox={"x": 1}), r"has bbox \{'x': 1\}"),
    "image id missing": (changed("images", 0, id=...), "image number 0 has id None"),
    "image id text": (changed("images", 0, id="thirty"), "image number 0 has id 'thirty', which"),
    "image id twice": (changed("images", 0, id="2"), "image id 2 occurs twice"),
    "file_name null": (changed("images", 0, file_name=None), "image 30 has no file_name but None"),
    "file_name a number": (changed("images", 0, file_name=30), "image 30 has no file_name but 30"),
    "width null": (changed("images", 0, width=None), r"image 30 has height, width \(40, None\)"),
    "height 0": (changed("images", 0, height=0), r"image 30 has height, width \(0, 60\)"),
    "width with a fraction": (changed("images", 0, width=60.5), r"height, width \(40, 60.5\)"),
    "height very large": (changed("images", 0, height=2**40), r"height, width \(1099511627776, 60"),
    "category id null": (changed("categories", 0, id=None), "category number 0 has id None"),
    "class name missing": (changed("categories", 0, name=...), "category 90 has no name but None"),
    "class name empty": (changed("categories", 0, name=""), "category 90 has no name but ''"),
    "class name of control characters": (
        changed("categories", 0, name="\n\t"),
        r"category 90 has no name but '\\n\\t'",
    ),
    "class name twice": (changed("categories", 0, name="cat"), "two categories are named 'cat'"),
    "class name twice, repaired": (
        changed("categories", 0, name="cat\n"),
        "two categories are named 'cat'",
    ),
    "fractions of the image": (
        with_boxes(*([0.1 * n, 0.2, 0.3, 0.1] for n in range(6))),
        r"6 of 6 boxes look like fractions of the image, such as annotation 0 with bbox \[0.0, 0.2",
    ),
    "x0, y0, x1, y1": (
        with_boxes(*([5 * n, 4 * n, 5 * n + 9, 4 * n + 8] for n in range(8))),
        "the boxes look like x0, y0, x1, y1: as x, y, width, height, 3 of 8 reach out",
    ),
    "boxes outside": (
        with_boxes(*([100 + n, 2, 9, 8] for n in range(4)), [1, 2, 9, 8]),
        "4 of 5 boxes lie outside their image, such as annotation 0 with bbox",
    ),
    "no images": (coco_content(images=[]), "no image of the file"),
    "nothing at all": (coco_content(images=[], annotations=[]), "lists no images"),
    "no categories": (coco_content(categories=[], annotations=[]), '"categories" is missing'),
    "a list of numbers": (coco_content(annotations=[3]), '"annotations" must list objects'),
    "an object of images": (coco_content(images={"30": "a"}), '"images" must list objects'),
    "a number of 10,000 digits": (
        b'{"images": [' + b"1" * 10_000 + b"]}",
        "|".join(
            ("thousands of digits", '"images" must list objects')  # of Python before 3.10.7
        ),
    ),
    "brackets without end": (b"[" * 100_000, "nested too deeply|not JSON"),
    "cut short": (json.dumps(coco_content()).encode()[:-9], r"train.json:1:\d+: not JSON: "),
    "UTF-16": (json.dumps(coco_content()).encode("utf-16"), "not UTF-8 text"),
    "empty": (b"", "train.json:1:1: not JSON: Expecting value"),
}


@pytest.mark.parametrize("case", REPAIRED)
def test_what_can_mean_only_one_thing_is_read_and_counted(case):
    content, line, boxes = REPAIRED[case]
    dataset = opened(content)
    assert dataset.box_counts().sum() == boxes
    assert bool(dataset.notes) == (line is not None)
    assert line is None or any(line in note for note in dataset.notes)
    assert not any("\n" in note for note in dataset.notes)
    for name in dataset.class_names:
        assert name.encode("utf-8") and name.isprintable()


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_named_in_a_line(case):
    content, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as raised:
        opened(content)
    line = str(raised.value)
    assert line.startswith("instances_train.json:") and "\n" not in line and len(line) < 400


def test_values_are_those_that_the_text_says():
    plain = opened(coco_content(), reference_truth=True)
    text = copy.deepcopy(coco_content())
    for table in ("images", "annotations", "categories"):
        for record in text[table]:
            for key in {"id", "image_id", "category_id", "area", "iscrowd", "height"} & set(record):
                record[key] = str(record[key])
            if "bbox" in record:
                record["bbox"] = [f" {side}" for side in record["bbox"]]
    read = opened(text, reference_truth=True)
    for name, wanted in plain.truth()._asdict().items():
        assert getattr(read.truth(), name).tolist() == wanted.tolist()
    for name in ("image_ids", "category_ids", "sizes"):
        assert getattr(read, name).tolist() == getattr(plain, name).tolist()
    assert [note.partition(" read from text")[0] for note in read.notes] == [
        "id of 3 categories",
        "id of 3 images",
        "height of 3 images",
        "image_id of 4 annotations",
        "category_id of 4 annotations",
        "bbox of 4 annotations",
        "iscrowd of 1 annotation",
        "area of 4 annotations",
    ]


def test_more_mistakes_are_counted():
    content = changed("annotations", 0, bbox=None)
    content["annotations"][2]["image_id"] = None
    with pytest.raises(UserError, match=r"annotation 11 .*, and 1 more such entries; .* check"):
        opened(content)


def test_a_file_under_two_ids_is_a_problem():
    dataset = opened(changed("images", 1, file_name="thirty.jpg"))
    assert dataset.problems == (
        "1 image listed under several ids, such as 'thirty.jpg' under [30, 7]; list each file "
        "once, with all its boxes",
    )


def test_few_or_possible_boxes_are_left_alone():
    fractions = [[0.1 * n, 0.2, 0.3, 0.1] for n in range(4)]
    assert opened(with_boxes(*fractions)).box_counts().sum() == 4
    # One of ten reaches out; as x0, y0, x1, y1 all would be in order.
    in_a_corner = [[n, n, 20 + n, 20 + n] for n in range(9)]
    assert opened(with_boxes(*in_a_corner, [30, 10, 40, 20])).repaired == 1
    # Many reach out, but one would not be in order.
    mixed = [[20 - n, 15, 45, 26] for n in range(5)] + [[40, 15, 35, 26]]
    assert opened(with_boxes(*mixed)).repaired == 6
    half_outside = [[100, 2, 9, 8]] * 3 + [[n, 2, 9, 8] for n in range(3)]
    assert opened(with_boxes(*half_outside)).dropped == 3
