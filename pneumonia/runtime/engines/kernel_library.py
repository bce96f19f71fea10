"""A generated library, called by ctypes with NumPy arrays."""

import ctypes
import io
import os
import platform
import tempfile
from typing import Dict, List, Optional, Tuple

import numpy as np

from pneumonia.runtime.engines.processor import read_processor
from pneumonia.runtime.engines.thread_count import MAX_THREADS, check_threads
from pneumonia.runtime.errors import ArtefactError, DeviceError

ABI = 1
MAX_SIDE = 65535  # PN_MAX_SIDE: of an image that the library resamples
ELF_MACHINES = {b"\x3e\0": "x86_64", b"\xb7\0": "aarch64"}  # e_machine, little endian


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("channels", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
    ]


_FLOATS = ctypes.POINTER(ctypes.c_float)


def _reason(path: str, error: Exception) -> str:
    """Why a file did not load; the loader reports a library of another architecture as missing."""
    try:
        with io.open(path, "rb") as stream:
            head = stream.read(20)
    except OSError:
        return str(error)
    machine = ELF_MACHINES.get(head[18:20]) if head[:4] == b"\x7fELF" else None
    if machine is None or machine == platform.machine():
        return str(error)
    return "a library for {} on {}".format(machine, platform.machine())


_LOADED: Dict[str, Tuple[int, int, int]] = {}  # path -> identity of the file loaded from it


def _load(path: str) -> ctypes.CDLL:
    """Load a library, also one that has replaced another at a path loaded before.

    For a path that it knows the system's loader returns what it loaded first.
    """
    path = os.path.abspath(path)
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
    if _LOADED.setdefault(path, identity) == identity:
        return ctypes.CDLL(path)
    with tempfile.TemporaryDirectory(prefix="pneumonia-") as folder:
        link = os.path.join(folder, os.path.basename(path))
        os.symlink(path, link)
        return ctypes.CDLL(link)


def _bind(path: str) -> ctypes.CDLL:
    try:
        library = _load(path)
        library.pn_abi.restype = ctypes.c_int
        abi = library.pn_abi()
    except (OSError, AttributeError) as error:
        raise DeviceError(
            "Generated library cannot be loaded",
            found=_reason(path, error),
            where=os.path.basename(path),
            fix="Generate it on or for this machine: pneumonia kernels BUNDLE --target native",
        ) from None
    if abi != ABI:
        raise DeviceError(
            "Generated library has another interface",
            expected=str(ABI),
            found=str(abi),
            where=os.path.basename(path),
            fix="Generate it again: pneumonia kernels BUNDLE",
        )
    tensor = ctypes.POINTER(_Tensor)
    sizes = ctypes.POINTER(ctypes.c_size_t)
    signatures = [
        ("pn_target", ctypes.c_char_p, []),
        ("pn_cpu_features", ctypes.c_char_p, []),
        ("pn_model_hash", ctypes.c_char_p, []),
        ("pn_error_text", ctypes.c_char_p, [ctypes.c_int]),
        ("pn_input", tensor, []),
        ("pn_output_count", ctypes.c_int, []),
        ("pn_output", tensor, [ctypes.c_int]),
        ("pn_create", ctypes.c_void_p, []),
        (
            "pn_run",
            ctypes.c_int,
            [ctypes.c_void_p, _FLOATS, ctypes.c_size_t, ctypes.POINTER(_FLOATS), sizes,
             ctypes.c_int],
        ),
        ("pn_destroy", None, [ctypes.c_void_p]),
        ("pn_working_bytes", ctypes.c_size_t, []),
        ("pn_step_count", ctypes.c_int, []),
        ("pn_step_name", ctypes.c_char_p, [ctypes.c_int]),
        (
            "pn_profile",
            ctypes.c_int,
            [ctypes.c_void_p, _FLOATS, ctypes.c_size_t, ctypes.POINTER(ctypes.c_double)],
        ),
    ]  # fmt: skip
    if hasattr(library, "pn_letterbox"):  # optional
        int32 = ctypes.c_int32
        signatures.append(
            (
                "pn_letterbox",
                ctypes.c_int,
                [ctypes.c_void_p, int32, int32, ctypes.c_ssize_t, ctypes.c_void_p],
            )
        )
    for name, result, arguments in signatures:
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _check_cpu(needed: str, target: str) -> None:
    """Refuse a library with instructions that this CPU lacks: they would kill the process."""
    found = read_processor().features
    missing = [flag for flag in needed.split() if flag not in found]
    if found and missing:
        raise DeviceError(
            "Generated library needs another CPU",
            expected="the instructions of target {!r}".format(target),
            found="a CPU without " + ", ".join(missing),
            fix="Generate it for this machine: pneumonia kernels BUNDLE --target native",
        )


