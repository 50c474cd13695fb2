"""Corners of objects: their places, the scores of their pairs, and the best pairs.

Each is one operator with a kernel for CUDA, because a GPU would spend more time on starting the
many operators of standard PyTorch than on their few thousand numbers. Elsewhere they are those.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import Library, register_fake

from cpools_ext import native

REJECTED = -1.0  # the score of a pair of corners that is no object

_library = Library("cpools_ext", "FRAGMENT")
_library.define(
    "read_corners(Tensor logits, Tensor cells, Tensor[] offsets, int[2] size, bool no_border) "
    "-> (Tensor, Tensor, Tensor)"
)
_library.define(
    "score_pairs(Tensor points, Tensor scores, Tensor labels, Tensor cells, Tensor found, "
    "Tensor[] embeddings, float max_distance) -> Tensor"
)
_library.define(
    "best_pairs(Tensor points, Tensor scores, Tensor labels, Tensor pairs, int count) -> Tensor"
)


class Corners(NamedTuple):
    """The best corners over all classes; K of them in each image.

    Attributes:
        points: float32 [2, B, K, 2], (x, y) in cells; of the top-left corners, then of the
            bottom-right ones. Those of one kind are without that dimension, here and below.
        scores: float32 [2, B, K], probabilities.
        labels: int64 [2, B, K].
        cells: int64 [2, B, K], y * W + x.
        found: bool [2, B, K], false where an image has fewer corners.
    """

    points: Tensor
    scores: Tensor
    labels: Tensor
    cells: Tensor
    found: Tensor


def read_corners(
    peaks: tuple[Tensor, Tensor, Tensor],
    offsets: Sequence[Tensor],
    size: tuple[int, int],
    no_border: bool,
) -> Corners:
    """Makes corners of the peaks of two heatmaps.

    Args:
        peaks: scores float32 [2, B, K], logits, -inf where there is none; labels and cells int64
            [2, B, K], of the top-left heatmap first.
        offsets: for either heatmap [B, 2, H, W], or [B, K, 2] at the peaks: (x, y) to add to the
            number of a cell.
        size: height and width of the heatmaps.
        no_border: top-left corners in the first row or column of cells, and bottom-right ones in
            the last, count as not found.
    """
    logits, labels, cells = peaks
    if _in_pytorch(cells):
        found = _read_corners(logits, cells, offsets, size, no_border)
    else:
        found = torch.ops.cpools_ext.read_corners(logits, cells, offsets, size, no_border)
    return Corners(found[0], found[1], labels, cells, found[2])


def score_pairs(corners: Corners, embeddings: Sequence[Tensor], max_distance: float) -> Tensor:
    """Scores each pair of a top-left and a bottom-right corner.

    Args:
        corners: K corners of each kind.
        embeddings: for either kind [B, 1, H, W], or [B, K, 1] at the corners.
        max_distance: largest distance of the embeddings of an object's two corners.

    Returns:
        float32 [B, K, K], top-left corners down: the mean of both scores, or :data:`REJECTED` for
        corners that are far from each other or no :func:`possible_pairs`.
    """
    if _in_pytorch(corners.cells):
        return _score_pairs(*corners, embeddings, max_distance)
    return torch.ops.cpools_ext.score_pairs(*corners, embeddings, max_distance)


def best_pairs(corners: Corners, pairs: Tensor, count: int) -> Tensor:
    """Takes the pairs with the highest scores.

    Args:
        corners: K corners of each kind.
        pairs: float32 [B, K, K], the scores of pairs, top-left corners down.
        count: number of pairs to take from each image, at most K * K.

    Returns:
        float32 [B, count, 8], best first: box in cells, score, score of the top-left and of the
        bottom-right corner, class.
    """
    assert count <= pairs.shape[2] ** 2, (count, pairs.shape)
    points, scores, labels, _, _ = corners
    if _in_pytorch(pairs):
        return _best_pairs(points, scores, labels, pairs, count)
    return torch.ops.cpools_ext.best_pairs(points, scores, labels, pairs, count)


def possible_pairs(tl: Corners, br: Corners) -> Tensor:
    """Pairs of one class whose bottom-right corner is not left of or above the other: [B, K, K]."""
    paired = tl.found[:, :, None] & br.found[:, None, :]
    paired &= tl.labels[:, :, None] == br.labels[:, None, :]
    paired &= (br.points[:, None, :] >= tl.points[:, :, None]).all(3)
    return paired


def split_kinds(corners: Corners) -> tuple[Corners, Corners]:
    """Takes the top-left and the bottom-right corners."""
    tl, br = zip(*(part.unbind() for part in corners), strict=True)
    return Corners(*tl), Corners(*br)


def gather_cells(maps: Tensor, index: Tensor) -> Tensor:
    """Reads the vectors of some cells, without copying the map.

    Args:
        maps: [B, D, H, W]; or [B, M, D], if only those cells were computed.
        index: int64 [B, M], number ``y * W + x`` of a cell.

    Returns:
        [B, M, D].
    """
    if maps.dim() == 3:
        assert maps.shape[:2] == index.shape, (maps.shape, index.shape)
        return maps
    channels = index[:, None].expand(-1, maps.shape[1], -1)  # [B, D, M]
    return maps.flatten(2).gather(2, channels).transpose(1, 2)


def gather_both(maps: Sequence[Tensor], cells: Tensor) -> Tensor:
    """Reads a map of each kind at its cells [2, B, K]: [2, B, K, D]; see :func:`gather_cells`."""
    return torch.stack([gather_cells(*each) for each in zip(maps, cells.unbind(), strict=True)])


def _in_pytorch(x: Tensor) -> bool:
    """True where the operators are not called: exported, or on the CPU, which has no kernels."""
    return x.device.type == "cpu" or torch.compiler.is_exporting()


def _read_corners(
    logits: Tensor,
    cells: Tensor,
    offsets: Sequence[Tensor],
    size: Sequence[int],
    no_border: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = size
    xs, ys = cells % width, cells // width
    points = torch.stack((xs, ys), 3) + gather_both(offsets, cells).float()  # [2, B, K, 2]
    found = logits > -torch.inf
    if no_border:
        found[0].logical_and_((xs[0] > 0) & (ys[0] > 0))
        found[1].logical_and_((xs[1] < width - 1) & (ys[1] < height - 1))
    return points, logits.sigmoid(), found


def _score_pairs(
    points: Tensor,
    scores: Tensor,
    labels: Tensor,
    cells: Tensor,
    found: Tensor,
    embeddings: Sequence[Tensor],
    max_distance: float,
) -> Tensor:
    tl, br = split_kinds(Corners(points, scores, labels, cells, found))
    tl_embedding = gather_cells(embeddings[0], tl.cells).float()  # [B, K, 1]
    br_embedding = gather_cells(embeddings[1], br.cells).float()
    paired = possible_pairs(tl, br)
    paired &= (tl_embedding - br_embedding.transpose(1, 2)).abs() <= max_distance
    mean = (tl.scores[:, :, None] + br.scores[:, None, :]) / 2
    return torch.where(paired, mean, REJECTED)


def _best_pairs(
    points: Tensor, scores: Tensor, labels: Tensor, pairs: Tensor, count: int
) -> Tensor:
    top_k = pairs.shape[2]
    highest, best = pairs.flatten(1).topk(count)
    index = torch.stack((best // top_k, best % top_k))[..., None]  # [2, B, count, 1]
    rows = torch.cat((points, scores[..., None], labels[..., None].float()), 3)  # [2, B, K, 4]
    tl, br = rows.gather(2, index.expand(-1, -1, -1, 4)).unbind()  # [B, count, 4]
    tl_x, tl_y, tl_score, label = tl.unbind(2)
    br_x, br_y, br_score, _ = br.unbind(2)
    return torch.stack((tl_x, tl_y, br_x, br_y, highest, tl_score, br_score, label), 2)


def _read_corners_fake(logits: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    found = logits.new_empty(logits.shape, dtype=torch.bool)
    return logits.new_empty((*logits.shape, 2)), logits.new_empty(logits.shape), found


def _score_pairs_fake(points: Tensor, scores: Tensor, *_: object) -> Tensor:
    batch, top_k = scores.shape[1:]
    return scores.new_empty((batch, top_k, top_k))


def _best_pairs_fake(
    points: Tensor, scores: Tensor, labels: Tensor, pairs: Tensor, count: int
) -> Tensor:
    return pairs.new_empty((pairs.shape[0], count, 8))


_library.impl("read_corners", _read_corners, "CompositeExplicitAutograd")
_library.impl("score_pairs", _score_pairs, "CompositeExplicitAutograd")
_library.impl("best_pairs", _best_pairs, "CompositeExplicitAutograd")
register_fake("cpools_ext::read_corners", _read_corners_fake, lib=_library)
register_fake("cpools_ext::score_pairs", _score_pairs_fake, lib=_library)
register_fake("cpools_ext::best_pairs", _best_pairs_fake, lib=_library)
native.load()
