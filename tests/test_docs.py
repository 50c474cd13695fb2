"""The README, the other pages and --help: commands parse, and files, links and anchors exist.

Every command is given to the parser that would read it, and its config is loaded with its
overrides; nothing runs. Configs that a page has its reader make are made here as it says.
"""

import argparse
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch.distributed.run as torchrun

from core import cli
from core.config.loading import load_config
from tests.support import tiny_detector

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"])
OTHER_PROGRAMS = ("ruff", "mypy", "pre-commit", "source")  # not ours to parse
MARK_OF_SLURM = "#SBATCH"  # a block that needs a cluster: only its syntax is checked
MADE_BY_THE_READER = re.compile(r"\bmine\b|[yY]ours")
INLINE = re.compile(
    r"`((?:[A-Z_]+=\S+ )*(?:python -m|python \w+\.py|cornerkit|torchrun|make) [^`]+)`"
)


class Command(NamedTuple):
    """A command of a page: the name of its file, and program and arguments."""

    page: str
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.argv)}"


class Parsed(BaseException):
    """Ends a program in place of what it does after its arguments were parsed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options


def blocks(page: Path, language: str) -> list[str]:
    """Extracts the contents of a page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[Command]:
    """Lists the commands of all pages, of fenced blocks and of sentences and tables."""
    for name in cli.COMMANDS:
        description = importlib.import_module(f"core.{cli.COMMANDS[name]}").__doc__
        for line in [*description.splitlines(), *cli.as_installed(description).splitlines()]:
            if re.match(r"    (python|cornerkit|torchrun) ", line):
                yield Command(f"{name} --help", tuple(shlex.split(line, comments=True)))
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        for block in blocks(page, "bash"):
            if MARK_OF_SLURM in block:
                continue
            for line in block.replace("\\\n", " ").splitlines():
                argv = shlex.split(line, comments=True)
                if argv:
                    yield Command(name, tuple(argv))
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for span in INLINE.findall(prose):
            argv = shlex.split(span)
            if is_complete(argv):
                yield Command(name, tuple(argv))


def is_complete(argv: list[str]) -> bool:
    """Tells a whole command from the mention of one, such as ``cornerkit train`` in a sentence."""
    if any("…" in word or "|" in word for word in argv):
        return False
    if argv[0] == "torchrun":
        return "-m" in argv or any(word.endswith(".py") for word in argv)
    return argv[0] != "cornerkit" or len(argv) > 2


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    """Copies the configs, and makes those that the pages have their reader make."""
    folder = tmp_path_factory.mktemp("docs") / "configs"
    shutil.copytree(ROOT / "configs", folder)
    content = json.loads((folder / "CornerNet_Squeeze.json").read_text())
    content["system"].update(dataset_dir="mine", train_split="train", val_split="val")
    del content["db"]["categories"]
    for detector in ("CornerNet", "CornerNet_Lite0", "CornerNet_Squeeze"):
        (folder / f"{detector}-mine.json").write_text(json.dumps(content))
    (folder / "mine.json").write_text(json.dumps({"base": "CornerNet_Squeeze-mine"}))
    shutil.copyfile(folder / "CornerNet_Squeeze-shapes.json", folder / "Yours-shapes.json")
    return folder


