"""The command that measures a GPU: its rows, its parts' processes, and all of it on the CPU."""

import contextlib
import importlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, gpu_checks, gpu_training, timing
from benchmarks.gpu_cases import CASES
from benchmarks.gpu_process import Setting
from benchmarks.gpu_rows import Row, attempt, tables
from core import models
from core.config.errors import UserError
from core.config.loading import load_config

ROOT = Path(__file__).parents[2]


def start(module, *arguments):
    """Starts a module's command in the top folder."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def rows_in(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(process):
    """True if there is such a process, and it has not ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def test_a_table_has_a_column_for_every_value():
    rows = [
        Row("one", "a", {"ms": 1.23456, "name": "x|y"}),
        Row("two", "b", {"GB/s": 1234.5}),
        Row("one", "c", {"n": 7}, problem="failed: why\nso"),
    ]
    assert tables(rows).splitlines() == [
        "## one",
        "",
        "|  | ms | name | n | problem |",
        "| --- | --- | --- | --- | --- |",
        "| a | 1.235 | x\\|y |  |  |",
        "| c |  |  | 7 | failed: why so |",
        "",
        "## two",
        "",
        "|  | GB/s |",
        "| --- | --- |",
        "| b | 1,234 |",
    ]


def test_an_error_is_a_row(capsys):
    row = attempt("section", "name", lambda: {"ms": 1 / 0})
    assert row == Row("section", "name", {}, "failed: ZeroDivisionError: division by zero")
    assert "Traceback" in capsys.readouterr().err


def test_what_a_part_breaks_the_others_survive(tmp_path):
    names = ("fails", "missing", "crashes", "hangs", "long", "works", "reads")
    process = start("tests.support.gpu_parts", tmp_path, *names)
    output, _ = process.communicate()
    assert process.returncode == 0
    rows = rows_in(tmp_path)
    assert [(row["name"], row["problem"]) for row in rows] == [
        ("before", None),
        ("fails", "failed: ValueError: no such thing"),
        ("works", "failed: ModuleNotFoundError: No module named 'tests.support.nowhere'"),
        ("before the crash", None),
        ("crashes", "failed: its process was ended by SIGSEGV; see all_crashes.log"),
        ("before the wait", None),
        ("hangs", "out of time after 1.5 s"),
        ("works", "not begun: no time left"),
        ("first", None),
        ("second", None),
        ("rows", None),
    ]
    assert rows[-1]["values"] == {"lines": 10, "in the table": 1}
    assert rows[-3]["values"] == {"device": "cpu", "GB/s": 1234.5678}
    assert [line.split(" s  ")[1] for line in output.splitlines()][-3:-1] == [
        "good, first: device cpu; GB/s 1,235",
        "good, second: ms 0.25",
    ]
    assert (tmp_path / "all_works.log").read_text() == "a line for the log\n"
    assert "Traceback" in (tmp_path / "all_fails.log").read_text()
    for number in (tmp_path / "processes").read_text().split():
        wait_until(lambda number=number: not is_running(number))


def test_a_killed_run_leaves_its_rows_and_no_processes(tmp_path):
    with start("tests.support.gpu_parts", tmp_path, "works", "waits") as process:
        report = tmp_path / "report.md"
        wait_until(lambda: report.is_file() and "before the wait" in report.read_text())
        process.kill()
    assert [row["name"] for row in rows_in(tmp_path)] == ["first", "second", "before the wait"]
    for number in (tmp_path / "processes").read_text().split():
        wait_until(lambda number=number: not is_running(number))


