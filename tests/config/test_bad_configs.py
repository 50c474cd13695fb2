"""Configs and overrides that are wrong: each ends in exit code 2 and one line that says why.

The cases are in docs/robustness.md too.
"""

import json
import os
from typing import NamedTuple

import pytest

from core.cli import main as cornerkit


class Case(NamedTuple):
    """A file x.json, further arguments, and parts of the message."""

    file: bytes | str | dict | list | None
    parts: tuple[str, ...]
    argv: tuple[str, ...] = ()
    name: str = "x.json"


def by_set(override, *parts):
    return Case({"model_name": "CornerNet"}, parts, ("--set", override))


FILES = {
    "empty": Case("", ("x.json: the file is empty",)),
    "spaces alone": Case(" \n", ("x.json: the file is empty",)),
    "a trailing comma": Case('{"db": {"top_k": 5,}}', ("x.json:1:", "a comma too many")),
    "a comment": Case('{"db": {}} // mine', ("x.json:1:12", "no comments")),
    "a comment inside": Case('{\n  # mine\n  "db": {}}', ("x.json:2:3", "no comments")),
    "single quotes": Case("{'db': {}}", ("x.json:1:2", "double quotes")),
    "Python's True": Case('{"db": {"rand_crop": True}}', ("x.json:1:", "write true, false")),
    "cut short": Case('{"db": {"top_k": 5', ("x.json:1:", "not JSON")),
    "a key twice": Case('{"db": {"top_k": 5, "top_k": 6}}', ("'top_k' is there twice",)),
    "a section twice": Case('{"db": {}, "db": {}}', ("'db' is there twice",)),
    "NaN": Case('{"system": {"learning_rate": NaN}}', ("NaN is no number in JSON",)),
    "Infinity": Case('{"system": {"ema": -Infinity}}', ("-Infinity is no number in JSON",)),
    "a number beyond all": Case('{"system": {"clip_norm": 1e999}}', ("inf must be a finite",)),
    "thousands of digits": Case('{"db": {"top_k": ' + "9" * 5000 + "}}", ("thousands of digits",)),
    "nested too deep": Case("[" * 100_000, ("nested too deep",)),
    "not UTF-8": Case(b'{"system": {"data_dir": "\xff"}}', ("not UTF-8", "save it as UTF-8")),
    "UTF-16": Case('{"db": {}}'.encode("utf-16"), ("not UTF-8",)),
    "a JPEG": Case(b"\xff\xd8\xff\xe0\x00\x10JFIF", ("not UTF-8",)),
    "a zero byte": Case('{"system": {"data_dir": "a\\u0000b"}}', ("data_dir", "no text")),
    "half a character": Case('{"system": {"data_dir": "\\ud800"}}', ("data_dir", "no text")),
    "a list": Case([], ("x.json: must hold",)),
    "a string": Case('"CornerNet"', ("x.json: must hold",)),
    "null": Case("null", ("x.json: must hold",)),
    "a section that is a list": Case({"db": []}, ("db must be settings in braces",)),
    "a section that is null": Case({"db": None}, ("db must be settings in braces",)),
    "a misspelt section": Case({"sistem": {}}, ("'sistem'", "'system'")),
    "a setting outside": Case({"lr": 1}, ("'lr'", "'system.learning_rate'")),
    "an annotation file": Case({"images": [], "annotations": []}, ("unknown section 'images'",)),
    "a misspelt setting": Case({"db": {"topk": 5}}, ("x.json: db: unknown key", "'top_k'")),
    "another section's setting": Case({"db": {"batch_size": 5}}, ("'system.batch_size'",)),
    "a long key": Case({"db": {"k" * 9999: 5}}, ("unknown key 'kkkk",)),
    "a number in quotes": Case({"db": {"top_k": "5"}}, ("'5' must be a whole", "without quotes")),
    "a truth in quotes": Case({"db": {"rand_crop": "no"}}, ("write false, without quotes",)),
    "a fraction": Case({"system": {"batch_size": 2.5}}, ("2.5 must be a whole number",)),
    "true for a number": Case({"system": {"seed": True}}, ("True must be a whole number",)),
    "a number for a truth": Case({"db": {"rand_crop": 1}}, ("1 must be true or false",)),
    "a number for a name": Case({"system": {"train_split": 2017}}, ('write "2017", in double',)),
    "null for a number": Case({"system": {"batch_size": None}}, ("None must be a whole number",)),
    "a section for a number": Case({"db": {"top_k": {"a": 1}}}, ("must be a whole number",)),
    "a list of one": Case({"db": {"input_size": [511]}}, ("must be a list of 2",)),
    "a list of words": Case({"db": {"input_size": ["a", 2]}}, ("db.input_size[0]: 'a'",)),
    "no list": Case({"db": {"test_scales": 1}}, ("db.test_scales: 1 must be a list",)),
    "another word": Case({"system": {"opt_algo": "lion"}}, ("'lion' must be one of", "'adamw'")),
    "zero": Case({"system": {"max_iter": 0}}, ("system.max_iter must be at least 1",)),
    "negative": Case({"system": {"seed": -1}}, ("system.seed -1 must be from 0",)),
    "huge": Case({"system": {"max_iter": 10**30}}, ("1.000e+30 is too large",)),
    "too many processes": Case({"system": {"workers": 99999}}, ("workers 99999 must be from 0",)),
    "a huge image": Case({"db": {"input_size": [99999, 9]}}, ("must be at most 32766",)),
    "endless scales": Case({"db": {"rand_scale_step": 1e-9}}, ("rand_scale_step", "at most 1000")),
    "chunks that do not add up": Case({"system": {"chunk_sizes": [4]}}, ("add up to",)),
    "an even window": Case({"db": {"nms_kernel": 2}}, ("db.nms_kernel 2 must be odd",)),
    "a base that is missing": Case({"base": "CornerNett"}, ("x.json: base: there is no config",)),
    "a base that is a number": Case({"base": 5}, ("base must be a name in quotes",)),
    "a base that is itself": Case({"base": "x"}, ("cycle: x.json -> x.json",)),
    "a base that is broken": Case({"base": "broken"}, ("broken.json:1:1: not JSON",)),
    "a model name that is a list": Case({"model_name": []}, ("model_name must be a name",)),
    "a folder": Case(None, ("folder.json is a folder",), name="folder.json"),
    "a folder by its name": Case(None, ("folder.json is a folder",), name="folder"),
    "a file that is missing": Case(None, ("no config 'gone' in the current",), name="gone"),
    "a long name": Case(None, ("there is no config 'nnn",), name="n" * 9000),
    "an override without =": by_set("db.top_k", "write section.key=value"),
    "an override without section": by_set("top_k=5", "write section.key=value", "'db.top_k'"),
    "an override of no section": by_set("dbs.top_k=5", "section one of system, db, model"),
    "an override without value": by_set("db.top_k=", "--set db.top_k: '' must be a whole number"),
    "an override of no setting": by_set("system.lr=1", "unknown key 'lr'", "'learning_rate'"),
    "an override by Python": by_set("db.rand_crop=True", "write true, without quotes"),
    "an override by NaN": by_set("system.learning_rate=NaN", "nan must be a finite number"),
    "an override that is nested": by_set("db.top_k=" + "[" * 100_000, "must be a whole number"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "broken.json").write_text("broken")
    return tmp_path


def message_of(case, here, caplog):
    """Runs `cornerkit config` on a case; returns its only line of error."""
    content = case.file
    if isinstance(content, dict | list):
        content = json.dumps(content)
    if content is not None:
        (here / "x.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as ended:
        cornerkit(["config", case.name, *case.argv])
    assert ended.value.code == 2
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    return record.getMessage()


@pytest.mark.parametrize("kind", FILES)
def test_one_line(kind, here, caplog, capsys):
    message = message_of(FILES[kind], here, caplog)
    assert "\n" not in message and len(message) < 600
    for part in FILES[kind].parts:
        assert part in message
    assert capsys.readouterr().out == ""


def test_a_file_that_may_not_be_read(here, caplog, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    message = message_of(Case("{}", ()), here, caplog)
    assert message == f"error: x.json cannot be read: {os.strerror(13)}"


def test_a_mark_at_the_start_of_a_file_is_passed_over(here, capsys):
    """Editors of Windows write one."""
    (here / "x.json").write_bytes(b'\xef\xbb\xbf{"db": {"top_k": 7}}')
    assert cornerkit(["config", "x.json"]) == 0
    assert json.loads(capsys.readouterr().out)["db"] == {"top_k": 7}
