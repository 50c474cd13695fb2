"""Images of all kinds become uint8 [h, w, 3] in BGR; what is none is refused in one line."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from core.config.errors import UserError
from core.data.as_image import as_image
from core.data.images import load_image

BGR = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
RGB = BGR[:, :, ::-1].copy()
GREY = BGR[:, :, 0]
ALPHA = np.full((5, 7, 1), 9, np.uint8)


def same(image, expected=BGR, **how):
    """Converts an image and compares it; what was given stays as it is."""
    found = as_image(image, **how)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "kind",
    [
        lambda image: image,
        lambda image: np.concatenate([image, ALPHA], 2),
        lambda image: image / np.float32(255),
        lambda image: (image / 255).astype(np.float16),
        lambda image: np.asfortranarray(image),
    ],
    ids=["plain", "alpha", "float32", "float16", "strides"],
)
def test_arrays(kind):
    same(kind(BGR))
    same(kind(RGB), rgb=True)


@pytest.mark.parametrize(
    "kind",
    [
        lambda image: image,
        lambda image: torch.cat([image, torch.zeros(1, 5, 7, dtype=torch.uint8)]),
        lambda image: image / 255,
        lambda image: (image / 255).double().requires_grad_(),
        lambda image: image.contiguous(),
    ],
    ids=["uint8", "alpha", "float", "gradient", "contiguous"],
)
@pytest.mark.parametrize("rgb", [False, True])
def test_tensors_are_rgb_whatever_arrays_are(kind, rgb):
    same(kind(torch.from_numpy(RGB).permute(2, 0, 1)), rgb=rgb)


def test_a_tensor_of_bfloat16_is_close():
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    found = as_image((tensor / 255).bfloat16())
    assert np.abs(found.astype(int) - BGR).max() <= 1


@pytest.mark.parametrize(
    "image",
    [GREY, GREY[:, :, None], GREY / 255, torch.from_numpy(GREY), torch.from_numpy(GREY)[None]],
    ids=["array", "one channel", "float", "tensor", "tensor of one channel"],
)
@pytest.mark.parametrize("rgb", [False, True])
def test_grey_is_repeated(image, rgb):
    same(image, np.repeat(GREY[:, :, None], 3, 2), rgb=rgb)


def test_16_bits_are_scaled_as_those_of_files(tmp_path):
    for name, deep in {
        "color": BGR.astype(np.uint16) * 7 + 900,
        "grey": GREY.astype(np.uint16) * 11 + 40,
    }.items():
        file = tmp_path / f"{name}.png"
        cv2.imwrite(str(file), deep)
        same(deep, load_image(file))
        same(deep[:, :, ::-1] if deep.ndim == 3 else deep, load_image(file), rgb=True)
    same(Image.open(file), load_image(file))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I", "F"])
def test_pil_images_are_as_their_files(tmp_path, mode):
    image = Image.fromarray(RGB).convert(mode)
    if mode in ("CMYK", "YCbCr"):
        back = np.asarray(image.convert("RGB"))[:, :, ::-1]
        same(image, back)
        assert mode == "YCbCr" or np.abs(back.astype(int) - BGR).max() <= 1
        return
    file = tmp_path / ("image.tiff" if mode in ("I", "F") else "image.png")
    image.save(file)
    same(image, load_image(file))
    same(Image.open(file), load_image(file), rgb=True)


def test_pil_images_turn_as_their_exif_data_say(tmp_path):
    image, exif = Image.fromarray(RGB), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "image.png", exif=exif)
    turned = np.rot90(BGR, -1)
    same(Image.open(tmp_path / "image.png"), turned)
    same(tmp_path / "image.png", turned)
    same(str(tmp_path / "image.png"), turned)


def test_a_pil_image_whose_file_is_cut():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "png")
    image = Image.open(io.BytesIO(file.getvalue()[:2000]))
    with pytest.raises(UserError, match=r"the PIL image \(RGB, 64 x 64\) cannot be read: .*trunc"):
        as_image(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"not NoneType \(cv2.imread returns None for a file that it cannot read\)"),
        ({"image": 1}, "not dict"),
        (b"\xff\xd8", "not bytes"),
        (np.zeros((5, 7, 2), np.uint8), r"not the array uint8 \[5, 7, 2\]$"),
        (np.zeros((3, 5, 7), np.uint8), r"not the array uint8 \[3, 5, 7\]; array.transpose\(1, 2"),
        (np.zeros((0, 7, 3), np.uint8), r"not the array uint8 \[0, 7, 3\]"),
        (np.zeros(9, np.uint8), r"not the array uint8 \[9\]"),
        (np.zeros((5, 7, 3), np.int64), r"not the array int64 \[5, 7, 3\]; make it uint8"),
        (np.zeros((5, 7, 3), bool), r"not the array bool \[5, 7, 3\]; make it uint8"),
        (np.full((5, 7, 3), 255.0), "must be from 0 to 1, not from 255 to 255; divide by 255"),
        (np.full((5, 7, 3), -0.5), "must be from 0 to 1, not from -0.5 to -0.5; undo its norm"),
        (np.full((5, 7, 3), np.nan), "not numbers"),
        (np.full((5, 7, 3), np.inf), "must be from 0 to 1, not from inf"),
        (torch.zeros(5, 7, 3), r"not the tensor torch.float32 \[5, 7, 3\]; tensor.permute\(2, 0"),
        (torch.zeros(2, 5, 7), r"not the tensor torch.float32 \[2, 5, 7\]$"),
        (torch.zeros(3, 0, 7), r"not the tensor torch.float32 \[3, 0, 7\]$"),
        (torch.zeros(3, 5, 7).long(), r"not the tensor torch.int64 \[3, 5, 7\]; make it uint8"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(UserError, match=message) as error:
        as_image(image)
    assert "\n" not in str(error.value)
