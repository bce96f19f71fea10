"""The few CUDA runtime calls an engine needs, by ctypes: the board needs no package for them."""

import ctypes
import ctypes.util
from typing import List, Optional

import numpy as np

from pneumonia.runtime.errors import DeviceError

LIBRARIES = (
    "libcudart.so",
    "/usr/local/cuda/lib64/libcudart.so",
    "libcudart.so.10.2",
    "libcudart.so.11.0",
    "libcudart.so.12",
    "libcudart.so.13",
)
HOST_TO_DEVICE = 1
DEVICE_TO_HOST = 2
COMPUTE_MAJOR = 75  # cudaDevAttrComputeCapabilityMajor
COMPUTE_MINOR = 76


class CudaError(DeviceError):
    """A CUDA call failed."""


class DeviceBuffer:
    """Memory on the GPU; freed by `CudaRuntime.free_all`."""

    def __init__(self, address: int, n_bytes: int) -> None:
        self.address = address
        self.n_bytes = n_bytes


class CudaRuntime:
    """libcudart with one stream.

    Args:
        path: Of the library; None = the first of `LIBRARIES` that loads.

    Raises:
        DeviceError: No library, or no GPU.
    """

    def __init__(self, path: Optional[str] = None) -> None:
        self._library = _load(path)
        self._buffers: List[DeviceBuffer] = []
        self._stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(self._stream))

    def _call(self, name: str, *arguments: object) -> None:
        try:
            status = getattr(self._library, name)(*arguments)
        except AttributeError:
            raise CudaError("CUDA library lacks a function", found=name) from None
        if status != 0:
            # Clear the error: a later call must not report it as its own.
            self._library.cudaGetLastError()
            text = self._library.cudaGetErrorString(status)
            raise CudaError(
                "CUDA failed",
                found="{}: {}".format(status, text.decode("ascii", "replace") if text else "?"),
                where=name,
            )

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream.value or 0)

    def compute_capability(self) -> str:
        """Compute capability without its dot, such as `62` for a TX2."""
        value, parts = ctypes.c_int(), []
        for attribute in (COMPUTE_MAJOR, COMPUTE_MINOR):
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            parts.append(str(value.value))
        return "".join(parts)

    def allocate(self, n_bytes: int) -> DeviceBuffer:
        """Memory on the GPU; raises CudaError when there is not enough."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(n_bytes))
        buffer = DeviceBuffer(int(address.value or 0), n_bytes)
        self._buffers.append(buffer)
        return buffer

    def to_device(self, buffer: DeviceBuffer, values: np.ndarray) -> None:
        """Copy a contiguous array to the GPU."""
        self._copy(buffer.address, values.ctypes.data, buffer, values, HOST_TO_DEVICE)

    def to_host(self, values: np.ndarray, buffer: DeviceBuffer) -> None:
        """Copy into a contiguous array."""
        self._copy(values.ctypes.data, buffer.address, buffer, values, DEVICE_TO_HOST)

    def _copy(
        self, target: int, source: int, buffer: DeviceBuffer, values: np.ndarray, kind: int
    ) -> None:
        if values.nbytes != buffer.n_bytes or not values.flags["C_CONTIGUOUS"]:
            raise CudaError(
                "Array does not fit the GPU's buffer",
                expected="{} contiguous bytes".format(buffer.n_bytes),
                found=str(values.nbytes),
            )
        self._call(
            "cudaMemcpy",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(values.nbytes),
            ctypes.c_int(kind),
        )

    def synchronize(self) -> None:
        """Wait until the stream is done; raises CudaError when anything on it failed."""
        self._call("cudaStreamSynchronize", self._stream)

    def free_all(self) -> None:
        """Free all memory; errors are ignored."""
        for buffer in self._buffers:
            self._library.cudaFree(ctypes.c_void_p(buffer.address))
        self._buffers = []

    def close(self) -> None:
        """Free the memory and the stream."""
        self.free_all()
        if self._stream:
            self._library.cudaStreamDestroy(self._stream)
            self._stream = ctypes.c_void_p()


def _load(path: Optional[str]) -> ctypes.CDLL:
    for name in (path,) if path is not None else LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.cudaGetErrorString.restype = ctypes.c_char_p
            library.cudaGetErrorString.argtypes = [ctypes.c_int]
            return library
        except (OSError, AttributeError):  # noqa: PERF203 - a handful of names
            continue
    raise DeviceError(
        "CUDA runtime is not here",
        expected=path or LIBRARIES[0],
        fix="On a Jetson it comes with JetPack (cuda-cudart)",
    )
