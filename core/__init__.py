"""Training and evaluation of keypoint detectors: CornerNet and its family."""
