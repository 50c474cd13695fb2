"""Draws what a detector finds: ``python demo.py CornerNet street.jpg``; --help says more."""

import sys

from core.cli import exit_codes
from core.tools.detect import main

if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