def test_all_parts_on_the_cpu(tmp_path):
    process = start("benchmarks.gpu", "--device", "cpu", "--minutes", "10", "--out", tmp_path)
    output, _ = process.communicate()
    assert process.returncode == 0
    rows = rows_in(tmp_path)
    sections = list(dict.fromkeys(row["section"] for row in rows))
    assert sections == [
        "build",
        "machine",
        "training",
        "kernels",
        "checks",
        "pooling, shares of a copy's rate",
        "pooling of a corner, in clones",
        "batch norm in bfloat16, in clones",
        "decoding of an image",
        "memory",
        "detection",
    ]
    without = {row["name"] for row in rows if row["problem"] is not None}
    assert {row["problem"] for row in rows} == {None, "needs CUDA"}
    assert without == {
        "operators",
        "CornerNet, tiny, cuda_graph",
        "CornerNet, tiny, compile + cuda_graph",
        "self-check",
        "tests",
    }
    training = next(row["values"] for row in rows if row["section"] == "training")
    assert training["images a second"] == 2 * training["steps a second"] > 0
    assert training["TFLOP a step"] > 0
    assert len((tmp_path / "kernels_CornerNet_tiny_eager.txt").read_text().splitlines()) == 25
    assert f"{len(rows)} rows, 5 with a problem" in output
    assert "## training\n\n|  | images a second |" in (tmp_path / "report.md").read_text()


def test_an_unknown_part(tmp_path):
    with pytest.raises(UserError, match=r"there is no 'trainning'; there are build, machine, trai"):
        gpu.main(["--device", "cpu", "--out", str(tmp_path), "--parts", "machine", "trainning"])


def test_the_parts_on_a_gpu():
    """What they call is there, and their configs build what they say."""
    parts = gpu.parts_of("cuda")
    for part in parts:
        module, function = part.function.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert part.least < part.limit
    trained = [part.arguments for part in parts if part.section == "training"]
    assert {case for case, _ in trained} == set(CASES) and len(trained) == 2 * len(CASES)
    for case, modes in trained:
        for mode in modes:
            changes = [*gpu_training.settings_of(case), *gpu_training.MODES[mode]]
            config = load_config(case.config, overrides=changes)
            assert config.system.compile == ("compile" in mode)
        with torch.device("meta"):
            models.build(config, case.classes)


def test_what_was_warned_of_is_in_the_row():
    """As that a graph could not be recorded, and the rate is that of steps without it."""
    with gpu_training._warnings() as found:
        logging.getLogger("core.training.graphs").warning("without %s\nand more", "it")
        logging.getLogger("core.training.graphs").info("nothing")
        logging.getLogger("elsewhere").warning("nothing")
    logging.getLogger("core.training.graphs").warning("nothing")
    assert found == ["without it"]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", "convolutions"),
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "convolutions"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NHWC<__nv_bfloat16>", "batch norm"),
        ("triton_red_fused__native_batch_norm_convolution_0", "fused by the compiler"),
        ("void cpools::cuda::forward_lines<float>", "pooling"),
        ("void cpools::cuda::batch_norm::normalize<float>", "batch norm"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4>", "element by element and others"),
        ("void at::native::convert_element", "element by element and others"),
    ],
)
def test_kinds_of_kernels(kernel, kind):
    assert gpu_training.kind_of(kernel) == kind


TESTS = """
tests/cpools_ext/test_operators.py::test_a[top, cuda] PASSED             [  1%]
tests/cpools_ext/test_operators.py::test_b FAILED                        [  2%]
[gw3] [ 12%] PASSED tests/decode/test_peaks.py::test_c[x y]
[gw0] [ 13%] ERROR tests/decode/test_peaks.py::test_d
[gw1] [ 14%] SKIPPED tests/decode/test_peaks.py::test_e
FAILED tests/cpools_ext/test_operators.py::test_b - AssertionError: PASSED
"""
COUNTS = {"passed": 2, "failed": 1, "error": 1, "skipped": 1}
BAD = "failed: tests/cpools_ext/test_operators.py::test_b, tests/decode/test_peaks.py::test_d"


@pytest.mark.parametrize(
    ("text", "unfinished", "broken", "counts", "problem"),
    [
        (TESTS, 0, 0, COUNTS, BAD),
        (TESTS, 1, 2, COUNTS, f"{BAD}; 2 of the processes broke off; see tests*.log; out of time"),
        (
            "tests/a.py::b PASSED\n",
            0,
            0,
            {"passed": 1, "failed": 0, "error": 0, "skipped": 0},
            None,
        ),
        ("", 0, 0, dict.fromkeys(COUNTS, 0), "no test was run; see tests*.log"),
    ],
)
def test_the_outcomes_of_tests(text, unfinished, broken, counts, problem):
    row = gpu_checks.row_of_tests(text, unfinished, broken)
    assert (row.values, row.problem) == (counts, problem)


