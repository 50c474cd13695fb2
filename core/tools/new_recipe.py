"""The numbers of the configs that `cornerkit new` writes, and what in them depends on the data.

CornerNet's numbers were found by experiments on a few hundred photos, trained from scratch for 5 to
20 minutes (docs/accuracy.md); those of the other detectors, of stride 4 and of GPUs follow from
them and are not tuned. Unless they say otherwise, pixels are those of the network's input.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .new_data import Summary, has_mixed_orientations, zooms

Section = dict[str, Any]  # of a config: JSON values by key

# --- The input: as many pixels for any shape of image. 384 x 512 for photos of 640 x 480.
AREA = 384 * 512
LEAST_AREA, MOST_AREA = 0.6, 4.0  # of AREA: where time is short; where objects are small
MOST_ASPECT = 3.0  # of the input: longer by shorter side
# Pixels per cell of the hourglasses' coarsest maps. Sides are multiples of it, so that cells are
# equal; at 511 pixels and 64 cells, as published, positions drift by a pixel across the image.
COARSEST = 32

# --- Large objects. Longer side, in the median, from which on the input shrinks: few objects give
# little to learn from, and small images give many of them in the same time.
TYPICAL_SIDE = 112
# For them the hourglass gets a level more, as a corner must see the whole object to know its size.
DEEPER = (256, 2)  # channels and blocks of that level

# --- Small objects. Below 2.5 cells the corners of a box are too near each other to be told apart.
LEAST_CELLS = 2.5
SMALL_PART = 0.2  # fraction of the boxes that may be smaller at stride 8; with more, stride 4
GROWN_FOR = 0.25  # the input grows until at most this fraction of the boxes is smaller
# Images seen in training below which the input shrinks, and above which it may grow.
FEW_IMAGES, ENOUGH_IMAGES = 2000, 8000

# --- Samples, targets and detections
SAMPLES: Section = {
    "sampling": "fit",  # the whole image: crops cut most objects
    "min_visible": 0.0,
    "vertical_flip": False,  # true where objects have no upper side: cells, aerial photos
    "quarter_turns": False,
    "mosaic": 0.0,
}
# The zoom of an image, up and down, as a logarithm: the deviation of the sizes within a class, as
# objects of sizes that never occur teach nothing; between these limits. The shift goes with it.
LEAST_ZOOM, MOST_ZOOM = 0.1, math.log(1.25)
SHIFT = 0.15  # fraction of the input, at the largest zoom
REGRESSION_WINDOW = 3  # cells; offsets trained at the corner alone are 0.009 AP worse
TOP_K, MOST_TOP_K = 100, 500  # corners, or centres, of an image
TOP_K_PER_OBJECT = 1.5  # of the most objects in an image
NUM_DETS_PER_CORNER = 10  # pairs of corners

# --- Networks, by pixels per cell of the heatmaps. At stride 4 there is one level more.
HOURGLASS: Mapping[int, Section] = {
    8: {
        "stacks": 1,
        "stem_channels": [32, 64, 96],
        "channels": [96, 128, 192],
        "blocks": [1, 1, 2],
    },
    4: {
        "stacks": 1,
        "stem_channels": [32, 64],
        "channels": [64, 96, 128, 192],
        "blocks": [1, 1, 1, 2],
    },
}
HEAD_CHANNELS, POOLING_CHANNELS = 96, 64
VGG = [[32], [64], [96, 96], [128, 128], [192, 192]]  # the last block only at stride 16

# --- The optimizer
OPTIMIZER: Section = {
    "opt_algo": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "ema": 0.998,
}
WARMUP, WARMUP_PART = 50, 0.1  # steps, and their largest part of all
SNAPSHOTS = 4  # of a run without evaluations, after each of which there is one

# --- How detectors that start from ImageNet weights train these on.
FINE_TUNING: Mapping[str, Section] = {
    "CornerNet_Lite0": {"backbone_lr": 0.5, "frozen_stages": 1, "frozen_norm": True},
}


@dataclass(frozen=True)
class Recipe:
    """Numbers that depend on the device.

    Attributes:
        batch_size: images of a step.
        chunk_sizes: images of each chunk; None: one chunk. On CPUs a step is the same for one
            process and for as many as there are chunks.
        learning_rate: highest learning rate.
    """

    batch_size: int
    chunk_sizes: tuple[int, ...] | None
    learning_rate: float


ON_CPU = Recipe(4, (2, 2), 0.002)
ON_GPU = Recipe(16, None, 0.002)


@dataclass(frozen=True)
class Machine:
    """What a config depends on besides the data.

    Attributes:
        device: type of the device: ``cpu``, ``cuda`` …
        threads: threads of a process that computes alone.
        bfloat16: True if the device computes faster in bfloat16.
    """

    device: str
    threads: int
    bfloat16: bool

    @property
    def recipe(self) -> Recipe:
        """Numbers for the device."""
        return ON_CPU if self.device == "cpu" else ON_GPU

    @property
    def process_counts(self) -> tuple[int, ...]:
        """Numbers of processes that may be fastest: one, and one for each chunk."""
        chunks = len(self.recipe.chunk_sizes or (0,))
        return (1, chunks) if self.device == "cpu" and 1 < chunks <= self.threads else (1,)

    def workers(self, processes: int) -> int:
        """Number of loader workers for each of so many processes."""
        if self.device == "cpu":  # none where every thread computes already
            return int(self.threads > processes)
        return max(1, min(8, self.threads - 1))


@dataclass(frozen=True)
class Layout:
    """Geometry of a network: its input, and its heatmaps.

    Attributes:
        input_size: height and width of the input.
        stride: pixels per cell of the heatmaps.
    """

    input_size: tuple[int, int]
    stride: int

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the heatmaps, in cells."""
        height, width = self.input_size
        return -(-height // self.stride), -(-width // self.stride)


def coarsest_stride(summary: Summary) -> int:
    """Pixels per cell of the coarsest map of an hourglass for these objects."""
    return 2 * COARSEST if summary.has_large_objects else COARSEST


def choose_input_size(summary: Summary, area: float) -> tuple[int, int]:
    """Chooses height and width of the input.

    Args:
        summary: the data.
        area: pixels of the input, unless images would have to be enlarged for it.
    """
    sizes, coarsest = summary.sizes, coarsest_stride(summary)
    aspect = 1.0
    if not has_mixed_orientations(sizes):
        aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
        aspect = min(max(aspect, 1 / MOST_ASPECT), MOST_ASPECT)
    height, width = math.sqrt(area / aspect), math.sqrt(area * aspect)
    enlarged = max(1.0, float(np.median(zooms(sizes, (height, width)))))
    cells = [max(2, round(side / enlarged / coarsest)) for side in (height, width)]
    return cells[0] * coarsest, cells[1] * coarsest


def usual_area(summary: Summary) -> float:
    """Pixels of the input if time is short, unless images would have to be enlarged for it."""
    extents = summary.extents_in(choose_input_size(summary, AREA))
    side = float(np.median(extents.max(axis=1)))
    return AREA * min(1.0, TYPICAL_SIDE / side) ** 2


def small_part(summary: Summary, layout: Layout) -> float:
    """Computes the fraction of the boxes that are too small for a stride."""
    shorter = summary.extents_in(layout.input_size).min(axis=1)
    return float(np.mean(shorter < LEAST_CELLS * layout.stride))


def choose_layout(detector: str, summary: Summary) -> Layout:
    """Chooses the input of usual size, and the stride that the objects need.

    Args:
        detector: a key of :data:`SECTIONS`.
        summary: the data.
    """
    size, strides = choose_input_size(summary, usual_area(summary)), _STRIDES.get(detector, (8, 4))
    layout = Layout(size, strides[0])
    if small_part(summary, layout) > SMALL_PART:
        layout = Layout(size, strides[-1])
    return layout


def resize_layout(summary: Summary, layout: Layout, images: float) -> Layout:
    """Makes the input larger for small objects, or smaller where there is little time.

    With time, the input of large objects grows to that of others: by the square root, so that more
    images are trained too.

    Args:
        summary: the data.
        layout: layout of the usual size.
        images: number of images that can be trained with it in the time there is.
    """
    shorter = np.quantile(summary.extents_in(layout.input_size).min(axis=1), GROWN_FOR)
    growth = (LEAST_CELLS * layout.stride / float(shorter)) ** 2
    area, time = usual_area(summary), max(1.0, images / ENOUGH_IMAGES)
    factor = min(MOST_AREA, max(1.0, growth), time)
    factor = max(factor, min(AREA / area, math.sqrt(time)))
    if images < FEW_IMAGES:
        factor = max(LEAST_AREA, images / FEW_IMAGES)
    return Layout(choose_input_size(summary, area * factor), layout.stride)


def zoom_and_shift(summary: Summary) -> Section:
    """Chooses how far images are zoomed and shifted; as far as the sizes of the objects differ."""
    spread = summary.size_spread
    log = MOST_ZOOM if spread is None else min(max(spread, LEAST_ZOOM), MOST_ZOOM)
    zoom = [round(math.exp(-log), 2), round(math.exp(log), 2)]
    return {"zoom": zoom, "shift": round(SHIFT * log / MOST_ZOOM, 2)}


def choose_hourglass(summary: Summary, layout: Layout) -> Section:
    """Chooses the levels of the hourglass; large objects need one more."""
    hourglass = HOURGLASS[layout.stride]
    if not summary.has_large_objects:
        return dict(hourglass)
    channels, blocks = DEEPER
    return {
        **hourglass,
        "channels": [*hourglass["channels"], channels],
        "blocks": [*hourglass["blocks"][:-1], 1, blocks],
    }


def corner_sections(summary: Summary, layout: Layout) -> tuple[Section, Section]:
    """The ``db`` and ``model`` sections of CornerNet and CornerNet-Squeeze."""
    db = {**_maps(layout), **SAMPLES, **zoom_and_shift(summary), **_corners(summary)}
    return db, _corner_model(choose_hourglass(summary, layout))


def centripetal_sections(summary: Summary, layout: Layout) -> tuple[Section, Section]:
    """The sections of CentripetalNet, whose corners are paired in one way alone."""
    db, model = corner_sections(summary, layout)
    del model["pairing"]
    return db, model


def center_sections(summary: Summary, layout: Layout) -> tuple[Section, Section]:
    """The sections of CenterNet, which has no corners to pair and no offsets beside a centre."""
    db = {**_maps(layout), **SAMPLES, **zoom_and_shift(summary), **_detections(summary)}
    return db, {**choose_hourglass(summary, layout), "head_channels": HEAD_CHANNELS}


def lite_sections(summary: Summary, layout: Layout) -> tuple[Section, Section]:
    """The sections of CornerNet on EfficientNet-Lite0, which starts from ImageNet weights."""
    db, _ = corner_sections(summary, layout)
    backbone = {"backbone": "efficientnet_lite0", "backbone_weights": "package"}
    return db, _corner_model({**backbone, "stride": layout.stride})


def saccade_sections(summary: Summary, layout: Layout) -> tuple[Section, Section]:
    """The sections of CornerNet-Saccade, which sees squares of its images instead of the whole."""
    side = min(256, min(layout.input_size))
    ends = [side + 1, round(0.375 * side), round(0.125 * side)]
    db = {
        **_maps(Layout((side, side), layout.stride)),
        "min_scale": max(4, side // 16),
        "init_sizes": [round(0.75 * side), side],
        "att_ranges": [[ends[1], ends[0]], [ends[2], ends[1]], [0, ends[2]]],
        **_corners(summary),
    }
    return db, _corner_model(HOURGLASS[layout.stride])


def region_sections(summary: Summary, layout: Layout) -> tuple[Section, Section]:
    """The sections of Faster R-CNN, with anchors of the sizes of the boxes."""
    size, stride = layout.input_size, layout.stride
    sides = np.sqrt(summary.extents_in(size).prod(axis=1)) / stride
    scales = np.quantile(sides, (0.1, 0.35, 0.65, 0.9)).clip(0.5).round(2)
    model = {
        "channels": VGG[: int(math.log2(stride)) + 1],
        "batch_norm": True,
        "shorter_side": min(size),
        "longer_side": max(size),
        "anchor_scales": sorted(set(scales.tolist())),
        "anchor_ratios": [0.5, 1.0, 2.0],
        "rpn_samples": 128,
        "rpn_min_size": 4,
        "train_pre_nms": 1000,
        "train_post_nms": 300,
        "test_pre_nms": 1000,
        "test_post_nms": max(300, 3 * summary.most_objects),
        "head_channels": 256,
        "roi_samples": 64,
    }
    return {"max_per_image": _detections(summary)["max_per_image"]}, model


# How each detector's sections are made, and the strides of those that cannot take 8 and 4:
# CenterNet's centres of neighbouring objects need cells of their own.
SECTIONS: Mapping[str, Callable[[Summary, Layout], tuple[Section, Section]]] = {
    "CornerNet": corner_sections,
    "CornerNet_Lite0": lite_sections,
    "CornerNet_Squeeze": corner_sections,
    "CornerNet_Saccade": saccade_sections,
    "CenterNet": center_sections,
    "CentripetalNet": centripetal_sections,
    "FasterRCNN": region_sections,
}
_STRIDES = {"CornerNet_Saccade": (4,), "CenterNet": (4,), "FasterRCNN": (16, 8)}


def system_section(machine: Machine, processes: int, steps: int, evaluations: int) -> Section:
    """The settings of training.

    Args:
        machine: where the detector is trained.
        processes: number of processes, if it has no GPU.
        steps: number of steps.
        evaluations: number of evaluations, which divides ``steps``; 0: none.
    """
    recipe = machine.recipe
    every = steps // evaluations if evaluations else 0
    return {
        "batch_size": recipe.batch_size,
        **({"chunk_sizes": list(recipe.chunk_sizes)} if recipe.chunk_sizes else {}),
        "max_iter": steps,
        **OPTIMIZER,
        "learning_rate": recipe.learning_rate,
        "warmup": min(WARMUP, int(WARMUP_PART * steps)),
        "precision": "bfloat16" if machine.bfloat16 else "float32",
        "eval_iter": every,
        "val_iter": 0,
        "snapshot": every or -(-steps // SNAPSHOTS),
        "display": 20,
        "workers": machine.workers(processes),
        "cpu_processes": processes,
    }


def _maps(layout: Layout) -> Section:
    return {"input_size": list(layout.input_size), "output_sizes": [list(layout.output_size)]}


def _corners(summary: Summary) -> Section:
    top_k = _top_k(summary)
    num_dets = min(top_k**2, NUM_DETS_PER_CORNER * top_k)
    found = {**_detections(summary), "num_dets": num_dets}
    return {"regression_window": REGRESSION_WINDOW, **found}


def _detections(summary: Summary) -> Section:
    top_k = _top_k(summary)
    return {"top_k": top_k, "max_per_image": top_k}


def _top_k(summary: Summary) -> int:
    wanted = 10 * math.ceil(TOP_K_PER_OBJECT * summary.most_objects / 10)
    return min(max(TOP_K, wanted), MOST_TOP_K)


def _corner_model(below: Section) -> Section:
    return {
        "pairing": "centripetal",
        **below,
        "head_channels": HEAD_CHANNELS,
        "pooling_channels": POOLING_CHANNELS,
    }
