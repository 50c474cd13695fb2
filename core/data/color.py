"""The change of colour of a training image as one matrix.

Brightness, contrast, saturation, PCA lighting and the normalisation are each affine in the pixel,
so their composition is a 3x3 matrix and a bias. It is drawn here, in the worker, and applied to the
uint8 image where the network runs (:func:`apply_color`). All channels are in the order BGR.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from torch import Tensor

MEAN = np.array([0.40789654, 0.44719302, 0.47026115], np.float32)  # of COCO's pixels in 0..1
STD = np.array([0.28863828, 0.27408164, 0.27809835], np.float32)

# Principal components of the colours of ImageNet (Krizhevsky et al. 2012, section 4.1). They were
# computed for RGB; the reference applies them to BGR, and so does this.
EIG_VAL = np.array([0.2141788, 0.01817699, 0.00341571], np.float32)
EIG_VEC = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ],
    np.float32,
)

LUMA = np.array([0.114, 0.587, 0.299])  # gray = LUMA . (blue, green, red)
JITTER = 0.4  # brightness, contrast and saturation change by a factor from 1 - JITTER to 1 + JITTER
LIGHTING = 0.1  # standard deviation of the lighting, in units of an eigenvalue


def normalized(matrix: np.ndarray) -> np.ndarray:
    """Adds the scaling to 0..1 before a change of colour, and mean and deviation after it.

    Args:
        matrix: [3, 4], maps BGR in 0..1 to ``matrix[:, :3] @ bgr + matrix[:, 3]``.

    Returns:
        float32 [3, 4], for BGR in 0..255.
    """
    matrix = matrix.astype(np.float64)
    scaled = np.concatenate([matrix[:, :3] / 255, matrix[:, 3:] - MEAN[:, None]], axis=1)
    return (scaled / STD[:, None]).astype(np.float32)


NORMALIZE = normalized(np.eye(3, 4))


def jitter(gray_mean: float, order: Iterable[int], shifts: np.ndarray) -> np.ndarray:
    """Composes brightness, contrast and saturation in a given order.

    With a = 1 + shift, brightness is ``a x``, contrast ``a x + (1 - a) gray_mean`` and saturation
    ``a x + (1 - a) gray``. Gray and its mean are those of the image before any of the three.

    Args:
        gray_mean: mean of the gray image, in 0..1.
        order: the numbers 0 (brightness), 1 (contrast), 2 (saturation), in the order to apply.
        shifts: float [3], indexed by these numbers.

    Returns:
        float64 [3, 4], for BGR in 0..1.
    """
    to_mean = np.array([0.0, 0.0, 0.0, gray_mean])
    to_gray = np.array([*LUMA, 0.0])
    matrix = np.eye(3, 4)
    for operation in order:
        alpha = 1 + shifts[operation]
        matrix *= alpha
        if operation == 1:
            matrix += (1 - alpha) * to_mean
        elif operation == 2:
            matrix += (1 - alpha) * to_gray
    return matrix


def lighting_shift(alpha: np.ndarray) -> np.ndarray:
    """Computes what PCA lighting of strengths ``alpha`` [3] adds to a pixel in 0..1: [3]."""
    return EIG_VEC @ (EIG_VAL * alpha)


def color_matrix(
    image: np.ndarray, rng: np.random.Generator, *, lighting: bool = True
) -> np.ndarray:
    """Draws the change of colour of one image and composes it with the normalisation.

    Args:
        image: uint8 [h, w, 3], BGR, after crop, resize and flip.
        rng: draws the order, the shifts and the lighting.
        lighting: add PCA lighting.

    Returns:
        float32 [3, 4]: normalised pixel = ``color[:, :3] @ pixel + color[:, 3]``, pixel in 0..255.
    """
    gray_mean = float(LUMA @ cv2.mean(image)[:3]) / 255
    matrix = jitter(gray_mean, rng.permutation(3), rng.uniform(-JITTER, JITTER, 3))
    if lighting:
        matrix[:, 3] += lighting_shift(rng.normal(0, LIGHTING, 3))
    return normalized(matrix)


def apply_color(images: Tensor, color: Tensor) -> Tensor:
    """Applies to every image its own affine map of the pixel.

    Three multiply-adds, rather than a matrix product, which a GPU may round to TF32 or bfloat16.

    Args:
        images: uint8 [B, 3, h, w].
        color: float32 [B, 3, 4]: new pixel = ``color[:, :3] @ pixel + color[:, 3]``.

    Returns:
        float32 [B, 3, h, w].
    """
    blue, green, red, bias = color[..., None, None].unbind(2)  # each [B, 3, 1, 1]
    result = torch.addcmul(bias, blue, images[:, 0:1])
    result.addcmul_(green, images[:, 1:2])
    return result.addcmul_(red, images[:, 2:3])


def show_color(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Applies a change of colour to an image without the normalisation, to look at it.

    Args:
        image: uint8 [h, w, 3], BGR.
        color: float32 [3, 4], from :func:`color_matrix` or :data:`NORMALIZE`.

    Returns:
        uint8 [h, w, 3], BGR.
    """
    visible = 255 * color.astype(np.float64) * STD[:, None]
    visible[:, 3] += 255 * MEAN
    return cv2.transform(image, visible)
