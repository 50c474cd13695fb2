"""One training step as a multiple of a 2048^3 matrix product in the same process, and its memory.

    python benchmarks/step.py [--steps 7] [--threads N] [--device cpu] [--set section.key=value]

Squeeze at 511 pixels, hourglass-104 and Saccade at 255, batch 1, float32 and bfloat16 autocast.
Each case runs in a process of its own, so that its peak of memory is its own. A step is the
engine's: colour, targets, forward, losses, backward, Adam. Products and steps take turns; both are
given by their medians, and in brackets by their fastest, for machines that others use too.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch

from core import models
from core.batch import Batch
from core.config import load_config
from core.engine import train_step
from core.schedule import build_optimizer

CASES = {  # input side, output side
    "CornerNet_Squeeze": (511, 64),
    "CornerNet": (255, 64),
    "CornerNet_Saccade": (255, 64),
}
OBJECTS = 8


def one_picture(side: int) -> Batch:
    """A picture of noise with boxes, as a worker hands it over."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1, OBJECTS, 2, generator=generator) * side / 2
    sizes = torch.rand(1, OBJECTS, 2, generator=generator) * side / 2
    return Batch(
        images=torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8),
        boxes=torch.cat((corners, corners + sizes), 2),
        labels=torch.arange(OBJECTS)[None],
        counts=torch.tensor([OBJECTS]),
        color=torch.cat((torch.eye(3) / 64, torch.full((3, 1), -2.0)), 1)[None],
        index=torch.zeros(1, dtype=torch.int64),
        unreadable=torch.zeros(0, dtype=torch.int64),
        usable=torch.ones(1, OBJECTS, dtype=torch.bool),
    )


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call, the device's work included."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(name: str, precision: str, options: argparse.Namespace) -> None:
    """Prints one line for one case."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    side, cells = CASES[name]
    sizes = [f"db.input_size=[{side}, {side}]", f"db.output_sizes=[[{cells}, {cells}]]"]
    overrides = [*sizes, "system.chunk_sizes=null", *options.set]
    config = load_config(name, overrides=overrides)
    system = dataclasses.replace(config.system, batch_size=1, precision=precision)
    detector = models.build(config, 80)
    layout = torch.channels_last if system.channels_last else torch.contiguous_format
    network = detector.network.to(device).to(memory_format=layout).train()
    optimizer = build_optimizer(network.parameters(), system.opt_algo, system.learning_rate)
    batch = one_picture(side).to(device)
    a, b = torch.rand(2, 2048, 2048, device=device).unbind()

    def step() -> None:
        train_step(detector, optimizer, batch, system, device)

    for _ in range(2):
        seconds(lambda: torch.mm(a, b), device), seconds(step, device)
    products, steps = [], []
    for _ in range(options.steps):
        products += [seconds(lambda: torch.mm(a, b), device) for _ in range(3)]
        steps.append(seconds(step, device))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
    median = statistics.median(steps) / statistics.median(products)
    print(
        f"{name} at {side}, {precision}, {str(layout).split('.')[1]}: "
        f"{median:.1f} products [{min(steps) / min(products):.1f}], "
        f"{statistics.median(steps):.3f} s, peak {memory:.2f} GB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="measured, after two to warm up")
    parser.add_argument("--threads", type=int, help="of PyTorch; its default otherwise")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one")
    parser.add_argument("--set", action="append", default=[], help="another value of the config")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], action="append")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for name in options.case or CASES:
        for precision in options.precision or ("float32", "bfloat16"):
            process = spawn.Process(target=measure, args=(name, precision, options))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
