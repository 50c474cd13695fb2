"""Outputs of `detect` are named like the inputs, and never overwrite anything unasked."""

import cv2
import numpy as np
import pytest

from core.config.errors import UserError
from core.tools.outputs import plan_outputs, write_image
from core.tools.sources import find_sources


@pytest.fixture
def sources(tmp_path):
    for name in ("a.jpg", "b.png", "c.avi"):
        (tmp_path / name).write_bytes(b"")
    return find_sources([tmp_path, "0"])


def refusal(*arguments, **more):
    with pytest.raises(UserError) as error:
        plan_outputs(*arguments, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_names(sources, tmp_path):
    outputs = plan_outputs(sources, tmp_path / "out", tmp_path / "new" / "found.json", crops=True)
    drawn = ["a.jpg", "b.png", "c.mp4", "webcam_0.mp4"]
    assert [path.name for path in outputs.drawings.values()] == drawn
    assert outputs.crops == tmp_path / "out" / "crops"
    assert (tmp_path / "out").is_dir() and (tmp_path / "new").is_dir()


def test_what_is_there_is_refused_in_one_line(sources, tmp_path):
    out, results = tmp_path / "out", tmp_path / "found.json"
    (out / "crops" / "cat").mkdir(parents=True)
    assert plan_outputs(sources, out, results)
    (out / "b.png").write_bytes(b"")
    hint = "there already; --force overwrites"
    assert refusal(sources, out, results).startswith(f"{out / 'b.png'} is {hint} it")
    results.write_text("")
    line = refusal(sources, out, results, crops=True)
    assert line.startswith(f"{out / 'b.png'} and 2 more outputs are {hint} them")
    (out / "b.png").unlink()
    results.unlink()
    assert refusal(sources, out, crops=True).startswith(f"{out / 'crops'} is there already")
    (out / "a.jpg").symlink_to(tmp_path / "gone")  # to write it would write elsewhere
    assert "a.jpg is there already" in refusal(sources, out)
    assert plan_outputs(sources, out, results, crops=True, force=True)


def test_a_source_is_never_overwritten(sources, tmp_path):
    for more in ({"out": tmp_path}, {"out": tmp_path / "out", "results": tmp_path / "a.jpg"}):
        assert "would be overwritten" in refusal(sources, **more, force=True)


def test_names_that_no_file_can_have(sources, tmp_path):
    assert "is a folder; name a file" in refusal(sources, tmp_path / "out", tmp_path)
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    assert "b.png is a folder" in refusal(sources, tmp_path / "out", force=True)
    below = refusal(sources, tmp_path / "new", tmp_path / "a.jpg" / "found.json")
    assert "the folder of --save-json" in below and "cannot be made: File exists" in below


def test_an_image_is_written_whole_or_not_at_all(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    write_image(tmp_path / "new" / "a.png", image)
    assert cv2.imread(str(tmp_path / "new" / "a.png")).shape == (4, 4, 3)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match=r"b\.png cannot be written: Is a directory"):
        write_image(tmp_path / "b.png", image)
    with pytest.raises(UserError, match="70000 x 1 pixels do not fit this kind of file"):
        write_image(tmp_path / "c.jpg", np.zeros((1, 70_000, 3), np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "new"]
