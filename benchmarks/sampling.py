"""Times the loader, from an image file to a batch in the training process.

    python -m benchmarks.sampling [FOLDER] [--step SECONDS] [--batch IMAGES] [--workers W …]

FOLDER holds images; without it 640 x 480 JPEG files of cells on a noisy ground are generated. The
config is CornerNet's: crops of 0.6 to 1.3 times 511 pixels, resized to 511 x 511, flipped, colours
drawn. Three tables:

- CPU time per image of every stage, in one process;
- CPU time and elapsed time per image, and images a second, by the number of workers, of our loader
  and of a plain one of torchvision's (:mod:`benchmarks.sampling_loaders`);
- data time: the part of a step spent waiting for its batch, where the rest of the step takes
  SECONDS, in which the processors are free, as with a GPU.

CPU times are also given as multiples of `cv2.imread` of the same files, timed in turn with it.
"""

import argparse
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.sampling_loaders import (
    DB,
    OBJECTS,
    SAMPLE,
    SIZE,
    Folder,
    generate,
    our_loader,
    plain_loader,
)
from core.data import transforms
from core.data.color import color_matrix
from core.data.image_memory import keep_freed_memory
from core.data.images import decode_image, read_image
from core.data.loader import TrainingImages
from core.structures import collate

BATCHES = {"ours": 60, "torchvision v2": 20}  # measured of each loader
LOADERS = {"ours": our_loader, "torchvision v2": plain_loader}
SUFFIXES = {".jpg", ".jpeg", ".png"}
UNIT = "cv2.imread"


