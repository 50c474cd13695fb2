"""The check of a dataset lists everything that is wrong with it."""

import json
import runpy
import sys

import cv2
import numpy as np
import pytest

from core.cli import exit_codes
from core.config.errors import UserError
from core.tools.check import main
from tests.support import layouts
from tests.support.dbs_files import annotation, coco_content, write_coco


@pytest.fixture
def checked(tmp_path, capsys):
    """Runs the check on ``<tmp_path>/data/coco``; returns exit code, problems and all lines."""
    (tmp_path / "data" / "coco").mkdir(parents=True)
    config = tmp_path / "CornerNet-x.json"
    system = {"data_dir": str(tmp_path / "data"), "train_split": "train", "val_split": "val"}
    config.write_text(json.dumps({"system": system}))

    def run(*arguments):
        code = main([str(config), *arguments])
        lines = capsys.readouterr().out.splitlines()
        problems = [line.split("problem: ")[1] for line in lines if "problem: " in line]
        return code, problems, lines

    return run


@pytest.fixture
def notes(checked):
    """Runs the check on the training split; returns exit code and notes."""

    def run(*arguments):
        code, _, lines = checked("--split", "train", *arguments)
        return code, [line.split("note: ")[1] for line in lines if "note: " in line]

    return run


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "coco"


def test_a_valid_dataset_has_a_table_and_no_problems(checked, root):
    write_coco(root)
    write_coco(root, "val")
    code, problems, lines = checked()
    assert (code, problems) == (0, [])
    assert [line for line in lines if "3 images, 1 of them without boxes" in line]
    table = [line.split() for line in lines if line.startswith(("  person", "  cat", "  all"))]
    assert table[:3] == [
        ["person", "1", "1", "0", "1", "0", "49.0", "1.50", "(1.50", "to", "1.50)"],
        ["cat", "1", "1", "1", "0", "0", "3.6", "0.81", "(0.81", "to", "0.81)"],
        ["all", "2", "4", "3", "1", "0", "12.1", "1.25", "(0.84", "to", "1.92)"],
    ]
    assert lines[-2] == "val: problems found: 0"


def test_the_table_is_narrow_whatever_the_classes_are_called(checked, root):
    names = ("x" * 99, "müll\u3000" * 9, "none of these")
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    boxes = [annotation(n, 2, n % 2, [n, 1, 1 + 4 * n, 4]) for n in range(9)]
    write_coco(root, categories=categories, annotations=boxes)
    code, _, lines = checked("--split", "train")
    table = lines[2:7]
    assert code == 0 and max(map(len, table)) <= 100
    assert table[1].split()[0] == "x" * 21 + "…"
    assert table[3].split() == ["none", "of", "these", "0", "0", "0", "0", "0", "-", "-"]
    # Sides of 1, 5 … 33 by 4 pixels: the median is 17 by 4.
    assert table[4].split()[-5:] == ["8.2", "4.25", "(0.65", "to", "7.85)"]


def test_every_problem_is_listed(checked, root):
    content = coco_content()
    tables = {
        "images": [
            *content["images"],
            {"id": 40, "file_name": "missing.jpg", "height": 9, "width": 9},
            {"id": 41, "file_name": "text.jpg", "height": 9, "width": 9},
            {"id": 42, "file_name": "cut.jpg", "height": 90, "width": 90},
            {"id": 43, "file_name": "turned.jpg", "height": 9, "width": 12},
            {"id": 44, "file_name": "empty.jpg", "height": 9, "width": 12},
            {"id": 7, "file_name": "twice.jpg", "height": 9, "width": 12},
        ],
        "annotations": [
            *content["annotations"],
            annotation(14, 30, 90, [1, 1, 2, 2]),
            annotation(51, 30, 91, [1, 1, 2, 2]),
            annotation(52, 99, 90, [1, 1, 2, 2]),
            annotation(53, 30, 90, [50, 1, 20, 2]),
            annotation(54, 30, 90, [1, 1, 0, 2]),
        ],
    }
    write_coco(root, **tables)
    folder = root / "images" / "train"
    (folder / "missing.jpg").unlink()
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.jpg").write_bytes(b"")
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    cv2.imwrite(str(folder / "turned.jpg"), np.zeros((12, 9, 3), np.uint8))
    code, problems, lines = checked("--split", "train", "--set", "db.categories=80")
    assert code == 1
    wanted = [
        "image id 7 occurs twice",
        "annotation 51 has category_id 91",
        "annotation 52 has image_id 99",
        "db.categories says 80, the file holds 3",
        "missing.jpg: does not exist",
        "text.jpg: cannot be decoded",
        "cut.jpg: is cut short",
        "empty.jpg: cannot be decoded",
    ]
    assert len(problems) == len(wanted)
    for problem, part in zip(problems, wanted, strict=True):
        assert part in problem
    assert f"train: problems found: {len(wanted)}" in lines
    assert any("sizes replaced by those of the images" in line for line in lines)


