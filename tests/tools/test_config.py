"""`cornerkit config`: it prints what its bases and overrides say, as a config."""

import json

import pytest

from core.cli import main as cornerkit
from core.config.loading import config_from_dict, load_config


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """Runs the command where there is a config `cells`; returns its text."""
    monkeypatch.chdir(tmp_path)
    content = {"base": "CornerNet_Squeeze", "db": {"top_k": 15, "num_dets": 7}}
    (tmp_path / "cells.json").write_text(json.dumps(content))
    return lambda *argv: cornerkit(["config", *argv]) or capsys.readouterr().out


def test_bases_and_overrides(printed):
    text = printed("cells", "--set", "db.num_dets=9")
    content = json.loads(text)
    assert list(content) == ["model_name", "system", "db"]
    assert content["model_name"] == "CornerNet_Squeeze" and "seed" not in content["system"]
    assert (content["db"]["top_k"], content["db"]["num_dets"]) == (15, 9)
    assert '        "input_size": [511, 511],\n' in text


@pytest.mark.parametrize("more", [(), ("--all",)])
def test_what_it_prints_is_the_config(printed, more):
    content = json.loads(printed("cells", *more))
    again = config_from_dict(content, "cells", load_config("cells").path)
    assert again == load_config("cells")
    assert ("seed" in content["system"]) == bool(more)


def test_a_suffix_and_a_folder(printed, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cells-fine.json").write_text('{"base": "../cells.json"}')
    content = json.loads(printed("cells", "--suffix", "fine", "--config-dir", "sub"))
    assert content["db"]["top_k"] == 15
