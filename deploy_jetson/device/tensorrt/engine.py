"""TensorRT behind the engine protocol: cached or built, always checked."""

import io
import logging
import os
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from deploy_jetson.device.tensorrt.api import (
    PRECISIONS,
    WORKSPACE_BYTES,
    TensorPlace,
    TensorRtApi,
    TensorRtExecutor,
    load_api,
    open_executor,
)
from deploy_jetson.device.tensorrt.cache import (
    CachedEngine,
    EngineKey,
    load,
    load_timings,
    refusal,
    refuse,
    store,
    store_timings,
)
from deploy_jetson.device.tensorrt.cuda import CudaRuntime, DeviceBuffer
from pneumonia.runtime.engines import Engine
from pneumonia.runtime.engines.comparison import relative_rms
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import ArtefactError, ConfigError, DeviceError
from pneumonia.runtime.storage.bundle import INT8, Bundle, file_sha256

BUNDLE_VARIABLE = "PNEUMONIA_BUNDLE"  # set by `pneumonia-device`
PRECISION_VARIABLE = "PNEUMONIA_TENSORRT_PRECISION"
WORKSPACE_VARIABLE = "PNEUMONIA_TENSORRT_WORKSPACE_MIB"
WORKSPACE_LIMITS_MIB = (16, 65536)
INT8_ONNX = "model.int8.onnx"  # with quantize/dequantize pairs; listed by the bundle
# Largest RMS difference over RMS of the NumPy reference's output, on the check input.
TOLERANCES = {"fp32": 0.01, "fp16": 0.05, "int8": 0.2}
REPEAT_TOLERANCE = 1e-3  # of a cached engine against its own first answer
KEPT_VALUES = 64  # of each output, for that comparison
_LOG = logging.getLogger(__name__)

Outputs = Dict[str, np.ndarray]


def check_input(bundle: Bundle) -> np.ndarray:
    """A fixed image in the network's own range: float32 (1, C, H, W)."""
    size = bundle.spec.input
    grey = np.random.RandomState(0).uniform(0, 1, (1, 1, size.height, size.width))
    values = (grey - size.mean) / size.std
    image: np.ndarray = np.repeat(values, size.channels, axis=1).astype(np.float32)
    return image


def sample_of(outputs: Outputs) -> Dict[str, List[float]]:
    """A few values of every output, evenly spread."""
    return {name: [float(value) for value in _spread(values)] for name, values in outputs.items()}


def _spread(values: np.ndarray) -> np.ndarray:
    flat = values.ravel()
    places = np.linspace(0, flat.size - 1, min(flat.size, KEPT_VALUES)).astype(int)
    return np.asarray(flat[places])


class WrongAnswerError(DeviceError):
    """An engine computes something else than the network."""


