"""Images that are too large for the memory or for a library's limits: the errors, and the message.

Detection and evaluation go on with the other images.
"""

import cv2
import numpy as np
import torch

# Parts of the messages of errors that have no class of their own.
_TORCH = ("DefaultCPUAllocator", "not enough memory", "out of memory", "canUse32BitIndexMath")
_OPENCV = ("Insufficient memory", "Failed to allocate", "SHRT_MAX")


def is_too_large(error: BaseException) -> bool:
    """True for an error that says that memory ran out, or that an image has too many pixels."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, cv2.error):
        return any(part in str(error) for part in _OPENCV)
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _TORCH)


def too_large_reason(image: np.ndarray) -> str:
    """Says what is wrong with an image uint8 [h, w, 3], to go after the name of its file."""
    height, width = image.shape[:2]
    return (
        f"is too large for the memory ({width} x {height} pixels); smaller db.test_scales need less"
    )
