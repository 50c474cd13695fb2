"""Settings that a model does not use: refused or reported, and none ignored silently."""

from dataclasses import fields, replace

import pytest

from core import models
from core.config.errors import UserError
from core.config.schema import Db
from core.models import centernet, cornernet_saccade, corners, faster_rcnn
from tests.support.model_builders import small_config, small_detector

REFUSED = {
    "input_size": [64, 64],
    "output_sizes": [[8, 8]],
    "gaussian_iou": 0.7,
    "rand_scales": [1],
    "test_scales": [0.5, 1],
    "test_resolution": "fix",
    "test_nms": True,
    "nms_algorithm": "nms",
    "merge_bbox": True,
    "sampling": "fit",
    "min_visible": 0.5,
    "regression_window": 3,
}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("FasterRCNN", key) for key in REFUSED),
        ("CenterNet", "merge_bbox"),
        ("CenterNet", "regression_window"),
        ("CornerNet", "test_resolution"),
        ("CornerNet_Saccade", "merge_bbox"),
        ("CornerNet_Saccade", "test_scales"),
        ("CornerNet_Saccade", "test_resolution"),
        ("CornerNet_Saccade", "sampling"),
        ("CornerNet_Saccade", "min_visible"),
    ],
)
def test_settings_that_would_change_results_are_refused(name, key):
    with pytest.raises(UserError) as error:
        small_detector(name, **{key: REFUSED[key]})
    message = f"{name}.json: {name} has no use for db.{key}; leave that out"
    assert str(error.value) == message


def test_whole_images_are_tested_as_they_are_trained():
    with pytest.raises(UserError, match=r"CenterNet has no use for db\.test_resolution"):
        small_detector("CenterNet", sampling="fit", test_resolution="fix")


@pytest.mark.parametrize("name", ["CenterNet", "CornerNet", "CornerNet_Squeeze"])
def test_settings_of_the_other_sampling_get_a_notice(name, caplog):
    caplog.set_level("INFO")
    small_detector(name, sampling="fit", border=7, rand_crop=False, shift=0.1)
    small_detector(name, border=7, shift=0.1)
    rest = "db.num_dets, " if name == "CenterNet" else ""
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}.json: {name} does not use {rest}db.rand_crop, db.border",
        f"{name}.json: {name} does not use {rest}db.shift",
    ]


def test_settings_of_steps_that_a_model_does_not_have_get_one_notice(caplog):
    caplog.set_level("INFO")
    small_detector("FasterRCNN", border=7, test_flipped=False, min_scale=3, max_per_image=9)
    assert [record.getMessage() for record in caplog.records] == [
        "FasterRCNN.json: FasterRCNN does not use db.border, db.test_flipped, db.min_scale"
    ]


class Seen(Db):
    """Settings that remember which of them were asked for."""

    def __getattribute__(self, name):
        if name != "seen":
            object.__getattribute__(self, "seen").add(name)
        return object.__getattribute__(self, name)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        *((name, "crop") for name in sorted(models.MODELS)),
        *((name, "fit") for name in ("CenterNet", "CornerNet", "CornerNet_Squeeze")),
    ],
)
def test_every_setting_is_used_or_reported(name, sampling, monkeypatch):
    """A new setting that a model silently ignores fails here."""
    unused = set()

    def note(config, refused, idle=()):
        unused.update(refused, idle)

    own = {
        "CenterNet": centernet,
        "CornerNet_Saccade": cornernet_saccade,
        "FasterRCNN": faster_rcnn,
    }
    module = own.get(name, corners)
    monkeypatch.setattr(module, "refuse_unused", note)
    config = small_config(name, sampling=sampling)
    seen = Seen.__new__(Seen)
    object.__setattr__(seen, "seen", set())
    seen.__init__(**vars(config.db))
    seen.seen.clear()
    models.build(replace(config, db=seen), 3)
    settings = {field.name for field in fields(Db)}
    # For the dataset, for COCO results, and for the loader of "fit" samples.
    elsewhere = {"categories", "use_crowd", "reference_scoring", "mosaic"}
    assert settings - seen.seen - elsewhere == unused - elsewhere
