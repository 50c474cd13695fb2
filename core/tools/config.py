"""Prints a config as JSON, with what its bases and overrides say.

    cornerkit config CornerNet_Squeeze
    cornerkit config CornerNet-bccd --set db.top_k=50
    cornerkit config CornerNet-bccd --all           # with the defaults of "system" and "db"
    cornerkit config CornerNet --suffix multi_scale

What it prints is a config itself. The defaults of "model" are in the model's module.
"""

import sys

from ..cli import add_config_arguments, plain_parser
from ..config.files import as_text
from ..config.loading import load_config


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = plain_parser("config", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--suffix", help="print <config>-<suffix>.json")
    parser.add_argument("--all", action="store_true", help="print the defaults of settings too")
    options = parser.parse_args(argv)
    config = load_config(options.config, options.suffix, options.set, options.config_dir)
    given = {section: values for section, values in config.given.items() if values}
    content = config.as_dict() if options.all else {"model_name": config.model_name, **given}
    sys.stdout.write(as_text(content))
    return 0
