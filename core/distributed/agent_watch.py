"""Ends torchrun's agent where it waits for a machine that cannot be reached any more.

An agent that met the others by c10d asks the store on the first machine for news before it looks
after its own processes. Over a cut network it waits for the answer until the system's TCP gives
up, for about a quarter of an hour.

This file is also a script, which watches from a process of its own: it runs with ``-I``, without
the package, so it has no relative imports and stays a file of its own.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

_PATIENCE = 10.0  # seconds; by default an agent looks after its processes ten times in one
_PAUSE = 0.1  # seconds between two checks


def watch_agent(patience: float = _PATIENCE) -> None:
    """Makes sure that the agent ends after this process, which lost the others, has ended.

    Nothing is done where the agent may still restart its processes: it is to go on when the
    network is back.

    Args:
        patience: seconds in which the agent has to notice; then it is killed, with a line.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if restarts is None or restarts != os.environ.get("TORCHELASTIC_MAX_RESTARTS"):
        return
    end_of_this, _ = os.pipe()  # the other side closes with this process
    command = [sys.executable, "-I", __file__, *map(str, (os.getppid(), os.getpid(), patience))]
    with contextlib.suppress(OSError):  # then the agent waits as long as it does
        watcher = subprocess.Popen(command, stdin=end_of_this, start_new_session=True)
        watcher.returncode = 0  # nobody waits for it
    os.close(end_of_this)


def _watch(agent: int, process: int, patience: float) -> None:
    """Waits for a process's end, then for its agent's notice of it; kills the agent without one."""
    sys.stdin.buffer.read()  # ends with the process
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        try:
            os.kill(process, 0)
        except ProcessLookupError:  # the agent, or the system after the agent's end, has seen it
            return
        time.sleep(_PAUSE)
    with contextlib.suppress(ProcessLookupError):  # another process's watcher came before
        os.kill(agent, signal.SIGKILL)
        sys.stderr.write(
            f"error: torchrun's agent did not notice in {patience:g} s that its process ended: it "
            "waits for a machine that is out of reach, and was killed\n"
        )


if __name__ == "__main__":
    _watch(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
