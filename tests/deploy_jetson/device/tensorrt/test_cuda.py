"""The ctypes calls, against a small C library with libcudart's signatures on host memory."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from deploy_jetson.device.tensorrt.cuda import CudaError, CudaRuntime
from pneumonia.runtime.errors import DeviceError

COMPILER = shutil.which("cc") or shutil.which("gcc")
SOURCE = r"""
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
static int live, last, fail_sync;
static char stream;
int fake_live(void) { return live; }
int fake_last(void) { return last; }
void fake_fail_sync(int status) { fail_sync = status; }
int cudaStreamCreate(void **out) { *out = &stream; return 0; }
int cudaStreamDestroy(void *s) { return s == &stream ? 0 : 400; }
int cudaStreamSynchronize(void *s) {
    if (s != &stream) return 400;
    last = fail_sync;
    return fail_sync;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 0) return 101;
    *value = attribute == 75 ? 6 : attribute == 76 ? 2 : -1;
    return 0;
}
int cudaMalloc(void **out, size_t size) {
    if (size > (size_t)5 << 30) { last = 2; return 2; }
    *out = malloc(size); live++; return 0;
}
int cudaFree(void *p) { free(p); live--; return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    if (kind != 1 && kind != 2) return 21;
    memcpy(to, from, size); return 0;
}
int cudaGetLastError(void) { int was = last; last = 0; return was; }
const char *cudaGetErrorString(int status) { return status == 2 ? "out of memory" : "failure"; }
"""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "fake.c").write_text(SOURCE)
    path = folder / "libcudart.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "fake.c", "-o", str(path)]
    subprocess.run(command, check=True, cwd=folder)
    return str(path)


def test_round_trip_and_no_leak(library):
    cuda = CudaRuntime(library)
    assert cuda.compute_capability() == "62"
    assert cuda.stream != 0
    values = np.random.default_rng(0).normal(size=(3, 5, 7)).astype(np.float32)
    buffers = [cuda.allocate(values.nbytes) for _ in range(3)]
    assert ctypes.CDLL(library).fake_live() == 3
    back = np.empty_like(values)
    for buffer in buffers:
        cuda.to_device(buffer, values)
        back[...] = 0
        cuda.to_host(back, buffer)
        np.testing.assert_array_equal(back, values)
    cuda.synchronize()
    cuda.close()
    cuda.close()
    assert ctypes.CDLL(library).fake_live() == 0


def test_errors_are_named_and_taken_back(library):
    cuda = CudaRuntime(library)
    with pytest.raises(CudaError, match="2: out of memory"):
        cuda.allocate(6 << 30)
    assert ctypes.CDLL(library).fake_last() == 0
    ctypes.CDLL(library).fake_fail_sync(700)
    with pytest.raises(CudaError, match="700"):
        cuda.synchronize()
    ctypes.CDLL(library).fake_fail_sync(0)
    cuda.synchronize()
    cuda.close()


def test_arrays_that_do_not_fit_never_reach_the_gpu(library):
    cuda = CudaRuntime(library)
    buffer = cuda.allocate(48)
    for bad in (np.zeros(13, np.float32), np.zeros((4, 6), np.float32)[:, ::2]):
        with pytest.raises(CudaError, match="does not fit"):
            cuda.to_device(buffer, bad)
        with pytest.raises(CudaError, match="does not fit"):
            cuda.to_host(bad, buffer)
    cuda.close()


def test_missing_library(tmp_path):
    with pytest.raises(DeviceError, match="CUDA runtime is not here"):
        CudaRuntime(str(tmp_path / "libcudart.so"))
    empty = tmp_path / "empty.so"
    empty.write_bytes(b"")
    with pytest.raises(DeviceError, match="CUDA runtime is not here"):
        CudaRuntime(str(empty))
