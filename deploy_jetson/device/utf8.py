"""Commands on a board run in UTF-8, whatever the locale they are started in.

Under systemd, cron and ssh the locale is often C. There Python 3.6 opens no file whose name is not
ASCII, and printing such a name raises.
"""

import codecs
import io
import os
import sys
from typing import Any, Callable, Dict, List

LOCALE = "C.UTF-8"  # Ubuntu and Debian have it without installing anything
RESTARTED = "PNEUMONIA_UTF8"  # set in the environment of the second start


def utf8_environment() -> Dict[str, str]:
    """This process's environment with a UTF-8 locale."""
    return dict(os.environ, LC_ALL=LOCALE, PYTHONUTF8="1")


def run_command(module: str, main: Callable[[], int]) -> None:
    """Run a command's main function in UTF-8 and end the process with its exit code.

    Where file names are not UTF-8 the interpreter is started again, once, in a locale where they
    are. Output never raises on a name: what cannot be written is escaped.

    Args:
        module: As `python3 -m` names it.
        main: Of the command; takes its arguments from sys.argv.
    """
    if not _is_utf8(sys.getfilesystemencoding()) and not os.environ.get(RESTARTED):
        command: List[str] = [sys.executable, "-m", module] + sys.argv[1:]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, command, dict(utf8_environment(), **{RESTARTED: "1"}))
    sys.stdout = _lenient(sys.stdout)
    sys.stderr = _lenient(sys.stderr)
    sys.exit(main())


def _is_utf8(name: str) -> bool:
    return codecs.lookup(name).name == "utf-8"


def _lenient(stream: Any) -> Any:
    """A text stream that escapes what its encoding, or UTF-8, cannot write."""
    if stream is None or stream.errors == "backslashreplace":
        return stream
    encoding, line_buffering = stream.encoding, stream.line_buffering
    return io.TextIOWrapper(stream.detach(), encoding, "backslashreplace", None, line_buffering)
