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
}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("FasterRCNN", key) for key in REFUSED),
        ("CenterNet", "merge_bbox"),
        ("CornerNet", "test_resolution"),
        ("CornerNet_Saccade", "merge_bbox"),
        ("CornerNet_Saccade", "test_scales"),
        ("CornerNet_Saccade", "test_resolution"),
    ],
)
def test_settings_that_would_change_results_are_refused(name, key):
    with pytest.raises(UserError) as error:
        small_detector(name, **{key: REFUSED[key]})
    message = f"{name}.json: {name} has no use for db.{key}; leave that out"
    assert str(error.value) == message


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


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_setting_is_used_or_reported(name, monkeypatch):
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
    config = small_config(name)
    seen = Seen.__new__(Seen)
    object.__setattr__(seen, "seen", set())
    seen.__init__(**vars(config.db))
    seen.seen.clear()
    models.build(replace(config, db=seen), 3)
    settings = {field.name for field in fields(Db)}
    elsewhere = {"categories", "use_crowd", "reference_scoring"}  # dataset, COCO results
    assert settings - seen.seen - elsewhere == unused - elsewhere