def options_of(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace | None:
    """Parses arguments by the parser of their program; None if it has none."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        raise Parsed(parse(parser, *arguments))

    program, *rest = argv
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [program, *rest])
        try:
            if program == "cornerkit":
                assert cli.main(rest) == 0
            elif program.endswith(".py"):
                runpy.run_path(str(ROOT / program), run_name="__main__")
            else:
                patch.setattr(sys, "modules", dict(sys.modules))
                sys.modules.pop(program, None)
                runpy.run_module(program, run_name="__main__", alter_sys=True)
        except Parsed as parsed:
            return parsed.options
        except SystemExit as end:
            pytest.fail(f"{' '.join(argv)} ended with {end.code}")
    return None


def check_training_command(argv: list[str], configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses the arguments of one of our programs, and loads the config that they choose."""
    options = options_of(argv, monkeypatch)
    if options is None:
        assert argv == ["cornerkit", "--help"]
    elif isinstance(getattr(options, "config", None), str):
        suffix, overrides = getattr(options, "suffix", None), getattr(options, "set", None)
        load_config(options.config, suffix, overrides or (), configs)


@pytest.mark.parametrize("command", sorted(set(commands())), ids=str)
def test_a_command_of_the_pages(command: Command, configs: Path, monkeypatch) -> None:
    argv = [word.removeprefix(".venv/bin/") for word in command.argv]
    while re.fullmatch(r"[A-Z_]+=\S*", argv[0]):  # variables of the environment
        argv.pop(0)
    program, *rest = argv
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in rest if "=" not in word]
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    elif program == "pip":
        check_pip(rest)
    elif program == "torchrun":
        options = torchrun.parse_args(rest)
        script, *arguments = options.training_script, *options.training_script_args
        if options.module:
            script = script.replace("cornerkit.cli", "cornerkit")
        check_training_command([script, *arguments], configs, monkeypatch)
    elif argv[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in argv[3:] if word.startswith("tests/"))
    elif argv[:3] == ["python", "-m", "core.cli"]:
        check_training_command(["cornerkit", *argv[3:]], configs, monkeypatch)
    elif argv[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(argv[2]) is not None
        if argv[2] != "cpools_ext" or len(argv) > 3:
            check_training_command(argv[2:], configs, monkeypatch)
    elif program == "python" and rest[0].endswith(".py"):
        check_training_command(rest, configs, monkeypatch)
    elif program == "cornerkit":
        check_training_command(argv, configs, monkeypatch)
    else:
        assert program in OTHER_PROGRAMS


def check_pip(argv: list[str]) -> None:
    """Checks that an installation is of this package, with extras that it has."""
    assert argv[0] == "install" and set(argv[1:-1]) <= {"--no-build-isolation", "--editable"}
    match = re.fullmatch(r"\.(?:\[(\w+)\])?", argv[-1])
    assert match
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    assert match[1] is None or re.search(rf"^{match[1]} = \[", extras, re.MULTILINE)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_an_installation_names_no_script_of_a_clone(command, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["cornerkit", command])
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert f"cornerkit {command}" in text and not re.search(r"(train|evaluate|demo)\.py", text)


def test_slurm_lines_are_shell() -> None:
    (block,) = [block for page in PAGES for block in blocks(page, "bash") if MARK_OF_SLURM in block]
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_every_block_has_a_language() -> None:
    for page in PAGES:
        opened = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)[::2]
        assert set(opened) <= {"bash", "python", "text"}, page


def test_the_readme_s_python_detects(tmp_path: Path, monkeypatch) -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    config = tiny_detector.write_config(tmp_path)
    snapshot = tiny_detector.write_snapshot(tmp_path, 1, ("person", "dog"))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for image in ("photo.jpg", "one.jpg", "two.jpg"):
        cv2.imwrite(str(tmp_path / image), noise)
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("from cornerkit", "from core"),
        ('"CornerNet_Squeeze"', repr(str(config))),
        ('"CornerNet_Squeeze_500000.pkl"', repr(str(snapshot))),
    ):
        assert name in block
        block = block.replace(name, value)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["boxes"].ndim == 2 and names["boxes"].shape[1] == 5
    assert (names["first"].boxes == names["second"].boxes).all()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_files(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        linked = page if not target else page.parent / target
        assert linked.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in headings(linked), f"{page.name}: {target} has no heading {anchor}"
    code = re.findall(r"`([^`\n]+)`", text)
    code += [line.split("  ")[0] for block in blocks(page, "text") for line in block.splitlines()]
    for word in (word for span in code for word in span.split()):
        if re.match(r"(core|configs|cpools_ext|docs|benchmarks|tests)/", word):
            known = list(ROOT.glob(word)) or "<" in word or MADE_BY_THE_READER.search(word)
            assert known, f"{page.name} names {word}, which is not there"


def headings(page: Path) -> set[str]:
    """Computes the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
