"""Evaluation while a run trains: metrics, the best weights, and that training does not notice."""

import copy
import itertools
import json
import logging
import types

import pytest
import torch

from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory, SnapshotWriter
from core.config.errors import UserError
from core.config.loading import load_config
from core.data.coco import CocoDetection
from core.data.shapes import write_shapes
from core.data.splits import open_split
from core.distributed import ONE_PROCESS
from core.evaluation import command, evaluator
from core.evaluation.coco import CocoScores, coco_results
from core.inference.predict import Predict
from core.models import detector as detector_module
from core.models.loading import load_detector
from core.training import evaluations as evaluations_module
from core.training.averaging import AveragedWeights
from core.training.evaluations import Evaluations
from core.training.run import TrainingRun
from tests.support.some_ranks import run_ranks
from tests.support.tiny_detector import write_config, write_snapshot

NAME = "CornerNet-tiny"
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    """A config, a snapshot of step 20 whose weights find something, and seven images."""
    write_config(tmp_path, test_flipped=False)
    write_shapes(tmp_path / "data" / "coco", {"val": 7}, size=64, seed=3)
    data = tmp_path / "data" / "coco"
    dataset = CocoDetection(data / "annotations" / "instances_val.json", data / "images" / "val")
    write_snapshot(tmp_path, 20, dataset.class_names)
    return tmp_path


def open_evaluations(root, ranks=ONE_PROCESS, start=20, average=None):
    """The evaluations of a run that trains the weights of step 20.

    ``average(network)`` makes the average of its weights.
    """
    more = ["system.eval_iter=1000", f"system.ema={'null' if average is None else 0.9}"]
    loaded = load_detector(config_file(root), snapshot=20, device="cpu", overrides=more)
    dataset, network = val_split(root), loaded.detector.network.train()
    run = TrainingRun(
        config=loaded.config,
        detector=loaded.detector,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        device=CPU,
        ranks=ranks,
        dataset=dataset,
        validation_dataset=dataset,
        start=start,
        snapshots=SnapshotWriter(RunDirectory(root / "cache", NAME), 3),
        average=average(network) if average is not None and ranks.is_main else None,
    )
    return Evaluations(run), network


def config_file(root):
    return str(root / "configs" / f"{NAME}.json")


def script_metrics(root, *more):
    """The metrics.json of evaluate.py."""
    assert command.main([config_file(root), "--device", "cpu", *more]) == 0
    (file,) = (root / "results").rglob("metrics.json")
    content = json.loads(file.read_text())
    file.unlink()
    return content


def val_split(root):
    config = load_config(NAME, config_dir=root / "configs")
    return open_split(config.system, config.db, "val")


def best(root):
    return RunDirectory(root / "cache", NAME).best


NOBODY = types.SimpleNamespace(asked=None)


@pytest.fixture
def results(monkeypatch):
    """Detections of the next evaluation, in COCO's format: tiny detectors have an AP of 0."""
    found = []

    def note(*arguments):
        found[:] = coco_results(*arguments)
        return found

    monkeypatch.setattr(evaluator, "coco_results", note)
    return found


def test_metrics_are_those_of_the_script(root, results, caplog):
    caplog.set_level(logging.INFO)
    evaluations, _ = open_evaluations(root)
    found = evaluations.evaluate(25, NOBODY)
    metrics = script_metrics(root)
    assert found.metrics == {name: metrics[name] for name in found.metrics}
    assert len(results) > 50
    folder = root / "results" / NAME / "20" / "validation"
    assert json.loads((folder / "results.json").read_text()) == results
    assert found.best and found.seconds > 0
    assert f"step 25: AP {metrics['AP']:.3f}, AP50" in caplog.text

    kept = load_detector(config_file(root), snapshot=best(root), device="cpu")
    assert (kept.iteration, kept.class_names) == (25, val_split(root).class_names)
    again = script_metrics(root, "--snapshot", str(best(root)))
    assert (again["AP"], again["iteration"]) == (metrics["AP"], 25)
    content = json.loads(best(root).with_suffix(".json").read_text())
    assert content["metrics"] == found.metrics
    assert sorted(file.name for file in best(root).parent.glob("*best*")) == [
        f"{NAME}_best.json",
        f"{NAME}_best.pkl",
    ]
    assert RunDirectory(root / "cache", NAME).newest()[1] == 20


def test_training_does_not_notice(root):
    evaluations, network = open_evaluations(root)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    assert evaluations.evaluate(25, NOBODY) is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in network.parameters())


