"""What the caller did wrong, in one line, and the exit codes of the scripts."""

import logging
import sys
from collections.abc import Callable
from typing import NoReturn

logger = logging.getLogger(__name__)


class UserError(ValueError):
    """A mistake of the caller: one line that says what is wrong, where, and the mend."""


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Runs a script and leaves the process with its exit code.

    Args:
        main: takes the command-line words and returns an exit code: 0 done, 1 it failed.

    A :class:`UserError` is logged as one line, without a traceback, and ends with exit code 2;
    Ctrl-C ends it with 1.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        logger.error("error: %s", error)
        code = 2
    except KeyboardInterrupt:
        logger.error("stopped by Ctrl-C")
        code = 1
    sys.exit(code)
