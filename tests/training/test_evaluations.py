"""Evaluation while training, from the command line to the best snapshot."""

import json
import logging
import time

import pytest
import torch

import evaluate
import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.config.errors import UserError
from core.config.loading import load_config
from core.training import evaluations as evaluations_module
from core.training import loop
from core.training.evaluations import Evaluation, Evaluations
from core.training.log import FILE_NAME, RunLog, read_log
from core.training.loop import train as train_run
from core.training.run import prepare
from tests.checkpoint.test_files import Killed
from tests.support.engine_stand_in import (
    StandInImages,
    make_batch,
    stand_in_run,
    system,
    train_stand_in,
)
from tests.support.same_run import differences
from tests.support.some_ranks import run_ranks
from tests.support.tiny_training import NAME, argv, write_config, write_training

CPU = torch.device("cpu")
SEEN = "CornerNet_Squeeze-seen"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run of four steps without any evaluation."""
    root = tmp_path_factory.mktemp("plain")
    write_training(root)
    assert train.main(argv(root)) == 0
    return root


def folder(root, name=NAME):
    return root / "cache" / "nnet" / name


def losses(root, name=NAME):
    lines = read_log(folder(root, name) / FILE_NAME)
    return [(line["iteration"], line["terms"]) for line in lines if "loss" in line]


def assert_same_snapshots(root):
    """The plain run's snapshot of step 4 is that of the other."""
    plain, seen = (folder(root, name) / f"{name}_4.pkl" for name in (NAME, SEEN))
    weights = checkpoint.read_weights(seen), checkpoint.read_weights(plain)
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    states = checkpoint.load_training_state(seen), checkpoint.load_training_state(plain)
    assert states[0].keys() == states[1].keys()
    torch.testing.assert_close(*(state["optimizer"]["state"] for state in states), rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluations_leave_training_as_it_is(root, workers, caplog):
    caplog.set_level(logging.INFO)
    write_config(root, SEEN, eval_iter=1)
    assert train.main(argv(root, "--workers", str(workers), name=SEEN)) == 0
    assert losses(root, SEEN) == losses(root)
    assert_same_snapshots(root)

    lines = [line for line in read_log(folder(root, SEEN) / FILE_NAME) if "evaluation" in line]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    best = max(line["evaluation"]["AP"] for line in lines)
    first = next(line for line in lines if line["evaluation"]["AP"] == best)
    assert first["best"] and first["seconds"] > 0
    meta = checkpoint.read_meta(RunDirectory(root / "cache", SEEN).best)
    assert (meta.iteration, meta.metrics) == (first["iteration"], first["evaluation"])
    assert f"step {meta.iteration}: AP {best:.3f}" in caplog.text

    snapshot = str(RunDirectory(root / "cache", SEEN).best)
    assert evaluate.main(argv(root, "--snapshot", snapshot, name=SEEN)) == 0
    metrics = root / "results" / SEEN / str(meta.iteration) / "validation" / "metrics.json"
    content = json.loads(metrics.read_text())
    assert {name: content[name] for name in meta.metrics} == meta.metrics
    assert train.main(argv(root, "--iter", "4", name=SEEN)) == 0


def test_the_best_that_a_killed_process_had_moved_is_still_to_beat(root, monkeypatch):
    write_config(root, SEEN, eval_iter=1)
    assert train.main(argv(root, name=SEEN)) == 0
    best = RunDirectory(root / "cache", SEEN).best
    meta, known, known_before = checkpoint.read_meta(best), [], evaluations_module._highest_before
    for file in (best, checkpoint.meta_path(best)):
        file.rename(file.with_name(f".{file.name}.4711.old.unfinished"))
    monkeypatch.setattr(
        evaluations_module, "_highest_before", lambda *given: known.append(known_before(*given))
    )
    assert train.main(argv(root, "--iter", "4", name=SEEN)) == 0
    assert checkpoint.read_meta(best) == meta and known == [meta.metrics["AP"]]


@pytest.mark.parametrize("moment", ["before the metrics", "after the best was kept"])
@pytest.mark.parametrize("step", [2, 4])
def test_an_evaluation_that_was_interrupted_is_rerun(root, moment, step, monkeypatch):
    """The snapshot of its step was saved before it; also where no step follows."""
    cut = f"{SEEN}-cut-{step}-{moment.split()[0]}"
    for name in (f"{SEEN}-whole", cut):
        write_config(root, name, eval_iter=2)
    if not folder(root, f"{SEEN}-whole").exists():
        assert train.main(argv(root, name=f"{SEEN}-whole")) == 0

    where, method = {
        "before the metrics": (Evaluations, "_compare"),
        "after the best was kept": (RunLog, "evaluation"),
    }[moment]
    whole = getattr(where, method)

    def cut_off(self, iteration, *more):
        if iteration == step:
            raise Killed
        return whole(self, iteration, *more)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(where, method, cut_off)
        train.main(argv(root, name=cut))
    for _ in range(2):  # the second time there is nothing left to do
        assert train.main(argv(root, "--resume", name=cut)) == 0
        assert differences(root, f"{SEEN}-whole", cut) == []
        best = [
            checkpoint.read_meta(RunDirectory(root / "cache", name).best)
            for name in (f"{SEEN}-whole", cut)
        ]
        assert best[0].iteration == best[1].iteration and best[0].metrics == best[1].metrics


def train_together(ranks, root, name):
    config = load_config(str(root / "configs" / f"{name}.json"))
    run = prepare(config, CPU, ranks=ranks.with_step_group(60, CPU, None))
    log = None
    if ranks.is_main:
        log = RunLog(run.directory.path, config.system, start=0, images=len(run.dataset))
    train_run(run, log)
    run.snapshots.wait()
    return [parameter.tolist() for parameter in run.detector.network.parameters()]


def test_evaluations_leave_the_training_of_two_ranks_as_it_is(root, tmp_path):
    write_training(tmp_path)
    write_config(tmp_path, SEEN, eval_iter=1)
    plain = run_ranks(2, train_together, tmp_path, NAME)
    assert run_ranks(2, train_together, tmp_path, SEEN) == plain
    assert plain[0] == plain[1]
    assert losses(tmp_path, SEEN) == losses(tmp_path)
    assert_same_snapshots(tmp_path)
    lines = [line for line in read_log(folder(tmp_path, SEEN) / FILE_NAME) if "evaluation" in line]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]


