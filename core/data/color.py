"""The colours of a training picture as one matrix.

Brightness, contrast, saturation, PCA lighting and the normalisation are each affine in the pixel,
so their composition is a 3x3 matrix and a bias. It is drawn here, in the worker, and applied to the
uint8 image where the network runs (:mod:`core.targets.color`). All channels are in the order BGR.
"""

from collections.abc import Iterable

import cv2
import numpy as np

MEAN = np.array([0.40789654, 0.44719302, 0.47026115], np.float32)  # of COCO's pixels in 0..1
STD = np.array([0.28863828, 0.27408164, 0.27809835], np.float32)

# Principal components of the colours of ImageNet (Krizhevsky et al. 2012, section 4.1): found for
# RGB, applied to BGR in the reference and so here.
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
JITTER = 0.4  # brightness, contrast and saturation change by a factor of 1 ± JITTER at most
LIGHTING = 0.1  # standard deviation of the lighting, in units of an eigenvalue


def normalized(matrix: np.ndarray) -> np.ndarray:
    """Puts the scaling to 0..1 before a change of colour, and mean and deviation after it.

    Args:
        matrix: [3, 4], acts on BGR in 0..1: new = ``matrix[:, :3] @ bgr + matrix[:, 3]``.

    Returns:
        float32 [3, 4], acts on BGR in 0..255.
    """
    matrix = matrix.astype(np.float64)
    scaled = np.concatenate([matrix[:, :3] / 255, matrix[:, 3:] - MEAN[:, None]], axis=1)
    return (scaled / STD[:, None]).astype(np.float32)


NORMALIZE = normalized(np.eye(3, 4))


def jitter(gray_mean: float, order: Iterable[int], shifts: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation in a given order.

    With a = 1 + shift, brightness is ``a x``, contrast ``a x + (1 - a) gray_mean`` and saturation
    ``a x + (1 - a) gray``. Gray and its mean are those of the image before any of the three.

    Args:
        gray_mean: mean of the gray image, in 0..1.
        order: the numbers 0 (brightness), 1 (contrast), 2 (saturation), in the order to apply.
        shifts: float [3], indexed by these numbers.

    Returns:
        float64 [3, 4], acts on BGR in 0..1.
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
    """What PCA lighting with strengths ``alpha`` [3] adds to every pixel in 0..1: [3]."""
    return EIG_VEC @ (EIG_VAL * alpha)


def color_matrix(
    image: np.ndarray, rng: np.random.Generator, *, lighting: bool = True
) -> np.ndarray:
    """Draws the change of colour of one picture and composes it with the normalisation.

    Args:
        image: uint8 [h, w, 3], BGR, as the network will see it but for its colours.
        rng: source of the order, the shifts and the lighting.
        lighting: whether PCA lighting is added.

    Returns:
        float32 [3, 4]: normalised pixel = ``color[:, :3] @ pixel + color[:, 3]``, pixel in 0..255.
    """
    gray_mean = float(LUMA @ cv2.mean(image)[:3]) / 255
    matrix = jitter(gray_mean, rng.permutation(3), rng.uniform(-JITTER, JITTER, 3))
    if lighting:
        matrix[:, 3] += lighting_shift(rng.normal(0, LIGHTING, 3))
    return normalized(matrix)
