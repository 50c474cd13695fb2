"""Training ends once evaluations bring no better AP, on all ranks, and however often it resumes."""

import logging
import sys

import pytest

import train
from core.checkpoint.run_directory import RunDirectory
from core.evaluation.coco import CocoScores, Metrics
from core.training.evaluations import Evaluations
from core.training.log import read_log
from core.training.run import TrainingRun
from tests.checkpoint.test_files import Killed
from tests.support.same_run import differences
from tests.support.some_ranks import run_processes
from tests.support.tiny_training import NAME, argv, write_config, write_training

SETTINGS = {"eval_iter": 1, "patience": 2, "max_iter": 8, "snapshot": 3, "val_iter": 0}
SETTINGS |= {"batch_size": 2, "chunk_sizes": None}  # steps that take little time
# After step 2 no evaluation is better than it, until step 6, to which patience does not last.
PRECISIONS = {1: 0.125, 2: 0.375, 3: 0.25, 4: 0.375, 5: 0.25, 6: 0.5, 7: 0.5, 8: 0.25}
LINE = (
    "training ends after step {}: {} evaluations in a row brought no AP above 0.375 "
    "(system.patience {})"
)


@pytest.fixture
def precisions(monkeypatch):
    """AP of the evaluations to come, by step; None fails."""
    by_step = dict(PRECISIONS)

    def measure(self, iteration, signals):
        if by_step[iteration] is None:
            return "broken"
        scores = CocoScores({"AP": by_step[iteration], "AP50": 0.5, "AP75": 0.5}, {}, "")
        return {"raw": Metrics(3, 1.0, scores, [])}

    monkeypatch.setattr(Evaluations, "_measure", measure)
    return by_step


def last_step(root, name=NAME):
    lines = read_log(RunDirectory(root / "cache", name).log)
    return max(line["iteration"] for line in lines if "loss" in line)


def snapshots(root, name=NAME):
    return RunDirectory(root / "cache", name).iterations()


def train_with_lines(given):
    """train.py with its lines on standard error; in a process of its own."""
    logging.basicConfig(force=True, level=logging.INFO, stream=sys.stderr)
    return train.main(given)


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_ends_with_a_snapshot_and_stays_ended(tmp_path, precisions, world_size, capfd):
    write_training(tmp_path, **SETTINGS)
    for number in (1, 2):  # the second time there is nothing left to do
        codes = run_processes(world_size, train_with_lines, argv(tmp_path, "--resume"))
        assert codes == [0] * world_size, number
        assert (snapshots(tmp_path), last_step(tmp_path)) == ([3, 4], 4)
        assert capfd.readouterr().err.count(LINE.format(4, 2, 2)) == 1


def test_more_patience_goes_on(tmp_path, precisions, caplog):
    caplog.set_level(logging.INFO)
    write_training(tmp_path, **SETTINGS)
    assert train.main(argv(tmp_path)) == 0
    assert train.main(argv(tmp_path, "--resume", "--set", "system.patience=3")) == 0
    assert (snapshots(tmp_path), last_step(tmp_path)) == ([3, 4, 5], 5)
    assert LINE.format(5, 3, 3) in caplog.messages
    assert train.main(argv(tmp_path, "--resume", "--set", "system.patience=4")) == 0
    assert last_step(tmp_path) == 8  # a better one came after step 6, and the steps ended


def test_an_evaluation_that_failed_does_not_count(tmp_path, precisions):
    precisions[3] = None
    write_training(tmp_path, **SETTINGS)
    assert train.main(argv(tmp_path)) == 0
    assert (snapshots(tmp_path), last_step(tmp_path)) == ([3, 5], 5)


def test_without_patience_training_goes_to_its_end(tmp_path, precisions, caplog):
    caplog.set_level(logging.INFO)
    write_training(tmp_path, **{**SETTINGS, "patience": 0})
    assert train.main(argv(tmp_path)) == 0
    assert last_step(tmp_path) == 8
    assert "training ends" not in caplog.text


def test_an_older_snapshot_counts_the_evaluations_up_to_it(tmp_path, precisions):
    write_training(tmp_path, **SETTINGS)
    assert train.main(argv(tmp_path)) == 0
    precisions[4] = 0.5
    assert train.main(argv(tmp_path, "--iter", "3")) == 0
    assert last_step(tmp_path) == 6  # two after step 4


KILLS = {
    "in the first step": (Evaluations, "evaluate", 1),
    "before the evaluation of a snapshot": (Evaluations, "evaluate", 3),
    "before the last evaluation": (Evaluations, "evaluate", 4),
    "before the last snapshot": (TrainingRun, "save", 4),
}


def killed_before(where, method, step, given):
    """train.py, killed before a method is called in a step; of several ranks all are."""
    whole = getattr(where, method)

    def until(self, iteration, *more):
        if iteration == step:
            raise Killed
        return whole(self, iteration, *more)

    setattr(where, method, until)
    try:
        train.main(given)
    except Killed:
        return "killed"
    finally:
        setattr(where, method, whole)


@pytest.mark.parametrize("kill", KILLS)
def test_a_resumed_run_ends_where_one_does_that_never_stopped(tmp_path, precisions, kill):
    whole, cut = NAME, f"{NAME}-cut"
    write_training(tmp_path, **SETTINGS)
    write_config(tmp_path, cut, **SETTINGS)
    assert train.main(argv(tmp_path)) == 0
    assert killed_before(*KILLS[kill], argv(tmp_path, name=cut)) == "killed"
    assert train.main(argv(tmp_path, "--resume", name=cut)) == 0
    assert snapshots(tmp_path, cut) == [3, 4]
    assert differences(tmp_path, whole, cut) == []


def test_a_best_that_came_after_the_snapshot_does_not_make_the_ones_before_it_forgotten(
    tmp_path, precisions
):
    """The best of step 2 is known from the log; the weights on the disk are of step 5."""
    precisions |= {4: 0.25, 5: 0.5, 6: 0.25, 7: 0.25}
    settings = {**SETTINGS, "patience": 3}
    whole, cut = NAME, f"{NAME}-cut"
    write_training(tmp_path, **settings)
    write_config(tmp_path, cut, **settings)
    assert train.main(argv(tmp_path)) == 0
    kill = killed_before(TrainingRun, "save", 6, argv(tmp_path, name=cut))
    assert kill == "killed" and snapshots(tmp_path, cut) == [3]
    assert train.main(argv(tmp_path, "--resume", name=cut)) == 0
    assert last_step(tmp_path, cut) == 8
    assert differences(tmp_path, whole, cut) == []


def test_two_ranks_that_were_killed_end_at_the_same_step(tmp_path, precisions):
    whole, cut = NAME, f"{NAME}-cut"
    write_training(tmp_path, **SETTINGS)
    write_config(tmp_path, cut, **SETTINGS)
    assert run_processes(2, train.main, argv(tmp_path)) == [0, 0]
    kill = KILLS["before the last snapshot"]
    assert run_processes(2, killed_before, *kill, argv(tmp_path, name=cut)) == ["killed"] * 2
    assert run_processes(2, train.main, argv(tmp_path, "--resume", name=cut)) == [0, 0]
    assert differences(tmp_path, whole, cut) == []
