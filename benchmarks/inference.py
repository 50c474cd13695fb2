"""Times detection in one image, from its pixels to its boxes, beside Ultralytics' YOLO11n.

    python -m benchmarks.inference [CONFIG …] [--yolo PYTHON] [--size 640 480] [--threads N]
                                   [--set section.key=value]

The image is generated (640 x 480 pixels, an animal among leaves). Our weights are random, so that
every candidate reaches soft-NMS; trained ones are a little faster. The detectors take turns, one
image each, YOLO11n in a process of its own by the Python of an environment that has Ultralytics
(see inference_yolo.py), with as many threads; while one works, the others wait. Times are medians,
with the fastest in brackets; the yardstick is a 2048^3 matrix product in this process.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.operators import table
from core import models
from core.cli import exit_codes
from core.config.loading import load_config
from core.data.shapes_natural import draw_natural
from core.inference.predict import Predict

CLASSES = 3


def main(argv: list[str]) -> None:
    """Runs the command line and prints a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="*", default=["CornerNet_Lite0"], metavar="CONFIG")
    parser.add_argument("--yolo", metavar="PYTHON", help="a Python that has Ultralytics")
    parser.add_argument("--size", nargs=2, type=int, default=[640, 480], metavar=("W", "H"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15, help="images of each, after two")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    image = cv2.resize(draw_natural(np.random.default_rng(1)).image, options.size)
    a, b = torch.rand(2, 2048, 2048).unbind()
    timed: dict[str, Callable[[], float]] = {"product": lambda: seconds(lambda: torch.mm(a, b))}
    parts: dict[str, list[float]] = {}
    for name in options.configs:
        timed[name], parts[name] = ours(name, image, options.set)
    with yolo(options, image) as peer:
        if peer is not None:
            timed["YOLO11n"] = peer
        times: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(2 + options.rounds):
            for name, run in timed.items():
                times[name].append(run())
    print(report({name: each[2:] for name, each in times.items()}, parts), end="")


def ours(
    name: str, image: np.ndarray, overrides: list[str]
) -> tuple[Callable[[], float], list[float]]:
    """Builds a detector; returns what times it once, and the times of its network and decoding."""
    config = load_config(name, overrides=overrides)
    torch.manual_seed(0)
    detector = models.build(config, CLASSES)
    detector.network.eval()
    predict = detector.predict(torch.device("cpu"), half=config.system.precision == "bfloat16")
    in_network: list[float] = []

    def timed_predict(*arguments: torch.Tensor, **more: object) -> object:
        start = time.perf_counter()
        found = Predict.__call__(predict, *arguments, **more)
        in_network.append(time.perf_counter() - start)
        return found

    def once() -> float:
        with torch.inference_mode():
            return seconds(lambda: detector.infer(image, timed_predict))

    return once, in_network


@contextmanager
def yolo(options: argparse.Namespace, image: np.ndarray) -> Iterator[Callable[[], float] | None]:
    """Starts YOLO11n in a process of its own; gives what times it once, or None without it."""
    if options.yolo is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        cv2.imwrite(str(file), image)
        script = Path(__file__).with_name("inference_yolo.py")
        command = [options.yolo, str(script), str(file), str(options.threads)]
        pipe = functools.partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with pipe(command, text=True) as process:
            assert process.stdin is not None and process.stdout is not None

            def once() -> float:
                process.stdin.write("\n")
                process.stdin.flush()
                return float(process.stdout.readline())

            yield once
            process.stdin.close()


def seconds(function: Callable[[], object]) -> float:
    """Measures the wall time of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(times: dict[str, list[float]], parts: dict[str, list[float]]) -> str:
    """Makes a Markdown table: milliseconds, and ratios to the product and to YOLO11n."""
    product = statistics.median(times.pop("product"))
    peer = statistics.median(times["YOLO11n"]) if "YOLO11n" in times else None
    rows = {}
    for name, each in times.items():
        median = statistics.median(each)
        network = f"{1000 * statistics.median(parts[name]):.0f}" if name in parts else "-"
        row = [f"{1000 * median:.0f} [{1000 * min(each):.0f}]", network, f"{median / product:.2f}"]
        rows[name] = row if peer is None else [*row, f"{median / peer:.2f}"]
    head = ["ms an image", "of it network and decoding", "products"]
    return table(head if peer is None else [*head, "times YOLO11n"], rows)


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
