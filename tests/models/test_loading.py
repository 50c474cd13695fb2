"""Detectors from files: weights, class names, and errors; and what importing them loads."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from core.checkpoint import snapshot as checkpoint
from core.config.errors import UserError
from core.data.coco import COCO_CLASS_NAMES
from core.models.loading import load_detector
from tests.support.tiny_detector import write_config, write_snapshot

NAMES = ("disc", "ring", "star")
ROOT = Path(__file__).parents[2]
IMAGE = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    write_config(tmp_path)
    write_snapshot(tmp_path, 20, NAMES)
    return tmp_path


def load(root, snapshot=None, **options):
    return load_detector("CornerNet-tiny", snapshot, "cpu", config_dir=root / "configs", **options)


def test_boxes_by_class_name(root):
    untouched = IMAGE.copy()
    detect = load(root)
    found = detect(IMAGE)
    assert tuple(found) == detect.class_names == NAMES
    total = 0
    for rows in found.values():
        assert rows.dtype == np.float32 and rows.shape[1] == 5
        assert (np.diff(rows[:, 4]) <= 0).all()
        assert (rows[:, :4] >= 0).all() and (rows[:, :4] <= [90, 70, 90, 70]).all()
        total += len(rows)
    together = detect.detections(IMAGE)
    assert total == len(together) > 0
    for label, name in enumerate(NAMES):
        of_class = together.labels == label
        np.testing.assert_array_equal(found[name][:, :4], together.boxes[of_class])
    np.testing.assert_array_equal(IMAGE, untouched)


def test_a_detector_repeats_itself(root):
    first, second = load(root).detections(IMAGE), load(root).detections(IMAGE)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_a_path_does_as_well(root):
    cv2.imwrite(str(root / "image.png"), IMAGE)
    detect = load(root)
    for path in (root / "image.png", str(root / "image.png")):
        np.testing.assert_array_equal(detect.detections(path).boxes, detect.detections(IMAGE).boxes)


def test_newest_iteration_or_file(root):
    write_snapshot(root, 9, NAMES)
    path = write_snapshot(root, 100, NAMES)
    assert load(root).iteration == 100
    assert load(root, 9).iteration == 9
    by_file = load(root, path)
    assert (by_file.iteration, by_file.snapshot) == (100, path)
    assert len({tuple(load(root, n).detections(IMAGE).scores) for n in (9, 20, 100)}) == 3


def save_average(root, iteration, other):
    """A snapshot whose averaged weights are the weights of another one."""
    path, averages = (write_snapshot(root, number, NAMES) for number in (iteration, other))
    meta = checkpoint.read_meta(path)
    weights = map(checkpoint.read_weights, (path, averages))
    checkpoint.save_snapshot(path, next(weights), {}, meta, next(weights))
    return path


def scores(detect):
    return detect.detections(IMAGE).scores.tolist()


def test_averaged_weights_are_taken_unless_a_file_is_named(root, caplog):
    caplog.set_level(logging.INFO)
    path = save_average(root, 100, 9)
    raw, averaged = scores(load(root, path)), scores(load(root, 9))
    assert raw != averaged and not caplog.messages
    for detect in (load(root), load(root, 100)):
        assert scores(detect) == averaged
        assert (detect.iteration, detect.class_names) == (100, NAMES)
        assert detect.snapshot == path.with_name("CornerNet-tiny_100.ema.pkl")
    line = f"the averaged weights {detect.snapshot}; --snapshot {path} takes the raw ones"
    assert caplog.messages == [line] * 2
    named = load(root, detect.snapshot)
    assert scores(named) == averaged and named.iteration == 100 and named.names_known


@pytest.mark.parametrize("left", ["of an earlier run", "not there any more"])
def test_averaged_weights_that_are_not_the_snapshot_s_are_not_taken(root, left):
    path = save_average(root, 100, 9)
    averages = checkpoint.averaged_path(path)
    content = averages.read_bytes()
    averages.unlink()
    if left == "of an earlier run":
        write_snapshot(root, 100, NAMES)
        averages.write_bytes(content)
    assert scores(load(root, 100)) == scores(load(root, path))


def test_averaged_weights_are_compared_with_their_own_checksum(root):
    averages = checkpoint.averaged_path(save_average(root, 100, 9))
    content = bytearray(averages.read_bytes())
    content[len(content) // 2] ^= 1
    averages.write_bytes(content)
    with pytest.raises(UserError, match=r"_100\.ema\.pkl is corrupt.*_100\.ema\.pkl was cut short"):
        load(root)
    assert load(root, averages.with_name("CornerNet-tiny_100.pkl")).iteration == 100


def test_suffix_is_of_the_config_alone(root):
    write_config(root, "CornerNet-tiny-small_scale", test_scales=[0.5], max_per_image=3)
    detect = load(root, suffix="small_scale")
    assert detect.config.name == "CornerNet-tiny-small_scale"
    assert detect.snapshot == load(root).snapshot
    assert len(detect.detections(IMAGE)) == 3


def test_overrides(root):
    assert len(load(root, overrides=["db.max_per_image=2"]).detections(IMAGE)) == 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("x",) * 80, COCO_CLASS_NAMES), (("x",) * 2, ("class 0", "class 1"))],
    ids=["coco", "others"],
)
def test_names_of_weights_alone(root, names, expected):
    path = write_snapshot(root, 30, names)
    path.with_suffix(".json").unlink()
    detect = load(root)
    assert detect.class_names == expected
    assert not detect.names_known
    assert detect.iteration == 30


def test_weights_under_another_name(root):
    path = root / "mine.pkl"
    path.write_bytes(write_snapshot(root, 30, NAMES).read_bytes())
    detect = load(root, path)
    assert detect.iteration is None
    assert len(detect.class_names) == 3


def test_network_is_frozen(root):
    network = load(root).detector.network
    assert not any(module.training for module in network.modules())


def test_bfloat16(root):
    found = load(root, overrides=["system.precision=bfloat16"]).detections(IMAGE)
    assert found.boxes.dtype == np.float32 and np.isfinite(found.boxes).all()


def test_images_of_all_kinds(root):
    detect, expected = load(root), load(root)(IMAGE).boxes
    assert len(expected)
    rgb = np.ascontiguousarray(IMAGE[:, :, ::-1])
    for image in (Image.fromarray(rgb), torch.from_numpy(rgb).permute(2, 0, 1)):
        np.testing.assert_array_equal(detect(image).boxes, expected)
    np.testing.assert_array_equal(detect(rgb, rgb=True).boxes, expected)
    assert detect(rgb).boxes.tolist() != expected.tolist()


def test_several_images_give_a_list(root):
    detect, other = load(root), np.ascontiguousarray(IMAGE[::-1])
    single = [detect(image).scores.tolist() for image in (IMAGE, other)]
    assert single[0] != single[1]
    tensors = torch.from_numpy(np.stack([IMAGE, other])[..., ::-1].copy()).permute(0, 3, 1, 2)
    for images in ([IMAGE, other], (IMAGE, other), np.stack([IMAGE, other]), tensors):
        found = detect(images)
        assert [one.scores.tolist() for one in found] == single
        assert all(one.names == NAMES for one in found)
    assert detect([]) == []
    with pytest.raises(UserError, match=r"^images\[1\]: an image must be a path.*, not int$"):
        detect([IMAGE, 1])


def test_a_threshold(root):
    detect = load(root)
    scores = detect(IMAGE).scores
    middle = float(np.median(scores))
    assert scores.min() < middle
    for images in (IMAGE, [IMAGE]):
        found = detect(images, threshold=middle)
        found = found[0] if isinstance(found, list) else found
        assert found.scores.tolist() == scores[scores >= middle].tolist()
    with pytest.raises(UserError, match="the threshold 2 must be from 0 to 1"):
        detect(IMAGE, threshold=2)


@pytest.mark.parametrize("image", [IMAGE.astype(np.float32), IMAGE[:0], None])
def test_not_an_image(root, image):
    with pytest.raises(UserError, match=r"^an image "):
        load(root)(image)


def test_bad_calls(root):
    (root / "text.jpg").write_text("no image")
    detect = load(root)
    with pytest.raises(UserError, match=r"there is no image .*nothing"):
        detect(root / "nothing.jpg")
    with pytest.raises(UserError, match=r"text.jpg cannot be decoded: it is no known image"):
        detect(root / "text.jpg")
    with pytest.raises(UserError, match=r"there is no snapshot .*_77.pkl.*20"):
        load(root, 77)
    with pytest.raises(UserError, match=r"there is no snapshot .*else.pkl"):
        load(root, "else.pkl")
    with pytest.raises(UserError, match="device warp cannot be used"):
        load_detector("CornerNet-tiny", device="warp", config_dir=root / "configs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(root):
    with pytest.raises(UserError, match="device cuda cannot be used") as error:
        load_detector("CornerNet-tiny", device="cuda", config_dir=root / "configs")
    assert "\n" not in str(error.value)


def test_nothing_trained_yet(tmp_path):
    write_config(tmp_path)
    with pytest.raises(UserError, match=r"there is no snapshot in .*; train CornerNet-tiny first"):
        load(tmp_path)


@pytest.mark.parametrize("sidecar", [True, False])
def test_weights_of_another_network(root, sidecar):
    path = root / "cache" / "nnet" / "CornerNet-tiny" / "CornerNet-tiny_20.pkl"
    torch.save({"module.body.weight": torch.zeros(3)}, path)
    content = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**content, "sha256": {}}))
    if not sidecar:
        path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"does not fit this network.*missing"):
        load(root)


def imported_by(statement):
    """Modules that a new interpreter has after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_detecting_imports_nothing_that_trains_or_evaluates():
    modules = imported_by("from core import load_detector")
    assert "core.models.loading" in modules
    rooms = {module.split(".")[1] for module in modules if module.startswith("core.")}
    assert not rooms & {"train", "distributed", "evaluation", "tools", "cli"}
    assert "core.data.loader" not in modules


def test_importing_the_package_does_not_import_pytorch():
    modules = imported_by("import core; core.__version__")
    assert not modules & {"torch", "numpy", "cv2", "core.models"}
