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
from core.training.log import read_log
from tests.support.jobs import TORCHRUN, Job, family
from tests.support.machines import ADDRESSES, Machines
from tests.support.same_run import differences
from tests.support.some_ranks import run_processes
from tests.support.tiny_training import NAME, argv, write_config, write_training

STEPS = 48  # enough that a signal comes before the last of them
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


def steps_of(job):
    """Numbers of the steps in a run's log, repeated ones too."""
    return [line["iteration"] for line in read_log(job.log) if "loss" in line]


def test_a_killed_rank_is_started_again_and_sigterm_to_the_agent_saves(root):
    """A start takes seconds, so one job is disturbed twice; rank 0 has the log and snapshots."""
    job = Job(
        root,
        "--resume",
        launcher=(*TORCHRUN, "--nproc_per_node=2", "--standalone", "--max-restarts=1"),
    )
    assert job.wait(lambda: job.steps >= 5), job.output
    os.kill(process_of(job, 0), signal.SIGKILL)
    assert job.wait(lambda: job.steps >= 15), job.output
    assert job.output.count("rank 1 lost the other processes") == 1
    job.process.send_signal(signal.SIGTERM)
    assert job.end(60) != 0
    assert "training stopped: SIGTERM was received" in job.output
    done = steps_of(job)
    assert RunDirectory(root / "cache", NAME).latest_valid() == done[-1] < STEPS
    go_on(root)
    assert steps_of(job) == [*done, *range(done[-1] + 1, STEPS + 1)]
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


LOST = "error: rank {} lost the other processes: Timed out"


def cut_and_end(machines, jobs, times=1):
    """Cuts the network after a few steps, and gives the exit codes of both jobs.

    They have lost each other ``times`` times then.
    """
    before = jobs[0].steps
    assert jobs[0].wait(lambda: jobs[0].steps >= before + 5), [job.output for job in jobs]
    machines.cut()
    cut = time.monotonic()
    codes = [job.end(60) for job in jobs]
    assert time.monotonic() - cut < 60
    for rank, job in enumerate(jobs):
        assert job.output.count(LOST.format(rank)) == times, job.output
    return codes


def check_saved(root):
    """What the jobs saved, and that the run goes on from it to the undisturbed result."""
    saved = RunDirectory(root / "cache", NAME).latest_valid()
    assert saved is not None and saved >= 3
    go_on(root)
    assert differences(root, UNDISTURBED, NAME) == []


def test_a_cut_network_ends_both_machines(root):
    """With c10d, the agent of the second waits for the first's, in PyTorch's own code: killed."""
    with Machines() as machines:
        jobs = start_on_both(root, machines, meeting="c10d")
        first, second = cut_and_end(machines, jobs)
    assert first == 1 and second in (1, -signal.SIGKILL)
    assert ("was killed" in jobs[1].output) == (second != 1)
    check_saved(root)


@pytest.mark.rare
def test_a_network_that_comes_back_is_used_again(root):
    """And ends both machines where it is cut once more than they start again."""
    with Machines() as machines:
        jobs = start_on_both(root, machines, "--max-restarts=1", meeting="static")
        assert jobs[0].wait(lambda: jobs[0].steps >= 5), [job.output for job in jobs]
        machines.cut()
        for job in jobs:
            assert job.wait(lambda job=job: "lost the other" in job.output, 60), job.output
        machines.repair()
        assert cut_and_end(machines, jobs, times=2) == [1, 1]
    assert "was killed" not in jobs[1].output
    check_saved(root)
