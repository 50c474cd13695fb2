"""Times a training step as a multiple of a matrix product, and measures its memory.

    python -m benchmarks.step [--steps 7] [--threads N] [--device cpu] [--set section.key=value]
    python -m benchmarks.step --reference   # in turn with a step computed as the reference does

Squeeze at 511 pixels, hourglass-104 and Saccade at 255, batch 1, float32 and bfloat16 autocast.
Each case runs in a process of its own, so that its peak of memory is its own. A step is that of
training: colour, targets, forward, losses, backward, Adam. It takes turns with the product, which
is of float32, 2048^3 on a CPU and 8192^3 on a GPU, in one process; times are medians, with the
fastest in brackets, for machines that others use too.

As the reference does: maps in the contiguous layout, every head on the whole map, corner pooling by
the reference's algorithm, strided 1x1 shortcuts, Adam parameter by parameter.
"""

import argparse
import copy
import dataclasses
import multiprocessing
import resource
import statistics
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pools import POOLS
from benchmarks.timing import make_product, seconds
from core.config.loading import load_config
from core.layers.blocks import Residual
from core.layers.corner_pooling import CornerPooling
from core.models.detector import Detector, no_inputs
from core.structures import Batch
from core.training.build import build_for_training
from core.training.step import train_step

CASES = {  # input side, output side
    "CornerNet_Squeeze": (511, 64),
    "CornerNet": (255, 64),
    "CornerNet_Saccade": (255, 64),
}
OBJECTS = 8


def one_image(side: int) -> Batch:
    """Makes a batch of one image of noise with boxes."""
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


def reference_pooling(self: CornerPooling, x: Tensor) -> Tensor:
    """Computes :meth:`CornerPooling.forward` with the reference's algorithm."""
    pool = POOLS["the reference's algorithm"]
    vertical, horizontal = self.corner.split("_")
    pooled = pool(self.p1_conv1(x), vertical) + pool(self.p2_conv1(x), horizontal)
    return self.conv2(F.relu_(self.p_bn1(self.p_conv1(pooled)) + self.bn1(self.conv1(x))))


def reference_way(detector: Detector) -> Detector:
    """Copies a detector into one that computes as the reference does."""
    network = copy.deepcopy(detector.network).to(memory_format=torch.contiguous_format)
    for module in network.modules():
        if isinstance(module, Residual) and module.stride > 1:
            module.skip[0].stride, module.stride = (module.stride, module.stride), 1
        elif isinstance(module, CornerPooling):
            module.forward = partial(reference_pooling, module)
    return dataclasses.replace(
        detector, network=network, network_inputs=no_inputs, decode_inputs={}
    )


def measure(name: str, precision: str, options: argparse.Namespace, reference: bool) -> None:
    """Prints a line for a case, and with ``reference`` one for the reference's way."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    side, cells = CASES[name]
    sizes = [f"db.input_size=[{side}, {side}]", f"db.output_sizes=[[{cells}, {cells}]]"]
    sizes += ["system.batch_size=1", "system.chunk_sizes=null", f"system.precision={precision}"]
    config = load_config(name, overrides=[*sizes, *options.set])
    ours = build_for_training(config, 80, device)
    ours.network.train()
    ways = {"ours": ours}
    if reference:
        other = reference_way(ours.detector)
        adam = torch.optim.Adam(other.network.parameters(), 0.00025, foreach=False)
        ways["the reference's way"] = dataclasses.replace(
            ours, detector=other, network=other.network, optimizer=adam
        )
    batch = one_image(side).to(device)
    multiply, _ = make_product(device, torch.float32)

    products: list[float] = []
    steps: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(2 + options.steps):
        for way, state in ways.items():
            products += [seconds(multiply, device) for _ in range(3)]
            steps[way].append(seconds(partial(train_step, state, batch), device))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
    product = statistics.median(products[6:])
    for way, times in steps.items():
        median, fastest = statistics.median(times[2:]), min(times[2:])
        print(
            f"{name} at {side}, {precision}, {way}: {median / product:.1f} products "
            f"[{fastest / min(products):.1f}], {median:.3f} s"
            + ("" if reference else f", peak {memory:.2f} GB"),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7, help="measured, after two to warm up")
    parser.add_argument("--threads", type=int, help="of PyTorch; its default otherwise")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", choices=CASES, action="append", help="one case, not all")
    parser.add_argument("--set", action="append", default=[], help="another value of the config")
    parser.add_argument("--reference", action="store_true", help="also the reference's way")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], action="append")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for name in options.case or CASES:
        for precision in options.precision or ("float32", "bfloat16"):
            given = name, precision, options, options.reference
            process = spawn.Process(target=measure, args=given)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
