"""Evaluation while a run trains: figures, the best weights, and that training does not notice."""

import copy
import itertools
import json
import logging
import types

import pytest
import torch

from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from core.config.loading import load_config
from core.data.coco import CocoDetection
from core.data.shapes import write_shapes
from core.data.splits import open_split
from core.distributed.ranks import ONE_PROCESS
from core.evaluation import shares, while_training
from core.evaluation.coco import coco_results
from core.evaluation.run import evaluate_detector
from core.evaluation.while_training import Evaluations
from core.models import detector as detector_module
from core.models.loading import load_detector
from tests.support.some_ranks import run_ranks
from tests.support.tiny_detector import write_config, write_snapshot

NAME = "CornerNet-tiny"
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    """A config, a snapshot of step 20 whose weights find something, and seven pictures."""
    write_config(tmp_path, test_flipped=False)
    write_shapes(tmp_path / "data" / "coco", {"val": 7}, size=64, seed=3)
    data = tmp_path / "data" / "coco"
    dataset = CocoDetection(data / "annotations" / "instances_val.json", data / "images" / "val")
    write_snapshot(tmp_path, 20, dataset.class_names)
    return tmp_path


def open_evaluations(root, ranks=ONE_PROCESS, start=20):
    """The evaluations of a run that trains the weights of step 20."""
    loaded = load_detector(str(root / "configs" / f"{NAME}.json"), snapshot=20, device="cpu")
    detector, dataset = loaded._detector, val_split(root)
    detector.network.train()
    evaluations = Evaluations(detector, dataset, loaded.config, CPU, ranks, start)
    return evaluations, detector.network


def val_split(root):
    config = load_config(NAME, config_dir=root / "configs")
    return open_split(config.system, config.db, "val")


def best(root):
    return checkpoint.best_path(root / "cache", NAME)


def nobody():
    return None


@pytest.fixture
def results(monkeypatch):
    """What the next evaluation finds, as COCO's list of results: tiny detectors have an AP of 0."""
    found = []

    def note(*arguments):
        found[:] = coco_results(*arguments)
        return found

    monkeypatch.setattr(while_training, "coco_results", note)
    return found


def test_figures_are_those_of_the_script(root, results, caplog):
    caplog.set_level(logging.INFO)
    evaluations, _ = open_evaluations(root)
    found = evaluations(25, nobody)
    detector = load_detector(str(root / "configs" / f"{NAME}.json"), device="cpu")
    metrics = evaluate_detector(detector, "validation")
    assert found.figures == {name: metrics[name] for name in found.figures}
    assert len(results) > 50
    folder = root / "results" / NAME / "20" / "validation"
    assert json.loads((folder / "results.json").read_text()) == results
    assert found.best and found.seconds > 0
    assert f"step 25: AP {metrics['AP']:.3f}, AP50" in caplog.text

    kept = load_detector(str(root / "configs" / f"{NAME}.json"), snapshot=best(root), device="cpu")
    assert (kept.iteration, kept.class_names) == (25, detector.class_names)
    assert evaluate_detector(kept, "validation")["AP"] == metrics["AP"]
    assert (root / "results" / NAME / "25" / "validation" / "metrics.json").is_file()
    content = json.loads(best(root).with_suffix(".json").read_text())
    assert content["figures"] == found.figures
    assert sorted(file.name for file in best(root).parent.glob("*best*")) == [
        f"{NAME}_best.json",
        f"{NAME}_best.pkl",
    ]
    assert checkpoint.newest_snapshot(root / "cache", NAME)[1] == 20


def test_training_does_not_notice(root):
    evaluations, network = open_evaluations(root)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    assert evaluations(25, nobody) is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in network.parameters())


@pytest.fixture
def figures(monkeypatch):
    """AP of the evaluations to come, first one first."""
    coming = []

    def score(results, dataset):
        return types.SimpleNamespace(figures={"AP": coming.pop(0), "AP50": 0.5, "AP75": 0.5})

    monkeypatch.setattr(while_training, "score_results", score)
    return coming


def evaluate(evaluations, steps):
    return [evaluations(step, nobody).best for step in steps]


