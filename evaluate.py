"""Evaluates a trained detector: ``python evaluate.py CornerNet --testiter N``; --help says more."""

import sys

from core.cli import exit_codes
from core.evaluation.command import main

if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
