"""Folders of YOLO: where labels, images and names are found, and what lines mean."""

import pytest

from core.data.formats.recognition import recognise
from core.data.formats.yolo_labels import label_file, read_labels
from tests.support import layouts
from tests.support.layouts import NAMES, TRAIN


def labels_of(tmp_path, text, is_pose=False):
    file = tmp_path / "a.txt"
    file.write_text(text)
    return [(label.category, *label.box) for label in read_labels(file, is_pose)]


def test_boxes_and_outlines(tmp_path):
    found = labels_of(tmp_path, "1 .5 .25 .1 .2\n0 .1 .2 .5 .4 .3 .8\n")
    assert found[0] == (1, 0.5, 0.25, 0.1, 0.2)
    assert found[1] == pytest.approx((0, 0.3, 0.5, 0.4, 0.6))


def test_key_points_are_passed_over(tmp_path):
    line = "1 .5 .25 .1 .2 .4 .3 2 .6 .3 0"
    assert labels_of(tmp_path, line, is_pose=True) == [(1, 0.5, 0.25, 0.1, 0.2)]
    layouts.roboflow_yolo(tmp_path)
    (tmp_path / "train/labels/a.txt").write_text(line)
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("\nkpt_shape: [2, 3]\n")
    records = recognise(tmp_path).splits["train"]().records
    assert records["annotations"][0]["bbox"] == pytest.approx([27, 6, 6, 8])


def test_a_split_without_labels_has_no_annotations(tmp_path):
    layouts.roboflow_yolo(tmp_path)
    for file in (tmp_path / "valid/labels").iterdir():
        file.unlink()
    source = recognise(tmp_path).splits["val"]()
    assert source.records["annotations"] is None
    assert [category["name"] for category in source.records["categories"]] == list(NAMES)


@pytest.mark.parametrize(
    ("folders", "image", "label"),
    [
        (["labels/train"], "images/train/a.b.jpg", "labels/train/a.b.txt"),
        (["Labels"], "Images/a.jpg", "Labels/a.txt"),
        (["images/labels"], "images/images/a.jpg", "images/labels/a.txt"),
        ([], "images/a.jpg", "images/a.txt"),
        ([], "photos/a.jpg", "photos/a.txt"),
    ],
)
def test_the_label_file_of_an_image(tmp_path, folders, image, label):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert label_file(tmp_path / image) == tmp_path / label


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        (None, "images/train"),
        (None, "./images/train/"),
        (None, "../images/train"),  # Roboflow's, as if the file lay one folder deeper
        (None, "project/images/train"),
        (None, "/content/datasets/project/images/train"),
        (None, "D:\\data\\project\\images\\train"),
        (None, "[images/train]"),
        (".", "images/train"),
        ("images", "train"),
        ("../datasets/elsewhere", "images/train"),
        ("/content/elsewhere", "images/train"),
    ],
)
def test_folders_of_a_yaml(tmp_path, path, entry):
    root = tmp_path / "mine"
    layouts.write_yolo(root / "images/train", root / "labels/train", TRAIN)
    lines = [f"train: {entry}", f"names: {list(NAMES)}"] + [f"path: {path}"] * bool(path)
    (root / "data.yaml").write_text("\n".join(lines))
    source = recognise(root).splits["train"]()
    assert (source.image_dir, source.label_path) == (root / "images/train", root / "labels/train")
    assert len(source.records["images"]) == len(TRAIN)


def test_a_folder_outside_comes_first(tmp_path):
    """As Ultralytics does it, ``path`` may lead anywhere."""
    root, other = tmp_path / "mine", tmp_path / "other"
    layouts.ultralytics(root)
    layouts.write_yolo(other / "images/train", other / "labels/train", {"x": TRAIN["a"]})
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("../datasets/mine", "../other"))
    source = recognise(root).splits["train"]()
    assert source.image_dir == other / "images/train"
    assert [image["file_name"] for image in source.records["images"]] == ["x.jpg"]


def test_a_yaml_in_a_folder_below(tmp_path):
    layouts.roboflow_yolo(tmp_path / "export")
    assert recognise(tmp_path).splits["train"]().image_dir == tmp_path / "export/train/images"


def test_a_yaml_with_names_alone(tmp_path):
    layouts.yolo_without_yaml(tmp_path)
    (tmp_path / "data.yaml").write_text("nc: 3\nnames: [x, y, z]\n")
    splits = recognise(tmp_path).splits
    assert sorted(splits) == ["train", "val"]
    names = [category["name"] for category in splits["val"]().records["categories"]]
    assert names == ["x", "y", "z"]


def test_boxes_of_rotated_images_are_upright(tmp_path):
    """The fractions are of the image as it is shown."""
    from PIL import Image

    layouts.write_yolo(tmp_path / "images", tmp_path / "labels", {})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "images/a.jpg", exif=exif)
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .5 .5")
    records = recognise(tmp_path).splits[""]().records
    assert (records["images"][0]["height"], records["images"][0]["width"]) == (60, 40)
    assert records["annotations"][0]["bbox"] == [10, 15, 20, 30]
