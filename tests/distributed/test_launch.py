"""How many processes `train.py` starts, and with how many threads."""

import os

import pytest
import torch

import train
from core.config.errors import UserError
from core.distributed import is_launcher, launch
from core.distributed import launch as launch_function
from core.training import command
from tests.support.tiny_training import argv, write_config


@pytest.fixture
def agents(monkeypatch):
    """Arguments of torchrun's agents and the threads of their processes; nothing is started."""
    started = []

    def run_agent(arguments):
        started.append((arguments, os.environ.get("OMP_NUM_THREADS")))

    monkeypatch.setitem(launch_function.__globals__, "run_agent", run_agent)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    return started


def options(*more):
    return command._parser().parse_args(["CornerNet", *more])


def set_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_who_starts_processes(monkeypatch):
    set_gpus(monkeypatch, 0)
    assert not is_launcher(options()) and is_launcher(options("--distributed"))
    assert is_launcher(options(), 2) and is_launcher(options("--device", "cpu"), 2)
    assert not is_launcher(options("--device", "cuda:1"), 2)
    set_gpus(monkeypatch, 1)
    assert not is_launcher(options(), 2) and is_launcher(options("--device", "cpu"), 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of the agent")
    assert not is_launcher(options("--distributed", "--device", "cpu"), 2)


def test_processes_and_threads(monkeypatch, agents):
    """On CPUs the threads are divided; on GPUs the environment says what each process has."""
    set_gpus(monkeypatch, 0)
    assert launch(options(), ["train.py"], 2) == 0
    assert launch(options("--distributed"), ["train.py"]) == 0
    set_gpus(monkeypatch, 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert launch(options("--distributed"), ["train.py"], 2) == 0
    assert launch(options("--distributed", "--device", "cpu"), ["train.py"], 8) == 0
    assert [(found[0], threads) for found, threads in agents] == [
        ("--nproc-per-node=2", "2"),
        ("--nproc-per-node=1", "4"),
        ("--nproc-per-node=3", "4"),
        ("--nproc-per-node=8", "1"),
    ]
    assert all(found[1:] == ["--standalone", "train.py"] for found, _ in agents)


def test_a_config_that_names_processes_needs_no_argument(tmp_path, agents):
    write_config(tmp_path, cpu_processes=2)
    assert train.main(argv(tmp_path)) == 0
    assert train.main(argv(tmp_path, "--distributed")) == 0
    for arguments, _ in agents:
        assert arguments[0] == "--nproc-per-node=2"
        assert arguments.count("--distributed") == 1
        assert str(tmp_path / "configs" / "CornerNet_Squeeze-tiny.json") in arguments
    with pytest.raises(UserError, match=r"cpu_processes 0 must be from 1 to"):
        train.main(argv(tmp_path, "--set", "system.cpu_processes=0"))


def test_the_command_that_resumes_is_the_users(tmp_path, monkeypatch):
    """In a started process, which has --distributed although the user did not write it."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of the agent")
    monkeypatch.setattr("sys.argv", ["train.py"])
    given = options("--distributed", "--device", "cpu")
    assert command._resume_command(given, 7) == (
        "python train.py CornerNet --iter 7 --device cpu --distributed"
    )