def cpu_seconds() -> np.ndarray:
    """Reads the CPU time, user and system, of this process and of its ended children: [2]."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return np.array([usage.ru_utime + usage.ru_stime for usage in usages])


def stages(paths: list[Path]) -> dict[str, Callable[[], object]]:
    """Functions that compute one stage of a sample for all images, by name."""
    rng = np.random.default_rng(0)
    folder = Folder(paths)
    boxes, labels = folder.random_boxes, np.zeros(OBJECTS, np.int64)
    contents = [path.read_bytes() for path in paths]
    images = [cv2.imread(str(path)) for path in paths]
    draws = [transforms.draw_crop(i.shape[:2], SIZE, DB.scales, DB.border, rng) for i in images]
    windows = [transforms.crop(i, boxes, *draw)[0] for i, draw in zip(images, draws, strict=True)]
    resized = [transforms.resize(window, boxes, SIZE)[0] for window in windows]
    planes = np.empty((3, *SIZE), np.uint8)
    samples = [SAMPLE(image, boxes, labels, rng) for image in images[:8]]
    training_images = TrainingImages(folder, SAMPLE, 0)  # type: ignore[arg-type]

    def each(function: Callable[..., object], *inputs: Sequence) -> Callable[[], object]:
        return lambda: [function(*row) for row in zip(*inputs, strict=True)]

    def batches() -> None:
        for start in range(0, len(paths), 8):
            indices = range(len(paths))[start : start + 8]
            training_images.__getitems__([(0, index) for index in indices])

    return {
        UNIT: each(cv2.imread, list(map(str, paths))),
        "read": each(Path.read_bytes, paths),
        "decode": each(decode_image, contents),
        "read and decode": each(read_image, paths),
        "crop": each(lambda i, draw: transforms.crop(i, boxes, *draw), images, draws),
        "resize": each(lambda i: transforms.resize(i, boxes, SIZE), windows),
        "flip (half the images)": each(lambda i: transforms.flip(i, boxes), resized[::2]),
        "colour draws": each(lambda i: color_matrix(i, rng), resized),
        "to planes": each(lambda i: cv2.split(i, list(planes)), resized),
        "sample, all but reading": each(lambda i: SAMPLE(i, boxes, labels, rng), images),
        "collate": each(lambda _: collate(samples, [0] * 8), images[::8]),
        "a batch, all of it": batches,
    }


def stage_table(paths: list[Path], rounds: int) -> None:
    """Prints CPU milliseconds per image of every stage, and their multiples of the unit."""
    functions = stages(paths)
    unit = functions[UNIT]

    def milliseconds(function: Callable[[], object]) -> float:
        start = time.process_time()
        function()
        return (time.process_time() - start) / len(paths) * 1e3

    print(f"{'CPU time, one process':28}ms an image    x imread")
    for name, function in functions.items():
        function(), unit()
        pairs = [(milliseconds(function), milliseconds(unit)) for _ in range(rounds)]
        ratio = statistics.median(own / units for own, units in pairs)
        print(f"{name:28}{statistics.median(own for own, _ in pairs):12.3f}{ratio:11.2f}")


def run(make_loader: Callable[[], DataLoader], batches: int) -> np.ndarray:
    """Measures CPU time of this process, CPU time of workers, elapsed time: [3], in seconds."""
    cpu, start = cpu_seconds(), time.perf_counter()
    stream = iter(make_loader())
    for _ in range(batches):
        next(stream)
    elapsed = time.perf_counter() - start
    del stream  # ends the workers, whose time then counts as that of children
    return np.append(cpu_seconds() - cpu, elapsed)


def loader_table(paths: list[Path], workers: list[int], batch: int, rounds: int) -> None:
    """Prints the time per image by the number of workers.

    Of two runs of different length the shorter is subtracted from the longer, so that the time to
    start and end workers, and the batches they have made ahead, cancel.
    """
    times: dict[tuple[str, int], list] = {(name, w): [] for name in LOADERS for w in workers}
    for _ in range(rounds):
        for (name, count), row in times.items():
            start = time.process_time()
            for path in paths:
                cv2.imread(str(path))
            unit = (time.process_time() - start) / len(paths) * 1e3
            short = 8 if count < 4 else 2 * count
            make_loader = partial(LOADERS[name], Folder(paths), batch, count)
            spent = run(make_loader, BATCHES[name] + short) - run(make_loader, short)
            row.append([*spent / (BATCHES[name] * batch) * 1e3, unit])
    print(f"\n{'loader, workers':28}ms CPU: here, workers   x imread   images a second")
    ratios = {}
    for (name, count), row in times.items():
        here, there, elapsed, _ = np.median(row, 0)
        ratios[name, count] = np.median([(line[0] + line[1]) / line[3] for line in row])
        print(
            f"{f'{name}, {count}':28}{here:13.3f}{there:9.3f}{ratios[name, count]:11.2f}"
            f"{1e3 / elapsed:20.0f}"
        )
    for name in LOADERS:
        if {(name, 0), (name, 1)} <= set(ratios):
            difference = ratios[name, 1] - ratios[name, 0]
            print(f"{f'{name}, one worker less none':50}{difference:11.2f}")


def data_time_table(
    paths: list[Path], workers: list[int], batch: int, rounds: int, step: float
) -> None:
    """Prints the part of a step that is spent waiting for its batch."""
    print(f"\ndata time, where the rest of a step of {batch} images takes {step} s")
    for name, make_loader in LOADERS.items():
        for count in workers:
            parts = [
                data_time(make_loader(Folder(paths), batch, count), step) for _ in range(rounds)
            ]
            print(f"{f'{name}, {count}':28}{statistics.median(parts):12.1%}", flush=True)


def data_time(loader: DataLoader, step: float, steps: int = 20) -> float:
    """Measures the part of a step that is spent waiting for its batch, 0 to 1."""
    stream = iter(loader)
    waited = 0.0
    for number in range(steps + 5):
        start = time.perf_counter()
        next(stream)
        if number >= 5:
            waited += time.perf_counter() - start
        time.sleep(step)
    return waited / (waited + steps * step)


def bytes_table(paths: list[Path]) -> None:
    """Prints the bytes that go from files to workers and from workers to the training process."""
    files = sum(path.stat().st_size for path in paths) / len(paths)
    ours = next(iter(our_loader(Folder(paths), 49, 0)))
    images = ours.images.nbytes
    rest = sum(tensor.nbytes for tensor in vars(ours).values() if tensor is not None) - images
    plain = next(iter(plain_loader(Folder(paths), 2, 0)))[0].nbytes / 2 * 49
    print(
        f"\nbytes: {files / 1e3:.0f} kB a file; a batch of 49 at 511 pixels: "
        f"{(images + rest) / 1e6:.1f} MB, {images / 1e6:.1f} in shared memory and {rest / 1e3:.0f} "
        f"kB by value; torchvision v2: {plain / 1e6:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of images; default: generated ones")
    parser.add_argument("--step", type=float, default=0.1, help="seconds (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()  # as loaders do
    with tempfile.TemporaryDirectory() as generated:
        folder = options.folder
        if folder is None:
            folder = Path(generated)
            generate(folder)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:64]
        print(f"{len(paths)} images, {platform.machine()}, cv2 {cv2.__version__}")
        stage_table(paths, options.rounds)
        loader_table(paths, options.workers, options.batch, options.rounds)
        data_time_table(paths, options.workers, options.batch, options.rounds, options.step)
        bytes_table(paths)


if __name__ == "__main__":
    main()