def replace_evaluations(monkeypatch, evaluate, interrupted=False):
    """Replaces the evaluations of the runs to come by ``evaluate(iteration, signals)``."""

    class Replaced:
        def __init__(self, run):
            self.interrupted, self.exhausted = interrupted, False
            self.evaluate = evaluate

    monkeypatch.setattr(loop, "Evaluations", Replaced)


def test_an_evaluation_comes_after_its_step_was_logged_and_saved(tmp_path, monkeypatch):
    happened = []

    def look(iteration, signals):
        assert signals.asked is None
        lines = read_log(tmp_path / FILE_NAME)
        happened.append((iteration, lines[-1]["iteration"], len(lines)))
        return None if iteration == 2 else Evaluation(iteration, {"AP": 0.5}, True, 1.5)

    replace_evaluations(monkeypatch, look)
    run = stand_in_run(tmp_path, system(eval_iter=2, snapshot=4))
    lines = train_stand_in(tmp_path, run)
    saved = [iteration for iteration, *_ in run.saved]
    assert happened == [(2, 2, 2), (4, 4, 4), (6, 6, 7)]
    evaluations = [line for line in lines if "evaluation" in line]
    assert evaluations == [
        {"iteration": step, "evaluation": {"AP": 0.5}, "best": True, "seconds": 1.5}
        for step in (4, 6)
    ]
    assert saved == [4, 6]


@pytest.mark.serial
def test_evaluations_are_no_part_of_the_speed(tmp_path, monkeypatch):
    """Neither one that failed, nor what follows the metrics: the best weights, the other ranks."""

    def look(iteration, signals):
        time.sleep(0.5)
        return Evaluation(iteration, {"AP": 0.5}, True, 0.0) if iteration % 2 else None

    replace_evaluations(monkeypatch, look, interrupted=True)
    lines = train_stand_in(tmp_path, stand_in_run(tmp_path, system(eval_iter=1)))
    seconds = [line["seconds_per_step"] for line in lines if "loss" in line]
    assert len(seconds) == 6 and sorted(seconds)[3] < 0.25  # a busy machine may hold up some


class FewImages(StandInImages):
    annotation_file = "validation.json"

    def __len__(self):
        return 100


def test_unreadable_validation_images_are_counted_too(tmp_path, caplog):
    batches = (make_batch(number, unreadable=(number,)) for number in range(10))
    with pytest.raises(UserError, match=r"2 of the 100 images of validation\.json"):
        run = stand_in_run(
            tmp_path, system(val_iter=2), validation=batches, validation_dataset=FewImages()
        )
        train_stand_in(tmp_path, run)
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
    steps = [line["iteration"] for line in read_log(tmp_path / FILE_NAME) if "loss" in line]
    assert steps == [1, 2, 3, 4]
