"""Unknown settings: what is suggested for them."""

import dataclasses

import pytest

from core.config.errors import UserError
from core.config.loading import config_from_dict
from core.config.schema import Db, System
from core.config.suggestions import _MEANINGS, suggest, suggest_section
from core.models.cornernet_squeeze import Architecture
from core.models.corners import CornerPyramid

KEYS = {
    "system": {field.name for field in dataclasses.fields(System)},
    "db": {field.name for field in dataclasses.fields(Db)},
    "model": {
        f.name for schema in (CornerPyramid, Architecture) for f in dataclasses.fields(schema)
    },
}

# What people write, the section that they write it in, and what they mean.
USUAL = """
lr system learning_rate
base_lr system learning_rate
epochs system max_iter
batch system batch_size
batch_size db system.batch_size
imgsz db input_size
img_size db input_size
imgsz system db.input_size
num_classes db categories
nc system db.categories
weights system pretrain
optimizer system opt_algo
wd system weight_decay
amp system precision
fp16 system precision
num_workers system workers
gpus system cpu_processes
iou db nms_threshold
random_seed system seed
data system data_dir
train system train_split
val system val_split
save_period system snapshot
early_stopping system patience
freeze system frozen_stages
backbone system model.backbone
TopK db top_k
top-k system db.top_k
learningRate model system.learning_rate
stem_chanels model stem_channels
mosiac db mosaic
"""


@pytest.mark.parametrize("line", USUAL.strip().splitlines())
def test_what_is_meant(line):
    key, section, meant = line.split()
    owner = meant.partition(".")[0]
    place = f", in the section {owner}?" if "." in meant else "?"
    assert suggest(key, section, KEYS[section]) == f"; did you mean {meant!r}{place}"


def test_all_meanings_are_settings():
    """And none of the names is one itself, of its own section at least."""
    for name, setting in _MEANINGS.items():
        section, _, key = setting.partition(".")
        assert key in KEYS[section], name
        assert section == "model" or name not in {key.replace("_", "") for key in KEYS[section]}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sistem", "'system'"),
        ("training", "'system'"),
        ("network", "'model'"),
        ("dataset", "'db'"),
        ("learning_rate", "'system.learning_rate', in the section system"),
        ("lr", "'system.learning_rate', in the section system"),
        ("imgsz", "'db.input_size', in the section db"),
    ],
)
def test_unknown_sections(key, meant):
    assert suggest_section(key, KEYS) == f"; did you mean {meant}?"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("system.lr=0.1", "--set system: unknown key 'lr'; did you mean 'learning_rate'?"),
        ("lr=0.1", "did you mean 'system.learning_rate', in the section system?"),
        ("db.conf=0.1", "--set db: unknown key 'conf'; `cornerkit detect --threshold` chooses"),
        ("system.momentum=0.9", "unknown key 'momentum'; system.opt_algo 'sgd' has"),
        ("db.top_k=many", "--set db.top_k: 'many' must be a whole number"),
    ],
)
def test_on_the_command_line(override, message):
    with pytest.raises(UserError) as error:
        config_from_dict({}, "CornerNet", "x.json", [override])
    assert message in str(error.value) and "\n" not in str(error.value)
