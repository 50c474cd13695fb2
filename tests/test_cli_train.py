"""train.py from the command line to snapshots, messages and exit codes."""

import json
import logging
import os
import pickle
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.cli import exit_codes
from core.config.errors import UserError
from core.training.log import read_log
from tests.support.jobs import FORK, PYTHON, Job
from tests.support.tiny_training import NAME, argv, write_config, write_training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps, with snapshots of steps 2 and 4."""
    root = tmp_path_factory.mktemp("trained")
    write_training(root)
    assert train.main(argv(root)) == 0
    return root


@pytest.fixture
def root(trained, tmp_path):
    """A copy of :func:`trained` that a test may spoil."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    write_config(tmp_path)
    return tmp_path


def snapshot(root, iteration, name=NAME):
    return RunDirectory(root / "cache", name).snapshot(iteration)


def test_a_run_leaves_snapshots_and_a_log(trained):
    folder = trained / "cache" / "nnet" / NAME
    suffixes = (".json", ".pkl", ".train.pt")
    expected = [f"{NAME}_{step}{suffix}" for step in (2, 4) for suffix in suffixes]
    assert sorted(file.name for file in folder.iterdir()) == sorted([*expected, "log.jsonl"])
    lines = read_log(folder / "log.jsonl")
    assert [line["iteration"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["iteration"] for line in lines if "validation" in line] == [2, 4]
    assert set(lines[0]["terms"]) == {"heatmap", "pull", "push", "offset"}
    meta = checkpoint.read_meta(snapshot(trained, 4))
    assert (meta.name, meta.iteration) == (NAME, 4)
    assert len(meta.class_names) >= 5
    assert meta.config["system"]["batch_size"] == 3


def test_the_start_says_what_is_to_happen(root, caplog):
    caplog.set_level(logging.INFO)
    assert train.main(argv(root)) == 0
    for word in (
        "device: cpu",
        "7 images",
        "parameters",
        "chunks of [1, 2]",
        "--iter 4",
        "--iter N",
    ):
        assert word in caplog.text
    assert str(root / "cache" / "nnet" / NAME) in caplog.text


def test_initialize_saves_step_0_and_ends(root):
    write_config(root, "CornerNet_Squeeze-new")
    assert train.main(argv(root, "--initialize", name="CornerNet_Squeeze-new")) == 0
    files = sorted(
        file.name for file in snapshot(root, 0, "CornerNet_Squeeze-new").parent.iterdir()
    )
    assert files == [f"CornerNet_Squeeze-new_0{end}" for end in (".json", ".pkl", ".train.pt")]
    assert train.main(argv(root, "--iter", "0", name="CornerNet_Squeeze-new")) == 0
    # The seed makes the weights: a run from step 0 is the run that never stopped there.
    again, first = (
        checkpoint.read_weights(path)
        for path in (snapshot(root, 4, "CornerNet_Squeeze-new"), snapshot(root, 4))
    )
    assert all(torch.equal(again[key], value) for key, value in first.items())


def test_bare_weights_resume_with_one_notice(root, caplog):
    for suffix in (".json", ".train.pt"):
        snapshot(root, 2).with_suffix(suffix).unlink()
    assert train.main(argv(root, "--iter", "2")) == 0
    notices = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(notices) == 1
    assert "weights only" in notices[0]
    lines = read_log(root / "cache" / "nnet" / NAME / "log.jsonl")
    rates = {line["iteration"]: line["learning_rate"] for line in lines if "loss" in line}
    assert rates == pytest.approx({1: 1e-3, 2: 1e-3, 3: 1e-3, 4: 1e-4})


def test_another_seed_or_batch_size_resumes_with_a_notice(root, caplog):
    more = ("--iter", "2", "--set", "system.seed=5", "--set", "system.batch_size=2")
    assert train.main(argv(root, *more, "--set", "system.chunk_sizes=[2]")) == 0
    assert "system.seed was 317 and is 5" in caplog.text
    assert "system.batch_size was 3 and is 2" in caplog.text


@pytest.mark.parametrize("how", ["--weights", "system.pretrain"])
def test_fine_tuning_to_other_classes_lists_the_fresh_heads(root, caplog, how):
    caplog.set_level(logging.INFO)
    file = root / "data" / "shapes" / "annotations" / "instances_{}.json"
    for split in ("train", "val"):
        path = Path(str(file).format(split))
        content = json.loads(path.read_text())
        content["categories"].append({"id": 99, "name": "comet"})
        path.write_text(json.dumps(content))
    weights = str(snapshot(root, 4))
    more = ["--weights", weights] if how == "--weights" else ["--set", f"{how}={weights}"]
    write_config(root, "CornerNet_Squeeze-more", max_iter=1)
    assert train.main(argv(root, *more, name="CornerNet_Squeeze-more")) == 0
    assert "freshly initialised: tl_heats.0.1.weight, tl_heats.0.1.bias" in caplog.text
    with pytest.raises(UserError, match="comet"):
        train.main(argv(root, "--iter", "4"))


def test_options_that_exclude_each_other(root, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(argv(root, "--iter", "2", "--weights", "x.pkl"))
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def spoil_cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


def forget_checksums(path):
    """As the reference's and older snapshots have none."""
    content = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**content, "sha256": {}}))


