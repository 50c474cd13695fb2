"""Settings that all models share: the ``system`` and ``db`` sections of a config."""

import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Least and most of settings of ``system``; more of them would stop the machine.
_RANGES = {
    "seed": (0, 2**63 - 1),
    "workers": (0, 1024),
    "cpu_processes": (1, 1024),
    "batch_size": (1, 2**20),
    "prefetch_size": (1, 1024),
}
_LONGEST_SIDE = 32766  # pixels of an image that OpenCV transforms
_MOST_SCALES = 1000  # of the random crop


@dataclass(frozen=True)
class System:
    """Settings of training: data, schedule, optimizer, folders (the reference's names)."""

    dataset: str = "COCO"
    sampling_function: str | None = None  # of the reference's files; the model chooses its own
    data_dir: str = "./data"
    dataset_dir: str = "coco"  # <data_dir>/<dataset_dir>/{annotations,images}
    train_split: str = "trainval"
    val_split: str = "minival"
    test_split: str = "testdev"
    # fraction of the images to validate with, where the dataset has no splits (docs/data.md)
    val_share: float = 0.2
    cache_dir: str = "./cache"
    result_dir: str = "./results"
    batch_size: int = 1
    # images of each chunk of a step; their sum is batch_size; null: one chunk a process
    chunk_sizes: tuple[int, ...] | None = None
    max_iter: int = 500000
    # "step": divided by decay_rate every stepsize iterations, as published; "cosine": from
    # learning_rate down to 1 % of it at max_iter
    schedule: typing.Literal["step", "cosine"] = "step"
    warmup: int = 0  # first iterations, in which the learning rate rises in proportion to them
    stepsize: int = 450000  # iterations between two decays of the learning rate
    decay_rate: float = 10.0
    learning_rate: float = 0.00025
    opt_algo: typing.Literal["adam", "sgd", "adamw"] = "adam"
    # adam and sgd add it to the gradient of every parameter; adamw shrinks the weights by it, but
    # no biases and batch norms; null: 0 for adam, 0.0001 for sgd, 0.05 for adamw
    weight_decay: float | None = None
    # decay per iteration of an average of the weights, which is kept beside them; null: none
    ema: float | None = None
    # of a network with a backbone: factor on the learning rate of the backbone's parameters
    backbone_lr: float = 1.0
    # number of the backbone's first stages, those up to strides 4, 8, 16 and 32, which do not train
    frozen_stages: int = 0
    frozen_steps: int | None = None  # iterations after which these train too; null: they never do
    # the backbone's batch norms compute with their statistics and leave them as they are, in all
    # iterations; their weights and biases train like those of other layers
    frozen_norm: bool = False
    snapshot: int = 5000  # iterations between two snapshots
    keep: int = 3  # newest snapshots that keep the state of the training beside the weights
    val_iter: int = 100  # iterations between two validation losses; 0: never
    eval_iter: int = 0  # iterations between two evaluations of the validation split; 0: never
    patience: int = 0  # evaluations in a row without a better AP that end the training; 0: none do
    display: int = 5  # iterations between two lines of the log
    pretrain: str | None = None  # weights to start from
    prefetch_size: int = 5  # batches prepared ahead
    workers: int = 4  # processes that make batches
    # processes that train together where there is no GPU; each has its part of the threads
    cpu_processes: int = 1
    seed: int = 317
    precision: typing.Literal["float32", "bfloat16"] = "float32"
    channels_last: bool | None = None  # memory layout of the network; null: the faster one
    sync_batchnorm: bool = False  # statistics of the chunks that all GPUs compute at a time
    # seconds that a process waits for the others in a step; null: 45 on GPUs, 300 on CPUs
    dist_timeout: int | None = None
    # steps on a GPU as CUDA graphs, without launches; null: where there can be any
    cuda_graph: bool | None = None
    compile: bool = False  # training by torch.compile; the first step takes half a minute or more
    # parts whose activations are computed twice instead of kept: slower, with less memory
    checkpointing: typing.Literal["none", "stack", "residual"] = "none"
    clip_norm: float | None = None  # a step's gradient of a larger norm is scaled down to it


