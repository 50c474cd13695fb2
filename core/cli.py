"""The command line, `cornerkit train|evaluate|…` (:data:`COMMANDS`), and parts of its parsers.

In a clone, train.py, evaluate.py and demo.py are thin calls of the same commands, and
`python -m core.cli check …` runs the others.
"""

import argparse
import contextlib
import importlib
import io
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .config.errors import UserError

if TYPE_CHECKING:
    from .models.loading import LoadedDetector

logger = logging.getLogger(__name__)

# Modules with a ``main(argv)``, by command; one is imported when it is called.
COMMANDS = {
    "new": "tools.new",
    "train": "training.command",
    "evaluate": "evaluation.command",
    "diagnose": "tools.diagnose",
    "detect": "tools.detect",
    "export": "tools.export",
    "check": "tools.check",
    "convert": "tools.convert",
    "plan": "tools.plan",
    "plot": "tools.plot",
    "config": "tools.config",
}
# The scripts of a clone, and their commands.
_SCRIPTS = {"train.py": "train", "evaluate.py": "evaluate", "demo.py": "detect"}
_HELP = """usage: cornerkit COMMAND …

  new        writes a config for one's own data, for so many minutes of training
  train      trains a detector
  evaluate   scores a trained detector on a split of its dataset
  diagnose   says what a detector loses AP to: duplicates, imprecise boxes, wrong classes …
  detect     draws what a detector finds in images, folders of images, and videos
  export     writes a trained detector as an ONNX file, and compares both
  check      reads a whole dataset before a run, lists what is wrong with it, draws its boxes
  convert    writes a YOLO, Pascal VOC or other dataset in COCO's format
  plan       measures a training step and says what fits and how long a run takes
  plot       draws the curves of runs over each other
  config     prints a config with what its bases and overrides say

`cornerkit COMMAND --help` says more. Exit codes: 0 done; 2 a mistake of the caller, in one line
that says how to fix it; 1 anything else."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the console script `cornerkit` calls this.

    Args:
        argv: command and its arguments; those of the process by default.

    Returns:
        The exit code.
    """
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    with exit_codes():
        if command in ("-h", "--help"):
            sys.stdout.write(_HELP + "\n")
            return 0
        if command not in COMMANDS:
            raise UserError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")
        module = importlib.import_module(f".{COMMANDS[command]}", __package__)
        code: int = module.main(arguments)
        return code


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Sets up logging, and turns errors of a command into exit codes.

    A :class:`UserError` is logged as one line, without a traceback, and ends the process with exit
    code 2; Ctrl-C ends it with 1. What the encoding of the output lacks, as files on Windows lack
    most letters, is written as an escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        yield
    except UserError as error:
        logger.error("error: %s", error)
        sys.exit(2)
    except KeyboardInterrupt:
        logger.error("stopped by Ctrl-C")
        sys.exit(1)


def plain_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Makes the parser of a command.

    Args:
        command: a key of :data:`COMMANDS`.
        description: text that keeps its line breaks, with the examples of a clone; installed, they
            become those of `cornerkit`.
    """
    script = Path(sys.argv[0]).name
    in_clone = script in _SCRIPTS
    if not in_clone:
        description = as_installed(description or "")
    return argparse.ArgumentParser(
        prog=script if in_clone else f"cornerkit {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def command_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Makes a parser with the arguments that choose a config, changes to it, and a device."""
    parser = plain_parser(command, description)
    add_config_arguments(parser)
    parser.add_argument("--device", help="cuda, cuda:1, cpu …; a GPU if there is one by default")
    return parser


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose a config and change it."""
    parser.add_argument("config", help="name of a config, without .json, or a .json file")
    parser.add_argument(
        "--config-dir",
        metavar="DIR",
        help="the only folder of configs; without it, the current one, configs/, the package's",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting of the config, as --set db.top_k=50",
    )


def add_snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose weights; by default the newest snapshot."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--testiter", type=int, metavar="N", help="iteration of the snapshot")
    weights.add_argument(
        "--snapshot",
        metavar="best|last|N|FILE",
        help="the snapshot with the highest AP, the last of the run (the default), that of an "
        "iteration, or a file of weights",
    )


def as_installed(description: str) -> str:
    """Replaces the scripts of a clone in examples by the commands that are installed."""
    for script, command in _SCRIPTS.items():
        description = description.replace(f"python {script}", f"cornerkit {command}")
        description = re.sub(
            rf"^( *torchrun .*?){re.escape(script)}",
            rf"\1-m cornerkit.cli {command}",
            description,
            flags=re.MULTILINE,
        )
    return description


def load_chosen_detector(
    options: argparse.Namespace, suffix: str | None = None
) -> "LoadedDetector":
    """Loads the detector that parsed arguments choose, as :func:`core.load_detector` does."""
    from .models.loading import load_detector

    return load_detector(
        options.config,
        options.testiter if options.snapshot is None else options.snapshot,
        options.device,
        suffix=suffix,
        overrides=options.set,
        config_dir=options.config_dir,
    )


if __name__ == "__main__":
    sys.exit(main())