class TensorRtEngine(Engine):
    """Runs a bundle's ONNX model on the GPU.

    A cached engine is used only if it was built by this TensorRT for this GPU from this very file,
    is whole, and still gives the answer it gave when it was new. A new one is checked against the
    NumPy reference; a wrong answer is remembered, so that such an engine is never built twice, and
    where the precision was not given, fp32 follows fp16. When a run fails, the engine is prepared
    once more, then the error stands.

    Args:
        bundle: The model; it must have model.onnx.
        precision: fp32, fp16 or int8; None = fp16 where it is fast, else fp32.
        folder: Of the cache; None = the user's.

    Raises:
        ArtefactError: The model cannot be read, or has other inputs and outputs.
        DeviceError: No GPU or memory, a precision the platform lacks, or a wrong answer.
    """

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        api: TensorRtApi,
        cuda: CudaRuntime,
        precision: Optional[str] = None,
        folder: Optional[str] = None,
    ) -> None:
        super().__init__(bundle.spec)
        self._bundle = bundle
        self._api = api
        self._cuda = cuda
        self._folder = folder
        self._buffers: List[DeviceBuffer] = []
        self._executor: Optional[TensorRtExecutor] = None
        builder = api.builder()
        whole = bundle.arithmetic == INT8  # model.onnx itself has quantize/dequantize pairs
        best = precision or (INT8 if whole else api.best_precision(builder))
        if whole and best != INT8:
            raise ConfigError(
                "An int8 bundle needs the precision int8", found=repr(precision), where=bundle.path
            )
        api.check_precision(builder, best)
        self._plan = b""
        try:
            self._open(builder, best, whole)
        except WrongAnswerError as error:
            if precision is not None or best != "fp16":
                raise
            _LOG.warning("TensorRT runs in fp32, which takes about twice as long: %s", error)
            self._open(builder, "fp32", whole)
        self.details = {
            "tensorrt": api.version,
            "compute_capability": self.key.compute,
            "precision": self.precision,
            "onnx_sha256": self.key.onnx_sha256,
        }

    # --- getting an engine ----------------------------------------------------------------

    def _open(self, builder: Any, precision: str, whole: bool) -> None:
        """Take the engine of a precision from the cache, or build it."""
        self.precision = precision
        pairs_beside = precision == INT8 and not whole
        self._path = self._bundle.file(INT8_ONNX) if pairs_beside else self._bundle.onnx_path
        self.key = EngineKey(
            self._api.version,
            self._cuda.compute_capability(),
            file_sha256(self._path),
            precision,
            self._api.workspace_bytes >> 20,
        )
        known = refusal(self.key, self._folder)
        if known is not None:
            raise WrongAnswerError(
                "TensorRT gave another answer than the network before",
                found=known,
                where=precision,
                fix="Remove {} from its cache to try again".format(self.key.refusal_name),
            )
        self.built = not self._use_cached()
        if self.built:
            self._build(builder)

    def _use_cached(self) -> bool:
        """Whether the cache holds an engine that runs and reproduces its first output."""
        cached = load(self.key, self._folder)
        if cached is None:
            return False
        try:
            self._prepare(cached.plan)
            again = sample_of(self._attempt(check_input(self._bundle)))
            worst = _worst_difference(again, cached.check)
        except (DeviceError, ArtefactError) as error:
            _LOG.warning("Cached TensorRT engine is built again: %s", error)
            return False
        if worst > REPEAT_TOLERANCE:
            _LOG.warning("Cached TensorRT engine is built again: its answer has changed")
            return False
        return True

    def _build(self, builder: Any) -> None:
        _LOG.info("Building the TensorRT engine, once for this model and board; takes minutes")
        with io.open(self._path, "rb") as stream:
            onnx = stream.read()
        plan, timings = self._api.build(
            builder, onnx, self.precision, self._path, load_timings(self.key, self._folder)
        )
        store_timings(self.key, timings, self._folder)
        self._prepare(plan)
        image = check_input(self._bundle)
        found = self._attempt(image)
        expected = ReferenceEngine(self.spec, self._bundle.weights()).run(image)
        for name in self.spec.outputs:
            error = relative_rms(found[name], expected[name])
            if not error <= TOLERANCES[self.precision]:
                refuse(self.key, "relative error {:.3g}".format(error), self._folder)
                self._release()
                raise WrongAnswerError(
                    "TensorRT gives another answer than the network",
                    expected="a relative error of at most {}".format(TOLERANCES[self.precision]),
                    found="{:.3g}".format(error),
                    where="output {!r}, {}".format(name, self.precision),
                    fix="Set {}=fp32 or use another engine".format(PRECISION_VARIABLE),
                )
        store(self.key, CachedEngine(self._plan, sample_of(found)), self._folder)

    def _prepare(self, plan: bytes) -> None:
        """Deserialize an engine and allocate its buffers."""
        self._release()
        engine = self._api.deserialize(plan)
        if engine is None:
            raise DeviceError("TensorRT refuses the engine", where=self.key.file_name)
        executor = open_executor(self._api, engine)
        self._check_places(executor.places)
        self._buffers = [
            self._cuda.allocate(4 * int(np.prod(place.shape))) for place in executor.places
        ]
        self._executor, self._plan = executor, plan

    def _release(self) -> None:
        self._executor = None
        self._buffers = []
        self._cuda.free_all()

    def _check_places(self, places: List[TensorPlace]) -> None:
        size = self.spec.input
        inputs = [place for place in places if place.is_input]
        batch = inputs[0].shape[0] if inputs else 0
        expected: Dict[str, Tuple[int, ...]] = {"": (batch, size.channels, size.height, size.width)}
        shapes = {"": inputs[0].shape if len(inputs) == 1 else ()}
        for name in self.spec.outputs:
            expected[name] = (batch,) + self.output_shapes[name]
        shapes.update({place.name: place.shape for place in places if not place.is_input})
        # A flat output may come as (N, n) or (N, n, 1, 1): the count of values decides.
        wrong = [
            name
            for name, shape in expected.items()
            if name not in shapes or int(np.prod(shapes[name])) != int(np.prod(shape))
        ]
        if wrong or batch < 1 or not all(place.is_float32 for place in places):
            raise ArtefactError(
                "TensorRT engine is not this network's",
                expected=str(expected),
                found=str({p.name: p.shape for p in places})[:200],
                where=self._path,
            )

    # --- running --------------------------------------------------------------------------

    def _run(self, batch: np.ndarray) -> Outputs:
        try:
            return self._attempt(batch)
        except DeviceError as error:
            _LOG.warning("TensorRT failed and is prepared again: %s", error)
        self._prepare(self._plan)
        return self._attempt(batch)

    def _attempt(self, batch: np.ndarray) -> Outputs:
        executor = self._executor
        if executor is None:
            raise DeviceError("TensorRT engine is not ready", where="engine 'tensorrt'")
        step = next(place.shape[0] for place in executor.places if place.is_input)
        pieces = [
            self._piece(executor, batch[first : first + step], step)
            for first in range(0, len(batch), step)
        ]
        return {
            name: np.concatenate([piece[name] for piece in pieces])
            if pieces
            else np.zeros((0,) + self.output_shapes[name], np.float32)
            for name in self.spec.outputs
        }

    def _piece(self, executor: TensorRtExecutor, images: np.ndarray, step: int) -> Outputs:
        """Run the engine once at its fixed batch size; a short batch is padded, then cut."""
        count = len(images)
        if count < step:
            filler = np.zeros((step - count,) + images.shape[1:], dtype=np.float32)
            images = np.concatenate([images, filler])
        for place, buffer in zip(executor.places, self._buffers):
            if place.is_input:
                self._cuda.to_device(buffer, np.ascontiguousarray(images))
        addresses = [buffer.address for buffer in self._buffers]
        if not executor.enqueue(addresses, self._cuda.stream):
            raise DeviceError("TensorRT could not start a run", where="engine 'tensorrt'")
        self._cuda.synchronize()
        outputs: Dict[str, np.ndarray] = {}
        for place, buffer in zip(executor.places, self._buffers):
            if place.name in self.spec.outputs:
                values = np.empty((step,) + self.output_shapes[place.name], np.float32)
                self._cuda.to_host(values, buffer)
                outputs[place.name] = values[:count]
        return outputs

    def close(self) -> None:
        """Free the GPU's memory."""
        self._release()
        self._cuda.close()


