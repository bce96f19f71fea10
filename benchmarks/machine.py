"""Description of the machine that a benchmark ran on."""

import platform
from pathlib import Path


def processor() -> str:
    """Model name of the processor, as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
