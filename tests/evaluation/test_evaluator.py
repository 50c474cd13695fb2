"""The evaluator, alone and by several ranks: the metrics, files and messages of one process."""

import dataclasses
import itertools
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from core.config.errors import UserError
from core.config.loading import load_config
from core.data import images
from core.data.coco import CocoDetection
from core.data.images import ImageFiles, Unreadable, read_image
from core.data.shapes import write_shapes
from core.distributed import ONE_PROCESS
from core.evaluation import command, evaluator
from core.evaluation.evaluator import EvaluationError, evaluate
from core.evaluation.report import write_results
from core.structures import Detections
from core.torch_compat import run_agent
from tests.support.dbs_files import write_coco
from tests.support.engine_stand_in import stand_in
from tests.support.some_ranks import run_processes, run_ranks
from tests.support.tiny_detector import write_config, write_snapshot

REPOSITORY = Path(__file__).parents[2]
IMAGES = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A split of images, with a config and a snapshot for them."""
    root = tmp_path_factory.mktemp("data")
    write_config(root)
    write_shapes(root / "data" / "coco", {"val": IMAGES}, size=64, seed=3)
    write_snapshot(root, 20, val_split(root).class_names)
    return root


def val_split(root):
    data = root / "data" / "coco"
    return CocoDetection(data / "annotations" / "instances_val.json", data / "images" / "val")


def arguments(root, result_dir, *more):
    """Arguments of evaluate.py."""
    given = [str(root / "configs" / "CornerNet-tiny.json"), "--device", "cpu"]
    return [*given, "--set", f"system.result_dir={result_dir}", *more]


def files(folder):
    """Contents by name, those of metrics.json without the time."""
    found = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}
    (name,) = (name for name in found if name.name == "metrics.json")
    metrics = json.loads(found.pop(name))
    assert metrics.pop("seconds") > 0 and metrics.pop("images_per_second") > 0
    assert metrics.pop("seconds_by_stage")["network"] > 0
    return found | {name: metrics}


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_give_the_files_of_one_process(data, tmp_path, world_size, monkeypatch, capfd):
    monkeypatch.setattr(evaluator, "_ROUND", 2)
    more = ("--debug", "--set", "db.test_flipped=false")
    assert command.main(arguments(data, tmp_path / "alone", *more)) == 0
    capfd.readouterr()
    given = arguments(data, tmp_path / "together", *more)
    assert run_processes(world_size, command.main, given) == [0] * world_size
    assert capfd.readouterr().err.count(f"{IMAGES}/{IMAGES}") == 1  # one progress bar
    expected, found = files(tmp_path / "alone"), files(tmp_path / "together")
    assert len(expected) == IMAGES + 2
    assert sum(len(json.loads(c)) for n, c in expected.items() if n.name == "results.json") > 50
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name


def test_batches_change_nothing_but_the_last_digits(data, tmp_path):
    found = {}
    for batch in ("0", "4"):
        out = tmp_path / batch
        assert command.main(arguments(data, out, "--batch", batch)) == 0
        (file,) = out.rglob("results.json")
        found[batch] = json.loads(file.read_text())
    one, four = found.values()
    assert len(one) == len(four) > 50
    for mine, theirs in zip(one, four, strict=True):
        assert (mine["image_id"], mine["category_id"]) == (
            theirs["image_id"],
            theirs["category_id"],
        )
        np.testing.assert_allclose(mine["bbox"], theirs["bbox"], atol=1e-3)
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_a_batch_below_0_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="--batch -1 must be at least 0"):
        command.main(arguments(data, tmp_path, "--batch", "-1"))


class Bar:
    """A progress bar that counts."""

    def __init__(self, *arguments):
        self.count = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self):
        self.count += 1


def evaluate_until(ranks, root, act):
    """Evaluates a detector that calls ``act(image number)``.

    Returns:
        Number of images that were put together before it ended, and the error that ended it.
    """
    numbers, bar = itertools.count(ranks.rank, ranks.world_size), Bar()

    def steps(number):
        act(number)
        box = np.array([[0, 0, 1 + number, 1]], np.float32)
        return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))
        yield  # no request

    def infer(image, trace=None):
        return steps(next(numbers))

    config = load_config("CornerNet-tiny", config_dir=root / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "progress_bar", lambda *arguments: bar)
        detector = dataclasses.replace(stand_in(), infer=infer)
        try:
            metrics = evaluate(detector, val_split(root), config, ranks=ranks)
        except Exception as error:
            return bar.count, type(error), str(error)
    if ranks.is_main:  # every image once, in order
        assert [row["bbox"][2] for row in metrics.results] == list(range(1, IMAGES + 1))
    assert metrics.scores is not None and metrics.images == IMAGES
    return bar.count, None, None


def fail(error, *images):
    def act(number):
        if number in images:
            raise error(f"image {number}")

    return act


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_image_is_evaluated_once_in_order(data, world_size, monkeypatch):
    monkeypatch.setattr(evaluator, "_ROUND", 1)
    done = run_ranks(world_size, evaluate_until, data, fail(KeyError))
    assert done == [(IMAGES, None, None)] * world_size


def test_the_failure_with_the_lowest_image_ends_all_ranks(data, monkeypatch):
    monkeypatch.setattr(evaluator, "_ROUND", 2)
    act = fail(UserError, 9, 6, 5)
    assert run_ranks(2, evaluate_until, data, act) == [(4, UserError, "image 5")] * 2
    assert evaluate_until(ONE_PROCESS, data, act) == (5, UserError, "image 5")


def test_an_error_names_its_image_on_all_ranks(data):
    text, act = f"{val_split(data).image_path(3)}: KeyError: 'image 3'", fail(KeyError, 3)
    assert run_ranks(2, evaluate_until, data, act) == [(0, EvaluationError, text)] * 2
    assert evaluate_until(ONE_PROCESS, data, act) == (3, EvaluationError, text)


def test_an_error_has_its_cause(data):
    config = load_config("CornerNet-tiny", config_dir=data / "configs")
    detector = dataclasses.replace(stand_in(), infer=lambda *given: {}["missing"])
    with pytest.raises(EvaluationError) as caught:
        evaluate(detector, val_split(data), config)
    assert isinstance(caught.value.__cause__, KeyError)


def deserted(ranks, root, slow):
    """Number of images that were put together while rank 1 was slow; whether the rest was lost."""
    ranks = ranks.with_step_group(1, torch.device("cpu"), None)
    count, error, message = evaluate_until(ranks, root, lambda n: time.sleep(2 * (n == slow)))
    return count, error is not None and re.search("gloo", message, re.I) is not None


@pytest.mark.serial
@pytest.mark.parametrize(("slow", "expected"), [(1, (IMAGES, False)), (3, (2, True))])
def test_a_rank_that_is_gone_is_noticed_as_in_a_step(data, slow, expected, monkeypatch):
    """Except for the first images, for which workers have to start."""
    monkeypatch.setattr(evaluator, "_ROUND", 1)
    assert run_ranks(2, deserted, data, slow)[0] == expected


def too_large_at(*images):
    """Evaluates the split, with a detector that lacks memory for some images."""

    def run(ranks, root, debug_dir=None):
        numbers = itertools.count(ranks.rank, ranks.world_size)

        def steps(number):
            if number in images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
            box = np.array([[0, 0, 9, 9]], np.float32)
            return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))
            yield  # no request

        def infer(image, trace=None):
            return steps(next(numbers))

        config = load_config("CornerNet-tiny", config_dir=root / "configs")
        detector = dataclasses.replace(stand_in(), infer=infer)
        try:
            return evaluate(detector, val_split(root), config, ranks=ranks, debug_dir=debug_dir)
        except UserError as error:
            return str(error)

    return run


@pytest.mark.parametrize("world_size", [1, 3])
def test_images_too_large_for_the_memory_are_skipped(data, world_size, monkeypatch, caplog):
    monkeypatch.setattr(evaluator, "_ROUND", 2)
    metrics = run_ranks(world_size, too_large_at(2, 7), data)[0]
    assert (metrics.images, metrics.skipped) == (IMAGES, 2)
    ids = val_split(data).image_ids.tolist()
    expected = [identity for number, identity in enumerate(ids) if number not in (2, 7)]
    assert [row["image_id"] for row in metrics.results] == expected
    assert metrics.scores is not None


def test_a_skipped_image_is_one_line(data, tmp_path, caplog):
    metrics = too_large_at(2)(ONE_PROCESS, data, tmp_path / "debug")
    dataset = val_split(data)
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line == (
        f"skipped: {dataset.image_path(2)} is too large for the memory (64 x 64 pixels); "
        "smaller db.test_scales need less"
    )
    assert len(list((tmp_path / "debug").iterdir())) == IMAGES - 1
    write_results(metrics, dataset, tmp_path, {})
    assert json.loads((tmp_path / "metrics.json").read_text())["skipped_images"] == 1


def test_nothing_but_skipped_images_is_no_result(data):
    message = f"all {IMAGES} images were skipped; the first is too large for the memory"
    for result in run_ranks(2, too_large_at(*range(IMAGES)), data):
        assert result.startswith(message)


def test_an_image_too_large_to_decode_is_skipped(data, monkeypatch):
    large = val_split(data).image_path(3)

    def read(path):
        return Unreadable("is too large", True) if path == large else read_image(path)

    monkeypatch.setattr(images, "read_image", read)
    assert too_large_at(1)(ONE_PROCESS, data).skipped == 2


def test_drawings_of_long_names_are_written(tmp_path):
    write_config(tmp_path)
    name = "n" * 247 + ".png"
    rows = [{"id": 1, "file_name": name, "height": 30, "width": 30}]
    write_coco(tmp_path / "data" / "coco", "val", images=rows, annotations=[])
    too_large_at()(ONE_PROCESS, tmp_path, tmp_path / "debug")
    (drawing,) = (tmp_path / "debug").iterdir()
    assert drawing.name.startswith("00000_nnn") and drawing.suffix == ".jpg"


def spoilt(argv):
    try:
        return command.main(argv)
    except UserError as error:
        return str(error)
    except SystemExit as end:
        return end.code


def test_an_unreadable_image_is_one_message(data, tmp_path):
    path = val_split(data).image_path(4)
    content = path.read_bytes()
    path.write_bytes(b"no image")
    try:
        message, code = run_processes(2, spoilt, arguments(data, tmp_path))
        assert message == spoilt(arguments(data, tmp_path))
    finally:
        path.write_bytes(content)
    assert f"{path} cannot be decoded" in message
    assert code == 2
    assert not list(tmp_path.rglob("*.json"))


def by_command(given):
    logging.basicConfig(force=True, stream=sys.stderr, format="%(message)s")
    return command.main(given)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_lost_worker_is_one_line(data, tmp_path, world_size, monkeypatch, capfd):
    def die(images, index):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ImageFiles, "__getitem__", die)
    given = arguments(data, tmp_path, "--workers", "1")
    assert run_processes(world_size, by_command, given) == [1] * world_size
    printed = capfd.readouterr().err
    (line,) = [line for line in printed.splitlines() if "error" in line.lower()]
    assert re.search(r"worker \(pid.*(Killed|exited unexpectedly).*lower system\.workers", line)
    assert "Traceback" not in printed


@pytest.mark.slow  # two processes that import torch
def test_torchrun(data, tmp_path, capfd):
    more = ("--set", "db.test_flipped=false", "--debug")
    script = [str(REPOSITORY / "evaluate.py"), *arguments(data, tmp_path, *more)]
    run_agent(["--standalone", "--nproc-per-node=2", *script])
    printed = capfd.readouterr().err
    assert printed.count("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all") == 1
    assert command.main(arguments(data, tmp_path / "alone", *more)) == 0
    together = files(tmp_path / "CornerNet-tiny")
    assert together == files(tmp_path / "alone" / "CornerNet-tiny")
