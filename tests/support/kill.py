"""Kills training again and again, and compares it with a run that nobody killed (make kill-test).

A tiny detector trains in one process, with AdamW, a cosine schedule and averaged weights, and in
two, with Adam and a step schedule. SIGKILL ends all processes of the job at once, at random
moments: while it starts, at any time of a step, while a snapshot is written. Each time ``--resume``
goes on, with another number of loader workers. In the end the losses of all steps, the metrics of
all evaluations, the weights of all snapshots, raw and averaged, and the state of the optimizer must
be the same, bit for bit.

``python tests/kill.py [--kills 50] [--seed 0]``; the exit code is 1 if there was a difference.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support.jobs import PYTHON, TORCHRUN, Job, logged_steps
from tests.support.same_run import differences
from tests.support.tiny_training import write_config, write_training

MOMENTS = ("starting", "in a step", "writing a snapshot")
LONGEST = 5  # steps that a job logs before it is killed in one, or in the next snapshot
SNAPSHOT = 3  # steps between two
RECIPES = {1: {"opt_algo": "adamw", "schedule": "cosine", "warmup": 5, "ema": 0.9}, 2: {}}


def main(argv: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of both jobs together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(argv)
    rng, found = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as folder:
        write_training(Path(folder))
        for processes in (1, 2):
            kills = (options.kills + 2 - processes) // 2
            found += compare(Path(folder), processes, kills, rng)
    return 1 if found else 0


def compare(
    root: Path, processes: int, kills: int, rng: random.Random, python: tuple[str, ...] = PYTHON
) -> list[str]:
    """Trains undisturbed and killed, and says what was found.

    Args:
        root: of the data.
        processes: that train together.
        kills: number of them.
        rng: for their moments.
        python: that runs a job of one process.

    Returns:
        The differences.
    """
    whole, killed = (f"CornerNet_Squeeze-{kind}{processes}" for kind in ("whole", "killed"))
    steps = (LONGEST + SNAPSHOT) * kills + SNAPSHOT
    for name in (whole, killed):
        settings = {"max_iter": steps, "stepsize": steps // 2, "val_iter": 4, **RECIPES[processes]}
        write_config(root, name, snapshot=SNAPSHOT, eval_iter=2 * SNAPSHOT, **settings)
    launcher = (*TORCHRUN, "--standalone", f"--nproc_per_node={processes}")
    launcher = python if processes == 1 else launcher
    started = time.monotonic()
    job = start(root, whole, 0, launcher)
    assert job.wait(lambda: job.steps), job.output
    seconds = time.monotonic() - started
    assert job.end(3600) == 0, job.output

    moments = Counter()
    for number in range(kills):
        job = start(root, killed, rng.choice((0, 1, 2)), launcher)
        moment = kill(job, rng.choice(MOMENTS), rng, seconds)
        moments[moment] += 1
        print(f"{processes} processes, kill {number + 1} of {kills}: {moment}", flush=True)
    job = start(root, killed, 1, launcher)
    assert job.end(3600) == 0, job.output

    found = differences(root, whole, killed)
    counts = ", ".join(f"{count} {moment}" for moment, count in moments.items())
    print(
        f"{processes} processes: {kills} kills ({counts}), {kills} resumes, {steps} steps and "
        f"{logged_steps(job.log) - steps} repeated: {len(found)} differences",
        *found,
        sep="\n",
        flush=True,
    )
    return found


def start(root: Path, name: str, workers: int, launcher: tuple[str, ...]) -> Job:
    """Starts or resumes a run."""
    return Job(root, "--resume", "--workers", str(workers), name=name, launcher=launcher)


def kill(job: Job, moment: str, rng: random.Random, seconds: float) -> str:
    """Kills a job at a random moment.

    Args:
        job: was started just now.
        moment: one of :data:`MOMENTS`.
        rng: for the rest.
        seconds: that a job needs to start.

    Returns:
        What it was doing.
    """
    if moment == "starting":
        time.sleep(rng.uniform(0, seconds))
    else:
        steps = rng.randint(1, LONGEST)
        assert job.wait(lambda: job.steps >= steps), job.output
        if moment == "writing a snapshot":
            assert job.wait(lambda: job.writing, pause=0.0005), job.output
        time.sleep(rng.uniform(0, 0.02 if moment == "writing a snapshot" else 0.2))
    job.kill()
    if job.writing:
        return "writing a snapshot"
    return "in a step" if job.steps else "starting"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
