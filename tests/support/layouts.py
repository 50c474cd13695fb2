"""Small datasets of the same images and boxes, written in every layout that is read."""

import json
from pathlib import Path

import cv2
import numpy as np

NAMES = ("ant", "bee", "cat")
# Size (height, width) of each image, and its boxes: class, x0, y0, x1, y1 in pixels.
TRAIN = {
    "a": ((40, 60), [(0, 3, 5, 20, 30), (2, 30.5, 2.25, 60, 40)]),
    "b.v2": ((50, 30), [(1, 0, 0, 30, 50)]),
    "c": ((30, 80), []),
}
VAL = {"d": ((64, 48), [(2, 7, 9, 27, 59.5), (2, 1, 1, 11, 11)])}
BOTH = {**TRAIN, **VAL}


def write_images(folder, examples, ending=".jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, ((height, width), _) in examples.items():
        data = cv2.imencode(ending, np.full((height, width, 3), 90, np.uint8))[1].tobytes()
        (folder / f"{name}{ending}").write_bytes(data)


def write_yolo(images, labels, examples):
    """Writes images and a text file of fractions for each."""
    write_images(images, examples)
    labels.mkdir(parents=True, exist_ok=True)
    for name, ((height, width), boxes) in examples.items():
        lines = []
        for label, x0, y0, x1, y1 in boxes:
            center = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height
            sides = (x1 - x0) / width, (y1 - y0) / height
            lines.append(" ".join([str(label), *(f"{number:.6f}" for number in center + sides)]))
        (labels / f"{name}.txt").write_text("\n".join(lines))


def xml_of(name, size, boxes, database="Unknown"):
    """The XML of an image; VOC's own counts pixels from 1."""
    first = 1 if database.startswith("The VOC") else 0
    objects = "".join(
        f"<object><name>{NAMES[label]}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{x0 + first}</xmin><ymin>{y0 + first}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>\n"
        for label, x0, y0, x1, y1 in boxes
    )
    return (
        f"<annotation><filename>{name}.jpg</filename><source><database>{database}</database>"
        f"</source><size><width>{size[1]}</width><height>{size[0]}</height></size>\n"
        f"{objects}</annotation>\n"
    )


def write_voc(images, xml, examples, database="Unknown"):
    """Writes images and an XML file for each."""
    write_images(images, examples)
    xml.mkdir(parents=True, exist_ok=True)
    for name, (size, boxes) in examples.items():
        (xml / f"{name}.xml").write_text(xml_of(name, size, boxes, database))


def write_coco_file(file, examples, prefix=""):
    """Writes a COCO file; ``prefix`` comes before the names of the images."""
    images, annotations = [], []
    for number, (name, ((height, width), boxes)) in enumerate(examples.items()):
        file_name = f"{prefix}{name}.jpg"
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for label, x0, y0, x1, y1 in boxes:
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": label, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **box})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_list(root: Path, split: str, examples) -> None:
    """Writes a list of ``ImageSets/Main``."""
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in examples))


def ultralytics(root):
    write_yolo(root / "images/train", root / "labels/train", TRAIN)
    write_yolo(root / "images/val", root / "labels/val", VAL)
    lines = ["path: ../datasets/mine  # elsewhere", "train: images/train", "val: images/val"]
    names = [f"  {number}: {name}" for number, name in enumerate(NAMES)]
    (root / "data.yaml").write_text("\n".join([*lines, "test:", "names:", *names]))


def roboflow_yolo(root):
    write_yolo(root / "train/images", root / "train/labels", TRAIN)
    write_yolo(root / "valid/images", root / "valid/labels", VAL)
    lines = ["train: ../train/images", "val: ../valid/images", "test: ../test/images", "nc: 3"]
    (root / "data.yaml").write_text("\n".join([*lines, f"names: {list(NAMES)}", "", "roboflow:"]))


def yolo_lists(root):
    """Images in one folder, and files that list them."""
    write_yolo(root / "images", root / "labels", BOTH)
    for split, examples in {"train": TRAIN, "val": VAL}.items():
        lines = "".join(f"./images/{name}.jpg\n" for name in examples)
        (root / f"{split}.txt").write_text(lines)
    text = f"train: [train.txt]\nval: val.txt\nnames: {list(NAMES)}\n"
    (root / "mine.yaml").write_text(text)


def yolo_without_yaml(root):
    write_yolo(root / "images/train", root / "labels/train", TRAIN)
    write_yolo(root / "images/val", root / "labels/val", VAL)
    (root / "labels/classes.txt").write_text("\n".join(NAMES) + "\n")


def darknet(root):
    """Labels beside their images, as Roboflow exports them."""
    for split, examples in {"train": TRAIN, "valid": VAL}.items():
        write_yolo(root / split, root / split, examples)
        (root / split / "_darknet.labels").write_text("\n".join(NAMES))


def voc(root):
    write_voc(root / "JPEGImages", root / "Annotations", BOTH)
    write_list(root, "train", TRAIN)
    write_list(root, "val", VAL)
    (root / "ImageSets/Main/ant_train.txt").write_text("a 1\nc -1\n")


def own_voc(root):
    """As the files of Pascal VOC itself are."""
    database = "The VOC2007 Database"
    write_voc(root / "VOC2007/JPEGImages", root / "VOC2007/Annotations", BOTH, database)
    write_list(root / "VOC2007", "trainval", TRAIN)
    write_list(root / "VOC2007", "test", VAL)


def roboflow_voc(root):
    write_voc(root / "train", root / "train", TRAIN)
    write_voc(root / "valid", root / "valid", VAL)


def voc_folders(root):
    write_voc(root / "images/train", root / "annotations/train", TRAIN)
    write_voc(root / "images/val", root / "annotations/val", VAL)


def roboflow_coco(root):
    for split, examples in {"train": TRAIN, "valid": VAL}.items():
        write_images(root / split, examples)
        write_coco_file(root / split / "_annotations.coco.json", examples)


def flat_coco(root):
    write_images(root / "photos", BOTH)
    write_coco_file(root / "train.json", TRAIN)
    write_coco_file(root / "val.json", VAL, "photos/")


def detectron(root):
    for split, examples in {"train2017": TRAIN, "val2017": VAL}.items():
        write_images(root / split, examples)
        write_coco_file(root / f"annotations/instances_{split}.json", examples)
        write_coco_file(root / f"annotations/captions_{split}.json", {})


def coco_folders_with_years(root):
    for split, examples in {"train2017": TRAIN, "val2017": VAL}.items():
        write_images(root / "images" / split, examples)
        write_coco_file(root / f"annotations/instances_{split}.json", examples)


WITH_SPLITS = {
    layout.__name__: layout
    for layout in (
        *(ultralytics, roboflow_yolo, yolo_lists, yolo_without_yaml, darknet),
        *(voc, own_voc, roboflow_voc, voc_folders),
        *(roboflow_coco, flat_coco, detectron, coco_folders_with_years),
    )
}


def flat_yolo(root):
    write_yolo(root / "images", root / "labels", BOTH)
    (root / "classes.txt").write_text("\n".join(NAMES))


def flat_voc(root):
    write_voc(root, root, BOTH)


def cvat(root):
    write_images(root / "images/default", BOTH)
    write_coco_file(root / "annotations/instances_default.json", BOTH)


def label_studio(root):
    """With the paths of the machine that exported it."""
    write_images(root / "images", BOTH)
    write_coco_file(root / "result.json", BOTH, "C:\\data\\upload\\1\\")


WITHOUT_SPLITS = {layout.__name__: layout for layout in (flat_yolo, flat_voc, cvat, label_studio)}