def test_the_best_is_kept(root, figures):
    figures += [None, 0.25, 0.125, 0.25, 0.5]
    evaluations, _ = open_evaluations(root)
    assert evaluate(evaluations, range(21, 26)) == [False, True, False, False, True]
    assert checkpoint.read_meta(best(root)).iteration == 25


def test_a_resumed_run_knows_what_is_to_beat(root, figures):
    figures += [0.5]
    assert evaluate(open_evaluations(root)[0], [25]) == [True]
    figures += [0.375, 0.75]
    assert evaluate(open_evaluations(root, start=25)[0], [30, 35]) == [False, True]
    # What came after the step from which a run goes on is void.
    figures += [0.625]
    assert evaluate(open_evaluations(root, start=34)[0], [35]) == [True]
    assert checkpoint.read_meta(best(root)).figures["AP"] == 0.625


@pytest.mark.parametrize("harm", ["weights", "json"])
def test_a_best_snapshot_that_is_damaged_is_forgotten(root, figures, harm, caplog):
    figures += [0.5, 0.25]
    assert evaluate(open_evaluations(root)[0], [25]) == [True]
    if harm == "weights":
        best(root).unlink()
    else:
        best(root).with_suffix(".json").write_text("{")
    assert evaluate(open_evaluations(root, start=25)[0], [30]) == [True]
    assert ("forgotten" in caplog.text) == (harm == "json")


def test_what_fails_costs_the_figures_alone(root, caplog, monkeypatch):
    evaluations, network = open_evaluations(root)
    path = val_split(root).image_path(3)
    content = path.read_bytes()
    path.write_bytes(b"no picture")
    assert evaluations(25, nobody) is None
    (record,) = caplog.records
    assert f"step 25 was not evaluated: {path} cannot be decoded" in record.getMessage()
    assert record.exc_info is None
    assert network.training

    path.write_bytes(content)
    monkeypatch.setattr(checkpoint, "save_snapshot", full_disk)
    assert evaluations(30, nobody).best
    assert "best.pkl was not written: [Errno 28]" in caplog.text

    monkeypatch.setattr(detector_module, "Predict", lambda *arguments: None)
    assert evaluations(35, nobody) is None
    path = val_split(root).image_path(0)
    assert f"step 35 was not evaluated: {path}: TypeError: 'NoneType'" in caplog.text
    assert isinstance(caplog.records[-1].exc_info[1].__cause__, TypeError)


def full_disk(*arguments):
    raise OSError(28, "No space left on device")


def lose_the_others(ranks, root):
    evaluations, _ = open_evaluations(root, ranks.with_step_group(60, CPU, None))
    try:
        return evaluations(25, nobody) if ranks.is_main else None
    except RuntimeError as error:
        return str(error)


def test_a_rank_that_is_gone_ends_the_run(root, capfd):
    lost, _ = run_ranks(2, lose_the_others, root)
    assert "gloo" in lost.lower()  # core.distributed.ranks.join_ranks tells it
    assert "was not evaluated" not in capfd.readouterr().err


def test_who_asks_for_the_end_does_not_wait_for_it(root, caplog):
    evaluations, network = open_evaluations(root)
    asked = itertools.chain([None] * 4, itertools.repeat("SIGTERM"))
    assert evaluations(25, lambda: next(asked)) is None
    assert caplog.messages == ["step 25 was not evaluated: SIGTERM was received"]
    assert network.training and not best(root).exists()


def evaluate_together(ranks, root, results):
    steps = ranks.with_step_group(60, CPU, None)
    evaluations, network = open_evaluations(root, steps)
    if not ranks.is_main:
        for buffer in network.buffers():
            buffer.zero_()
    return evaluations(25, nobody) is not None, results


def test_ranks_find_what_one_finds(root, results, monkeypatch):
    monkeypatch.setattr(shares, "_ROUND", 2)
    open_evaluations(root)[0](25, nobody)
    content = torch.load(best(root), weights_only=True)
    best(root).unlink()
    alone = list(results)
    results.clear()
    assert run_ranks(2, evaluate_together, root, results) == [(True, alone), (False, [])]
    for key, value in torch.load(best(root), weights_only=True).items():
        assert torch.equal(value, content[key]), key


def test_a_split_without_annotations(root):
    file = root / "data" / "coco" / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no annotations to evaluate with; system\.eval_iter=0"):
        open_evaluations(root)
