"""Rounds of crops, around a network whose output is given."""

import json

import numpy as np
import pytest
import torch

from core.inference.locations import attention_peaks
from core.inference.saccade import (
    SaccadePrediction,
    SaccadeSettings,
    detect_saccades,
    first_locations,
)
from tests.support.inference import run as run_steps
from tests.support.saccade_golden import INFERENCE, RANGES, STRIDES, blocky_noise

META = json.loads(str(INFERENCE["inf_meta"]))
MERGING = {"nms_algorithm": "exp_soft_nms", "nms_threshold": 0.5, "max_per_image": 100}
SIZES = (16, 32, 64)


def make_settings(**settings):
    defaults = {
        "input_size": (255, 255),
        "output_size": (64, 64),
        "init_sizes": (192, 255),
        "ranges": RANGES,
        "strides": STRIDES,
        "zooms": ((1, 2, 4),),
        "thresholds": (0.3,),
        "max_crops": 30,
        "detections_too": True,
        **MERGING,
    }
    return SaccadeSettings(**{**defaults, **settings})


class Network(torch.nn.Module):
    """Gives the same detections and attention for every view, and counts what it is asked."""

    def __init__(self, rows=(), peaks=()):
        super().__init__()
        self.rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 8)
        self.peaks = peaks  # (level, row, column, probability)
        self.calls, self.asked = [], []

    def forward(self, images, attention=True):
        self.calls.append(images.clone())
        self.asked.append(attention)
        maps = [torch.zeros(len(images), 1, side, side) for side in SIZES]
        for level, row, column, value in self.peaks:
            maps[level][:, 0, row, column] = value
        rows = self.rows.expand(len(images), -1, -1)
        return prediction(rows, maps if attention else [])


def prediction(rows, attention):
    peaks = attention_peaks(attention, (3, 3, 3)[: len(attention)])
    return SaccadePrediction(rows, tuple(attention), tuple(peaks))


def run(network, image, **settings):
    rounds = []
    found = run_steps(detect_saccades(image, rounds, settings=make_settings(**settings)), network)
    return rounds, found


class Golden(torch.nn.Module):
    """The outputs of the reference's run of a case, call by call; compares the inputs."""

    def __init__(self, case):
        super().__init__()
        self.case, self.calls = case, 0

    def forward(self, images, attention=True):
        prefix = f"inf{self.case}_call{self.calls}_"
        self.calls += 1
        np.testing.assert_allclose(
            images[:, :, ::17, ::17], INFERENCE[f"{prefix}in"], rtol=0, atol=1e-5
        )
        assert attention != json.loads(str(INFERENCE[f"{prefix}kw"]))["no_att"]
        maps = [
            torch.from_numpy(INFERENCE[f"{prefix}att_{level}"]) for level in range(3 * attention)
        ]
        return prediction(torch.from_numpy(INFERENCE[f"{prefix}dets"]), maps)


def in_order(rows):
    return rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 5].round(4), rows[:, 0]))]


@pytest.mark.parametrize("case", range(len(META)))
def test_equals_the_reference(case):
    meta, network = META[case], Golden(case)
    image = blocky_noise(meta["image_seed"], *meta["hw"])
    kept = image.copy()
    settings = make_settings(
        init_sizes=tuple(meta["init_sizes"]),
        zooms=tuple(map(tuple, meta["att_scales"])),
        thresholds=tuple(meta["att_thresholds"]),
        max_crops=meta["att_max_crops"],
        detections_too=meta["ref_dets"],
        **{key: meta[key] for key in MERGING},
    )
    rounds = []
    found = run_steps(detect_saccades(image, rounds, settings=settings), network)
    assert network.calls == len(rounds) == meta["calls"]
    for number, round_ in enumerate(rounds):
        scales = INFERENCE[f"inf{case}_locs{number}"][:, 2]
        np.testing.assert_allclose(round_.crops.scales, scales, atol=1e-4)
        np.testing.assert_array_equal(round_.crops.offsets, INFERENCE[f"inf{case}_offsets{number}"])

    rows = np.column_stack((found.labels + 1, found.boxes, found.scores))
    expected = INFERENCE[f"inf{case}_out"]
    assert rows.shape == expected.shape
    rows, expected = in_order(rows), in_order(expected)
    np.testing.assert_array_equal(rows[:, 0], expected[:, 0])
    np.testing.assert_allclose(rows[:, 1:5], expected[:, 1:5], rtol=0, atol=1e-2)
    np.testing.assert_allclose(rows[:, 5], expected[:, 5], rtol=0, atol=1e-4)
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_array_equal(image, kept)


