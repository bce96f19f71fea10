"""Exit codes of the board's commands; errors are one line on stderr."""

import os
import sys
from typing import Callable

from pneumonia.runtime.errors import PneumoniaError

INTERRUPTED = 130  # 128 + SIGINT, as in shells
INTERNAL = 70


def exit_code(work: Callable[[], None]) -> int:
    """Run a command's work: 0, or the exit code of the error that it shows.

    The text of other exceptions may quote the contents of a file: only their type is shown, or a
    traceback where PNEUMONIA_DEBUG is set.
    """
    try:
        work()
    except PneumoniaError as error:
        sys.stderr.write("error: {}\n".format(error))
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("PNEUMONIA_DEBUG"):
            raise
        sys.stderr.write("error: internal error ({})\n".format(type(error).__name__))
        return INTERNAL
    return 0
