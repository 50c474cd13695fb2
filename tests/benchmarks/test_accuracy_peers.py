"""The peers' scripts of the comparison of accuracy: data, time, and what they report."""

import json
import sys
import types
from argparse import Namespace

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from benchmarks import accuracy, accuracy_contestants, accuracy_torchvision, accuracy_yolo
from tests.support.awkward_dataset import write_awkward_dataset


@pytest.fixture
def data(tmp_path):
    return write_awkward_dataset(tmp_path / "mine")


def test_torchvisions_samples_and_their_mirror_images(data):
    dataset = accuracy.open_split(data, "train")
    file = dataset.image_path(0)
    image = np.zeros((40, 60, 3), np.uint8)
    image[5:35, 10:30] = (255, 0, 51)  # blue, green, red
    cv2.imwrite(str(file), image)
    samples = accuracy_torchvision.Samples(dataset, seed=0)
    mirrored = set()
    for epoch in range(8):
        drawn, target = samples[epoch, 0]
        assert drawn.shape == (3, 40, 60) and target["labels"].tolist() == [2, 1]
        x0, y0, x1, y1 = target["boxes"][0].int().tolist()
        box = drawn[:, y0:y1, x0:x1]
        (
            assert_allclose(box.amin((1, 2)), [0.2, 0, 1]),
            assert_allclose(box.amax((1, 2)), [0.2, 0, 1]),
        )
        assert box.shape[1:] == (30, 20) and drawn.sum() == pytest.approx(float(box.sum()))
        mirrored.add(x0)
    assert mirrored == {10, 30}
    _, target = samples[0, 2]
    assert target["boxes"].shape == (0, 4)


def test_torchvisions_batches_take_every_image_once_an_epoch():
    drawn = accuracy_torchvision.batches(10, seed=1)
    epochs = [[next(drawn) for _ in range(2)] for _ in range(3)]
    for number, epoch in enumerate(epochs):
        keys = [key for batch in epoch for key in batch]
        assert {key[0] for key in keys} == {number} and len({key[1] for key in keys}) == 8
    again = accuracy_torchvision.batches(10, seed=1)
    assert next(again) == epochs[0][0] != next(accuracy_torchvision.batches(10, seed=2))
    assert sorted(next(accuracy_torchvision.batches(2, 0))) == [(0, 0), (0, 1)]


def test_torchvisions_learning_rate_ends_with_the_time():
    rates = np.array([accuracy_torchvision.learning_rate(each) for each in np.linspace(0, 1, 101)])
    assert rates[0] == 0 and rates[-1] == pytest.approx(0) and rates.argmax() == 5
    assert (np.diff(rates[:6]) > 0).all() and (np.diff(rates[5:]) < 0).all()
    assert accuracy_torchvision.learning_rate(1.2) == pytest.approx(0)


class Stepwise(torch.nn.Module):
    """A detector whose steps take the seconds given, by its own clock; it detects one object."""

    def __init__(self, *seconds):
        super().__init__()
        self.seconds, self.now = iter(seconds), 100.0
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images, targets=None):
        assert self.training == (targets is not None)
        if targets is None:
            boxes = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
            return [{"boxes": boxes, "scores": torch.tensor([0.5]), "labels": torch.tensor([2])}]
        self.now += next(self.seconds)
        return {"loss": self.weight.sum() ** 2, "more": self.weight.sum()}


@pytest.mark.parametrize(
    ("seconds", "steps", "spent"),
    [
        ([3, 1, 1, 1, 1, 1, 1, 1], 7, 9),  # the eighth would end after 10 > 9.5 seconds
        ([3, 1, 4, 1, 1], 3, 8),  # another of 4 seconds would not fit
        ([20, 1], 1, 20),
    ],
)
def test_torchvisions_training_ends_in_time(monkeypatch, seconds, steps, spent):
    network = Stepwise(*seconds)
    monkeypatch.setattr(accuracy_torchvision, "time", Namespace(perf_counter=lambda: network.now))
    loader = ((torch.zeros(1, 3, 4, 4), [{"boxes": torch.zeros(0, 4)}]) for _ in range(1000))
    device = torch.device("cpu")
    assert accuracy_torchvision.train(network, loader, device, 9.5) == (steps, spent)
    assert (network.weight.item() < 1) == (steps > 1)  # the rate of the first step is 0