def test_only_some_of_many_bad_tests_are_named():
    text = "\n".join(f"tests/a.py::test_{number:02} FAILED" for number in range(13))
    assert gpu_checks.row_of_tests(text, 0, 0).problem.endswith("tests/a.py::test_09 and 3 more")


class Process:
    """Stands in for a process that has written a text; one that hangs does so until it is ended."""

    def __init__(self, log, text, hangs=False):
        log.write_text(text)
        self.hangs, self.returncode = hangs, 0
        self.waited = None

    def wait(self, seconds):
        self.waited = seconds
        if self.hangs:
            raise subprocess.TimeoutExpired("pytest", seconds)

    def kill(self):
        self.hangs, self.returncode = False, -9


def test_the_self_check_and_the_tests_run_side_by_side(tmp_path, monkeypatch):
    """Those that hang are ended in time, and what they did is reported."""
    check = "self-check: 1446 comparisons, 2 differences"
    texts, processes = {"self-check.log": (check,), "tests.log": ("tests/a.py::b PASSED", True)}, []

    def start(command, log):
        processes.append(Process(log, *texts[log.name]))
        return processes[-1]

    monkeypatch.setattr(gpu_checks, "_start", start)
    monkeypatch.setattr(gpu_checks, "commands_of_tests", lambda: {"tests": ["pytest"]})
    checked, tested = gpu_checks.check(Setting("cuda", tmp_path, time.monotonic(), 60))
    assert checked.values == {"comparisons": 1446, "differences": 2}
    assert checked.problem == "failed: results differ; see self-check.log"
    assert (tested.values["passed"], tested.problem) == (1, "out of time")
    assert not processes[1].hangs and processes[1].waited < 60


def test_tests_without_xdist_are_divided(monkeypatch):
    files = gpu_checks.cuda_test_files()
    assert {"tests/cpools_ext/test_cuda.py", "tests/cpools_ext/test_operators.py"} <= set(files)
    (command,) = gpu_checks.commands_of_tests(4).values()
    assert command[-len(files) :] == files and command[-len(files) - 2 :][:2] == ["-n", "4"]
    monkeypatch.setattr(gpu_checks.importlib.util, "find_spec", lambda name: None)
    commands = gpu_checks.commands_of_tests(4)
    assert list(commands) == ["tests_0", "tests_1", "tests_2", "tests_3"]
    divided = [file for command in commands.values() for file in command if file in files]
    assert sorted(divided) == sorted(files)


@pytest.mark.parametrize(
    ("codes", "built", "problem"),
    [
        ([0], False, None),
        ([1, 0, 0], True, None),
        ([1, 0, 1], True, "failed: no CUDA operators; see build.log"),
    ],
)
def test_operators_that_do_not_run_here_are_built(tmp_path, monkeypatch, codes, built, problem):
    commands = []

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=codes[len(commands) - 1])

    monkeypatch.setattr(gpu_checks.subprocess, "run", run)
    (row,) = gpu_checks.build(Setting("cuda", tmp_path))
    assert len(commands) == len(codes) and row.problem == problem
    assert any("build_ext" in command for command in commands) == built


class Event:
    """Stands in for CUDA's: 20 ms pass between two of them."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 20.0


def test_the_yardstick_and_the_clock_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    device, calls = torch.device("cuda"), []
    assert timing.mean_seconds(lambda: calls.append(1), device, 10) == pytest.approx(0.002)
    assert len(calls) == 10
    assert (timing.product_side(device), timing.product_side(torch.device("cpu"))) == (8192, 2048)
    multiply, work = timing.make_product(torch.device("cpu"), torch.float32, 8)
    assert multiply().shape == (8, 8) and work == 1024
