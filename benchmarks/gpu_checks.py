"""The build of the operators on the machine with the GPU, their self-check, and the CUDA tests."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_process import Setting
from benchmarks.gpu_rows import Row

ROOT = Path(__file__).resolve().parents[1]
MOST_PROCESSES = 8
NAMED = 10  # tests that a row names
SPARE = 3.0  # seconds that a part keeps to report what its processes did not end
POOLS = (  # a program that fails unless the operators run on this GPU
    "import torch; from cpools_ext import corner_pool, native; "
    "assert native.has_kernel('cuda'); corner_pool(torch.ones(1, 1, 2, 2).cuda(), 'top').cpu()"
)


def build(setting: Setting) -> Iterator[Row]:
    """Yields a row of the build, which is made where the operators do not run on this GPU."""
    if setting.device != "cuda":
        yield Row("build", "operators", problem="needs CUDA")
        return
    checked = subprocess.run([sys.executable, "-c", POOLS], cwd=ROOT, check=False)
    if checked.returncode == 0:
        yield Row("build", "operators", {"seconds": 0, "result": "built for this GPU before"})
        return
    begun = time.monotonic()
    with (setting.folder / "build.log").open("w") as log:
        command = [sys.executable, "setup.py", "build_ext", "--inplace", "--force"]
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    spent = time.monotonic() - begun
    checked = subprocess.run([sys.executable, "-c", POOLS], cwd=ROOT, check=False)
    problem = None if checked.returncode == 0 else "failed: no CUDA operators; see build.log"
    yield Row("build", "operators", {"seconds": spent, "result": "built"}, problem)


def check(setting: Setting) -> Iterator[Row]:
    """Yields rows of the self-check and of the CUDA tests, which run side by side."""
    if setting.device != "cuda":
        for name in ("self-check", "tests"):
            yield Row("checks", name, problem="needs CUDA")
        return
    commands = {"self-check": [sys.executable, "-m", "cpools_ext"], **commands_of_tests()}
    logs = {name: setting.folder / f"{name}.log" for name in commands}
    running = {name: _start(command, logs[name]) for name, command in commands.items()}
    end = setting.begun + setting.seconds - SPARE
    late = []
    for name, process in running.items():
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            late.append(name)
    texts = {name: log.read_text(errors="replace") for name, log in logs.items()}
    yield row_of_self_check(texts.pop("self-check"), "self-check" in late)
    codes = [process.returncode for name, process in running.items() if name in texts]
    unfinished = sum(name in late for name in texts)
    broken = sum(code not in (0, 1, 5) for code in codes) - unfinished
    yield row_of_tests("\n".join(texts.values()), unfinished, broken)


def commands_of_tests(processes: int | None = None) -> dict[str, list[str]]:
    """Commands of the CUDA tests by the names of their logs: one with pytest-xdist, or several.

    Args:
        processes: that run side by side; by default as many as there are cores, up to 8.
    """
    processes = processes or min(MOST_PROCESSES, os.cpu_count() or 1)
    pytest = [sys.executable, "-m", "pytest", "-o", "addopts=", "-v", "-m", "cuda"]
    files = cuda_test_files()
    if importlib.util.find_spec("xdist") is not None:
        return {"tests": [*pytest, "-n", str(processes), *files]}
    groups = [files[first::processes] for first in range(min(processes, len(files)))]
    return {f"tests_{number}": [*pytest, *group] for number, group in enumerate(groups)}


def cuda_test_files() -> list[str]:
    """Files of tests that mention CUDA, the largest first."""
    files = sorted((ROOT / "tests").rglob("test_*.py"), key=lambda file: -file.stat().st_size)
    mentions = re.compile(r"mark\.cuda|cpools_devices")
    return [str(file.relative_to(ROOT)) for file in files if mentions.search(file.read_text())]


def row_of_self_check(text: str, late: bool) -> Row:
    """Reads the output of ``python -m cpools_ext``."""
    found = re.search(r"self-check: (\d+) comparisons, (\d+) differences", text)
    if found is None:
        reason = "out of time" if late else "failed"
        return Row("checks", "self-check", problem=f"{reason}; see self-check.log")
    comparisons, differences = map(int, found.groups())
    values = {"comparisons": comparisons, "differences": differences}
    problem = "failed: results differ; see self-check.log" if differences else None
    return Row("checks", "self-check", values, problem)


def row_of_tests(text: str, unfinished: int, broken: int) -> Row:
    """Reads the output of ``pytest -v``, as far as it goes.

    Args:
        text: what all processes wrote.
        unfinished: number of processes that were ended for lack of time.
        broken: number of processes that ended in another way than with the last test.
    """
    outcomes = dict(_outcomes(text))
    counts = Counter(outcomes.values())
    values = {key: counts[key.upper()] for key in ("passed", "failed", "error", "skipped")}
    bad = sorted(test for test, outcome in outcomes.items() if outcome in ("FAILED", "ERROR"))
    problems = []
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        problems.append(f"failed: {', '.join(bad[:NAMED])}{more}")
    if broken:
        problems.append(f"{broken} of the processes broke off; see tests*.log")
    if unfinished:
        problems.append("out of time")
    if not outcomes and not problems:
        problems.append("no test was run; see tests*.log")
    return Row("checks", "tests", values, "; ".join(problems) or None)


def _outcomes(text: str) -> Iterator[tuple[str, str]]:
    """Finds tests and their outcomes, in lines of pytest alone and of pytest-xdist."""
    words = r"(PASSED|FAILED|ERROR|SKIPPED)"
    for line in text.splitlines():
        alone = re.match(rf"(tests/\S+::.+?) {words}\b", line)
        beside = re.match(rf"\[gw\d+\] \[ *\d+%\] {words} (tests/\S+::.+?) *$", line)
        if alone:
            yield alone[1], alone[2]
        elif beside:
            yield beside[2], beside[1]


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