@dataclass(frozen=True)
class Db:
    """Settings of sampling, targets and detection (the reference's names)."""

    categories: int | None = None  # checked against the annotation file
    use_crowd: bool = True  # train crowd boxes as objects, as published
    input_size: tuple[int, int] = (511, 511)  # height, width
    output_sizes: tuple[tuple[int, int], ...] = ((128, 128),)
    # "crop": random crops, as published; "fit": the whole image, zoomed and shifted a little
    sampling: typing.Literal["crop", "fit"] = "crop"
    data_aug: bool = True
    rand_color: bool = True
    lighting: bool = True
    min_visible: float = 0.0  # a box of which a smaller fraction of its area is left is dropped
    # random crops
    rand_crop: bool = True
    rand_scales: tuple[float, ...] | None = None
    rand_scale_min: float = 0.6
    rand_scale_max: float = 1.4
    rand_scale_step: float = 0.1
    border: int = 128
    # the whole image ("fit")
    zoom: tuple[float, float] = (0.8, 1.25)  # lowest and highest, relative to the size that fits
    shift: float = 0.15  # to either side at most, as a fraction of input_size
    vertical_flip: bool = False  # turn every second image upside down
    quarter_turns: bool = False  # turn images by 0, 90, 180 or 270 degrees
    mosaic: float = 0.0  # fraction of the samples that are made of four images
    # targets
    gaussian_bump: bool = True
    gaussian_iou: float = 0.3
    gaussian_radius: int = -1  # -1: from the box and gaussian_iou
    regression_window: int = 1  # side, in cells, of the window of trained offsets at a corner; odd
    # detection
    # relative to the image's own size, or with "fit" to the size that fits into input_size
    test_scales: tuple[float, ...] = (1.0,)
    test_flipped: bool = True
    top_k: int = 100
    ae_threshold: float = 0.5
    nms_kernel: int = 3
    num_dets: int = 1000
    nms_algorithm: typing.Literal["nms", "linear_soft_nms", "exp_soft_nms"] = "exp_soft_nms"
    nms_threshold: float = 0.5
    merge_bbox: bool = False
    weight_exp: float = 8.0
    max_per_image: int = 100
    # CenterNet's test images: at their own size, padded, or scaled into input_size
    test_resolution: typing.Literal["keep", "fix"] = "keep"
    test_nms: bool = False  # soft-NMS at one scale, too; CenterNet does without
    reference_scoring: bool = False  # keep the reference's rounding and soft-NMS left-overs
    # CornerNet-Saccade
    rand_center: bool = True  # in every second crop an object is near the middle
    min_scale: int = 16  # pixels of the longer side of the smallest object that is trained
    init_sizes: tuple[int, ...] = (192, 255)  # longer sides of the whole image in the first round
    att_sizes: tuple[tuple[int, int], ...] | None = None  # follow from input_size
    # longer sides of the objects of each attention map, in pixels, coarse first
    att_ranges: tuple[tuple[int, int], ...] = ((96, 256), (32, 96), (0, 32))
    att_ratios: tuple[int, ...] | None = None  # follow from the network
    att_scales: tuple[tuple[float, ...], ...] = ((1.0, 2.0, 4.0),)  # zoom, by round and map
    att_thresholds: tuple[float, ...] = (0.3,)  # lowest attention that is followed, by round
    att_nms_ks: tuple[int, ...] = (3, 3, 3)  # sides of the windows of local maxima, by map
    att_max_crops: int = 30  # crops of all rounds together; 0: the first round only
    ref_dets: bool = True  # zoom in on detections of the round before, too

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the heatmaps that the losses see, in cells."""
        return self.output_sizes[0]

    @property
    def scale_count(self) -> float:
        """Number of the ``scales``, without making them; infinite if they have no end."""
        if self.rand_scales is not None:
            return len(self.rand_scales)
        if self.rand_scale_step <= 0:
            return math.inf
        return (self.rand_scale_max - self.rand_scale_min) / self.rand_scale_step

    @property
    def scales(self) -> tuple[float, ...]:
        """Scales of the random crop: ``rand_scales``, or min, min + step, … below max."""
        if self.rand_scales is not None:
            return self.rand_scales
        return tuple(
            np.arange(self.rand_scale_min, self.rand_scale_max, self.rand_scale_step).tolist()
        )


def problems(system: System, db: Db) -> Iterator[str]:
    """Finds settings that are out of range, or that contradict each other, in any model."""
    for section, keys in {
        system: ("max_iter", "stepsize", "snapshot", "display"),
        db: ("top_k", "nms_kernel", "num_dets", "max_per_image", "border"),
    }.items():
        for key in keys:
            if getattr(section, key) < 1:
                yield f"{'db' if section is db else 'system'}.{key} must be at least 1"
    for key, (least, most) in _RANGES.items():
        if not least <= getattr(system, key) <= most:
            yield f"system.{key} {getattr(system, key)} must be from {least} to {most}"
    if system.learning_rate <= 0 or system.decay_rate <= 0:
        yield "system.learning_rate and system.decay_rate must be above 0"
    if not 0 < system.val_share < 1:
        yield f"system.val_share {system.val_share} is a fraction and must be above 0 and below 1"
    if system.keep < 1 or (system.dist_timeout is not None and system.dist_timeout < 1):
        yield "system.keep and system.dist_timeout (seconds) must be at least 1"
    if min(system.val_iter, system.eval_iter) < 0:
        yield "system.val_iter and system.eval_iter (0: never) must be 0 or more"
    if system.clip_norm is not None and system.clip_norm <= 0:
        yield "system.clip_norm must be above 0, or null"
    yield from _recipe_problems(system)
    chunks = system.chunk_sizes
    if chunks is not None and (min(chunks, default=0) < 1 or sum(chunks) != system.batch_size):
        yield (
            f"system.chunk_sizes {list(chunks)} must be positive and add up to "
            f"system.batch_size {system.batch_size}"
        )
    if db.nms_kernel % 2 == 0:
        yield f"db.nms_kernel {db.nms_kernel} must be odd"
    if not db.output_sizes or min(*db.input_size, *sum(db.output_sizes, ())) < 1:
        yield "db.input_size and db.output_sizes must be positive"
    if max(*db.input_size, *sum(db.output_sizes, ())) > _LONGEST_SIDE:
        yield f"db.input_size and db.output_sizes must be at most {_LONGEST_SIDE}"
    if db.categories is not None and db.categories < 1:
        yield f"db.categories {db.categories} must be at least 1, or null: counted in the data"
    if not 0 < db.gaussian_iou <= 1:
        yield f"db.gaussian_iou {db.gaussian_iou} is an overlap and must be above 0 and at most 1"
    if not 0 < db.scale_count <= _MOST_SCALES or min(db.scales) <= 0:
        yield (
            "db.rand_scales, or rand_scale_min, _max, rand_scale_step, must give scales above 0, "
            f"at most {_MOST_SCALES}"
        )
    yield from _sampling_problems(db)
    if not 0 <= db.nms_threshold <= 1:
        yield f"db.nms_threshold {db.nms_threshold} is an overlap and must be from 0 to 1"


def _recipe_problems(system: System) -> Iterator[str]:
    """Finds settings of the optimizer and of the end of training that are out of range."""
    if system.weight_decay is not None and system.weight_decay < 0:
        yield f"system.weight_decay {system.weight_decay} must be 0 or more, or null"
    if system.ema is not None and not 0 < system.ema < 1:
        yield f"system.ema {system.ema} is a decay and must be above 0 and below 1, or null"
    if min(system.warmup, system.patience) < 0:
        yield "system.warmup and system.patience (0: none) must be 0 or more"
    if system.backbone_lr <= 0:
        yield (
            f"system.backbone_lr {system.backbone_lr} must be above 0; system.frozen_stages keeps "
            "parts of a backbone as they are"
        )
    if not 0 <= system.frozen_stages <= 4:
        yield f"system.frozen_stages {system.frozen_stages} must be from 0 to 4"
    if system.frozen_steps is not None and system.frozen_steps < 1:
        yield (
            f"system.frozen_steps {system.frozen_steps} must be at least 1, or null; "
            "system.frozen_stages 0 freezes nothing"
        )
    if system.frozen_steps is not None and system.frozen_stages == 0:
        yield (
            f"system.frozen_steps {system.frozen_steps} says how long stages are frozen, and none "
            "are: set system.frozen_stages, or system.frozen_steps to null"
        )
    if system.patience > 0 and system.eval_iter == 0:
        yield (
            f"system.patience {system.patience} counts evaluations, and there are none: set "
            "system.eval_iter, or system.patience to 0"
        )


def _sampling_problems(db: Db) -> Iterator[str]:
    """Finds settings of samples and of the test scale that are out of range or have no effect."""
    if min(db.test_scales, default=0) <= 0:
        yield "db.test_scales must hold numbers above 0"
    low, high = db.zoom
    if not 0 < low <= high:
        yield f"db.zoom {list(db.zoom)} must be two numbers above 0, the lower one first"
    for key, most in {"shift": 0.5, "min_visible": 1, "mosaic": 1}.items():
        if not 0 <= getattr(db, key) <= most:
            yield f"db.{key} {getattr(db, key)} is a fraction and must be from 0 to {most}"
    if db.regression_window < 1 or db.regression_window % 2 == 0:
        yield f"db.regression_window {db.regression_window} must be odd and at least 1"
    if db.sampling != "fit":
        for key in ("vertical_flip", "quarter_turns", "mosaic"):
            if getattr(db, key):
                yield (
                    f'db.{key} has an effect with db.sampling "fit" only; choose that, or leave '
                    f"db.{key} out"
                )
