"""The description in a file gives back the settings of inference, whatever the detector."""

import json

import pytest

from core.config.errors import UserError
from core.export.geometry import varying_sides
from core.export.graph import settings_of
from core.export.manifest import Manifest, read_manifest
from tests.support.exports import CLASS_NAMES
from tests.support.model_builders import small_detector

NAMES = ["CornerNet", "CornerNet_Lite0", "CenterNet", "CornerNet_Saccade"]


def manifest(name, **settings):
    settings = settings_of(small_detector(name, **settings), name)
    return Manifest(name, name, "x.pkl", CLASS_NAMES, *varying_sides(settings), settings)


@pytest.mark.parametrize("name", NAMES)
def test_written_and_read(name):
    written = manifest(name)
    metadata = written.as_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert read_manifest(metadata, "file") == written
    hash(read_manifest(metadata, "file").settings)  # tuples, no lists


def test_what_other_programs_read():
    metadata = manifest("CornerNet_Lite0", sampling="fit").as_metadata()
    assert json.loads(metadata["class_names"]) == list(CLASS_NAMES)
    given, settings = json.loads(metadata["input"]), json.loads(metadata["settings"])
    assert (given["layout"], given["color"], given["dtype"]) == ("BCHW", "BGR", "uint8")
    assert given["height"]["step"] == 32 and settings["fit_size"] == [63, 95]
    assert settings["test_flipped"] and settings["stride"] == 8
    assert json.loads(manifest("CornerNet_Saccade").as_metadata()["input"])["dtype"] == "float32"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": None}, "has no description of a detector"),
        ({"settings": None}, "has no description of a detector"),
        ({"format": "cornerkit-detector-2"}, "another version"),
        ({"settings": '{"stride": 4}'}, "another version"),
        ({"family": "points"}, "another version"),
        ({"input": "{"}, "another version"),
    ],
)
def test_files_of_others(change, message):
    metadata = {**manifest("CornerNet").as_metadata(), **change}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(UserError, match=rf"^cells.onnx .*{message}"):
        read_manifest(metadata, "cells.onnx")
