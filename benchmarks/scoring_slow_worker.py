"""The decoding child with a wait before each image, for `scoring_throughput --wait-ms`."""

import os
import time
from typing import Any

from pneumonia.scoring import decode_worker

WAIT = "SCORING_WAIT_MS"
_read = decode_worker.read_radiograph


def _slow_read(*arguments: Any) -> Any:
    time.sleep(float(os.environ[WAIT]) / 1000)
    return _read(*arguments)


if __name__ == "__main__":
    decode_worker.read_radiograph = _slow_read
    decode_worker.main()
