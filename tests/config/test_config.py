"""Configs: defaults, overrides, and every mistake answered by one line with a hint."""

import dataclasses
import json

import pytest
import torch

from core.config.errors import UserError
from core.config.files import CONFIG_DIR
from core.config.loading import config_from_dict, load_config
from core.models import MODELS, build


def read(content, *overrides):
    return config_from_dict(content, "CornerNet", "x.json", overrides)


def build_without_memory(name, *overrides):
    with torch.device("meta"):
        return build(load_config(name, overrides=overrides), 80)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIG_DIR.glob("*.json")))
def test_every_config_of_the_repository_builds(name, caplog):
    caplog.set_level("INFO")
    detector = build_without_memory(name)
    assert "does not use" not in caplog.text
    assert load_config(name).model_name in MODELS
    assert any(parameter.is_meta for parameter in detector.network.parameters())


def test_a_misspelt_model_key_of_a_config_is_found():
    with pytest.raises(UserError, match=r"model: unknown key 'channel'; did you mean 'channels'"):
        build_without_memory("CornerNet-shapes", "model.channel=[8, 8]")


@pytest.mark.parametrize("name", ["CenterNet", "FasterRCNN"])
def test_models_without_corners_need_no_pairs_of_them(name):
    build_without_memory(name, "db.top_k=20")


def test_a_config_survives_its_own_dictionary():
    config = load_config("CornerNet")
    again = config_from_dict(json.loads(json.dumps(config.as_dict())), config.name, config.path)
    assert again == config


def test_published_defaults():
    system, db = read({}).system, read({}).db
    assert (system.learning_rate, system.decay_rate, system.opt_algo) == (0.00025, 10, "adam")
    assert (system.schedule, system.warmup, system.weight_decay) == ("step", 0, None)
    assert (system.ema, system.patience) == (None, 0)
    assert (db.gaussian_iou, db.border, db.top_k, db.num_dets) == (0.3, 128, 100, 1000)
    assert db.scales == pytest.approx((0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3))


def test_lists_become_tuples_and_whole_numbers_floats():
    db = read({"db": {"input_size": [255, 383], "test_scales": [1, 0.5]}}).db
    assert db.input_size == (255, 383)
    assert db.test_scales == (1.0, 0.5)
    assert all(isinstance(scale, float) for scale in db.test_scales)


def test_samples_and_test_scale_of_whole_images():
    """What is in range is taken, the ends too; nothing is drawn from whole images by default."""
    settings = {"zoom": [1, 1], "shift": 0.5, "min_visible": 1, "mosaic": 1, "quarter_turns": True}
    db = read({"db": {"sampling": "fit", "vertical_flip": True, **settings}}).db
    assert (db.zoom, db.shift, db.min_visible, db.mosaic) == ((1.0, 1.0), 0.5, 1.0, 1.0)
    assert db.vertical_flip and db.quarter_turns
    default = read({"db": {"shift": 0, "min_visible": 0}}).db
    assert (default.sampling, default.zoom, default.shift) == ("crop", (0.8, 1.25), 0)
    assert (default.min_visible, default.mosaic, default.regression_window) == (0, 0, 1)
    assert (default.vertical_flip, default.quarter_turns) == (False, False)
    assert default.test_scales == (1.0,)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        read({}).db.top_k = 3


def test_overrides_are_typed():
    config = read({}, "db.top_k=50", "system.train_split=train", "db.rand_scales=[0.5, 1]")
    assert config.db.top_k == 50
    assert config.system.train_split == "train"
    assert config.db.rand_scales == (0.5, 1.0)


