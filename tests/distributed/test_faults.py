"""Training in two processes when one is killed, the cluster takes its machines back, or the network
is cut: it ends or goes on by itself, with the result of a run that nothing disturbed."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import train
from core.checkpoint.run_directory import RunDirectory
from tests.support.jobs import TORCHRUN, Job, family, logged_steps
from tests.support.machines import ADDRESSES, Machines
from tests.support.same_run import differences
from tests.support.some_ranks import run_processes
from tests.support.tiny_training import NAME, argv, write_config, write_training

STEPS = 24
UNDISTURBED = "CornerNet_Squeeze-undisturbed"
SETTINGS = {"max_iter": STEPS, "stepsize": 10, "snapshot": 3, "val_iter": 4}

pytestmark = pytest.mark.slow  # torchrun and its processes import PyTorch in ten seconds


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of two processes that nothing disturbs."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_training(root, UNDISTURBED, **SETTINGS)
    assert run_processes(2, train.main, argv(root, name=UNDISTURBED)) == [0, 0]
    return root


@pytest.fixture
def root(undisturbed, tmp_path):
    """A copy of :func:`undisturbed`, and the config of another run of the same steps."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    write_config(tmp_path, **SETTINGS)
    return tmp_path


def go_on(root):
    """Goes on until the end, in two processes."""
    assert run_processes(2, train.main, argv(root, "--resume")) == [0, 0]


def process_of(job, rank):
    """The process of a rank."""
    for pid in sorted(family(job.process.pid)):
        with contextlib.suppress(OSError):  # it has ended since
            if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
                return pid
    raise AssertionError(f"no rank {rank}; it printed:\n{job.output}")


def test_killed_ranks_are_started_again(root):
    job = Job(
        root,
        "--resume",
        launcher=(*TORCHRUN, "--nproc_per_node=2", "--standalone", "--max-restarts=2"),
    )
    for rank, steps in ((1, 5), (0, 10)):
        assert job.wait(lambda steps=steps: job.steps >= steps), job.output
        os.kill(process_of(job, rank), signal.SIGKILL)
    assert job.end() == 0, job.output
    assert logged_steps(job.log) > STEPS
    assert job.output.count("lost the other processes") == 2
    assert differences(root, UNDISTURBED, NAME) == []


def test_sigterm_to_the_agent_saves(root):
    job = Job(root, "--resume", launcher=(*TORCHRUN, "--nproc_per_node=2", "--standalone"))
    assert job.wait(lambda: job.steps >= 5), job.output
    job.process.send_signal(signal.SIGTERM)
    assert job.end(60) != 0
    assert "training stopped: SIGTERM was received" in job.output
    assert RunDirectory(root / "cache", NAME).latest_valid() == logged_steps(job.log)
    go_on(root)
    assert logged_steps(job.log) == STEPS
    assert differences(root, UNDISTURBED, NAME) == []


def start_on_both(root, machines, *more, meeting):
    """The same run, a process on each of two machines that meet in one of torchrun's ways."""
    first, port = ADDRESSES[0], 29500
    ways = {
        "static": lambda n: (f"--master-addr={first}", f"--master-port={port}", f"--node-rank={n}"),
        # The machines' names lead nowhere here: the addresses say which one is the first.
        "c10d": lambda n: (
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={first}:{port}",
            f"--rdzv-conf=is_host={int(n == 0)}",
            f"--local-addr={ADDRESSES[n]}",
        ),
    }
    wait = ("--resume", "--set", "system.dist_timeout=6")
    launchers = [
        (*machines.on(n), *TORCHRUN, "--nnodes=2", *ways[meeting](n), *more) for n in (0, 1)
    ]
    return [Job(root, *wait, launcher=launcher) for launcher in launchers]


@pytest.mark.parametrize("meeting", ["c10d", "static"])
def test_a_cut_network_ends_both_machines(root, meeting):
    """With c10d, the agent of the second waits for the first's, in PyTorch's own code: killed."""
    with Machines() as machines:
        jobs = start_on_both(root, machines, meeting=meeting)
        assert jobs[0].wait(lambda: jobs[0].steps >= 5), [job.output for job in jobs]
        machines.cut()
        cut = time.monotonic()
        assert jobs[0].end(60) == 1
        code = jobs[1].end(60)
        assert code == 1 or (meeting, code) == ("c10d", -signal.SIGKILL)
        assert time.monotonic() - cut < 60
    assert ("was killed" in jobs[1].output) == (code != 1)
    for rank, job in enumerate(jobs):
        assert f"error: rank {rank} lost the other processes: Timed out" in job.output
    saved = RunDirectory(root / "cache", NAME).latest_valid()
    assert saved is not None and saved >= 3
    go_on(root)
    assert differences(root, UNDISTURBED, NAME) == []


def test_a_network_that_comes_back_is_used_again(root):
    with Machines() as machines:
        jobs = start_on_both(root, machines, "--max-restarts=2", meeting="static")
        assert jobs[0].wait(lambda: jobs[0].steps >= 5), [job.output for job in jobs]
        machines.cut()
        for job in jobs:
            assert job.wait(lambda job=job: "lost the other" in job.output, 60), job.output
        machines.repair()
        assert [job.end() for job in jobs] == [0, 0], [job.output for job in jobs]
    assert differences(root, UNDISTURBED, NAME) == []
