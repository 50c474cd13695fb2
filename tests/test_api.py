"""cornerkit.train and cornerkit.evaluate: what they return and write, and errors as exceptions."""

import json

import pytest

import core
from core import api
from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from tests.support.tiny_training import NAME, write_training


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run of two steps with an evaluation after each."""
    root = tmp_path_factory.mktemp("api")
    write_training(root, val_iter=0)
    result = core.train(config(root), max_iter=2, stepsize=1, eval_iter=1, device="cpu")
    return root, result


def config(root):
    return str(root / "configs" / f"{NAME}.json")


def test_training(root):
    root, result = root
    assert result.folder == root / "cache" / "nnet" / NAME and result.iteration == 2
    assert result.last == result.folder / f"{NAME}_2.pkl"
    assert checkpoint.read_meta(result.last).config["system"]["stepsize"] == 1
    assert result.best == result.folder / f"{NAME}_best.pkl"
    assert result.metrics == checkpoint.read_meta(result.best).metrics and "AP" in result.metrics
    lines = (result.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines if '"loss"' in line] == [1, 2]


def test_a_config_that_is_not_there():
    with pytest.raises(UserError, match="there is no config 'nothing'"):
        core.train("nothing")


def test_evaluating(root):
    root, result = root
    metrics = core.evaluate(config(root), device="cpu")
    assert metrics.images == 3 and 0 <= metrics.scores.metrics["AP"] <= 1
    assert len(metrics.scores.ap_by_class) == 6
    training = core.evaluate(config(root), result.last, split="training", device="cpu")
    assert training.images == 7
    assert not (root / "results").exists()


def test_resuming_to_a_later_step_without_evaluations(root, tmp_path):
    root, _ = root
    more = [f"system.cache_dir={tmp_path}", "system.eval_iter=0"]
    start = {"overrides": more, "device": "cpu", "stepsize": 2}
    first = core.train(config(root), max_iter=1, **start)
    assert (first.iteration, first.best, first.metrics) == (1, None, None)
    assert core.train(config(root), max_iter=2, resume=True, **start).iteration == 2
    assert core.train(config(root), max_iter=2, resume=1, **start).iteration == 2
    log = (first.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["start"] for line in log if '"start"' in line] == [0, 1, 1]


def test_a_snapshot_that_was_not_written(root, tmp_path, monkeypatch):
    root, _ = root

    def full(*given):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_snapshot", full)
    with pytest.raises(OSError, match=f"the last snapshot was not written in {tmp_path}"):
        core.train(config(root), max_iter=1, cache_dir=tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda name: core.train(name, lr=1, device="cpu"), r"unknown key 'lr'.*learning_rate"),
        (lambda name: core.train(name, batch_size="2", device="cpu"), r"batch_size: '2' must be"),
        (lambda name: core.train(name, device="warp"), "device warp cannot be used"),
        (lambda name: core.train(name, weights="no.pkl", device="cpu"), r"no\.pkl"),
        (lambda name: core.evaluate(name, top_k=0, device="cpu"), r"db.top_k must be at least 1"),
        (lambda name: core.evaluate(name, 77, device="cpu"), r"there is no snapshot .*_77\.pkl"),
        (
            lambda name: core.evaluate(name, split="val", device="cpu"),
            "there is no split 'val'; there are training, validation, testing",
        ),
    ],
    ids=["unknown", "type", "device", "weights", "setting", "snapshot", "split"],
)
def test_mistakes_are_raised(root, call, message):
    with pytest.raises(UserError, match=message) as error:
        call(config(root[0]))
    assert "\n" not in str(error.value)


def test_what_the_package_exports():
    for name in core.__all__:
        assert getattr(core, name) is not None
    assert core.evaluate is api.evaluate
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        getattr(core, "trian")  # noqa: B009
