"""Ends torchrun's agent if it waits for a machine that cannot be reached any more.

With c10d, an agent asks the store on the first machine for changes before it checks its own
processes. If the network is cut, it waits for the answer until the system's TCP gives up, for about
a quarter of an hour.

This file is also a script, which watches from a separate process: it runs with ``-I``, without the
package, so it has no relative imports and is not part of another file.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

_PATIENCE = 10.0  # seconds; by default an agent checks its processes ten times a second
_PAUSE = 0.1  # seconds between two checks


def watch_agent(patience: float = _PATIENCE) -> None:
    """Makes sure that the agent ends after this process, which lost the others, has ended.

    Does nothing if the agent may still restart its processes: it should continue when the network
    is back. Nor does it on Windows, where asking for a process ends it.

    Args:
        patience: seconds that the agent has to notice; then it is killed, and a line says so.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if (
        os.name == "nt"
        or restarts is None
        or restarts != os.environ.get("TORCHELASTIC_MAX_RESTARTS")
    ):
        return
    end_of_this, _ = os.pipe()  # the other side closes with this process
    command = [sys.executable, "-I", __file__, *map(str, (os.getppid(), os.getpid(), patience))]
    with contextlib.suppress(OSError):  # without a watcher the agent waits longer
        watcher = subprocess.Popen(command, stdin=end_of_this, start_new_session=True)
        watcher.returncode = 0  # no warning that it still runs
    os.close(end_of_this)


def _watch(agent: int, process: int, patience: float) -> None:
    """Waits until a process ends, then until its agent notices; kills an agent that does not."""
    sys.stdin.buffer.read()  # ends with the process
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        try:
            os.kill(process, 0)
        except ProcessLookupError:  # the agent, or the system after the agent's end, reaped it
            return
        time.sleep(_PAUSE)
    with contextlib.suppress(ProcessLookupError):  # another process's watcher was faster
        os.kill(agent, signal.SIGKILL)
        sys.stderr.write(
            f"error: torchrun's agent did not notice in {patience:g} s that its process ended: it "
            "waits for a machine that is out of reach, and was killed\n"
        )


if __name__ == "__main__":
    _watch(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
