"""The generated library as an engine: which one of a bundle, and its place among the engines."""

import importlib
import importlib.util
import logging
import os
import sys
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from pneumonia.runtime.engines import Engine
from pneumonia.runtime.engines.kernel_library import MAX_SIDE, KernelLibrary
from pneumonia.runtime.engines.processor import Processor, precision_of, read_processor
from pneumonia.runtime.engines.thread_count import fitting_threads
from pneumonia.runtime.errors import DeviceError, PneumoniaError
from pneumonia.runtime.image.preprocess import Letterbox, check_pixels, letterbox_place
from pneumonia.runtime.storage.bundle import INT8, Bundle

LIBRARY = "libmodel-{}.so"
REPORT = "kernels-{}.json"
NATIVE = "native"  # the target whose kernels were measured on the machine that made them
COMPILE_VARIABLE = "PNEUMONIA_COMPILE"  # 0: never compile a library at first use
LIBRARY_CACHE = "deploy_jetson.kernels.library_cache"
GENERATOR_PYTHON = (3, 11)
_LOG = logging.getLogger(__name__)


def libraries(bundle: Bundle) -> List[str]:
    """Generated libraries the bundle's manifest lists, in the order in which they are tried.

    First the one tuned on its machine, then those for this machine's core, then the widest vectors
    and the most instructions, as the generator's reports give them.
    """
    prefix, suffix = LIBRARY.split("{}")
    names = [n for n in bundle.manifest["files"] if n.startswith(prefix) and n.endswith(suffix)]
    targets = [name[len(prefix) : -len(suffix)] for name in names]
    if len(targets) < 2:
        return names
    processor = read_processor()
    ranked = sorted(targets, key=lambda target: _rank(bundle, target, processor), reverse=True)
    return [LIBRARY.format(target) for target in ranked]


def _rank(bundle: Bundle, target: str, processor: Processor) -> Tuple[bool, bool, int, int]:
    name = REPORT.format(target)
    report: Dict[str, Any] = {}
    if name in bundle.manifest["files"]:
        report = bundle.document(name)
    parts, features = (report.get(key) for key in ("cpu_parts", "cpu_features"))
    suits = isinstance(parts, list) and processor.has_core(map(str, parts))
    lanes = report.get("lanes")
    return (
        target == NATIVE,
        suits,
        lanes if isinstance(lanes, int) else 0,
        len(features) if isinstance(features, list) else 0,
    )


class KernelsEngine(Engine):
    """A generated library as an engine, image by image.

    Args:
        path: A library generated from it; see `open_kernels`.
        threads: Threads of one run; None = see `fitting_threads`.

    Raises:
        DeviceError: The library does not load or run here.
        ArtefactError: The library was generated from another model.
    """

    name = "kernels"

    def __init__(self, bundle: Bundle, path: str, threads: Optional[int] = None) -> None:
        super().__init__(bundle.spec)
        if threads is None:
            threads = fitting_threads(bundle.spec)
        self.library = KernelLibrary(path, bundle.model_hash, threads)
        self.precision = INT8 if bundle.arithmetic == INT8 else precision_of(self.library.target)
        cpus = ",".join(map(str, self.library.cpus))  # of several threads
        self.details = {
            "target": self.library.target,
            "threads": threads,
            "cpus": cpus or "not pinned",
        }
        if cpus:
            _LOG.info("Generated kernels for %s, %d threads, CPUs %s", *self.details.values())

    def letterbox(self, pixels: np.ndarray) -> Tuple[np.ndarray, Letterbox]:
        """The canvas of `runtime.image.preprocess.letterbox`, made by the library in less time."""
        if not self.library.has_letterbox or max(check_pixels(pixels).shape) > MAX_SIDE:
            return super().letterbox(pixels)
        size = self.spec.input
        canvas = self.library.letterbox(pixels)
        return canvas, letterbox_place(pixels.shape[0], pixels.shape[1], size.height, size.width)

    def _run(self, batch: np.ndarray) -> Dict[str, np.ndarray]:
        runs = [self.library.run(image) for image in batch]
        return {
            name: np.stack([run[name] for run in runs]).reshape(
                (len(runs),) + self.output_shapes[name]
            )
            for name in self.spec.outputs
        }


def can_compile() -> bool:
    """Whether to compile at first use: not switched off, and the generator is installed."""
    wanted = os.environ.get(COMPILE_VARIABLE, "1") != "0"
    if not wanted or os.name != "posix" or sys.version_info < GENERATOR_PYTHON:
        return False
    try:  # imported by name: the device package does not contain the generator
        return importlib.util.find_spec(LIBRARY_CACHE) is not None
    except ModuleNotFoundError:  # not even its package
        return False


def open_kernels(bundle: Bundle, threads: Optional[int], may_compile: bool) -> KernelsEngine:
    """The engine of the bundle's first library that runs here, else of a newly compiled one.

    Args:
        threads: Threads of one run; None = see `fitting_threads`.
        may_compile: Compile one when the bundle has none for this machine; see `can_compile`.

    Raises:
        DeviceError: No library, and none can be compiled; gives the last reason.
        ArtefactError: A library was generated from another model.
    """
    reason = DeviceError(
        "Bundle has no generated library",
        expected=LIBRARY.format("<target>"),
        where=bundle.path,
        fix="Generate one: pneumonia kernels BUNDLE",
    )
    for name in libraries(bundle):
        try:
            return KernelsEngine(bundle, bundle.file(name), threads)
        except DeviceError as error:  # noqa: PERF203 - a few files
            reason = error
    if not may_compile:
        raise reason
    generator = importlib.import_module(LIBRARY_CACHE)
    try:
        return KernelsEngine(bundle, generator.cached_library(bundle), threads)
    except PneumoniaError as error:
        raise DeviceError(str(error)) from None
    except OSError as error:
        raise DeviceError(
            "Cache of compiled kernels cannot be written",
            found=error.strerror or str(error),
            where=error.filename and str(error.filename),
            fix="Set PNEUMONIA_CACHE to a folder that can be written",
        ) from None
