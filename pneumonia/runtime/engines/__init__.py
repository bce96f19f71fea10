"""Inference engines behind one small protocol."""

import importlib
import importlib.util
import logging
from typing import Dict, Optional, Tuple

import numpy as np

from pneumonia.runtime.engines.thread_count import check_threads
from pneumonia.runtime.errors import ConfigError, DataError, DeviceError
from pneumonia.runtime.image.preprocess import Letterbox, letterbox
from pneumonia.runtime.model.spec import NetworkSpec, output_shape
from pneumonia.runtime.storage.bundle import INT8, ONNX, Bundle

ENGINES = ("auto", "tensorrt", "kernels", "onnxruntime", "reference")
# Engines that live outside this package: name -> the library they need, and the module whose
# `open_engine(bundle)` gives the engine. Names, since this package imports no other.
PLUGINS = {"tensorrt": ("tensorrt", "deploy_jetson.device.tensorrt.engine")}

_LOG = logging.getLogger(__name__)


class Engine:
    """Runs one network on batches.

    Attributes:
        name: The engine's name as given to `open_engine`.
        spec: The network it runs.
        output_shapes: Output name -> shape of one image's value. Taken once: it is derived from
            the whole network, which would cost more than a run of a small one.
    """

    name = ""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.output_shapes = {name: output_shape(spec, name) for name in spec.outputs}

    def letterbox(self, pixels: np.ndarray) -> Tuple[np.ndarray, Letterbox]:
        """An image on the network's canvas; the same bytes whatever the engine.

        Args:
            pixels: uint8 (H, W).

        Returns:
            See `runtime.image.preprocess.letterbox`.

        Raises:
            DataError: Not a grey 8-bit image.
            DeviceError: The engine failed.
        """
        size = self.spec.input
        return letterbox(pixels, size.height, size.width, size.pad_value)

    def run(self, batch: np.ndarray) -> Dict[str, np.ndarray]:
        """Run a batch.

        Args:
            batch: float32 (N, C, H, W), as `runtime.image.preprocess.normalise` makes them.

        Returns:
            Output name -> float32 (N, channels, height, width), or (N, n) for flat layers.

        Raises:
            DataError: The batch has another shape or type.
            DeviceError: The engine failed.
        """
        expected = (self.spec.input.channels, self.spec.input.height, self.spec.input.width)
        if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1:] != expected:
            raise DataError(
                "Batch does not fit the network",
                expected="float32 (N, {}, {}, {})".format(*expected),
                found="{} {}".format(batch.dtype, batch.shape),
            )
        return self._run(batch)

    def _run(self, batch: np.ndarray) -> Dict[str, np.ndarray]:
        raise NotImplementedError

    def close(self) -> None:
        """Release what the engine holds outside Python's memory; it cannot run afterwards."""


def _has_onnxruntime() -> bool:
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def _generated(
    bundle: Bundle, threads: Optional[int], required: bool, compile_missing: bool
) -> Optional[Engine]:
    """The engine of a generated library; None when it is not required and there is none."""
    from pneumonia.runtime.engines.kernels import can_compile, libraries, open_kernels

    may_compile = compile_missing and can_compile()
    if not required and not may_compile and not libraries(bundle):
        return None
    try:
        return open_kernels(bundle, threads, may_compile)
    except DeviceError as error:
        if required:
            raise
        _LOG.info("Generated kernels are left out: %s", error)
        return None


def _plugin(bundle: Bundle, name: str) -> Engine:
    """Open an engine implemented outside this package."""
    library, module = PLUGINS[name]
    if importlib.util.find_spec(library) is None:
        raise DeviceError(
            "Engine {!r} is not installed".format(name),
            fix="On a Jetson it comes with JetPack; elsewhere pip install {}".format(library),
        )
    engine: Engine = importlib.import_module(module).open_engine(bundle)
    return engine


def _accelerated(bundle: Bundle) -> Optional[Engine]:
    """TensorRT where it is installed and works for this bundle; None otherwise."""
    if ONNX not in bundle.manifest["files"] or importlib.util.find_spec("tensorrt") is None:
        return None
    try:
        return _plugin(bundle, "tensorrt")
    except DeviceError as error:
        _LOG.warning("TensorRT is left out: %s", error)
        return None


def open_engine(
    bundle: Bundle,
    name: str = "auto",
    threads: Optional[int] = None,
    compile_missing: bool = True,
) -> Engine:
    """Open an engine for a bundle.

    Args:
        name: `tensorrt` (the GPU), `kernels` (the generated library), `onnxruntime`, `reference`
            (NumPy, slow, needs nothing), or `auto`: TensorRT where it works, else the generated
            library, else ONNX Runtime where it is installed and the bundle has model.onnx, else
            the reference.
        threads: Threads of the library or of ONNX Runtime; None = as many as there are CPUs, of
            the library fewer for a small network. At most 64. The reference follows NumPy.
        compile_missing: Compile a library into the user's cache when the bundle has none for this
            machine; never done where the environment has PNEUMONIA_COMPILE=0.

    An int8 bundle runs in TensorRT (where the GPU has int8), in a library that `pneumonia kernels`
    generated for it (none is compiled at first use), and in ONNX Runtime.

    Raises:
        ConfigError: Unknown name, an engine that does not compute in the bundle's arithmetic, or a
            number of threads that is out of range.
        DeviceError: The engine's library is missing.
        ArtefactError: The bundle's model does not fit its network description.
    """
    if name not in ENGINES:
        raise ConfigError(
            "Unknown engine", expected="one of " + ", ".join(ENGINES), found=repr(name)
        )
    if threads is not None:
        check_threads(threads)
    if bundle.arithmetic == INT8 and name == "reference":
        raise ConfigError(
            "The reference computes in float32, the bundle in int8",
            expected="auto, kernels, onnxruntime or tensorrt",
            found=repr(name),
            where=bundle.path,
            fix="Use the bundle it was made from with this engine",
        )
    if name in PLUGINS:
        return _plugin(bundle, name)
    engine = _accelerated(bundle) if name == "auto" else None
    if engine is not None:
        return engine
    if name in ("auto", "kernels"):
        may_compile = compile_missing and bundle.arithmetic != INT8
        engine = _generated(bundle, threads, name == "kernels", may_compile)
        if engine is not None:
            return engine
    installed = name != "reference" and _has_onnxruntime()
    if (name == "onnxruntime" or bundle.arithmetic == INT8) and not installed:
        raise DeviceError(
            "Engine 'onnxruntime' is not installed", fix="Install it: pip install onnxruntime"
        )
    if installed and (name == "onnxruntime" or ONNX in bundle.manifest["files"]):
        from pneumonia.runtime.engines.onnx import OnnxEngine

        return OnnxEngine(bundle, threads)
    from pneumonia.runtime.engines.reference import ReferenceEngine

    return ReferenceEngine(bundle.spec, bundle.weights())
