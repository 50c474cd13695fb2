"""Random draws of Faster R-CNN in training, and its weights from ImageNet, by the scripts."""

import pytest

import evaluate
import train
from core.config.errors import UserError
from core.training import step
from tests.support.some_ranks import run_processes
from tests.support.tiny_models import losses, of, snapshot, write

NAME = "FasterRCNN-tiny"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four steps."""
    root = tmp_path_factory.mktemp("whole")
    write(root, NAME)
    assert train.main(of(root, NAME)) == 0
    return root


def test_validation_does_not_change_the_run(whole, tmp_path):
    write(tmp_path, NAME, val_iter=0)
    assert train.main(of(tmp_path, NAME)) == 0
    assert losses(tmp_path, NAME)[0] == losses(whole, NAME)[0]


def test_the_draws_follow_the_seed_and_matter(whole, tmp_path, monkeypatch):
    """The same weights and images and other random numbers: other losses."""
    write(tmp_path, NAME)
    assert train.main(of(tmp_path, NAME, "--set", "system.max_iter=2")) == 0
    monkeypatch.setattr(step, "chunk_seed", lambda *numbers: 99)
    assert train.main(of(tmp_path, NAME, "--iter", "2")) == 0
    assert losses(tmp_path, NAME)[0][:2] == losses(whole, NAME)[0][:2]
    assert losses(tmp_path, NAME)[0][2:] != losses(whole, NAME)[0][2:]


def test_the_draws_do_not_depend_on_the_number_of_processes(whole, tmp_path):
    """They differ in the last digits of the first steps; later steps grow that, in float32."""
    write(tmp_path, NAME)
    assert run_processes(2, train.main, of(tmp_path, NAME)) == [0, 0]
    for (_, mine), (_, theirs) in zip(
        losses(tmp_path, NAME)[0][:2], losses(whole, NAME)[0], strict=False
    ):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_imagenet_s_weights_are_needed_where_training_starts_and_only_there(whole, tmp_path):
    write(tmp_path, NAME, model={"backbone_weights": str(tmp_path / "vgg16.pth")})
    with pytest.raises(UserError, match=r"model\.backbone_weights: there is no file .*vgg16\.pth"):
        train.main(of(tmp_path, NAME))
    given = str(snapshot(whole, NAME))
    assert train.main(of(tmp_path, NAME, "--weights", given)) == 0
    assert train.main(of(tmp_path, NAME, "--iter", "2")) == 0
    assert evaluate.main(of(tmp_path, NAME)) == 0
