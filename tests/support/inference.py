"""Detection in one image, without batches and threads."""

import torch

from core.inference.batches import BatchedInference
from core.inference.predict import Predict


def run(steps, predict, device="cpu"):
    """What the steps of one image return where ``predict`` is the network with its decoding."""
    found = None
    try:
        while True:
            request = steps.send(found)
            images = request.batch([request], torch.device(device))
            (found,) = request.split(predict(images, **request.options), [request])
    except StopIteration as end:
        return end.value


def detect(detector, image, predict=None):
    """The detections of a detector in an image, with its network or another ``predict``."""
    predict = predict or detector.predict(torch.device("cpu"))
    if not isinstance(predict, Predict):
        return run(detector.infer(image), predict)
    (found,) = BatchedInference(detector.infer, predict, 1, threaded=False)([image])
    assert found.problem is None, found.problem
    return found.detections
