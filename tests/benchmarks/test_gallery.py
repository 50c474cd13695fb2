"""The sheet of the first drawings of evaluations."""

import cv2
import numpy as np
import pytest

from benchmarks import gallery
from core.config.errors import UserError


def write(folder, count, size=(40, 120)):
    folder.mkdir()
    for number in range(count):
        image = np.full((*size, 3), 20 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number:05d}_x.jpg"), image)
        cv2.imwrite(str(folder / f"{number:05d}_x_saccades.jpg"), image + 200)


def test_the_first_drawings_of_every_folder_in_their_order(tmp_path):
    write(tmp_path / "a", 5)
    write(tmp_path / "b", 3, (60, 90))
    out = tmp_path / "sheet.png"
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert gallery.main([*folders, "--out", str(out), "--count", "3"]) == 0
    sheet = cv2.imread(str(out)).astype(int)[..., 0]
    width, gap = gallery.WIDTH, gallery.GAP
    heights = 3 * [round(40 * width / 120)] + 3 * [round(60 * width / 90)]
    tops = [sum(heights[:n]) + n * gap for n in range(6)]
    found = [sheet[top + 10, 20] for top in tops]
    np.testing.assert_allclose(found, [0, 20, 40, 0, 20, 40], atol=3)
    assert sheet.shape == (sum(heights) + 5 * gap, width)
    assert (sheet[tops[1] - gap : tops[1]] == 255).all()


def test_too_few_drawings(tmp_path):
    write(tmp_path / "a", 1)
    with pytest.raises(UserError, match=r"has 1 drawings, not 2; evaluate\.py --debug makes them"):
        gallery.main([str(tmp_path / "a"), "--out", str(tmp_path / "x.png")])
