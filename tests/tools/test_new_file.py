"""The file of `cornerkit new`: where it lies, and how short a base makes it."""

import pytest

from core.config.errors import UserError
from core.config.files import CONFIG_DIR, as_text, read_json
from core.config.loading import config_from_dict, load_config
from core.tools.new_choice import choose
from core.tools.new_file import BASES, choose_file, complete, write
from core.tools.new_recipe import SECTIONS
from tests.tools.test_new import FAST, GPU, TWO_THREADS, summary


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_current_folder_or_configs_in_it(here):
    assert str(choose_file("cells", None, False)) == "cells.json"
    assert choose_file("cells", "other", False) == here.relative_to(here) / "other" / "cells.json"
    (here / "configs").mkdir()
    assert str(choose_file("cells", None, False)) == "configs/cells.json"


def test_a_config_of_that_name(here):
    """It is refused wherever it would be found; by force it is overwritten, the package's never."""
    (here / "configs").mkdir()
    (here / "cells.json").write_text("{}")
    with pytest.raises(UserError, match=r"^cells\.json exists; .*--force"):
        choose_file("cells", None, False)
    assert str(choose_file("cells", None, True)) == "cells.json"
    with pytest.raises(UserError, match=r"CornerNet-bccd\.json exists"):
        choose_file("CornerNet-bccd", None, False)
    assert str(choose_file("CornerNet-bccd", None, True)) == "configs/CornerNet-bccd.json"


@pytest.mark.parametrize("machine", [TWO_THREADS, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("detector", SECTIONS)
def test_a_file_says_the_same_as_its_sections(detector, machine, tmp_path):
    data = summary(objects=90, extents=[(24.0, 60.0)])
    content = choose(detector, data, machine, 20, lambda content, processes: FAST).content
    write(tmp_path / "cells.json", complete(content, detector))
    found = load_config("cells", config_dir=tmp_path)
    wanted = config_from_dict(content, detector, "x.json")
    assert (found.model_name, found.system, found.db) == (detector, wanted.system, wanted.db)
    assert found.model == wanted.model


@pytest.mark.parametrize("detector", BASES)
def test_a_base_makes_it_short(detector, tmp_path):
    content = choose(detector, summary(), TWO_THREADS, 20, lambda content, count: FAST).content
    short = complete(content, detector)
    assert len(as_text(short).splitlines()) < 0.4 * len(as_text(content).splitlines())
    assert short["base"] == detector and short["db"].keys() == {"zoom", "shift"}
    assert read_json(CONFIG_DIR / f"{detector}.json")["system"]["opt_algo"] == "adamw"
