"""Recognising the format of a folder by looking into it."""

from pathlib import Path

from .coco import recognise_coco
from .source import Layout, list_files
from .voc import recognise_xml
from .yolo import recognise_labels, recognise_yaml, yaml_of


def recognise(root: Path) -> Layout | None:
    """Recognises the format of a folder; None if it is none that can be read.

    Looked for are, in this order, a ``data.yaml`` of YOLO, COCO files, XML files of Pascal VOC,
    and label files of YOLO.

    Raises:
        UserError: the format is known and the folder cannot be read as that.
    """
    files = list_files(root)
    yaml_file = yaml_of(root, files)
    if yaml_file is not None:
        return recognise_yaml(root, files, yaml_file)
    return (
        recognise_coco(root, files) or recognise_xml(root, files) or recognise_labels(root, files)
    )
