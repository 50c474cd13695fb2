"""Times the parts of CornerNet-Saccade on a 640 x 480 image: 2 views of it, then 7 crops.

    python -m benchmarks.saccade [--rounds 5] [--threads N] [--device cpu] [--precision bfloat16]
    python -m benchmarks.saccade --reference

The published network with random weights; its batch norms have the statistics of noise, and the
threshold of attention is 0, so that there are as many crops as the limit allows. Times are medians,
also as multiples of a 2048^3 matrix product in the same process; products and images take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.step import reference_way
from core import models
from core.config.loading import load_config
from core.inference import requests
from core.inference.batches import BatchedInference
from core.inference.predict import Predict
from core.inference.saccade import SaccadeSettings
from core.models.device import move_to_device_

CROPS = 7
SETTINGS = [f"db.att_max_crops={CROPS}", "db.att_thresholds=[0.0]"]


class Clock:
    """Adds up the wall time of functions by name, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function that does the same and adds its time to that of ``name``."""

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **named)
            self.wait()
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start
            return result

        return timed

    def wait(self) -> None:
        """Waits until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def settle_(network: nn.Module, settings: SaccadeSettings, device: torch.device) -> None:
    """Gives the batch norms the statistics of noise, or activations would grow without end."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, *settings.input_size, device=device))
    network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="images, after one for warm-up")
    parser.add_argument("--threads", type=int, help="of PyTorch; its default otherwise")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--config", default="CornerNet_Saccade")
    parser.add_argument("--reference", action="store_true", help="as benchmarks.step --reference")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    config = load_config(options.config, overrides=SETTINGS)
    detector = models.build(config, 80)
    network = detector.network
    move_to_device_(network, device, config.system.channels_last, training=False)
    if options.reference:
        detector = reference_way(detector)
        network = detector.network
    infer: Any = detector.infer
    settle_(network, infer.keywords["settings"], device)

    clock = Clock(device)
    requests.cut_crops = clock.wrap("cropping", requests.cut_crops)
    views: list[int] = []

    def run(images: torch.Tensor, **options: Any) -> Any:
        views.append(len(images))
        return network(images, **options)

    predict = Predict(
        clock.wrap("network", run),  # type: ignore[arg-type]
        clock.wrap("decoding", detector.decode),
        device,
        options.precision == "bfloat16",
        detector.decode_inputs,
    )
    inference = BatchedInference(detector.infer, predict, 1, threaded=False)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    a, b = torch.rand(2, 2048, 2048, device=device).unbind()

    times: dict[str, list[float]] = {}
    products: list[float] = []
    for number in range(options.rounds + 1):
        clock.seconds.clear()
        views.clear()
        for _ in range(3):
            clock.wrap("product", torch.mm)(a, b)
        product = clock.seconds.pop("product") / 3
        found = clock.wrap("in all", next)(inference([image])).detections
        assert views == [len(infer.keywords["settings"].init_sizes), CROPS], views
        total = clock.seconds.pop("in all")
        rest = total - sum(clock.seconds.values())
        if number:
            products.append(product)
            for name, spent in {**clock.seconds, "the rest": rest, "in all": total}.items():
                times.setdefault(name, []).append(spent)
    unit = statistics.median(products)
    print(f"{options.precision}, {torch.get_num_threads()} threads, {len(found)} detections")
    for name, spent in times.items():
        median = statistics.median(spent)
        print(f"{name:10}{median * 1e3:10.1f} ms{median / unit:8.2f} products")


if __name__ == "__main__":
    main()
