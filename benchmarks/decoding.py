"""Times decoding and soft-NMS of one image, as multiples of ``torch.topk`` of its heatmap.

    python -m benchmarks.decoding [--rounds 30] [--threads N] [--device cpu]

Decoding: one image, 80 classes of 128 x 128 cells, K = 100, kernel 3, 1000 pairs of corners.
Soft-NMS: 25 boxes of each of 80 classes, and the cut to the best 100. The yardstick and the
functions take turns; times are medians, with the fastest in brackets, for machines that others use
too. Then come the operators that work on the device, those that are views left out: what a GPU
spends on launches. Most operators are one launch, ``topk`` is several.
"""

import argparse
import functools
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import seconds
from core.decode.centers import decode_centers
from core.decode.central_region import decode_central_region
from core.decode.corners import decode_centripetal, decode_corners
from core.decode.soft_nms import keep_best, suppress
from core.layers.distribution import VALUES
from core.structures import CenterMaps, CentripetalMaps, CornerMaps, GuidedMaps
from cpools_ext import native, soft_nms_reference
from cpools_ext.corners import gather_cells
from cpools_ext.soft_nms import METHODS

CLASSES, CELLS, TOP_K, BOXES, BEST = 80, 128, 100, 25, 100
DECODING = {"top_k": TOP_K, "ae_threshold": 0.5, "kernel": 3, "num_dets": 1000, "no_border": False}


class Operators(TorchDispatchMode):
    """Counts the operators that work on a device; views and empty tensors cost it nothing.

    Attributes:
        names: the operators in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if not func.is_view and func is not torch.ops.aten.empty.memory_format:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def noise_maps(device: torch.device, cells: int = CELLS) -> CornerMaps:
    """Makes maps of noise in which some corners match."""
    torch.manual_seed(0)
    heatmaps = torch.randn(2, 1, CLASSES, cells, cells) * 2 - 4
    embeddings, offsets = torch.randn(2, 1, 1, cells, cells), torch.rand(2, 1, 2, cells, cells)
    maps = {"heatmap": heatmaps, "embedding": embeddings, "offset": offsets}
    corners = {
        f"{corner}_{name}": both[number].to(device)
        for name, both in maps.items()
        for number, corner in enumerate(("tl", "br"))
    }
    return CornerMaps(**corners)


def decoders(maps: CornerMaps) -> dict[str, Callable[[], Tensor]]:
    """The decoders by name: that of these maps, and the others on noise of the same size."""
    sides = maps.tl_heatmap.shape[2:]

    def noise(*channels: int) -> list[Tensor]:
        return [torch.randn(1, each, *sides).to(maps.tl_heatmap.device) for each in channels]

    common = {"top_k": TOP_K, "kernel": 3}
    corners = {**common, "num_dets": 1000}
    shifted = CentripetalMaps(*noise(CLASSES, CLASSES, 2, 2, 2 * VALUES, 2 * VALUES, CLASSES))
    guided = GuidedMaps(*noise(CLASSES, CLASSES, 2, 2, 2, 2, 2, 2))
    centers = CenterMaps(*noise(CLASSES, 2, 2))
    return {
        "decode_corners": lambda: decode_corners(maps, **DECODING),
        "decode_centripetal": lambda: decode_centripetal(shifted, no_border=False, **corners),
        "decode_central_region": lambda: decode_central_region(guided, stride=4, **corners),
        "decode_centers": lambda: decode_centers(centers, **common),
    }


def peaks_by_pooling(heatmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Finds peaks the reference's way: probabilities that equal their max-pooled self."""
    scores = heatmap.sigmoid()
    scores = scores * (F.max_pool2d(scores, 3, stride=1, padding=1) == scores).float()
    scores, found = scores.flatten(1).topk(TOP_K)
    return scores, found // CELLS**2, found % CELLS**2