def _worst_difference(found: Dict[str, List[float]], kept: Dict[str, Any]) -> float:
    """Largest relative error between two samples; infinite when they do not fit."""
    if set(found) != set(kept):
        return float("inf")
    try:
        pairs = [(np.array(found[n]), np.array(kept[n], dtype=np.float64)) for n in found]
    except (TypeError, ValueError):
        return float("inf")
    return max(relative_rms(ours, theirs) for ours, theirs in pairs)


def workspace_bytes() -> int:
    """Scratch memory of a build: $PNEUMONIA_TENSORRT_WORKSPACE_MIB, else 1 GiB.

    Raises:
        ConfigError: The variable is not a number of MiB within the limits.
    """
    text = os.environ.get(WORKSPACE_VARIABLE)
    if not text:
        return WORKSPACE_BYTES
    low, high = WORKSPACE_LIMITS_MIB
    if not text.isdigit() or not low <= int(text) <= high:
        raise ConfigError(
            "Workspace of TensorRT does not fit",
            expected="{} to {} MiB".format(low, high),
            found=repr(text),
            where=WORKSPACE_VARIABLE,
        )
    return int(text) << 20


def open_engine(bundle: Bundle) -> TensorRtEngine:
    """TensorRT for a bundle, in the precision of $PNEUMONIA_TENSORRT_PRECISION or the best one.

    Raises:
        ConfigError: A variable does not name a precision, or a workspace that fits.
        ArtefactError, DeviceError: See `TensorRtEngine`.
    """
    precision = os.environ.get(PRECISION_VARIABLE) or None
    if precision is not None and precision not in PRECISIONS:
        raise ConfigError(
            "Unknown precision", ", ".join(PRECISIONS), repr(precision), PRECISION_VARIABLE
        )
    api = load_api(workspace_bytes=workspace_bytes())
    cuda = CudaRuntime()
    try:
        return TensorRtEngine(bundle, api, cuda, precision)
    except Exception:
        cuda.close()
        raise
