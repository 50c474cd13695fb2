"""The composed change of colour: parity with the reference, draws, application on the device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data import color
from core.data.color import apply_color

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")
IMAGE = GOLDEN["c_image"]
GRAY_MEAN = float(GOLDEN["c_gray_mean"])


def apply(matrix: np.ndarray, image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) @ matrix[:, :3].T + matrix[:, 3]


def random_images(count: int, height: int = 19, width: int = 23) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 3, height, width), np.uint8)


def test_constants_equal_the_reference():
    np.testing.assert_array_equal(color.MEAN, GOLDEN["mean"])
    np.testing.assert_array_equal(color.STD, GOLDEN["std"])
    np.testing.assert_array_equal(color.EIG_VAL, GOLDEN["eig_val"])
    np.testing.assert_array_equal(color.EIG_VEC, GOLDEN["eig_vec"])


def test_gray_equals_the_reference():
    np.testing.assert_allclose(IMAGE @ color.LUMA, GOLDEN["c_gray"], atol=1e-5)
    assert color.LUMA @ IMAGE.mean((0, 1)) == pytest.approx(GRAY_MEAN, abs=1e-6)


@pytest.mark.parametrize("operation, name", [(0, "brightness"), (1, "contrast"), (2, "saturation")])
def test_one_jitter_equals_the_reference(operation, name):
    for shift, expected in zip(GOLDEN["c_shifts"], GOLDEN[f"c_{name}"], strict=True):
        matrix = color.jitter(GRAY_MEAN, [operation], np.full(3, shift))
        np.testing.assert_allclose(apply(matrix, IMAGE), expected, atol=1e-5)


def test_jitter_in_every_order_equals_the_reference():
    for order, expected in zip(GOLDEN["c_orders"], GOLDEN["c_jitter"], strict=True):
        matrix = color.jitter(GRAY_MEAN, order, GOLDEN["c_order_shifts"])
        np.testing.assert_allclose(apply(matrix, IMAGE), expected, atol=1e-5)


def test_lighting_equals_the_reference():
    for alpha, expected in zip(GOLDEN["c_lighting_alpha"], GOLDEN["c_lighting"], strict=True):
        np.testing.assert_allclose(IMAGE + color.lighting_shift(alpha), expected, atol=1e-5)


def test_normalisation_equals_the_reference():
    result = apply(color.NORMALIZE, IMAGE * 255.0)
    np.testing.assert_allclose(result, GOLDEN["c_normalized"], atol=1e-5)


def test_a_drawn_matrix_equals_the_steps_one_after_the_other():
    image = random_images(1)[0].transpose(1, 2, 0)
    matrix = color.color_matrix(image, np.random.default_rng(5))
    assert matrix.dtype == np.float32 and matrix.shape == (3, 4)

    rng = np.random.default_rng(5)
    order, shifts = rng.permutation(3), rng.uniform(-0.4, 0.4, 3)
    original = image / 255
    gray = original @ [0.114, 0.587, 0.299]
    expected = original
    for operation in order:
        alpha = 1 + shifts[operation]
        other = (0, gray.mean(), gray[..., None])[operation]
        expected = expected * alpha + other * (1 - alpha)
    expected = expected + color.EIG_VEC @ (color.EIG_VAL * rng.normal(0, 0.1, 3))
    expected = (expected - color.MEAN) / color.STD
    np.testing.assert_allclose(apply(matrix, image), expected, atol=1e-5)


def test_lighting_can_be_left_out():
    image = random_images(1)[0].transpose(1, 2, 0)
    lit = color.color_matrix(image, np.random.default_rng(5))
    plain = color.color_matrix(image, np.random.default_rng(5), lighting=False)
    np.testing.assert_array_equal(lit[:, :3], plain[:, :3])
    assert (lit[:, 3] != plain[:, 3]).all()


def test_shifts_cover_their_range():
    image = np.full((4, 4, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    matrices = [color.color_matrix(image, rng, lighting=False) for _ in range(1000)]
    # What adds gray adds it to all channels; their differences are scaled by all three factors.
    gains = [(m[0, 0] * color.STD[0] - m[1, 0] * color.STD[1]) * 255 for m in matrices]
    assert 0.6**3 <= min(gains) < 0.3 and 2.3 < max(gains) <= 1.4**3


def test_apply_color_is_a_matrix_product_per_image():
    images = random_images(4)
    matrices = np.random.default_rng(1).normal(size=(4, 3, 4)).astype(np.float32)
    given = torch.from_numpy(images.copy())
    result = apply_color(given, torch.from_numpy(matrices))
    assert result.dtype == torch.float32 and result.is_contiguous()
    assert (given.numpy() == images).all()
    expected = np.einsum("bij,bjhw->bihw", matrices[..., :3].astype(float), images.astype(float))
    expected += matrices[..., 3, None, None]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-3)


def test_apply_color_stays_in_float32_under_autocast():
    images = torch.from_numpy(random_images(2))
    matrices = torch.from_numpy(color.NORMALIZE).expand(2, -1, -1)
    expected = apply_color(images, matrices)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply_color(images, matrices), expected)


def test_apply_color_to_one_image_of_a_batch():
    images = torch.from_numpy(random_images(3))
    matrices = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    batch = apply_color(images, matrices)
    assert torch.equal(batch[1:2], apply_color(images[1:2], matrices[1:2]))
