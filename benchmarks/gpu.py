"""Measures a GPU in minutes: training, kernels, tests, operators, memory and detection.

    python -m benchmarks.gpu --out FOLDER [--minutes 5] [--parts training pooling …]

Builds the operators if they do not run on this GPU, then measures, the most valuable first. Each
part runs in a process of its own with a limit of time; one that fails, is late, or has no time left
is a row that says so. Results come row by row: as lines on stdout and in FOLDER/results.jsonl, and
as tables in FOLDER/report.md. FOLDER also gets the logs and lists of the longest kernels.

Without a GPU the same parts compute tiny sizes on the CPU: a test of this program, and no
measurement. Those that need CUDA say so.
"""

import argparse
import multiprocessing
import sys
from pathlib import Path

from benchmarks.gpu_cases import CASES, TINY, Case
from benchmarks.gpu_process import Part, Setting, run_parts
from benchmarks.gpu_rows import Report
from core.cli import exit_codes
from core.config.errors import UserError


def parts_of(device: str) -> list[Part]:
    """All parts, the most valuable first."""
    eager, compiled = trainings(TINY if device == "cpu" else CASES)
    operators, checks = "benchmarks.gpu_operators", "benchmarks.gpu_checks"
    detectors = "benchmarks.gpu_detectors"
    return [
        Part("build", "operators", f"{checks}:build", limit=120),
        Part("machine", "machine", f"{operators}:describe", limit=20),
        *eager,
        Part("checks", "tests", f"{checks}:check", limit=75, least=20),
        Part("pooling", "pooling", f"{operators}:pool", limit=20),
        Part("batch norm", "batch norm", f"{operators}:normalize", limit=20),
        Part("decoding", "decoding", f"{operators}:decode", limit=15),
        Part("memory", "memory", f"{detectors}:remember", limit=60, least=10),
        Part("detection", "detection", f"{detectors}:detect", limit=40, least=10),
        *compiled,
    ]


def trainings(cases: list[Case]) -> tuple[list[Part], list[Part]]:
    """Parts that train each detector: without a compiler, in seconds, and with it."""
    eager, compiled = [], []
    train = "benchmarks.gpu_training:train"
    for case in cases:
        waits = case.config == "FasterRCNN"  # for the host, within a step
        modes = ("eager",) if waits else ("eager", "cuda_graph")
        eager.append(Part("training", case.name, train, (case, modes), limit=45, least=10))
        modes = ("compile",) if waits else ("compile + cuda_graph",)
        name = f"{case.name}, compiled"
        compiled.append(Part("training", name, train, (case, modes), limit=90, least=25))
    return eager, compiled


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all parts (%(default)g)")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="a GPU if there is one")
    parser.add_argument("--parts", nargs="+", metavar="SECTION", help="of the report; all parts")
    options = parser.parse_args(argv)
    device = options.device or _found_device()
    parts = parts_of(device)
    sections = list(dict.fromkeys(part.section for part in parts))
    unknown = [name for name in options.parts or () if name not in sections]
    if unknown:
        raise UserError(f"--parts: there is no {unknown[0]!r}; there are {', '.join(sections)}")
    chosen = [part for part in parts if part.section in (options.parts or sections)]
    multiprocessing.get_context("forkserver").set_forkserver_preload(["benchmarks.gpu_preloaded"])
    report = Report(options.out, f"benchmarks.gpu on {device}")
    run_parts(chosen, Setting(device, options.out), 60 * options.minutes, report)
    problems = sum(row.problem is not None for row in report.rows)
    sys.stdout.write(f"{len(report.rows)} rows, {problems} with a problem: {options.out}\n")
    return 0


def _found_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
