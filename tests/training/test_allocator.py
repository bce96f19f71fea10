import subprocess
import sys

import pytest

from pneumonia.training.allocator import keep_freed_memory

FAULTS = """
import resource, numpy, sys
from pneumonia.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
numpy.ones(64 << 20, numpy.uint8)  # the first one is new in any case
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    numpy.ones(64 << 20, numpy.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Page faults of eight blocks of 64 MiB, taken and freed in turn."""
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_blocks_are_taken_again_without_page_faults():
    assert faults("keep") < 0.1 * faults("plain")


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