def spoil_code(path):
    forget_checksums(path)
    path.write_bytes(pickle.dumps({"module.a": torch.nn.Linear(1, 1)}, protocol=2))


def spoil_other_model(path):
    forget_checksums(path)
    torch.save({"module.conv1.weight": torch.zeros(3)}, path)


def spoil_training_state(path):
    forget_checksums(path)
    spoil_cut_short(path.with_suffix(".train.pt"))


def spoil_meta(path):
    path.with_suffix(".json").write_text("{")


BAD_SNAPSHOTS = {
    "missing": (Path.unlink, "there is no snapshot .*iterations 4"),
    "cut short": (spoil_cut_short, "cut short"),
    "code": (spoil_code, "refused"),
    "another model": (spoil_other_model, r"does not fit.*missing.*1 unexpected: conv1\.weight"),
    "training state cut short": (spoil_training_state, r"train\.pt is cut short"),
    "broken description": (spoil_meta, "does not describe"),
}


@pytest.mark.parametrize("kind", BAD_SNAPSHOTS)
def test_a_bad_snapshot_is_one_line_and_exit_code_2(root, kind, monkeypatch, caplog):
    spoil, message = BAD_SNAPSHOTS[kind]
    spoil(snapshot(root, 2))
    before = {file: file.read_bytes() for file in snapshot(root, 2).parent.iterdir()}
    lines = failure(argv(root, "--iter", "2"), monkeypatch, caplog)
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert {file: file.read_bytes() for file in snapshot(root, 2).parent.iterdir()} == before


BAD_ARGUMENTS = {
    "no such config": (["CornerNet_Squeze"], "did you mean 'CornerNet_Squeeze'"),
    "unknown key": (["--set", "system.learning_rat=1"], "did you mean 'learning_rate'"),
    "no data": (["--set", "system.dataset_dir=coco"], "no folder"),
    "no split": (["--set", "system.train_split=trian"], "instances_trian.json"),
    "no weights": (["--weights", "nowhere.pkl"], "no snapshot nowhere.pkl"),
    "no device": (["--device", "toaster"], "toaster"),
    "another optimiser": (["--iter", "2", "--set", "system.opt_algo=sgd"], "trained with adam"),
}


@pytest.mark.parametrize("kind", BAD_ARGUMENTS)
def test_bad_arguments_are_one_line_and_exit_code_2(root, kind, monkeypatch, caplog):
    more, message = BAD_ARGUMENTS[kind]
    given = more if kind == "no such config" else argv(root, *more)
    lines = failure(given, monkeypatch, caplog)
    assert len(lines) == 1
    assert message in lines[0]


def failure(given, monkeypatch, caplog):
    """Runs the script to exit code 2; returns the lines of its errors."""
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    with pytest.raises(SystemExit) as caught, exit_codes():
        train.main(sys.argv[1:])
    assert caught.value.code == 2
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    return [line for message in messages for line in message.splitlines()]


def test_tensorboard_is_optional(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train.main(argv(root, "--tensorboard"))


@pytest.mark.parametrize(("what", "launcher"), [("SIGTERM", PYTHON), ("a killed worker", FORK)])
def test_an_ended_run_says_how_to_go_on(root, what, launcher):
    """As the user meets it: a process of its own, with workers, until somebody ends it."""
    more = ("--workers", "1", "--set", "system.max_iter=100000", "--set", "system.val_iter=0")
    job = Job(root, *more, launcher=launcher)
    assert job.wait(lambda: job.steps >= 10), job.output
    if what == "SIGTERM":
        job.process.send_signal(signal.SIGTERM)
    else:
        children = Path(f"/proc/{job.process.pid}/task/{job.process.pid}/children")
        if not children.exists():
            job.kill()
            pytest.skip("this system does not list the children of a process")
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    assert job.end(20) == 1, job.output
    output = job.output
    assert "Traceback" not in output
    # Whether the signal is known depends on who looks first.
    message = (
        "SIGTERM was received" if what == "SIGTERM" else r"DataLoader worker \(pid.* (is|exited)"
    )
    assert re.search(message, output)
    newest = RunDirectory(root / "cache", NAME).newest()
    assert newest is not None
    command = output.splitlines()[-1]
    assert f"python train.py {root}/configs/{NAME}.json --iter {newest[1]} " in command
    for word in ("--workers 1", "--device cpu", "--set system.max_iter=100000"):
        assert word in command
    steps = [line["iteration"] for line in read_log(job.log) if "loss" in line]
    assert steps[-1] == newest[1] > 4
