"""Configs with a base, and where configs are found."""

import json

import pytest

from core.config.errors import UserError
from core.config.files import CONFIG_DIR
from core.config.loading import config_from_dict, load_config
from core.models import build


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file, **content):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_settings_replace_those_of_the_base_key_by_key(here):
    write(here / "first.json", model_name="CornerNet", db={"top_k": 9, "test_scales": [1, 2]})
    write(here / "second.json", base="first", db={"top_k": 8, "num_dets": 7}, system={"seed": 1})
    write(here / "third.json", base="second", db={"num_dets": 6, "test_scales": [3]})
    config = load_config("third", overrides=["system.seed=2"])
    assert (config.db.top_k, config.db.num_dets, config.db.test_scales) == (8, 6, (3.0,))
    assert (config.system.seed, config.model_name, config.name) == (2, "CornerNet", "third")
    assert config.path == "third.json (base second.json, first.json)"


def test_a_published_config_is_a_base(here):
    write(here / "cells.json", base="CornerNet_Squeeze", system={"batch_size": 4})
    with pytest.raises(UserError, match=r"^cells\.json \(base .*CornerNet_Squeeze\.json\): system"):
        load_config("cells")
    write(here / "cells.json", base="CornerNet_Squeeze", system={"chunk_sizes": None})
    config = load_config("cells")
    assert (config.model_name, config.name) == ("CornerNet_Squeeze", "cells")
    assert config.system.batch_size == 55 and config.system.chunk_sizes is None


def test_what_a_snapshot_saves_needs_no_base(here):
    file = write(here / "cells.json", base="CornerNet_Squeeze", db={"top_k": 15})
    config = load_config("cells")
    file.unlink()
    saved = json.loads(json.dumps(config.as_dict()))
    again = config_from_dict(saved, "cells", config.path)
    assert "base" not in saved and again == config


def test_the_name_of_the_model(here):
    """That in the config, or in the nearest base; otherwise by the name of the last base."""

    def model_name(**content):
        write(here / "cells.json", **content)
        return load_config("cells").model_name

    write(here / "named.json", model_name="CenterNet")
    write(here / "CornerNet-x.json")
    assert model_name() == "cells"
    assert model_name(model_name="CornerNet") == "CornerNet"
    assert model_name(base="named") == "CenterNet"
    assert model_name(base="CornerNet-x") == "CornerNet"
    assert model_name(base="CornerNet-x", model_name="CenterNet") == "CenterNet"
    assert load_config("CornerNet-x").model_name == "CornerNet"


def test_a_name_and_a_base_of_two_detectors(here):
    write(here / "CenterNet-x.json", base="CornerNet-shapes")
    with pytest.raises(UserError, match=r"named after CenterNet, .* it is a CornerNet; give"):
        build(load_config("CenterNet-x"), 3)


def test_a_base_lies_beside_its_config_first(here):
    write(here / "parent.json", db={"top_k": 1}, model_name="CornerNet")
    write(here / "sub" / "parent.json", db={"top_k": 2}, model_name="CornerNet")
    for base in ("parent", "parent.json", str(here / "sub" / "parent.json")):
        write(here / "sub" / "cells.json", base=base)
        assert load_config("sub/cells.json").db.top_k == 2
    write(here / "sub" / "cells.json", base="../parent.json")
    assert load_config("sub/cells.json").db.top_k == 1
    (here / "sub" / "parent.json").unlink()
    write(here / "sub" / "cells.json", base="parent")
    assert load_config("sub/cells.json").db.top_k == 1


def test_a_cycle_is_listed(here):
    write(here / "a.json", base="b")
    write(here / "b.json", base="c.json")
    write(here / "c.json", base="a")
    with pytest.raises(UserError) as error:
        load_config("a")
    message = "a.json: its bases are a cycle: a.json -> b.json -> c.json -> a.json; take one out"
    assert str(error.value) == message


def test_the_order_of_the_places(here):
    def seed(name="CornerNet", **options):
        return load_config(name, **options).system.seed

    assert seed() == 317
    write(here / "configs" / "CornerNet.json", system={"seed": 1})
    assert seed() == 1
    write(here / "CornerNet.json", system={"seed": 2})
    assert seed() == 2
    write(here / "CornerNet-x.json", system={"seed": 3})
    assert seed(suffix="x") == seed("CornerNet.json", suffix="x") == 3
    assert seed(config_dir="configs") == 1 and seed(config_dir=CONFIG_DIR) == 317
    with pytest.raises(UserError, match=r"there is no config 'CornerNet-x' in configs; did you"):
        seed("CornerNet-x", config_dir="configs")


def test_a_missing_config_lists_the_places(here):
    write(here / "cells.json")
    write(here / "configs" / "mine.json")
    with pytest.raises(UserError) as error:
        load_config("cels")
    message = str(error.value)
    where = f"there is no config 'cels' in the current folder, configs, {CONFIG_DIR}; "
    assert message.startswith(f"{where}did you mean 'cells'? there are: mine, CenterNet")
    with pytest.raises(UserError, match=r"'x' in sub; there are: none"):
        load_config("sub/x.json")
