"""An image as its user has it, a file, an array, a tensor or PIL's, as uint8 [h, w, 3] in BGR."""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..config.errors import UserError
from .images import load_image, to_8_bits

AnyImage: TypeAlias = str | Path | np.ndarray | Tensor | Image.Image

_TAKEN = (
    "an image must be a path, a PIL image, an array [height, width] or [height, width, 3 or 4] in "
    "BGR, or a tensor [3, height, width] in RGB"
)
_CHANNELS = (1, 3, 4)  # grey, colour, colour and alpha


def as_image(image: AnyImage, rgb: bool = False) -> np.ndarray:
    """Converts an image to uint8 [h, w, 3], BGR; alpha is dropped, and grey repeated.

    Args:
        image: the path of a file; an image of PIL, of any mode, rotated as its EXIF data says; an
            array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], BGR or BGRA as OpenCV reads it; or a
            tensor [h, w] or [1, 3 or 4, h, w], RGB or RGBA as torchvision reads it, on any device.
            Arrays and tensors are uint8, or floats from 0 to 1. Of 16 bits, the lowest value
            becomes 0 and the highest 255, as of files.
        rgb: an array is RGB or RGBA; no other kind of image changes with it.

    Raises:
        UserError: a file that cannot be read; another type, dtype or shape; an empty image; floats
            that are not from 0 to 1.
    """
    if isinstance(image, str | os.PathLike):
        return load_image(Path(image))
    if isinstance(image, np.ndarray):
        return _to_bgr(image, image, rgb)
    if isinstance(image, Tensor):
        return _to_bgr(_channels_last(image), image, rgb=True)
    if isinstance(image, Image.Image):
        return _from_pil(image)
    hint = " (cv2.imread returns None for a file that it cannot read)" if image is None else ""
    raise UserError(f"{_TAKEN}, not {type(image).__name__}{hint}")


def _to_bgr(pixels: np.ndarray, given: np.ndarray | Tensor, rgb: bool) -> np.ndarray:
    """Converts an array [h, w] or [h, w, c], from what was given, to uint8 [h, w, 3], BGR."""
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS or not pixels.size:
        first = given.ndim == 3 and given.shape[0] in _CHANNELS and given is pixels
        hint = "; array.transpose(1, 2, 0) puts the channels last" if first else ""
        raise _refusal(given, hint)
    pixels = pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels[:, :, :3]
    if rgb:
        pixels = pixels[:, :, ::-1]
    if pixels.dtype == np.uint16:
        pixels = to_8_bits(pixels)
    elif np.issubdtype(pixels.dtype, np.floating):
        pixels = _scaled(pixels)
    elif pixels.dtype != np.uint8:
        raise _refusal(given, "; make it uint8 from 0 to 255, or floats from 0 to 1")
    return np.ascontiguousarray(pixels)


def _channels_last(image: Tensor) -> np.ndarray:
    """Converts a tensor [h, w] or [c, h, w] to an array [h, w, c]."""
    pixels = image[None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[0] not in _CHANNELS:
        last = image.ndim == 3 and image.shape[2] in _CHANNELS
        hint = "; tensor.permute(2, 0, 1) puts the channels first" if last else ""
        raise _refusal(image, hint)
    if pixels.dtype == torch.bfloat16:  # NumPy has none
        pixels = pixels.float()
    return pixels.detach().permute(1, 2, 0).cpu().numpy()


def _from_pil(image: Image.Image) -> np.ndarray:
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits
            return to_8_bits(np.asarray(image))
        pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:  # its file is read only now
        size = f"{image.mode}, {image.width} x {image.height}"
        raise UserError(f"the PIL image ({size}) cannot be read: {error}") from None
    return _to_bgr(pixels, pixels, rgb=True)


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Scales floats from 0 to 1 to uint8."""
    low, high = pixels.min(), pixels.max()  # NaN, if there is one
    if not (low >= 0 and high <= 1):
        hint = "divide by 255, or make it uint8" if high > 1 else "undo its normalisation"
        if np.isnan(low):
            hint = "it has values that are not numbers"
        raise UserError(
            f"an image of floats must be from 0 to 1, not from {low:g} to {high:g}; {hint}"
        )
    return (pixels * 255).round().astype(np.uint8)


def _refusal(given: np.ndarray | Tensor, hint: str) -> UserError:
    kind = "tensor" if isinstance(given, Tensor) else "array"
    return UserError(f"{_TAKEN}, not the {kind} {given.dtype} {list(given.shape)}{hint}")