def test_what_torchvision_detects(data):
    found = accuracy_torchvision.detect(
        Stepwise(), accuracy.open_split(data, "val"), torch.device("cpu")
    )
    expected = {"label": 1, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    assert found == [{"image": index, **expected} for index in range(3)]


class FakeYolo:
    """Stands in for Ultralytics: an epoch and a half, and one object in each image."""

    EVENTS = (
        ("on_train_start", 0),
        ("on_train_batch_start", 0),
        ("on_train_epoch_end", 0),
        ("on_train_batch_start", 1),
        ("on_train_epoch_end", 1),
    )
    trained, now = None, 0

    def __init__(self, source, task=None):
        self.source, self.callbacks = source, {}
        self.model = torch.nn.Linear(3, 2)

    def add_callback(self, event, function):
        self.callbacks.setdefault(event, []).append(function)

    def train(self, **settings):
        FakeYolo.trained = (self.source, settings)
        FakeYolo.now = 0  # what comes before is not counted
        for event, epoch in FakeYolo.EVENTS:
            FakeYolo.now += 10
            for function in self.callbacks.get(event, []):
                function(Namespace(epoch=epoch))
        FakeYolo.now += 1000  # validation after the training is not, either

    def predict(self, path, **settings):
        assert settings["conf"] == 0.001 and settings["max_det"] == 300
        boxes = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
        result = Namespace(xyxy=boxes, conf=torch.tensor([0.25]), cls=torch.tensor([1.0]))
        return [Namespace(boxes=result)]


@pytest.fixture
def fake_ultralytics(monkeypatch):
    names = ["", ".data", ".data.utils", ".engine", ".engine.trainer", ".utils", ".utils.nms"]
    modules = {name: types.ModuleType(f"ultralytics{name}") for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"ultralytics{name}", module)
        if name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, module)
    modules[""].YOLO, modules[""].__version__ = FakeYolo, "8"
    modules[".utils.nms"].non_max_suppression = lambda found, multi_label=False: multi_label
    monkeypatch.setattr(accuracy_yolo, "time", Namespace(perf_counter=lambda: FakeYolo.now))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # Ultralytics sets a number of its own
    yield modules
    torch.set_num_threads(threads)


def test_yolo_is_trained_from_scratch_for_the_time(data, tmp_path, fake_ultralytics):
    folder = tmp_path / "yolo"
    accuracy_contestants.write_yolo_split(accuracy.open_split(data, "val"), folder, "val")
    options = Namespace(
        data=folder, minutes=3.0, seed=5, threads=2, device="cpu", out=tmp_path / "found.json"
    )
    content = accuracy_yolo.compete(options)
    source, settings = FakeYolo.trained
    assert source == "yolo11n.yaml"
    expected = {"time": 0.05, "pretrained": False, "amp": False, "plots": False, "val": False}
    assert expected.items() <= settings.items() and settings["seed"] == 5
    assert content["work"] == {"batch_size": 16, "steps": 2, "epochs": 2}
    assert content["seconds"] == 40 and content["parameters"] == 8
    assert torch.get_num_threads() == 2
    assert [row["image"] for row in content["detections"]] == [0, 1, 2]
    assert content["detections"][0] == {
        "image": 0,
        "label": 1,
        "bbox": [1.0, 2.0, 3.0, 6.0],
        "score": 0.25,
    }
    assert fake_ultralytics[".utils.nms"].non_max_suppression([])
    assert fake_ultralytics[".data.utils"].check_font("Arial.ttf") is None
    assert json.loads(json.dumps(content)) == content
