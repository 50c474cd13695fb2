"""An evaluation that fails costs neither the run nor its steps, and the log says what happened."""

import pytest

import train
from core.checkpoint.run_directory import RunDirectory
from core.evaluation import evaluator
from core.training import evaluations
from core.training.log import FILE_NAME, read_log
from tests.support.some_ranks import run_processes
from tests.support.tiny_training import NAME, argv, write_training

SETTINGS = {"eval_iter": 1, "val_iter": 0, "max_iter": 3, "snapshot": 3}
SETTINGS |= {"batch_size": 2, "chunk_sizes": None}  # steps that take little time


def records(root, kind):
    lines = read_log(RunDirectory(root / "cache", NAME).path / FILE_NAME)
    return {line["iteration"]: line[kind] for line in lines if kind in line}


def fail_at(patch, step, error):
    """Makes the scoring of the evaluation after a step fail, on the main process alone."""
    score, done = evaluator.score_results, []

    def failing(results, dataset):
        done.append(None)
        if len(done) == step:
            raise error
        return score(results, dataset)

    patch.setattr(evaluator, "score_results", failing)


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), OSError(28, "No space left"), RuntimeError("two\nlines")]
)
def test_training_goes_on_after_a_failed_evaluation(tmp_path, monkeypatch, caplog, error):
    write_training(tmp_path, **SETTINGS)
    fail_at(monkeypatch, 2, error)
    assert train.main(argv(tmp_path)) == 0
    assert list(records(tmp_path, "loss")) == [1, 2, 3]
    assert list(records(tmp_path, "evaluation")) == [1, 3]
    text = " ".join(str(error).split())
    reason = f"scoring failed: {type(error).__name__}: {text}"
    assert records(tmp_path, "failed_evaluation") == {2: reason}
    assert RunDirectory(tmp_path / "cache", NAME).iterations() == [3]
    assert any(line.startswith("step 2 was not evaluated: scoring") for line in caplog.messages)


def train_with_a_failure(root):
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 1, KeyError("broken"))
        return train.main(argv(root))


def test_all_ranks_go_on_after_the_scoring_failed_on_one(tmp_path):
    write_training(tmp_path, **{**SETTINGS, "max_iter": 2, "snapshot": 2})
    assert run_processes(2, train_with_a_failure, tmp_path) == [0, 0]
    assert records(tmp_path, "failed_evaluation") == {1: "scoring failed: KeyError: 'broken'"}
    assert list(records(tmp_path, "evaluation")) == [2]


def test_errors_outside_the_evaluator_do_not_end_a_run_either(tmp_path, monkeypatch):
    def evaluate(*given, **more):
        raise MemoryError("for the average")

    write_training(tmp_path, **SETTINGS)
    monkeypatch.setattr(evaluations, "evaluate", evaluate)
    assert train.main(argv(tmp_path)) == 0
    reasons = {step: "MemoryError: for the average" for step in (1, 2, 3)}
    assert records(tmp_path, "failed_evaluation") == reasons


@pytest.mark.parametrize("error", [OSError("full"), MemoryError("full"), RuntimeError("full")])
def test_best_weights_that_cannot_be_written_do_not_end_a_run(tmp_path, monkeypatch, caplog, error):
    def save(*given):
        raise error

    write_training(tmp_path, **{**SETTINGS, "max_iter": 1, "snapshot": 1})
    monkeypatch.setattr(evaluations, "save_snapshot", save)
    assert train.main(argv(tmp_path)) == 0
    assert list(records(tmp_path, "evaluation")) == [1]
    assert "was not written: full; training goes on" in caplog.text


def test_the_last_evaluation_is_tried_again_by_a_resumed_run(tmp_path):
    write_training(tmp_path, **{**SETTINGS, "max_iter": 1, "snapshot": 1})
    assert train_with_a_failure(tmp_path) == 0
    assert records(tmp_path, "evaluation") == {}
    assert train.main(argv(tmp_path, "--resume")) == 0
    assert list(records(tmp_path, "evaluation")) == [1]
