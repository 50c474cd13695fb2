"""Errors that say that an image is too large, and those that say something else."""

import cv2
import numpy as np
import pytest
import torch

from core.data import images
from core.data.images import Unreadable, decode_image, read_image
from core.data.large_images import is_too_large
from tests.support.odd_images import photo, save


def caught(act):
    with pytest.raises(Exception) as error:
        act()
    return error.value


def test_errors_of_this_machine_are_known():
    assert is_too_large(caught(lambda: torch.empty(2**48)))
    assert is_too_large(caught(lambda: np.empty(2**50)))
    assert is_too_large(caught(lambda: cv2.resize(photo(), (2**20, 2**29))))
    text = "(-215:Assertion failed) dst.cols < SHRT_MAX && dst.rows < SHRT_MAX in function 'remap'"
    assert is_too_large(cv2.error(text))
    assert is_too_large(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"))
    assert is_too_large(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))


def test_other_errors_are_not():
    assert not is_too_large(caught(lambda: torch.zeros(2) @ torch.zeros(3)))
    assert not is_too_large(caught(lambda: cv2.resize(photo(), (0, 0))))
    assert not is_too_large(ValueError("out of memory"))


def test_a_file_too_large_to_decode_is_told_from_a_damaged_one(tmp_path, monkeypatch):
    data = save(photo(), "PNG")
    monkeypatch.setattr(images, "_decode", lambda *given: None)
    assert decode_image(data).reason.startswith("is cut short or damaged: its 120 x 80 pixels")

    def full(*given):
        raise MemoryError

    monkeypatch.setattr(images.np, "empty", full)
    assert decode_image(data) == Unreadable("is too large for the memory (120 x 80 pixels)", True)
    monkeypatch.setattr(images, "decode_image", full)
    (tmp_path / "a.png").write_bytes(data)
    assert read_image(tmp_path / "a.png").too_large
