"""Training and evaluation of keypoint detectors: CornerNet and its family."""

__version__ = "0.2.0"
