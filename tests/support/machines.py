"""Two machines on this one: network namespaces, a cable between them, and nothing else."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest

ADDRESSES = ("10.77.77.1", "10.77.77.2")


class Machines:
    """Two of them. What runs on one sees the other at :data:`ADDRESSES`, and no more."""

    def __init__(self):
        self._names = [f"machine{number}-{os.getpid()}" for number in (0, 1)]

    def __enter__(self):
        if os.name != "posix" or os.geteuid() or shutil.which("ip") is None:
            pytest.skip("two machines need root and the program ip, of the package iproute2")
        try:
            for name in self._names:
                _ip("netns", "add", name)
            first, second = self._names
            cable = ("veth", "peer", "name", "cable", "netns", second)
            _ip("link", "add", "cable", "netns", first, "type", *cable)
            for name, address in zip(self._names, ADDRESSES, strict=True):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", "cable", "up")
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"this system makes no network namespaces: {error.stderr.strip()}")
        return self

    def __exit__(self, *problem):
        for name in self._names:
            with contextlib.suppress(subprocess.CalledProcessError):
                for pid in _ip("netns", "pids", name).split():
                    os.kill(int(pid), signal.SIGKILL)
                _ip("netns", "del", name)

    def on(self, number):
        """Words before a command that runs it on a machine."""
        return ("ip", "netns", "exec", self._names[number])

    def cut(self):
        """Cuts the cable."""
        _ip("-n", self._names[0], "link", "set", "cable", "down")

    def repair(self):
        """Repairs the cable."""
        _ip("-n", self._names[0], "link", "set", "cable", "up")


def _ip(*argv):
    return subprocess.run(["ip", *argv], check=True, capture_output=True, text=True).stdout
