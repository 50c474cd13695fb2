"""What the settings of CornerNet-Saccade's closer looks must be, and with one another."""

from collections.abc import Iterator, Sequence

from ..config.loading import Db


def saccade_problems(
    db: Db,
    doublings: int,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
) -> Iterator[str]:
    """What is out of range, or does not go together, among the settings of saccades.

    Args:
        db: the settings.
        doublings: how often an hourglass doubles a map.
        sizes: height and width, in cells, of the attention maps that the network makes.
        strides: pixels a cell of each of them.

    Yields:
        what is wrong, from the setting's key on.
    """
    levels, side = len(db.att_ranges), min(db.input_size)
    if not 1 <= levels <= doublings:
        yield (
            f"att_ranges names {levels} attention maps; the network has merged maps for 1 to "
            f"{doublings}"
        )
    for key, values in (("att_nms_ks", (db.att_nms_ks,)), ("att_scales", db.att_scales)):
        if any(len(value) != levels for value in values):
            yield f"{key} must give one number for each of the {levels} db.att_ranges"
    if len(db.att_scales) != len(db.att_thresholds):
        yield (
            f"att_scales names {len(db.att_scales)} rounds and db.att_thresholds "
            f"{len(db.att_thresholds)}; give each one entry a round"
        )
    if any(window < 1 or window % 2 == 0 for window in db.att_nms_ks):
        yield f"att_nms_ks {list(db.att_nms_ks)} must be odd"
    if any(zoom <= 0 for zooms in db.att_scales for zoom in zooms):
        yield "att_scales must hold numbers above 0"
    if any(not 0 <= threshold < 1 for threshold in db.att_thresholds):
        yield "att_thresholds must be at least 0 and below 1"
    if db.att_max_crops < 0:
        yield "att_max_crops must be at least 0"
    if not db.init_sizes or not all(1 <= size <= side for size in db.init_sizes):
        yield f"init_sizes {list(db.init_sizes)} must be 1 to {side}, the view's side, each"
    yield from _problems_of_ranges(db.att_ranges, side)
    for low, high in db.att_ranges:
        if max(low, db.min_scale, 1) > min(high, side - 1):
            yield (
                f"att_ranges has [{low}, {high}], and with db.min_scale {db.min_scale} and "
                f"db.input_size {list(db.input_size)} no size of an object is left in it"
            )
    yield from _problems_of_maps(db, sizes, strides)


def _problems_of_maps(
    db: Db, sizes: Sequence[tuple[int, int]], strides: Sequence[int]
) -> Iterator[str]:
    """What the settings say of the attention maps, and the network does not make."""
    for key, given, actual in (
        ("att_sizes", db.att_sizes, sizes),
        ("att_ratios", db.att_ratios, strides),
    ):
        if given is not None and given != actual:
            yield (
                f"{key} says {_listed(given)}, and from db.input_size {list(db.input_size)} the "
                f"network makes {_listed(actual)}; leave it out"
            )


def _problems_of_ranges(ranges: Sequence[tuple[int, int]], side: int) -> Iterator[str]:
    """What keeps some object of a view with sides of ``side`` pixels from having one map."""
    lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
    given = f"att_ranges {_listed(ranges)}"
    if lows != sorted(set(lows), reverse=True):
        yield f"{given} must go from large objects to small ones"
    elif ranges and (lows[-1] != 0 or highs[0] < side - 1):
        yield f"{given} must reach from 0 to {side - 1} pixels, the largest object of a view"
    elif any(high < low for high, low in zip(highs[1:], lows, strict=False)):
        yield f"{given} leave a gap: objects of that size would be in no attention map"


def _listed(pairs: Sequence[object]) -> list[object]:
    return [list(pair) if isinstance(pair, tuple) else pair for pair in pairs]
