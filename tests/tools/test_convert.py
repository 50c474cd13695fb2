"""`cornerkit convert`: every layout becomes COCO's folders, and nothing is overwritten unasked."""

import json

import numpy as np
import pytest

from core.cli import main as cornerkit
from core.config.errors import UserError
from core.config.schema import Db, System
from core.data.splits import open_split
from core.tools import convert
from tests.support import layouts
from tests.support.dbs_files import write_coco
from tests.support.layouts import BOTH, TRAIN, VAL


def opened(root, split):
    return open_split(System(data_dir=str(root.parent), dataset_dir=root.name), Db(), split)


def require_same(first, second):
    assert first.class_names == second.class_names and len(first) == len(second)
    for index in range(len(first)):
        np.testing.assert_allclose(first.boxes(index), second.boxes(index), atol=1e-3)
        np.testing.assert_array_equal(first.labels(index), second.labels(index))
        assert first.image_path(index).read_bytes() == second.image_path(index).read_bytes()


@pytest.mark.parametrize("layout", ["roboflow_yolo", "own_voc", "roboflow_coco"])
def test_splits(tmp_path, layout, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    layouts.WITH_SPLITS[layout](root)
    assert cornerkit(["convert", str(root), str(out)]) == 0
    assert "train: 3 images, 3 boxes, 3 classes in" in capsys.readouterr().out
    for split, examples in {"train": TRAIN, "val": VAL}.items():
        name = "test" if layout == "own_voc" and split == "val" else split
        assert (out / f"annotations/instances_{name}.json").is_file()
        dataset = opened(out, name)
        assert dataset.image_dir == out / "images" / name and len(dataset) == len(examples)
        require_same(opened(root, split), dataset)


def test_a_folder_without_splits_is_divided(tmp_path, caplog):
    root, out = tmp_path / "in", tmp_path / "out"
    layouts.flat_yolo(root)
    caplog.set_level("INFO")
    assert convert.main([str(root), str(out), "--val-share", "0.4"]) == 0
    assert "(system.val_share 0.4)" in caplog.text
    assert len(opened(out, "train")) + len(opened(out, "val")) == len(BOTH)


def test_coco_folders_without_validation_are_divided(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    write_coco(root, "train2017")
    convert.convert(root, out, 0.5)
    names = [
        image["file_name"]
        for split in ("train", "val")
        for image in json.loads((out / f"annotations/instances_{split}.json").read_text())["images"]
    ]
    assert sorted(names) == ["sub/seven.jpg", "thirty.jpg", "zwei-ü.jpg"]
    assert len(opened(out, "train")) + len(opened(out, "val")) == 3


def test_images_are_linked_or_copied(tmp_path, monkeypatch):
    layouts.roboflow_yolo(tmp_path / "in")
    image = tmp_path / "in/train/images/a.jpg"
    convert.convert(tmp_path / "in", tmp_path / "linked", 0.2)
    assert (tmp_path / "linked/images/train/a.jpg").samefile(image)

    def refuse(*_):
        raise OSError

    monkeypatch.setattr(convert.os, "link", refuse)
    convert.convert(tmp_path / "in", tmp_path / "copied", 0.2)
    copy = tmp_path / "copied/images/train/a.jpg"
    assert copy.read_bytes() == image.read_bytes() and not copy.samefile(image)


def test_a_folder_with_files_is_written_to_only_by_force(tmp_path, monkeypatch):
    """And then the images that its links lead to stay as they are."""
    layouts.roboflow_yolo(tmp_path / "one")
    layouts.write_yolo(
        tmp_path / "two/images", tmp_path / "two/labels", {"a": ((9, 9), [(0, 1, 1, 5, 5)])}
    )
    out = tmp_path / "out"
    convert.main([str(tmp_path / "one"), str(out)])
    before = (tmp_path / "one/train/images/a.jpg").read_bytes()
    with pytest.raises(UserError, match=r"out is not empty; .* --force"):
        convert.main([str(tmp_path / "two"), str(out)])
    monkeypatch.setattr(convert.os, "link", convert.shutil.copyfile)
    assert convert.main([str(tmp_path / "two"), str(out), "--force"]) == 0
    assert opened(out, "train").sizes.tolist() == [[9, 9]]
    assert (tmp_path / "one/train/images/a.jpg").read_bytes() == before


def test_a_split_without_annotations(tmp_path):
    layouts.roboflow_yolo(tmp_path / "in")
    for file in (tmp_path / "in/valid/labels").iterdir():
        file.unlink()
    convert.convert(tmp_path / "in", tmp_path / "out", 0.2)
    assert not opened(tmp_path / "out", "val").has_annotations


MISTAKES = {
    "no folder": (["none", "out"], "there is no folder .*none"),
    "not known": (
        ["photos", "out"],
        "photos is in none of the formats of COCO, YOLO and Pascal VOC",
    ),
    "itself": (["in", "in"], "must lie beside each other"),
    "inside": (["in", "in/coco"], "must lie beside each other"),
    "around": (["in/train", "in"], "must lie beside each other"),
    "a file": (["in", "in.txt"], "in.txt is a file; name a folder"),
    "no share": (["in", "out", "--val-share", "0"], "--val-share 0 must be above 0"),
    "an image": (
        ["coco", "out"],
        "1 of the 2 images that .* lists are not in .* missing: thirty.jpg",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts.roboflow_yolo(tmp_path / "in")
    layouts.write_images(tmp_path / "photos", TRAIN)
    write_coco(tmp_path / "coco")
    (tmp_path / "coco/images/train/thirty.jpg").unlink()
    (tmp_path / "in.txt").write_text("")
    argv, message = MISTAKES[kind]
    with pytest.raises(UserError, match=message) as raised:
        convert.main(argv)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()
