"""CPU time of a training picture, from its file to the hands of the training process.

    python -m benchmarks.sampling [FOLDER]

FOLDER holds pictures; without it 640 x 480 JPEG files of cells on a noisy ground are generated. The
config is CornerNet's: crops of 0.6 to 1.3 times 511 pixels, resized to 511 x 511, flipped, colours
drawn. Times are CPU times of all processes, also as multiples of `cv2.imread` on the same files.
"""

import argparse
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from core.batch import collate
from core.config import Database
from core.sample import transforms
from core.sample.color import color_matrix
from core.sample.corners import sample_corners
from core.sample.loader import read_image, training_loader

BATCH = 8
OBJECTS = 20
PREFETCH = 5
ROUNDS = 7
SUFFIXES = {".jpg", ".jpeg", ".png"}
SIZE = (511, 511)
DB = Database()
SAMPLE = partial(
    sample_corners,
    input_size=SIZE,
    scales=DB.scales,
    border=DB.border,
    crop=True,
    color=True,
    lighting=True,
)


class Folder:
    """Pictures of a folder, each with the same random boxes, in the place of a CocoDetection."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        low = np.random.default_rng(0).uniform(0, 400, (OBJECTS, 2))
        self.random_boxes = np.concatenate([low, low + 60], 1).astype(np.float32)

    def __len__(self) -> int:
        return len(self.paths)

    def image_path(self, index: int) -> Path:
        return self.paths[index]

    def boxes(self, index: int) -> np.ndarray:
        return self.random_boxes

    def labels(self, index: int) -> np.ndarray:
        return np.zeros(OBJECTS, np.int64)


def generate(folder: Path, count: int = 64) -> None:
    """Writes pictures of red cells on a noisy ground, of the size of a small photo."""
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.full((480, 640, 3), (205, 215, 225), np.uint8)
        for _ in range(14):
            center, axes = rng.integers(0, (640, 480)).tolist(), rng.integers(35, 60, 2).tolist()
            color = rng.integers((130, 130, 180), (160, 160, 210)).tolist()
            cv2.ellipse(image, center, axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
        image = cv2.GaussianBlur(image, (0, 0), 2).astype(np.float32)
        image += cv2.GaussianBlur(rng.normal(0, 25, image.shape), (0, 0), 1.5)
        cv2.imwrite(str(folder / f"{number:03}.jpg"), image.clip(0, 255).astype(np.uint8))


def milliseconds(function: Callable[..., object], *inputs: Sequence) -> float:
    """CPU time of one call of a function on a row of inputs: the median of some rounds over all."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for row in zip(*inputs, strict=True):
            function(*row)
        times.append(time.process_time() - start)
    return statistics.median(times) / len(inputs[0]) * 1e3


def cpu_seconds() -> float:
    """CPU time, user and system, of this process and of its ended children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def loader_milliseconds(database: Folder, workers: int) -> tuple[float, float]:
    """CPU time and elapsed time a picture of a training loader.

    Two runs of different length, the shorter subtracted from the longer: what it costs to start and
    to end workers, and the batches they have made ahead, cancel.
    """

    def run(batches: int) -> tuple[float, float]:
        cpu, start = cpu_seconds(), time.perf_counter()
        stream = iter(
            training_loader(
                database,  # type: ignore[arg-type]
                SAMPLE,
                batch_size=BATCH,
                seed=0,
                workers=workers,
                prefetch=PREFETCH,
            )
        )
        for _ in range(batches):
            next(stream)
        elapsed = time.perf_counter() - start
        del stream  # ends the workers, whose time then counts as that of children
        return cpu_seconds() - cpu, elapsed

    short, long = 10, 110
    differences = [np.subtract(run(long), run(short)) for _ in range(ROUNDS)]
    cpu, elapsed = np.median(differences, 0) / ((long - short) * BATCH) * 1e3
    return float(cpu), float(elapsed)


def stages(paths: list[Path]) -> dict[str, float]:
    """CPU time a picture of every step of a sample, in one process."""
    rng = np.random.default_rng(0)
    boxes, labels = Folder(paths).random_boxes, np.zeros(OBJECTS, np.int64)
    names = [str(path) for path in paths]
    images = [cv2.imread(name) for name in names]
    draws = [transforms.draw_crop(i.shape[:2], SIZE, DB.scales, DB.border, rng) for i in images]
    windows = [transforms.crop(i, boxes, *draw)[0] for i, draw in zip(images, draws, strict=True)]
    resized = [transforms.resize(window, boxes, SIZE)[0] for window in windows]
    planes = np.empty((3, *SIZE), np.uint8)
    samples = [[SAMPLE(image, boxes, labels, rng) for image in images[:BATCH]]]
    return {
        "cv2.imread": milliseconds(cv2.imread, names),
        "read": milliseconds(read_image, paths),
        "crop": milliseconds(lambda i, draw: transforms.crop(i, boxes, *draw), images, draws),
        "resize": milliseconds(lambda i: transforms.resize(i, boxes, SIZE), windows),
        "flip (half the pictures)": milliseconds(lambda i: transforms.flip(i, boxes), resized) / 2,
        "colour draws": milliseconds(lambda i: color_matrix(i, rng), resized),
        "to planes": milliseconds(lambda i: cv2.split(i, list(planes)), resized),
        "sample, all but reading": milliseconds(lambda i: SAMPLE(i, boxes, labels, rng), images),
        "collate": milliseconds(lambda s: collate(s, [0] * BATCH), samples) / BATCH,
    }


def bytes_of_a_batch(size: int) -> int:
    """What is handed over for a batch of ``size`` pictures."""
    image = np.zeros((480, 640, 3), np.uint8)
    boxes = Folder([]).random_boxes
    samples = [
        SAMPLE(image, boxes, np.zeros(OBJECTS, np.int64), np.random.default_rng(i))
        for i in range(size)
    ]
    batch = collate(samples, [0] * size)
    return sum(tensor.nbytes for tensor in vars(batch).values() if tensor is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="pictures; default: generated ones")
    folder = parser.parse_args().folder
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as generated:
        if folder is None:
            folder = Path(generated)
            generate(folder)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:64]
        times = stages(paths)
        unit = times["cv2.imread"]
        print(f"{len(paths)} pictures, {platform.machine()}, cv2 {cv2.__version__}")
        print(f"{'':28}ms a picture   x imread")
        for name, value in times.items():
            print(f"{name:28}{value:12.3f}{value / unit:11.2f}")
        for workers in (0, 1):
            cpu, elapsed = loader_milliseconds(Folder(paths), workers)
            name = f"in all, {workers} worker{'s' * (workers != 1)}"
            print(f"{name:28}{cpu:12.3f}{cpu / unit:11.2f}   ({elapsed:.3f} ms elapsed)")
    print(f"a batch of 49 at 511 pixels: {bytes_of_a_batch(49) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