def test_the_first_pass_has_float32_scales():
    locations = first_locations((480, 640), (192, 255))
    np.testing.assert_allclose(locations, [[240, 320, 0.3], [240, 320, 0.3984375]])
    assert locations[0, 2] == float(np.float32(0.3)) != 0.3


def test_attention_finds_nothing():
    network = Network(rows=[[8, 8, 24, 24, 0.9, 0.9, 0.9, 2], [1, 1, 9, 9, 0.2, 0.2, 0.2, 1]])
    rounds, found = run(network, blocky_noise(0, 120, 160), detections_too=False)
    assert len(rounds) == 1 and network.asked == [True]
    assert set(found.labels) == {2}  # of the first round, clear detections only
    network = Network()
    rounds, found = run(network, blocky_noise(0, 120, 160))
    assert len(rounds) == 1 and len(found) == 0
    assert found.boxes.shape == (0, 4) and found.labels.dtype == np.int64


def test_more_locations_than_crops():
    """The best ones, with and without suppression; whole maps of equal attention end soon."""
    rng = np.random.default_rng(0)
    cells = [
        (1, 2 * row, 2 * column, 0.4 + 0.5 * rng.random())
        for row in range(4, 12)
        for column in range(16)
    ]
    best = sorted(value for *_, value in cells)[-5:]
    for detections_too in (False, True):
        network = Network(peaks=cells)
        rounds, _ = run(
            network,
            blocky_noise(0, 255, 255),
            init_sizes=(255,),
            max_crops=5,
            detections_too=detections_too,
        )
        assert [len(round_.crops) for round_ in rounds] == [1, 5]
        assert network.asked == [True, False]
        if not detections_too:
            offsets = rounds[1].crops.offsets + 63
            wanted = {(8 * row, 8 * column) for _, row, column, value in cells if value in best}
            assert {tuple(offset) for offset in offsets.tolist()} == wanted
    everywhere = [
        (level, row, column, 0.7) for level in range(3) for row in range(16) for column in range(16)
    ]
    rounds, _ = run(Network(peaks=everywhere), blocky_noise(0, 400, 500))
    assert len(rounds[1].crops) <= 30


def test_no_crops_is_the_first_round_only():
    network = Network([[8, 8, 24, 24, 0.9, 0.9, 0.9, 2]], peaks=[(0, 5, 5, 0.9)])
    rounds, found = run(network, blocky_noise(0, 120, 160), max_crops=0)
    assert len(rounds) == 1 and network.asked == [False]
    assert len(found) > 0


def test_the_limit_counts_all_rounds():
    three = {"zooms": ((1, 2, 4), (1, 2, 2), (1, 2, 2)), "thresholds": (0.3, 0.3, 0.3)}
    peaks = [(2, 20, 20, 0.9), (2, 40, 30, 0.8)]
    rounds, _ = run(Network(peaks=peaks), blocky_noise(0, 600, 800), **three)
    assert len(rounds) > 2
    total = sum(len(round_.crops) for round_ in rounds[1:])
    network = Network(peaks=peaks)
    fewer, _ = run(network, blocky_noise(0, 600, 800), max_crops=total - 1, **three)
    assert sum(len(round_.crops) for round_ in fewer[1:]) == total - 1
    assert network.asked[-1] is False


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 4000), (4000, 3), (40, 50), (255, 255)])
def test_images_of_any_size(size):
    """Smaller than a crop, one pixel, long and thin: what the network sees is what is there."""
    image = np.random.default_rng(0).integers(100, 256, (*size, 3)).astype(np.uint8)
    peaks = [
        (level, row, column, 0.9)
        for level in range(3)
        for row in (0, 7, 15)
        for column in (0, 7, 15)
    ]
    rows = [[16, 16, 48, 48, 0.9, 0.9, 0.9, 2], [-3, 30, 2, 31, 0.8, 0.8, 0.8, 1]]
    network = Network(rows, peaks)
    _, found = run(network, image)
    for views in network.calls:
        assert views.shape[1:] == (3, 255, 255) and views.isfinite().all()
        assert (views.amax((1, 2, 3)) > 0).all()  # none is black
    assert np.isfinite(found.boxes).all() and len(found) > 0
    middle = found.boxes[found.labels == 2][0].reshape(2, 2).mean(0)
    np.testing.assert_allclose(middle, [size[1] / 2, size[0] / 2], atol=max(size) / 8 + 2)


def test_a_batch_is_what_its_views_are_alone():
    image = blocky_noise(1, 300, 400)
    network = Network(peaks=[(0, 5, 5, 0.9), (1, 20, 9, 0.8), (2, 33, 50, 0.7)])
    run(network, image)
    assert len(network.calls) == 2
    assert len(network.calls[0]) == 2 and len(network.calls[1]) > 1
