"""What the command lines of the scripts have in common."""

import argparse

from .config.loading import CONFIG_DIR
from .models.loading import LoadedDetector, load_detector


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that say which config, with which changes, on which device."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="config in configs/, without .json, or a .json file")
    parser.add_argument("--device", help="cuda, cuda:1, cpu …; a GPU if there is one by default")
    parser.add_argument("--config-dir", default=str(CONFIG_DIR), metavar="DIR", help="for configs")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting of the config, as --set db.top_k=50",
    )
    return parser


def add_snapshot_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which weights; the newest snapshot by default."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--testiter", type=int, metavar="N", help="iteration of the snapshot")
    weights.add_argument("--snapshot", metavar="FILE", help="file of weights")


def load_chosen_detector(options: argparse.Namespace, suffix: str | None = None) -> LoadedDetector:
    """Loads the detector that parsed arguments name; errors as :func:`load_detector`."""
    return load_detector(
        options.config,
        options.testiter if options.snapshot is None else options.snapshot,
        options.device,
        suffix=suffix,
        overrides=options.set,
        config_dir=options.config_dir,
    )
