"""Native operators of the detectors, each with a twin in standard PyTorch that needs no binary."""

from cpools_ext.ops import DIRECTIONS, corner_pool

__all__ = ["DIRECTIONS", "corner_pool"]
