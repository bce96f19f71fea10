"""The child: `python -m pneumonia.runtime.child MEMORY_MB`, requests on stdin, answers on stdout.

A file that crashes a decoder takes only this process with it.
"""

import json
import logging
import os
import sys
from typing import BinaryIO

# pydicom downloads test files with it; the child needs no network, and loading it takes a quarter
# of the start
if __name__ == "__main__":
    sys.modules["requests"] = None  # type: ignore[assignment]

from pneumonia.runtime.allocator import FOR_IMAGES, keep_freed_memory
from pneumonia.runtime.child.messages import Wanted, write_answer
from pneumonia.runtime.child.tasks import FileReader
from pneumonia.runtime.image.read_limits import ReadLimits


def limit_resources(memory_mb: int) -> None:
    """Make allocations beyond the limit fail instead of filling the machine; write no core file."""
    try:
        import resource
    except ImportError:  # not a POSIX system; the file and pixel limits still hold
        return
    size = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def private_output() -> BinaryIO:
    """The answers' channel; stdout and stderr go nowhere, since decoders print into them."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)
    return channel


def main() -> None:
    """Serve requests until stdin ends."""
    channel = private_output()
    logging.disable(logging.CRITICAL)
    keep_freed_memory(FOR_IMAGES)
    options = json.loads(sys.stdin.readline())
    limit_resources(int(sys.argv[1]))
    wanted = Wanted(**options["wanted"])
    if wanted.header:
        import pneumonia.runtime.results  # noqa: F401 - loaded before a file's time counts
    reader = FileReader(ReadLimits(**options["limits"]), wanted, options["pixel_files"])
    write_answer(channel, {"status": "ready"}, [])
    for line in sys.stdin:
        write_answer(channel, *reader.answer(json.loads(line)))


if __name__ == "__main__":
    main()