def decode_by_pooling(maps: CornerMaps) -> Tensor:
    """Decodes the reference's way: every value of all pairs of K by K corners, then the best."""
    tl_scores, tl_labels, tl_cells = peaks_by_pooling(maps.tl_heatmap)
    br_scores, br_labels, br_cells = peaks_by_pooling(maps.br_heatmap)
    points, embeddings = [], []
    for cells, offset, embedding in (
        (tl_cells, maps.tl_offset, maps.tl_embedding),
        (br_cells, maps.br_offset, maps.br_embedding),
    ):
        corner = torch.stack((cells % CELLS, cells // CELLS), 2) + gather_cells(offset, cells)
        points.append(corner)
        embeddings.append(gather_cells(embedding, cells)[..., 0])
    pairs = (1, TOP_K, TOP_K)
    tl_points, br_points = points[0][:, :, None], points[1][:, None]
    boxes = torch.cat([point.expand(*pairs, 2) for point in (tl_points, br_points)], 3)
    scores = (tl_scores[:, :, None] + br_scores[:, None]) / 2
    scores[tl_labels[:, :, None] != br_labels[:, None]] = -1
    distance = (embeddings[0][:, :, None] - embeddings[1][:, None]).abs()
    scores[distance > DECODING["ae_threshold"]] = -1
    scores[(br_points < tl_points).any(3)] = -1
    scores, best = scores.flatten(1).topk(DECODING["num_dets"])
    sides = (tl_scores[:, :, None], br_scores[:, None], tl_labels[:, :, None].float())
    rows = torch.cat((boxes, torch.stack([side.expand(pairs) for side in sides], 3)), 3)
    rows = rows.flatten(1, 2).gather(1, best[..., None].expand(-1, -1, 7))
    return torch.cat((rows[..., :4], scores[..., None], rows[..., 4:]), 2)


def noise_boxes() -> tuple[np.ndarray, np.ndarray]:
    """Makes random detections of one image, the classes mixed."""
    rng = np.random.default_rng(0)
    count = CLASSES * BOXES
    corners, sizes = rng.random((count, 2)) * 400, 20 + rng.random((count, 2)) * 150
    boxes = np.hstack([corners, corners + sizes, rng.random((count, 3))]).astype(np.float32)
    return boxes, rng.permutation(np.repeat(np.arange(CLASSES), BOXES))


def suppress_class_by_class(boxes: np.ndarray, labels: np.ndarray, **settings: object) -> None:
    """Suppresses the reference's way: a Python loop over the classes, and a compiled function."""
    parts = [boxes[labels == label] for label in range(CLASSES)]
    rows = [suppress(part, np.zeros(len(part), np.int64), **settings)[0] for part in parts]
    keep_best(np.concatenate(rows)[:, 4], BEST)


def suppress_at_once(boxes: np.ndarray, labels: np.ndarray, **settings: object) -> None:
    rows, _ = suppress(boxes, labels, **settings)
    keep_best(rows[:, 4], BEST)


def suppress_in_numpy(
    boxes: np.ndarray,
    labels: np.ndarray,
    method: str,
    nms_threshold: float,
    merge: bool = False,
) -> None:
    rows, _, kept = soft_nms_reference.soft_nms(
        boxes, labels, METHODS[method], nms_threshold, 0.5, 0.001, 8.0 if merge else None, True
    )
    keep_best(rows[kept, 4], BEST)


def cases(device: torch.device) -> dict[str, Callable[[], object]]:
    """Functions to measure, by name."""
    maps, boxes = noise_maps(device), noise_boxes()
    ours, reference = decode_corners(maps, **DECODING), decode_by_pooling(maps)
    assert torch.allclose(ours[..., 4], reference[..., 4], atol=1e-5), "the two decodings differ"
    ways: dict[str, Callable[[], object]] = {
        "corners, max-pool (reference)": lambda: decode_by_pooling(maps),
        **decoders(maps),
    }
    forms = {"merging": {"method": "exp_soft_nms", "merge": True}}
    forms |= {method: {"method": method} for method in METHODS}
    functions = {
        "ours": suppress_at_once,
        "NumPy": suppress_in_numpy,
        "a call a class": suppress_class_by_class,
    }
    for form, settings in forms.items():
        for name, function in functions.items():
            ways[f"{form}, {name}"] = functools.partial(
                function, *boxes, nms_threshold=0.5, **settings
            )
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    heatmap = noise_maps(device).tl_heatmap.flatten(1)
    torch.topk(heatmap, TOP_K)
    print(
        f"{device}, {torch.get_num_threads()} threads; native operators: {native.has_kernel('cpu')}"
    )
    for name, function in cases(device).items():
        with Operators() as operators:
            function()
        yards, times = [], []
        for _ in range(options.rounds):
            yards.append(seconds(lambda: torch.topk(heatmap, TOP_K), device))
            times.append(seconds(function, device))
        yard, middle = statistics.median(yards), statistics.median(times)
        print(
            f"{name:32} {1e3 * middle:8.3f} ms {middle / yard:7.2f} topk  "
            f"[{1e3 * min(times):.3f} ms {min(times) / min(yards):.2f}]  "
            f"{len(operators.names)} operators"
        )


if __name__ == "__main__":
    main()
