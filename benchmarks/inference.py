"""Times detection, from pixels to boxes: images a second, and each stage, beside other detectors.

    python -m benchmarks.inference [CONFIG …] [--batch 1 8 32] [--device cuda] [--onnx]
                                   [--torchvision] [--yolo PYTHON] [--size 640 480] [--threads N]

The images are generated (640 x 480 pixels, an animal among leaves). Our weights are random, so that
every candidate reaches soft-NMS; trained ones are a little faster. Each detector finds the objects
of the same images with each size of batch, all of them in turns; times are medians. Stages of ours
run at the same time as others, in threads or on the device, so their sum can exceed the time of an
image. ``--onnx`` exports each detector and runs the file by onnxruntime. ``--torchvision`` adds
torchvision's Faster R-CNN (ResNet-50) at the same size, and ``--yolo`` Ultralytics' YOLO11n, one
image at a time in a process of its own (see inference_yolo.py). The yardstick is a matrix product
in this process: 2048^3 in float32 on a CPU, 8192^3 in the detectors' precision on a GPU.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.operators import table
from benchmarks.timing import make_product, seconds
from core import models
from core.cli import exit_codes
from core.config.loading import load_config
from core.data.shapes_natural import draw_natural
from core.export.graph import DetectionGraph, settings_of
from core.export.onnx_detector import OnnxDetector
from core.export.onnx_file import trace, write_onnx
from core.inference.batches import BatchedInference
from core.models.device import choose_device, move_to_device_
from core.models.loading import LoadedDetector
from core.tools.export import describe

CLASSES = 3
STAGES = ("preparing", "network", "decoding", "suppressing", "waiting")

# Runs once; returns seconds an image, and those of each stage, as far as they are known.
Timed = Callable[[], tuple[float, Mapping[str, float]]]


def main(argv: list[str]) -> None:
    """Runs the command line and prints a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="*", default=["CornerNet_Lite0"], metavar="CONFIG")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], metavar="N")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--onnx", action="store_true", help="onnxruntime beside ours")
    parser.add_argument("--torchvision", action="store_true", help="Faster R-CNN beside ours")
    parser.add_argument("--yolo", metavar="PYTHON", help="a Python that has Ultralytics")
    parser.add_argument("--size", nargs=2, type=int, default=[640, 480], metavar=("W", "H"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7, help="of each, after one")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    image = cv2.resize(draw_natural(np.random.default_rng(1)).image, options.size)
    product = product_on(device)
    candidates: dict[str, Timed] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.configs:
            for batch in options.batch:
                candidates[f"{name}, batch {batch}"] = ours(name, image, batch, device, options.set)
            if options.onnx:
                candidates[f"{name}, onnxruntime"] = onnx(name, image, Path(folder), options)
        if options.torchvision:
            for batch in options.batch:
                candidates[f"torchvision Faster R-CNN, batch {batch}"] = torchvision_detector(
                    image, batch, device
                )
        with yolo(options, image) as peer:
            if peer is not None:
                candidates["YOLO11n"] = peer
            runs: dict[str, list[tuple[float, Mapping[str, float]]]] = {n: [] for n in candidates}
            products: list[float] = []
            for _ in range(1 + options.rounds):
                products.append(product())
                for name, run in candidates.items():
                    runs[name].append(run())
    print(report({name: each[1:] for name, each in runs.items()}, statistics.median(products[1:])))


def ours(
    name: str, image: np.ndarray, batch: int, device: torch.device, overrides: list[str]
) -> Timed:
    """Builds a detector that finds the objects of two batches."""
    config = load_config(name, overrides=overrides)
    torch.manual_seed(0)
    detector = models.build(config, CLASSES)
    detector.network.eval()
    move_to_device_(detector.network, device, config.system.channels_last, training=False)
    predict = detector.predict(device, half=config.system.precision == "bfloat16")
    images = [image] * 2 * batch

    def once() -> tuple[float, Mapping[str, float]]:
        inference = BatchedInference(detector.infer, predict, batch)
        spent = seconds(lambda: list(inference(images)), device) / len(images)
        stages = inference.timing.rounded()
        return spent, {stage: whole / len(images) for stage, whole in stages.items()}

    return once


def onnx(name: str, image: np.ndarray, folder: Path, options: argparse.Namespace) -> Timed:
    """Exports a detector with random weights, and runs the file by onnxruntime, image by image."""
    config = load_config(name, overrides=[*options.set, "system.precision=float32"])
    torch.manual_seed(0)
    detector = models.build(config, CLASSES)
    names, device = [f"class {n}" for n in range(CLASSES)], torch.device("cpu")
    loaded = LoadedDetector(detector, config, names, True, Path("random.pkl"), None, device)
    settings = settings_of(detector, config.path)
    manifest = describe(loaded, settings, (image.shape[0], image.shape[1]))
    graph, file = DetectionGraph(detector, settings), folder / f"{config.name}.onnx"
    write_onnx(trace(graph, manifest, 1), graph.output_names, manifest, file)
    exported = OnnxDetector(file, options.threads)
    return lambda: (seconds(lambda: exported.detections(image), device), {})


def torchvision_detector(image: np.ndarray, batch: int, device: torch.device) -> Timed:
    """Makes torchvision's Faster R-CNN (ResNet-50) with random weights, for images of this size."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    sides = {"min_size": min(image.shape[:2]), "max_size": max(image.shape[:2])}
    network = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, **sides
    )
    network.eval().to(device)

    def detect() -> list[dict[str, Any]]:
        pixels = torch.from_numpy(np.stack([image] * batch)).to(device)
        with torch.no_grad():
            found = network(list(pixels.flip(3).permute(0, 3, 1, 2).float() / 255))
        return [{key: value.cpu() for key, value in one.items()} for one in found]

    return lambda: (seconds(detect, device) / batch, {})


@contextmanager
def yolo(options: argparse.Namespace, image: np.ndarray) -> Iterator[Timed | None]:
    """Starts YOLO11n in a process of its own; gives what times it once, or None without it."""
    if options.yolo is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        cv2.imwrite(str(file), image)
        script = Path(__file__).with_name("inference_yolo.py")
        command = [options.yolo, str(script), str(file), str(options.threads), options.device]
        pipe = functools.partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with pipe(command, text=True) as process:
            assert process.stdin is not None and process.stdout is not None

            def once() -> tuple[float, Mapping[str, float]]:
                process.stdin.write("\n")
                process.stdin.flush()
                return float(process.stdout.readline()), {}

            yield once
            process.stdin.close()


def product_on(device: torch.device) -> Callable[[], float]:
    """Makes what times the yardstick: a product of two matrices."""
    multiply, _ = make_product(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return lambda: seconds(multiply, device)


def report(runs: Mapping[str, list[tuple[float, Mapping[str, float]]]], product: float) -> str:
    """Makes a Markdown table: images a second, milliseconds an image by stage, and ratios.

    Args:
        runs: seconds an image, and those of its stages, of every round of each candidate.
        product: seconds of the yardstick.
    """
    medians = {name: statistics.median(spent for spent, _ in each) for name, each in runs.items()}
    peer = medians.get("YOLO11n")
    rows = {}
    for name, each in runs.items():
        stages = [
            f"{1000 * statistics.median(stage[key] for _, stage in each):.1f}"
            if each[0][1]
            else "-"
            for key in STAGES
        ]
        spent = medians[name]
        rows[name] = [f"{1 / spent:.1f}", f"{1000 * spent:.1f}", *stages, f"{spent / product:.2f}"]
        if peer is not None:
            rows[name].append(f"{spent / peer:.2f}")
    head = ["images a second", "ms an image", *STAGES, "products"]
    return table(head if peer is None else [*head, "times YOLO11n"], rows)


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
