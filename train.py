"""Trains a detector: ``python train.py CornerNet``; --help says more."""

import sys

from core.cli import exit_codes
from core.training.command import main

if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
