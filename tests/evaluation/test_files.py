"""Files and texts that an evaluation writes."""

import json

import pytest

from core.evaluation.report import class_table, write_json


def test_json_replaces_what_was_there_whole(tmp_path):
    path = tmp_path / "a" / "b" / "metrics.json"
    write_json(path, {"AP": 0.25, "AP_by_class": {"größe": None}}, indent=2)
    write_json(path, [1, 2])
    assert json.loads(path.read_text(encoding="utf-8")) == [1, 2]
    with pytest.raises(ValueError):
        write_json(path, [float("nan")])
    assert json.loads(path.read_text(encoding="utf-8")) == [1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_class_table_has_every_class():
    table = class_table({"cat": 0.5, "traffic light": None, "dog": 1.0, "hen": 0.1234}, columns=3)
    assert table.splitlines() == [
        " cat            0.500    traffic light      -    dog            1.000",
        " hen            0.123",
    ]
    assert class_table({}) == ""
