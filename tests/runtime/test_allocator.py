import subprocess
import sys

import pytest

from pneumonia.runtime.allocator import FOR_TRAINING, keep_freed_memory

FAULTS = """
import resource, numpy, sys
from pneumonia.runtime.allocator import FOR_IMAGES, FOR_TRAINING, keep_freed_memory
settings = {"training": FOR_TRAINING, "images": FOR_IMAGES, "plain": None}[sys.argv[1]]
if settings:
    assert keep_freed_memory(settings)
size = int(sys.argv[2])
numpy.ones(size, numpy.uint8)  # the first one is new in any case
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    numpy.ones(size, numpy.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, mib: int) -> int:
    """Page faults of eight blocks, taken and freed in turn."""
    command = [sys.executable, "-c", FAULTS, mode, str(mib << 20)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
@pytest.mark.parametrize(("mode", "mib"), [("training", 64), ("images", 24)])
def test_blocks_are_taken_again_without_page_faults(mode, mib):
    assert faults(mode, mib) < 0.1 * faults("plain", 64)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory(FOR_TRAINING)
