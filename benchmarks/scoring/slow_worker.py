"""The decoding child with a wait before each image, for `scoring_throughput --wait-ms`."""

import os
import time
from typing import Any

from pneumonia.runtime.child import __main__ as child
from pneumonia.runtime.child import tasks

WAIT = "SCORING_WAIT_MS"
_parse = tasks.parse_radiograph


def _slow_parse(*arguments: Any) -> Any:
    time.sleep(float(os.environ[WAIT]) / 1000)
    return _parse(*arguments)


if __name__ == "__main__":
    tasks.parse_radiograph = _slow_parse
    child.main()
