"""train.py in several processes: by torchrun, by --distributed, and what both say when it fails."""

import re
import socket
import sys
from itertools import takewhile

import pytest
import torch

import train
from core.checkpoint import snapshot as checkpoint
from core.checkpoint.run_directory import RunDirectory
from core.cli import exit_codes
from core.config.errors import UserError
from core.distributed import launch
from core.training import command
from core.training.log import read_log
from tests.support.jobs import FORK, Job
from tests.support.some_ranks import run_processes
from tests.support.tiny_training import NAME, argv, write_config, write_training

# Lines of a warning of torchrun, whose agents do not always wait for one another at the end.
PYTORCHS = re.compile(r"\[W.* TCPStore\.cpp")


def losses(root):
    lines = read_log(root / "cache" / "nnet" / NAME / "log.jsonl")
    return [line["loss"] if "loss" in line else line["validation"]["loss"] for line in lines]


def weights(root):
    return checkpoint.read_weights(RunDirectory(root / "cache", NAME).snapshot(4))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process."""
    root = tmp_path_factory.mktemp("alone")
    write_training(root)
    assert train.main(argv(root)) == 0
    return root


def check_same_run(root, alone):
    """Four steps of Adam in float32, as one process makes them."""
    assert losses(root) == pytest.approx(losses(alone), rel=1e-4)
    mine, theirs = weights(root), weights(alone)
    for key, value in theirs.items():
        torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-3, msg=key)
    folder = root / "cache" / "nnet" / NAME
    assert len(list(folder.iterdir())) == 7  # two snapshots and one log


@pytest.mark.slow
@pytest.mark.rare
def test_distributed_on_two_machines(alone, tmp_path):
    """Both of them this one, which has one device.

    Each starts torchrun, whose process imports PyTorch. A user starts torchrun in
    ``tests/distributed/test_faults.py``.
    """
    write_training(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    more = ("--distributed", "--world-size", "2", "--dist-url", url, "--dist-backend", "gloo")
    both = [Job(tmp_path, *more, "--rank", str(rank), launcher=FORK) for rank in (0, 1)]
    codes, outputs = [job.end() for job in both], [job.output for job in both]
    assert codes == [0, 0], outputs
    check_same_run(tmp_path, alone)
    assert outputs[0].count("processes: 2, for 2 chunks a step: 1 each") == 1
    assert outputs[0].count("_4.pkl") == 1
    # What PyTorch says of the end of the other machine, over many lines, comes last.
    assert list(takewhile(lambda line: not PYTORCHS.match(line), outputs[1].splitlines())) == []


def script(argv):
    """A rank's train.py as a process runs it: its exit code."""
    sys.argv = ["train.py", *argv]
    try:
        with exit_codes():
            sys.exit(train.main(argv))
    except SystemExit as end:
        return end.code


BAD = {
    "config": (["--set", "system.learning_rat=1"], "did you mean 'learning_rate'"),
    "data": (["--set", "system.train_split=trian"], "instances_trian.json"),
    "snapshot": (["--iter", "7"], "there is no snapshot"),
    "weights": (["--weights", "nowhere.pkl"], "no snapshot nowhere.pkl"),
    "device": (["--device", "toaster"], "toaster"),
    "chunks": (["--set", "system.chunk_sizes=[3]"], "2 processes are more than the 1 chunks"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_mistake_is_one_line_and_ends_all_with_exit_code_2(tmp_path, kind, capfd, monkeypatch):
    write_training(tmp_path)
    monkeypatch.setattr("logging.root.handlers", [])  # pytest's
    more, message = BAD[kind]
    assert run_processes(2, script, argv(tmp_path, *more)) == [2, 2]
    lines = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--world-size", "2"), "2 machines meet at tcp://HOST:PORT"),
        (("--world-size", "2", "--dist-url", "udp://a:1"), "--dist-url udp://a:1: 2 machines"),
        (("--world-size", "2", "--rank", "2", "--dist-url", "tcp://a:1"), "the last 1"),
        (("--world-size", "0"), "--world-size 0"),
    ],
)
def test_machines_that_cannot_meet(tmp_path, more, message):
    write_config(tmp_path)
    with pytest.raises(UserError, match=message):
        train.main(argv(tmp_path, "--distributed", *more))


def test_an_exit_code_comes_through_the_launcher(tmp_path):
    exits = tmp_path / "exits.py"
    exits.write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    options = command._parser().parse_args(["CornerNet", "--distributed", "--device", "cpu"])
    assert [launch(options, [str(exits), code]) for code in ("0", "2", "1")] == [0, 2, 1]
