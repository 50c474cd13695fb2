"""Golden images, settings and replayed draws for the tests of CornerNet-Saccade."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden"
TARGETS = np.load(FOLDER / "targets_saccade.npz")
INFERENCE = np.load(FOLDER / "saccade_inference.npz")
RUNS = json.loads(str(TARGETS["runs"]))
CFG = json.loads(str(TARGETS["cfg"]))
RANGES = ((96, 256), (32, 96), (0, 32))
STRIDES = (16, 8, 4)
SIZES = ((16, 16), (32, 32), (64, 64))


def blocky_noise(seed, height, width):
    low = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.int64
    )
    return low.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)


class Replay:
    """In the place of a generator: gives the logged draws, and refuses to be asked another way."""

    def __init__(self, log, scales):
        self.log, self.scales = list(log), scales

    def integers(self, low, high=None):
        kind, *logged = self.log.pop(0)
        if kind == "choice":
            assert low == len(self.scales)
            return self.scales.index(logged[0])
        arguments, value = logged
        bounds = [low] if high is None else [low, high]
        assert kind == "randint" and [int(bound) for bound in bounds] == arguments
        return value

    def random(self):
        kind, value = self.log.pop(0)
        assert kind == "uniform"
        return 1 - value  # the reference acts on numbers above 0.5