def test_dead_keys_of_the_reference_are_accepted_with_one_notice(caplog):
    caplog.set_level("INFO")
    read({"db": {"rand_full_crop": True, "height_mult": 2}})
    assert [record.getMessage() for record in caplog.records] == [
        "x.json: db: nothing reads height_mult, rand_full_crop"
    ]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ([], ["x.json", "system"]),
        ({"sistem": {}}, ["sistem", "'system'"]),
        ({"db": {"topk": 5}}, ["x.json: db", "'topk'", "'top_k'"]),
        ({"db": {"top_k": "many"}}, ["db.top_k", "'many'", "whole number"]),
        ({"db": {"top_k": True}}, ["db.top_k", "whole number"]),
        ({"db": {"top_k": 2.5}}, ["db.top_k", "whole number"]),
        ({"db": {"rand_crop": 1}}, ["db.rand_crop", "true or false"]),
        ({"db": {"input_size": [511]}}, ["db.input_size", "list of 2"]),
        ({"db": {"input_size": [511, "a"]}}, ["db.input_size[1]", "whole number"]),
        ({"db": {"nms_algorithm": "hard"}}, ["nms_algorithm", "linear_soft_nms"]),
        ({"db": {"nms_threshold": 5.0}}, ["nms_threshold 5.0", "from 0 to 1"]),
        ({"db": {"nms_kernel": 2}}, ["nms_kernel", "odd"]),
        ({"db": {"rand_scales": []}}, ["rand_scales"]),
        ({"db": {"rand_scale_step": 0}}, ["rand_scale_step"]),
        ({"db": {"test_scales": [0]}}, ["test_scales"]),
        ({"db": {"test_scales": []}}, ["test_scales", "above 0"]),
        ({"db": {"sampling": "whole"}}, ["db.sampling", "'crop', 'fit'"]),
        ({"db": {"zoom": [1.2, 0.8]}}, ["db.zoom [1.2, 0.8]", "lower one first"]),
        ({"db": {"zoom": [0, 1]}}, ["db.zoom [0.0, 1.0]", "above 0"]),
        ({"db": {"zoom": [1, float("inf")]}}, ["db.zoom"]),
        ({"db": {"zoom": [1, float("nan")]}}, ["db.zoom"]),
        ({"db": {"zoom": [1]}}, ["db.zoom", "list of 2"]),
        ({"db": {"shift": -0.1}}, ["db.shift -0.1", "from 0 to 0.5"]),
        ({"db": {"shift": 0.6}}, ["db.shift 0.6", "from 0 to 0.5"]),
        ({"db": {"min_visible": 1.1}}, ["db.min_visible 1.1", "from 0 to 1"]),
        ({"db": {"min_visible": float("nan")}}, ["db.min_visible"]),
        ({"db": {"sampling": "fit", "mosaic": -1}}, ["db.mosaic -1.0", "from 0 to 1"]),
        ({"db": {"mosaic": 0.5}}, ["db.mosaic", 'db.sampling "fit"', "leave db.mosaic out"]),
        ({"db": {"vertical_flip": True}}, ["db.vertical_flip", 'db.sampling "fit"']),
        ({"db": {"quarter_turns": True}}, ["db.quarter_turns", 'db.sampling "fit"']),
        ({"db": {"regression_window": 2}}, ["db.regression_window 2", "odd"]),
        ({"db": {"regression_window": -1}}, ["db.regression_window -1", "at least 1"]),
        ({"db": {"output_sizes": []}}, ["output_sizes"]),
        ({"system": {"batch_size": 0}}, ["system.batch_size 0", "from 1 to"]),
        ({"system": {"batch_size": 9, "chunk_sizes": [4, 4]}}, ["chunk_sizes", "[4, 4]", "9"]),
        ({"system": {"learning_rate": 0}}, ["learning_rate"]),
        ({"system": {"clip_norm": 0}}, ["clip_norm must be above 0"]),
        ({"system": {"clip_norm": float("nan")}}, ["clip_norm: nan", "finite"]),
        ({"system": {"checkpointing": "stacks"}}, ["checkpointing", "'stack'"]),
        ({"system": {"val_iter": -1}}, ["val_iter"]),
        ({"system": {"opt_algo": "lion"}}, ["opt_algo", "'adam'", "'adamw'"]),
        ({"system": {"weight_decay": -0.1}}, ["weight_decay -0.1", "0 or more"]),
        ({"system": {"weight_decay": float("inf")}}, ["weight_decay: inf", "finite"]),
        ({"system": {"schedule": "linear"}}, ["schedule", "'cosine'"]),
        ({"system": {"warmup": -1}}, ["warmup", "0 or more"]),
        ({"system": {"ema": 1}}, ["ema 1.0", "below 1"]),
        ({"system": {"ema": 0}}, ["ema 0.0", "above 0"]),
        ({"system": {"patience": -1, "eval_iter": 5}}, ["patience", "0 or more"]),
        ({"system": {"patience": 3}}, ["patience 3", "system.eval_iter"]),
    ],
)
def test_mistakes_are_named(content, parts):
    with pytest.raises(UserError) as error:
        read(content)
    message = str(error.value)
    assert "\n" not in message
    for word in ["x.json", *parts]:
        assert word in message


@pytest.mark.parametrize("override", ["top_k=5", "db.top_k", "dbs.top_k=5", "db.=5"])
def test_malformed_overrides_are_named(override):
    with pytest.raises(UserError, match=r"section\.key=value"):
        read({}, override)


def test_unknown_config_lists_those_there_are():
    with pytest.raises(UserError) as error:
        load_config("CornerNett")
    assert "'CornerNet'" in str(error.value)
    assert "CornerNet_Squeeze" in str(error.value)


def test_unknown_suffix_lists_those_there_are():
    with pytest.raises(UserError) as error:
        load_config("CornerNet", "multi_scales")
    assert "CornerNet-multi_scale" in str(error.value)


def test_unknown_model_lists_those_there_are():
    config = config_from_dict({}, "RetinaNet", "RetinaNet.json")
    with pytest.raises(UserError) as error:
        build(config, 80)
    assert all(name in str(error.value) for name in MODELS)


def test_broken_json_is_placed(tmp_path):
    path = tmp_path / "CornerNet.json"
    path.write_text('{"system": {\n  "batch_size": 4,,\n}}')
    with pytest.raises(UserError, match=r"CornerNet\.json:2:19: not JSON"):
        load_config(str(path))


def test_reading_has_no_side_effects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_config("CornerNet")
    assert list(tmp_path.iterdir()) == []
