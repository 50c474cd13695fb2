"""Native operators of the detectors, each with a twin in standard PyTorch that needs no binary."""

from cpools_ext.modules import BottomPool, LeftPool, RightPool, TopPool
from cpools_ext.ops import DIRECTIONS, corner_pool
from cpools_ext.sums import CORNERS, corner_pool_sum

__all__ = [
    "CORNERS",
    "DIRECTIONS",
    "BottomPool",
    "LeftPool",
    "RightPool",
    "TopPool",
    "corner_pool",
    "corner_pool_sum",
]
