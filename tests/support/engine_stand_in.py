"""A detector of a few hundred weights, and batches for it, to test the training loop alone."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.checkpoint.run_directory import RunDirectory, SnapshotWriter
from core.config.loading import Config
from core.config.schema import Db, System
from core.distributed import ONE_PROCESS
from core.models.detector import Detector
from core.structures import Batch, Sample, collate
from core.training.averaging import AveragedWeights
from core.training.build import TrainingState
from core.training.log import FILE_NAME, RunLog, read_log
from core.training.loop import train
from core.training.optimizer import build_optimizer
from core.training.run import TrainingRun

SIDE = 8


class StandInNetwork(nn.Module):
    """One convolution, a batch norm whose statistics matter, one output channel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(4, 1, 1)])

    def forward(self, images):
        return [self.heads[0](self.body(images))]


def stand_in(seed: int = 0) -> Detector:
    """The detector: a "map" term, quadratic in the image's sum, and an "offset" term."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = StandInNetwork()
    return Detector(
        network=network,
        sample=make_sample,
        targets=lambda batch: batch.boxes[:, :1].mean(),  # not of padding
        losses=lambda outputs, target: {
            "map": (outputs[0].float() - target).square().mean(),
            "offset": 0.1 * outputs[0].float().abs().sum(),  # not a mean: chunks count
        },
        decode=lambda outputs: outputs[0],
        infer=lambda image, trace=None: None,
        class_head_keys=("heads.0.",),
    )


def make_sample(image, boxes, labels, rng) -> Sample:
    """Noise of the generator as an image with one box."""
    rng = np.random.default_rng(0) if rng is None else rng
    color = np.concatenate([np.eye(3) / 255, np.zeros((3, 1))], axis=1)
    return Sample(
        image=rng.integers(0, 256, (3, SIDE, SIDE), np.uint8),
        boxes=rng.random((1, 4), np.float32),
        labels=np.zeros(1, np.int64),
        color=color.astype(np.float32),
    )


def make_batch(number: int, size: int = 4, unreadable: tuple[int, ...] = ()) -> Batch:
    """Batch ``number`` of a stream."""
    samples = [
        make_sample(None, None, None, np.random.default_rng((number, row))) for row in range(size)
    ]
    return collate(samples, list(range(size)), list(unreadable))


def stream(start: int = 0, size: int = 4):
    """Batches ``start``, ``start + 1``, … without end."""
    while True:
        yield make_batch(start, size)
        start += 1


class StandInImages:
    """A dataset of 1000 images, as far as they are counted and named."""

    annotation_file = Path("annotations.json")
    has_annotations = True

    def __len__(self) -> int:
        return 1000

    def image_path(self, index: int) -> Path:
        return Path(f"images/{index:04d}.jpg")


def system(**settings) -> System:
    """Settings of a short run."""
    short = {"batch_size": 4, "max_iter": 6, "snapshot": 100, "val_iter": 0, "display": 1}
    return System(**{**short, "learning_rate": 0.01, "stepsize": 4, **settings})


def state(settings, detector=None, optimizer=None, ranks=ONE_PROCESS, device="cpu"):
    """State of training with the stand-in, and with the settings' optimizer and average."""
    detector = detector or stand_in()
    weights = detector.network.parameters()
    recipe = settings.opt_algo, settings.learning_rate, settings.weight_decay
    optimizer = optimizer or build_optimizer(weights, *recipe)
    average = None
    if settings.ema is not None and ranks.is_main:
        average = AveragedWeights(detector.network, settings.ema)
    config = Config("stand-in", "stand-in.json", settings, Db(), {}, "stand-in")
    network = ranks.parallel(detector.network).train()
    given = (config, detector, network, optimizer, torch.device(device), ranks)
    return TrainingState(*given, average=average)


@dataclass
class StandInRun(TrainingRun):
    """A run over batches that a test gives; its snapshots are kept in memory.

    Attributes:
        given, given_validation: batches, without end.
        saved: (iteration, weights, state of the optimizer, averaged weights) of the snapshots.
    """

    given: object
    given_validation: object
    saved: list

    def batches(self):
        return self.given

    def validation_batches(self):
        return self.given_validation

    def save(self, iteration):
        weights = self.detector.network.state_dict()
        averages = None if self.average is None else self.average.state_dict()
        state = self.optimizer.state_dict()
        self.saved.append(copy.deepcopy((iteration, weights, state, averages)))


def stand_in_run(folder, settings, *, batches=None, validation=None, start=0, **more):
    """A run of :func:`state`; ``more`` goes there, or replaces a dataset."""
    dataset = more.pop("dataset", StandInImages())
    validation_dataset = more.pop("validation_dataset", dataset)
    return StandInRun(
        **vars(state(settings, **more)),
        dataset=dataset,
        validation_dataset=validation_dataset,
        start=start,
        snapshots=SnapshotWriter(RunDirectory(folder / "cache", "stand-in"), 3),
        given=stream(start) if batches is None else batches,
        given_validation=validation,
        saved=[],
    )


def train_stand_in(folder, run):
    """Trains, and returns the lines of the log in ``folder``."""
    log = None
    if run.ranks.is_main:
        log = RunLog(folder, run.config.system, start=run.start, images=len(run.dataset))
    train(run, log)
    return read_log(folder / FILE_NAME)
