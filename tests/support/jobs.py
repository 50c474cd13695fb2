"""Training jobs in processes of their own, as a user starts them, and ways to end them."""

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import train
from core.cli import exit_codes
from core.training.log import FILE_NAME
from tests.support.tiny_training import NAME, argv

REPOSITORY = Path(train.__file__).parent
PYTHON = (sys.executable,)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
FORK = ()  # no program: see Forked

_STOPPED = "TtZX"  # states of /proc/PID/stat


class Job:
    """``train.py`` at work, alone or under torchrun.

    Args:
        root: of a config and its data, see :func:`tiny_training.write_training`.
        more: arguments of train.py.
        launcher: arguments before ``train.py``; :data:`FORK` is the fastest.
        name: of the config.
    """

    def __init__(self, root, *more, launcher=PYTHON, name=NAME):
        self.folder = root / "cache" / "nnet" / name
        self.log = self.folder / FILE_NAME
        self._log_before = self.log.stat().st_size if self.log.is_file() else 0
        self._unfinished_before = self._temporary_files()
        self._output = root / f"{name}_{time.time_ns()}.txt"
        given = argv(root, *more, name=name)
        with self._output.open("wb") as output:
            if launcher == FORK:
                self.process = Forked(given, output)
            else:
                self.process = subprocess.Popen(
                    [*launcher, "train.py", *given],
                    cwd=REPOSITORY,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )

    @property
    def output(self):
        """Its output so far."""
        return self._output.read_text(errors="replace")

    @property
    def steps(self):
        """Number of steps that it has logged."""
        return logged_steps(self.log, self._log_before)

    @property
    def writing(self):
        """True while a snapshot is half written."""
        return not self._temporary_files() <= self._unfinished_before

    @property
    def ended(self):
        """True once it has ended."""
        return self.process.poll() is not None

    def wait(self, condition, seconds=120, pause=0.02):
        """Waits until a condition holds, or the job ends; kills it and fails after so many seconds.

        Returns:
            Whether the condition holds.
        """
        limit = time.monotonic() + seconds
        while not condition():
            if self.ended:
                return False
            if time.monotonic() > limit:
                self.kill()
                raise AssertionError(f"not in {seconds} s; it printed:\n{self.output}")
            time.sleep(pause)
        return True

    def end(self, seconds=120):
        """Waits for its end and returns the exit code; kills it and fails after so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end in {seconds} s; it printed:\n{self.output}") from None

    def kill(self):
        """Kills all its processes at once, as a power cut does: none sees another die.

        They are stopped first, so that none starts another meanwhile.
        """
        while any(state not in _STOPPED for state in family(self.process.pid).values()):
            for pid in family(self.process.pid):
                _send(pid, signal.SIGSTOP)
            time.sleep(0.001)
        killed = set(family(self.process.pid))
        for pid in killed:
            _send(pid, signal.SIGKILL)
        self.process.wait()
        while any(_processes().get(pid, (0, "Z"))[1] not in "ZX" for pid in killed):
            time.sleep(0.001)

    def _temporary_files(self):
        return set(self.folder.glob(".*"))


class Forked:
    """``train.py`` in a fork of this process, which need not import PyTorch: that takes seconds.

    It is used as a ``subprocess.Popen`` is.

    Args:
        given: arguments of train.py.
        output: a file for all that it prints.
    """

    def __init__(self, given, output):
        process = multiprocessing.get_context("fork").Process(target=_train, args=(given, output))
        process.start()
        self._process, self.pid = process, process.pid

    @property
    def returncode(self):
        """Exit code, minus the number of a signal; None until its end."""
        return self._process.exitcode

    def poll(self):
        """Exit code, or None."""
        return self.returncode

    def wait(self, timeout=None):
        """Waits for its end and returns the exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("train.py", timeout)
        return self.returncode

    def send_signal(self, number):
        """Sends it a signal."""
        os.kill(self.pid, number)


def _train(given, output):
    """What ``python train.py`` does."""
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1) for number in (1, 2))
    logging.root.handlers.clear()  # the tests' own
    os.chdir(REPOSITORY)
    sys.argv = ["train.py", *given]
    with exit_codes():
        sys.exit(train.main(given))


def logged_steps(log, offset=0):
    """Number of steps in the lines of a log from a byte on, repeated ones too."""
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        file.seek(offset)
        return sum(b'"images_per_second"' in line for line in file)


def family(root):
    """States of a process and of all that descend from it, by process id."""
    processes = _processes()
    found = [root]
    for pid in found:  # it grows meanwhile
        found += [child for child, (parent, _) in processes.items() if parent == pid]
    return {pid: processes[pid][1] for pid in found if pid in processes}


def _processes():
    """Parent and state of every process, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found[int(folder.name)] = (int(parent), state)
    return found


def _send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
