"""Every layout of the same images gives the same datasets."""

from pathlib import Path

import numpy as np
import pytest

from core.config.schema import Db, System
from core.data.formats.recognition import recognise
from core.data.splits import open_split
from tests.support import layouts
from tests.support.layouts import BOTH, NAMES, TRAIN, VAL, WITH_SPLITS, WITHOUT_SPLITS


def opened(root, split, **settings):
    system = System(data_dir=str(root.parent), dataset_dir=root.name, **settings)
    return open_split(system, Db(), split)


def require_examples(dataset, examples):
    """Requires the images, sizes, boxes within 0.01 pixels and class names of the examples."""
    assert dataset.class_names == NAMES
    names = [Path(dataset.file_name(index)).stem for index in range(len(dataset))]
    assert sorted(names) == sorted(examples)
    for index, name in enumerate(names):
        size, boxes = examples[name]
        assert dataset.image_path(index).is_file() and dataset.sizes[index].tolist() == list(size)
        wanted = np.array(boxes).reshape(-1, 5)
        np.testing.assert_allclose(dataset.boxes(index), wanted[:, 1:], atol=1e-2)
        assert dataset.labels(index).tolist() == wanted[:, 0].tolist()


@pytest.mark.parametrize("layout", WITH_SPLITS)
def test_layouts_with_splits(tmp_path, layout):
    root = tmp_path / "data"
    WITH_SPLITS[layout](root)
    require_examples(opened(root, "train"), TRAIN)
    require_examples(opened(root, "val"), VAL)


@pytest.mark.parametrize("layout", WITHOUT_SPLITS)
def test_layouts_without_splits_are_divided(tmp_path, layout, caplog):
    root = tmp_path / "data"
    WITHOUT_SPLITS[layout](root)
    caplog.set_level("INFO")
    parts = [opened(root, split, val_share=0.4) for split in ("train", "val")]
    found = [{Path(part.file_name(i)).stem for i in range(len(part))} for part in parts]
    assert found[0] | found[1] == set(BOTH) and not found[0] & found[1] and all(found)
    for part, names in zip(parts, found, strict=True):
        require_examples(part, {name: BOTH[name] for name in names})
    counts = f"{len(found[0])} images train and {len(found[1])} validate"
    assert caplog.text.count(f"{counts}, chosen by their names (system.val_share 0.4)") == 2


def test_what_is_recognised_is_said(tmp_path, caplog):
    layouts.roboflow_yolo(tmp_path)
    caplog.set_level("INFO")
    dataset = opened(tmp_path, "val")
    assert dataset.annotation_file == tmp_path / "valid" / "labels"
    assert "valid/labels: read as a YOLO folder (data.yaml), its split 'val'" in caplog.text


def test_hidden_files_and_loops_are_passed_over(tmp_path):
    layouts.flat_yolo(tmp_path)
    for name in ("._a.jpg", ".DS_Store"):
        (tmp_path / "images" / name).write_bytes(b"\0\5\26\7")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "x.jpg").write_bytes(b"\0")
    (tmp_path / "images" / "again").symlink_to(tmp_path)
    layout = recognise(tmp_path)
    assert len(layout.splits[""]().records["images"]) == len(BOTH)


@pytest.mark.parametrize("kind", ["empty", "images alone", "other files"])
def test_other_folders_are_not_recognised(tmp_path, kind):
    if kind != "empty":
        layouts.write_images(tmp_path / "images", TRAIN)
    if kind == "other files":
        (tmp_path / "images" / "a.txt").write_text("notes about image a\n")
        (tmp_path / "config.yaml").write_text("model: x\n")
        (tmp_path / "a.json").write_text('{"shapes": [], "imagePath": "a.jpg"}')
        (tmp_path / "project.xml").write_text("<project><annotations/></project>")
    assert recognise(tmp_path) is None
