"""Parts for benchmarks/gpu_process.py that go well, fail, crash and hang; and a run of them.

``python -m tests.support.gpu_parts FOLDER PART …`` reports on the parts with these names.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_process import Part, Setting, run_parts
from benchmarks.gpu_rows import Report, Row

SECONDS = 60.0  # for all


def works(setting):
    print("a line for the log")
    yield Row("good", "first", {"device": setting.device, "GB/s": 1234.5678})
    yield Row("good", "second", {"ms": 0.25})


def fails(setting, message):
    yield Row("bad", "before", {"ms": 1.0})
    raise ValueError(f"{message}\nand more")


def crashes(setting):
    yield Row("bad", "before the crash", {"ms": 2.0})
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(setting):
    """Leaves the numbers of its process and of one that it starts, and a row; then it waits."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (setting.folder / "processes").write_text(f"{os.getpid()} {child.pid}")
    yield Row("bad", "before the wait", {"ms": 3.0})
    time.sleep(60)


def reads(setting):
    """Yields what a run that is killed now would leave."""
    table = (setting.folder / "report.md").read_text()
    lines = (setting.folder / "results.jsonl").read_text().splitlines()
    yield Row("left", "rows", {"lines": len(lines), "in the table": table.count("| first |")})


def part(name, *arguments, module=__name__, **times):
    return Part("all", name, f"{module}:{name}", arguments, **times)


PARTS = {
    "works": part("works"),
    "fails": part("fails", "no such thing"),
    "missing": part("works", module="tests.support.nowhere"),
    "crashes": part("crashes"),
    "hangs": part("hangs", limit=1.5),
    "waits": part("hangs"),
    "reads": part("reads"),
    "long": part("works", least=SECONDS + 1),
}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    report = Report(folder, "parts")
    run_parts([PARTS[name] for name in sys.argv[2:]], Setting("cpu", folder), SECONDS, report)