@pytest.fixture
def scores(monkeypatch):
    """AP of the evaluations to come, in their order."""
    coming = []

    def score(results, dataset):
        return CocoScores({"AP": coming.pop(0), "AP50": 0.5, "AP75": 0.5}, {}, "")

    monkeypatch.setattr(evaluator, "score_results", score)
    return coming


def evaluate(evaluations, steps):
    return [evaluations.evaluate(step, NOBODY).best for step in steps]


def test_the_best_is_kept(root, scores):
    scores += [None, 0.25, 0.125, 0.25, 0.5]
    evaluations, _ = open_evaluations(root)
    assert evaluate(evaluations, range(21, 26)) == [False, True, False, False, True]
    assert checkpoint.read_meta(best(root)).iteration == 25


def test_a_resumed_run_knows_what_is_to_beat(root, scores):
    scores += [0.5]
    assert evaluate(open_evaluations(root)[0], [25]) == [True]
    scores += [0.375, 0.75]
    assert evaluate(open_evaluations(root, start=25)[0], [30, 35]) == [False, True]
    # What came after the step from which a run goes on is void.
    scores += [0.625]
    assert evaluate(open_evaluations(root, start=34)[0], [35]) == [True]
    assert checkpoint.read_meta(best(root)).metrics["AP"] == 0.625


def write_log(root, precisions):
    """A log with the AP of evaluations, by their steps."""
    lines = [{"iteration": step, "evaluation": {"AP": ap}} for step, ap in precisions.items()]
    log = RunDirectory(root / "cache", NAME).log
    log.write_text("".join(json.dumps(line) + "\n" for line in [{"start": 0}, *lines]))


def test_the_log_knows_what_is_to_beat_and_lost_weights_are_replaced(root, scores):
    write_log(root, {10: 0.25, 15: 0.75, 20: 0.5, 30: 0.875})  # the last is after the start
    scores += [0.5, 0.375, 0.625, 0.8125]
    evaluations, _ = open_evaluations(root)
    kept = []
    for step, is_best in ((25, False), (30, False), (35, False), (40, True)):
        assert evaluate(evaluations, [step]) == [is_best]
        kept.append(checkpoint.read_meta(best(root)).iteration)
    assert kept == [25, 25, 35, 40]  # those of step 15 are gone: the best of what there is


def moved(network):
    """An average of weights that find other objects than the network's own."""
    average = AveragedWeights(network, 0.9)
    before = copy.deepcopy(network.state_dict())
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():  # running statistics, too
            tensor.mul_(0.96)
    average.update_()
    network.load_state_dict(before)
    return average


@pytest.mark.parametrize(
    ("averaged", "raw", "kept"),
    [(0.5, 0.25, "averaged"), (0.25, 0.5, "raw"), (0.25, 0.25, "averaged"), (None, 0.25, "raw")],
)
def test_the_better_of_averaged_and_raw_weights_is_kept(root, scores, averaged, raw, kept, caplog):
    caplog.set_level(logging.INFO)
    scores += [averaged, raw]
    evaluations, network = open_evaluations(root, average=moved)
    found = evaluations.evaluate(25, NOBODY)
    assert (found.weights, found.best) == (kept, True)
    assert {kind: values["AP"] for kind, values in found.by_weights.items()} == {
        "averaged": averaged,
        "raw": raw,
    }
    assert found.metrics == found.by_weights[kept]
    meta, weights = checkpoint.read_meta(best(root)), checkpoint.read_weights(best(root))
    assert (meta.weights, meta.metrics) == (kept, found.metrics)
    assert meta.averaged_steps == (1 if kept == "averaged" else None)
    expected = network.state_dict()
    if kept == "averaged":
        expected = evaluations._run.average.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    other = {"averaged": "raw", "raw": "averaged"}[kept]
    values = {"averaged": "-" if averaged is None else f"{averaged:.3f}", "raw": f"{raw:.3f}"}
    line = f"step 25: AP {values[kept]}, AP50 0.500, AP75 0.500 with the {kept} weights, "
    assert line + f"AP {values[other]} with the {other} ones; 7 images" in caplog.text


def test_the_best_of_both_kinds_is_what_the_next_must_beat(root, scores):
    scores += [0.25, 0.5, 0.375, 0.25, 0.125, 0.625]
    evaluations, _ = open_evaluations(root, average=moved)
    assert evaluate(evaluations, (25, 30, 35)) == [True, False, True]
    assert checkpoint.read_meta(best(root)).weights == "raw"


@pytest.fixture
def all_results(monkeypatch):
    """Detections of the evaluations to come, in COCO's format, a list each."""
    found = []

    def note(*arguments):
        found.append(coco_results(*arguments))
        return found[-1]

    monkeypatch.setattr(evaluator, "coco_results", note)
    return found


