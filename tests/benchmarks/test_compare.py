"""The table of the detectors, without its training."""

import json

import pytest

from benchmarks import compare
from core.config.errors import UserError
from core.config.loading import config_from_dict
from core.models import MODELS
from tests.models.test_all import TRAINABLE
from tests.support.model_builders import SMALL

NAME = "CornerNet_Squeeze-shapes"
METRICS = {"AP": 0.7654, "AP50": 0.91, "images_per_second": 31.4}


@pytest.fixture
def config(tmp_path):
    folders = {f"{key}_dir": str(tmp_path / key) for key in ("data", "cache", "result")}
    (tmp_path / "data" / "shapes").mkdir(parents=True)
    system = {**folders, "dataset_dir": "shapes", "max_iter": 2000}
    return config_from_dict({"system": system}, NAME, f"{NAME}.json")


def snapshot(config, iteration, metrics):
    """Leaves what a training and an evaluation of an iteration leave."""
    folder = compare.Path(config.system.cache_dir) / "nnet" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}_{iteration}.pkl").touch()
    results = compare.Path(config.system.result_dir) / NAME / str(iteration) / "validation"
    results.mkdir(parents=True)
    (results / "metrics.json").write_text(json.dumps(metrics))


def test_trained_is_the_newest_snapshot_whatever_the_config_says(config, monkeypatch):
    """The metrics of the config's last iteration lie beside it; those are of a new training."""
    calls = []
    monkeypatch.setattr(compare, "run", lambda *arguments: calls.append(arguments) or 90.0)
    snapshot(config, 2500, METRICS)
    snapshot(config, 2000, {**METRICS, "AP": 0.1})
    assert compare.learn(config, trained=True) == ["", "0.765", "0.910", "31"]
    assert calls == [("evaluate.py", NAME, "--testiter", "2500", "--split", "validation")]
    assert compare.learn(config, trained=False) == ["1.5", "0.100", "0.910", "31"]
    assert calls[1] == ("train.py", NAME) and calls[2][:4] == (*calls[0][:3], "2000")


def test_trained_needs_a_snapshot(config, monkeypatch):
    monkeypatch.setattr(compare, "run", lambda *arguments: pytest.fail(f"ran {arguments}"))
    with pytest.raises(UserError, match=r"has no snapshot in .*; leave --trained out"):
        compare.learn(config, trained=True)


def test_a_model_without_a_published_ap_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr(compare, "PUBLISHED", {})
    monkeypatch.setattr(compare, "learn", lambda config, trained: ["3.0", "0.5", "0.9", "40"])
    assert compare.main(["--models", "CornerNet_Squeeze"]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("| [CornerNet_Squeeze](configs/CornerNet_Squeeze.json) | 31.8 M |")
    assert "at 511x511 | - | 3.0 |" in row


def test_every_model_of_a_paper_is_compared():
    assert MODELS.keys() - compare.PUBLISHED.keys() == {"CornerNet_Lite0"}


@pytest.mark.parametrize("model", sorted(compare.PUBLISHED))
def test_every_model_that_is_compared_has_configs(model):
    assert model in SMALL
    assert (compare.load_config(f"{model}-shapes").system.train_split) == "train"


def test_parameters_are_those_of_the_published_network():
    parameters, work = compare.size_and_work("CornerNet_Squeeze")
    assert parameters == TRAINABLE["CornerNet_Squeeze"]
    assert 30 < work < 300