def test_what_is_repaired_is_a_note(notes, root):
    write_coco(
        root,
        annotations=[
            annotation(14, 30, 90, [1, 1, 2, 2]),
            annotation(14, 30, 17, [1, 1, 2, 2]),
            annotation(53, 30, 90, [50, 1, 20, 2]),
            annotation(54, 30, 90, [1, 1, 0, 2]),
            annotation(55, 30, 90, ["1", 1, 2, "2.0"], area=None),
            {"image_id": 2, "category_id": -4, "bbox": [1, 1, 2, 2], "area": "3", "iscrowd": None},
        ],
    )
    assert notes() == (
        0,
        [
            "1 annotation without an id; other tools may need one",
            "several annotations have the same id: 1 such ids, as 14; other tools may need one for "
            "each",
            "bbox of 1 annotation read from text, such as ['1', 1, 2, '2.0'] of annotation 55",
            "iscrowd of 1 annotation read as false from null, such as None of annotation number 5",
            "area of 1 annotation read from text, such as '3' of annotation number 5",
            "1 of 6 boxes are clipped to their image, such as annotation 53 with bbox "
            "[50, 1, 20, 2]",
            "1 of 6 boxes have no extent in their image and are dropped, such as annotation 54 "
            "with bbox [1, 1, 0, 2]",
            "1 of 6 boxes are in the file before and are dropped, such as annotation 55 with bbox "
            "['1', 1, 2, '2.0']",
        ],
    )


def test_classes_without_boxes_and_with_nearly_all_are_notes(notes, root):
    boxes = [[x, y, 2, 2] for x in range(0, 58, 2) for y in range(0, 38, 6)]
    rows = [annotation(n, 30, 90, box) for n, box in enumerate(boxes)]
    write_coco(root, annotations=[*rows, annotation(999, 30, 17, [1, 1, 9, 9])])
    assert notes() == (
        0,
        [
            "1 category without boxes, such as 'person'",
            "203 of 204 boxes are of class 'toothbrush'; the others may be too rare to be learned",
        ],
    )


def test_no_boxes_are_a_problem(checked, root):
    write_coco(root, annotations=[])
    code, problems, _ = checked("--split", "train")
    assert (code, problems) == (1, ["there are no boxes to train on or to compare with"])


def test_boxes_that_cannot_be_right_are_a_problem(checked, root):
    boxes = [[0.1 * n, 0.2, 0.3, 0.1] for n in range(6)]
    write_coco(root, annotations=[annotation(n, 30, 90, box) for n, box in enumerate(boxes)])
    code, problems, _ = checked("--split", "train")
    assert code == 1 and len(problems) == 1
    assert problems[0].startswith("6 of 6 boxes look like fractions of the image")


def test_names_that_the_terminal_cannot_show_are_escaped(checked, root):
    file = write_coco(root)
    content = coco_content()
    content["images"][0]["file_name"] = "a\ud800b.jpg"
    file.write_text(json.dumps(content), encoding="utf-8")
    with exit_codes():
        code, problems, _ = checked("--split", "train")
    assert code == 1 and len(problems) == 1
    assert "a\\ud800b.jpg" in problems[0]


def test_splits_with_other_categories_are_a_problem(checked, root):
    write_coco(root)
    things = {"categories": [{"id": 1, "name": "thing"}]}
    write_coco(root, "val", **things, annotations=[annotation(1, 30, 1, [1, 1, 9, 9])])
    code, problems, _ = checked()
    assert (code, problems) == (1, ["other categories than in split 'train'"])


def test_other_formats_are_checked_too(checked, root):
    layouts.roboflow_yolo(root)
    (root / "train/labels/a.txt").unlink()
    code, problems, lines = checked()
    assert (code, problems) == (0, [])
    assert f"train: {root}/train/labels, images in {root}/train/images" in lines
    notes = [line.split("note: ")[1] for line in lines if "note: " in line]
    assert [note for note in notes if "categories" not in note] == [
        "read as a YOLO folder (data.yaml), its split 'train'",
        "1 image without a label file, so without objects",
        "read as a YOLO folder (data.yaml), its split 'val'",
    ]
    assert ["cat", "1", "2", "2", "0", "0"] in [line.split()[:6] for line in lines]


def test_nothing_usable_is_a_problem_and_not_a_crash(checked, root):
    write_coco(root, images=[])
    (root / "images" / "train").mkdir(parents=True)
    code, problems, _ = checked("--split", "train")
    assert code == 1 and problems[-1] == "no usable images or categories"


def test_a_test_split_is_read_too(checked, root):
    write_coco(root, "test", "image_info", annotations=None, categories=None)
    assert checked("--split", "test")[:2] == (0, [])


@pytest.mark.filterwarnings("ignore:'core.cli' found in sys.modules")
def test_a_missing_dataset_is_the_callers_mistake(checked, root, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="no folder"):
        checked()
    monkeypatch.setattr("logging.root.handlers", [])  # pytest's
    monkeypatch.setattr(sys, "argv", ["cli.py", "check", str(tmp_path / "CornerNet-x.json")])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("core.cli", run_name="__main__")  # as `python -m core.cli`
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: there is no folder")
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--augmented"], "needs --draw N"), (["--draw", "0"], "0 must be at least 1")],
)
def test_arguments_that_make_no_drawing(checked, root, capsys, more, message):
    with pytest.raises(SystemExit) as ended:
        checked(*more)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_the_callers_mistake(checked, root, tmp_path):
    write_coco(root)
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "below")
    with pytest.raises(UserError, match="below cannot be written: Not a directory"):
        checked("--split", "train", "--draw", "1", "--out", out)


def test_problems_do_not_keep_from_drawing(checked, root, tmp_path):
    write_coco(root, annotations=[])
    (root / "images" / "train" / "thirty.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert checked("--split", "train", "--draw", "3", "--out", str(out))[0] == 1
    assert [file.name for file in out.iterdir()] == ["train_1.jpg"]