def evaluate_both_together(ranks, root, found):
    steps = ranks.with_step_group(60, CPU, None)
    evaluations, network = open_evaluations(root, steps, average=moved)
    if not ranks.is_main:
        with torch.no_grad():
            for tensor in network.buffers():
                tensor.zero_()
    before = copy.deepcopy(network.state_dict())
    assert (evaluations.evaluate(25, NOBODY) is not None) == ranks.is_main
    for key, value in network.named_parameters():
        assert torch.equal(value, before[key]), key
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_kind_of_weights_finds_what_it_finds_alone(root, all_results, world_size):
    """Also on ranks that have no average, and running statistics of their own."""
    evaluations, network = open_evaluations(root)
    average = moved(network)
    expected = []
    for weights in (average.state_dict(), copy.deepcopy(network.state_dict())):
        network.load_state_dict(weights)
        assert evaluations.evaluate(25, NOBODY) is not None
        expected.append(all_results.pop())
    assert expected[0] != expected[1] and min(map(len, expected)) > 50
    found, *_ = run_ranks(world_size, evaluate_both_together, root, all_results)
    assert found == expected


@pytest.mark.parametrize("harm", ["weights", "json"])
def test_a_best_snapshot_that_is_corrupt_is_forgotten(root, scores, harm, caplog):
    scores += [0.5, 0.25]
    assert evaluate(open_evaluations(root)[0], [25]) == [True]
    if harm == "weights":
        best(root).unlink()
    else:
        best(root).with_suffix(".json").write_text("{")
    assert evaluate(open_evaluations(root, start=25)[0], [30]) == [True]
    assert ("forgotten" in caplog.text) == (harm == "json")


def test_a_failure_costs_the_metrics_alone(root, caplog, monkeypatch):
    evaluations, network = open_evaluations(root)
    path = val_split(root).image_path(3)
    content = path.read_bytes()
    path.write_bytes(b"no image")
    failed = evaluations.evaluate(25, NOBODY)
    assert failed.iteration == 25 and failed.reason.startswith(f"{path} cannot be decoded")
    (record,) = caplog.records
    assert f"step 25 was not evaluated: {path} cannot be decoded" in record.getMessage()
    assert record.exc_info is None
    assert network.training

    path.write_bytes(content)
    monkeypatch.setattr(evaluations_module, "save_snapshot", full_disk)
    assert evaluations.evaluate(30, NOBODY).best
    assert "best.pkl was not written: [Errno 28]" in caplog.text

    monkeypatch.setattr(detector_module, "Predict", lambda _, *rest: Predict(None, *rest))
    path = val_split(root).image_path(0)
    assert evaluations.evaluate(35, NOBODY).reason.startswith(f"{path}: TypeError: 'NoneType'")
    assert f"step 35 was not evaluated: {path}: TypeError: 'NoneType'" in caplog.text
    assert isinstance(caplog.records[-1].exc_info[1].__cause__, TypeError)


def full_disk(*arguments):
    raise OSError(28, "No space left on device")


def lose_the_others(ranks, root):
    evaluations, _ = open_evaluations(root, ranks.with_step_group(60, CPU, None))
    try:
        return evaluations.evaluate(25, NOBODY) if ranks.is_main else None
    except RuntimeError as error:
        return str(error)


def test_a_rank_that_is_gone_ends_the_run(root, capfd):
    lost, _ = run_ranks(2, lose_the_others, root)
    assert "gloo" in lost.lower()  # join_ranks logs it
    assert "was not evaluated" not in capfd.readouterr().err


def test_who_asks_for_the_end_does_not_wait_for_it(root, caplog):
    evaluations, network = open_evaluations(root)
    answers = itertools.chain([None] * 4, itertools.repeat("SIGTERM"))

    class Signals:
        asked = property(lambda self: next(answers))

    assert evaluations.evaluate(25, Signals()) is None
    assert caplog.messages == ["step 25 was not evaluated: SIGTERM was received"]
    assert network.training and not best(root).exists()


def evaluate_together(ranks, root, results):
    steps = ranks.with_step_group(60, CPU, None)
    evaluations, network = open_evaluations(root, steps)
    if not ranks.is_main:
        for buffer in network.buffers():
            buffer.zero_()
    return evaluations.evaluate(25, NOBODY) is not None, results


def test_ranks_find_what_one_finds(root, results, monkeypatch):
    monkeypatch.setattr(evaluator, "_ROUND", 2)
    open_evaluations(root)[0].evaluate(25, NOBODY)
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
