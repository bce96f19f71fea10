"""Libraries for every ARM core load and score in an old arm64 system, from C and from Python.

On glibc before 2.34 pthread is a library of its own, which a library linked on a newer system does
not name by itself. `make_old_root.sh` makes the system.

Spans: deploy_jetson.kernels.bundle, deploy_jetson.kernels.compile.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.kernels.bundle import add_kernels
from tests.deploy_jetson.kernels.programs import (
    EACH_ARM_TARGET,
    cross_build,
    emulated,
    qemu_command,
)
from tests.runtime.bundles import CELL, brightness_detector, write_bundle

ROOT = os.environ.get("PNEUMONIA_ARM64_ROOT")
EXAMPLE = Path(__file__).parents[3] / "examples" / "c" / "score_pgm.c"
pytestmark = [
    emulated,
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT, reason="PNEUMONIA_ARM64_ROOT is not set: see make_old_root.sh"),
]
PROGRAM = """
import ctypes, os, sys
c = ctypes.CDLL(sys.argv[1])
c.pn_create.restype = ctypes.c_void_p
c.pneumonia_detect.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32,
                               ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_int32]
c.pn_set_threads.argtypes = [ctypes.c_void_p, ctypes.c_int]
model = c.pn_create()
assert c.pn_set_threads(model, 2) == 0
pixels = open(sys.argv[2], "rb").read()[-64 * 64:]
print(os.confstr("CS_GNU_LIBC_VERSION"), c.pneumonia_detect(model, pixels, 64, 64, 64, None, 0))
"""


@pytest.mark.parametrize("target", EACH_ARM_TARGET)
def test_a_library_loads_and_scores(tmp_path, target):
    bundle = write_bundle(tmp_path / "bundle", *brightness_detector(), onnx=False)
    result = add_kernels(bundle, target)
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:CELL, :CELL] = 255
    pixels[2 * CELL : 3 * CELL, CELL : 2 * CELL] = 255
    (tmp_path / "image.pgm").write_bytes(b"P5 64 64 255\n" + pixels.tobytes())
    program = tmp_path / "score_pgm"
    subprocess.run(
        [*cross_build(target), f"--sysroot={ROOT}", f"-B{ROOT}/usr/lib/aarch64-linux-gnu/",
         f"-I{result.sources}", str(EXAMPLE), "-o", str(program), str(result.library)],
        check=True,
    )  # fmt: skip
    qemu = [*qemu_command(target), "-L", ROOT, "-E", f"LD_LIBRARY_PATH={bundle}"]
    done = subprocess.run(
        [*qemu, str(program), str(tmp_path / "image.pgm"), "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    python = subprocess.run(
        [*qemu, f"{ROOT}/usr/bin/python3.9", "-c", PROGRAM, str(result.library),
         str(tmp_path / "image.pgm")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert python.returncode == 0, python.stderr
    assert python.stdout == "glibc 2.31 2\n"