def _shape(tensor: _Tensor) -> Tuple[int, int, int]:
    return (int(tensor.channels), int(tensor.height), int(tensor.width))


class KernelLibrary:
    """One instance of a generated network.

    Args:
        path: `libmodel-<target>.so`.
        model_hash: Hash the library must have been generated from; None = any.
        threads: Threads of one run.

    Raises:
        ConfigError: The number of threads is out of range.
        DeviceError: The library cannot be loaded here, or memory is short.
        ArtefactError: It was generated from another model.
    """

    def __init__(self, path: str, model_hash: Optional[str] = None, threads: int = 1) -> None:
        check_threads(threads)
        self._model: Optional[int] = None
        self._library = _bind(path)
        self.threads = threads
        self.target = self._library.pn_target().decode()  # type: str
        self.model_hash = self._library.pn_model_hash().decode()  # type: str
        _check_cpu(self._library.pn_cpu_features().decode(), self.target)
        if model_hash is not None and self.model_hash != model_hash:
            raise ArtefactError(
                "Generated library belongs to another model",
                expected=model_hash[:12],
                found=self.model_hash[:12],
                where=os.path.basename(path),
                fix="Generate it again: pneumonia kernels BUNDLE",
            )
        self.input_shape = _shape(self._library.pn_input().contents)
        outputs = [
            self._library.pn_output(i).contents for i in range(self._library.pn_output_count())
        ]
        self.output_shapes = {t.name.decode(): _shape(t) for t in outputs}
        self._model = self._library.pn_create()
        if not self._model:
            raise DeviceError("No memory for the generated network", where=os.path.basename(path))

    def close(self) -> None:
        """Free the instance and its threads."""
        if self._model:
            self._library.pn_destroy(self._model)
            self._model = None

    def __del__(self) -> None:
        # After a failed __init__, or at interpreter exit, there may be nothing to free.
        if getattr(self, "_model", None):
            self.close()

    @property
    def cpus(self) -> List[int]:
        """CPUs its threads are pinned to; empty for one thread, and where nothing is pinned."""
        if not hasattr(self._library, "pn_cpus") or not self._model:
            return []
        found = (ctypes.c_int * MAX_THREADS)()
        self._library.pn_cpus.argtypes = [
            ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
        ]  # fmt: skip
        return list(found[: max(0, self._library.pn_cpus(self._model, self.threads, found))])

    def _image(self, image: np.ndarray) -> np.ndarray:
        image = np.ascontiguousarray(image, dtype=np.float32)
        if image.shape != self.input_shape:
            raise DeviceError(
                "Input has another size than the generated network",
                expected=str(self.input_shape),
                found=str(image.shape),
            )
        if not self._model:
            raise DeviceError("Generated network is closed")
        return image

    def _check(self, status: int) -> None:
        if status:
            text = self._library.pn_error_text(status).decode()
            raise DeviceError("Generated network failed", found=text)

    def run(self, image: np.ndarray) -> Dict[str, np.ndarray]:
        """One image (C, H, W) float32 -> output name -> (C, H, W) float32.

        Raises:
            DeviceError: Wrong input size, or the library reports a failure.
        """
        image = self._image(image)
        results = {name: np.empty(shape, np.float32) for name, shape in self.output_shapes.items()}
        pointers = (_FLOATS * len(results))(*[a.ctypes.data_as(_FLOATS) for a in results.values()])
        sizes = (ctypes.c_size_t * len(results))(*[a.size for a in results.values()])
        self._check(
            self._library.pn_run(
                self._model, image.ctypes.data_as(_FLOATS), image.size, pointers, sizes,
                self.threads,
            )
        )  # fmt: skip
        return results

    @property
    def has_letterbox(self) -> bool:
        """Whether the library has `letterbox`; it is optional."""
        return hasattr(self._library, "pn_letterbox")

    def letterbox(self, pixels: np.ndarray) -> np.ndarray:
        """An image, uint8 (H, W), on the network's canvas, uint8 (height, width).

        Raises:
            DeviceError: A side is longer than MAX_SIDE, or memory is short.
        """
        pixels = np.ascontiguousarray(pixels)
        canvas = np.empty(self.input_shape[1:], np.uint8)
        rows, columns = pixels.shape
        self._check(
            self._library.pn_letterbox(
                pixels.ctypes.data, columns, rows, columns, canvas.ctypes.data
            )
        )
        return canvas

    def profile(self, image: np.ndarray) -> List[Tuple[str, float]]:
        """Seconds of every step of one run on one thread: (layer name, seconds)."""
        image = self._image(image)
        count = self._library.pn_step_count()
        seconds = (ctypes.c_double * count)()
        self._check(
            self._library.pn_profile(
                self._model, image.ctypes.data_as(_FLOATS), image.size, seconds
            )
        )
        names = [self._library.pn_step_name(i).decode() for i in range(count)]
        return list(zip(names, seconds))
