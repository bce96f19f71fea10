"""The parts of TensorRT's Python API that changed between 8.x, 10.x and 11.x, found by feature.

Not by version number: 8.5 already has 10's tensor API, 8.4 has its memory pools, and 11 has
dropped the precision flags (networks are strongly typed).
"""

import importlib
import logging
from typing import Any, List, Tuple

from pneumonia.runtime.errors import DeviceError

MODULE = "tensorrt"
PRECISIONS = ("fp32", "fp16", "int8")
WORKSPACE_BYTES = 1 << 30  # the TX2's memory is shared with everything else
MAX_ERRORS_SHOWN = 3
_LOG = logging.getLogger(__name__)


class TensorRtApi:
    """One loaded TensorRT.

    Args:
        module: `tensorrt`, or one that looks like it.
    """

    def __init__(self, module: Any, workspace_bytes: int = WORKSPACE_BYTES) -> None:
        self.module = module
        self.workspace_bytes = workspace_bytes
        self.version = str(module.__version__)
        self._logger = module.Logger(module.Logger.WARNING)
        self._runtime: Any = None  # kept: engines may need it as long as they live

    # --- building -------------------------------------------------------------------------

    def builder(self) -> Any:
        """A builder; raises DeviceError when TensorRT refuses, for example without a GPU."""
        try:
            builder = self.module.Builder(self._logger)
        except Exception as error:  # pybind's exceptions are not public
            raise _failed("TensorRT cannot start its builder", error) from None
        if builder is None:
            raise DeviceError("TensorRT cannot start its builder", found="None")
        return builder

    def network(self, builder: Any) -> Any:
        """An empty network with an explicit batch: a flag until 10, the only kind since."""
        flags = getattr(self.module, "NetworkDefinitionCreationFlag", None)
        explicit = getattr(flags, "EXPLICIT_BATCH", None)
        return builder.create_network(0 if explicit is None else 1 << int(explicit))

    def parse(self, network: Any, onnx: bytes, where: str) -> None:
        """Fill a network from an ONNX file.

        Raises:
            DeviceError: The parser refuses the file; its first reasons.
        """
        parser = self.module.OnnxParser(network, self._logger)
        # An empty file is a valid, empty message to the parser.
        if parser.parse(onnx) and network.num_outputs > 0:
            return
        count = min(int(parser.num_errors), MAX_ERRORS_SHOWN)
        reasons = [str(parser.get_error(index).desc()) for index in range(count)]
        raise DeviceError(
            "TensorRT cannot read the ONNX model",
            found="; ".join(reasons)[:300] or "no reason given",
            where=where,
            fix="TensorRT 8.2 reads opset 13 at most: export the bundle again",
        )

    def config(self, builder: Any) -> Any:
        """A builder's settings with bounded scratch memory."""
        config = builder.create_builder_config()
        if hasattr(config, "set_memory_pool_limit"):
            pool = self.module.MemoryPoolType.WORKSPACE
            config.set_memory_pool_limit(pool, self.workspace_bytes)
        else:
            config.max_workspace_size = self.workspace_bytes
        return config

    def supports(self, builder: Any, precision: str) -> bool:
        """Whether the platform is fast in a precision and the API lets us ask for it."""
        if precision == "fp32":
            return True
        fast = bool(getattr(builder, "platform_has_fast_" + precision, False))
        return fast and self._flag(precision) is not None

    def _flag(self, precision: str) -> Any:
        return getattr(self.module.BuilderFlag, precision.upper(), None)

    def best_precision(self, builder: Any) -> str:
        """fp16 where it is fast (a TX2), else fp32; int8 only when asked for."""
        return "fp16" if self.supports(builder, "fp16") else "fp32"

    def check_precision(self, builder: Any, precision: str) -> None:
        """Refuse a precision this platform or API does not have.

        Raises:
            DeviceError: It has not.
        """
        if not self.supports(builder, precision):
            have = [name for name in PRECISIONS if self.supports(builder, name)]
            raise DeviceError(
                "TensorRT has no fast {} here".format(precision),
                expected="one of " + ", ".join(have),
                found=repr(precision),
                fix="A TX2 has fp16 and no int8; TensorRT 11 takes the ONNX file's own types",
            )

    def _set_timings(self, config: Any, timings: bytes) -> None:
        """Hand the builder what earlier builds measured; without effect where it refuses that."""
        if not hasattr(config, "create_timing_cache"):
            return
        try:
            cache = config.create_timing_cache(timings) or config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        except Exception as error:  # a cache of another board or version
            _LOG.warning("TensorRT refuses the timing cache: %s", type(error).__name__)

    def _timings(self, config: Any) -> bytes:
        """What the builder has measured by now; empty where it does not say."""
        try:
            cache = config.get_timing_cache()
            return bytes(cache.serialize()) if cache is not None else b""
        except Exception:
            return b""

    def build(
        self, builder: Any, onnx: bytes, precision: str, where: str, timings: bytes = b""
    ) -> Tuple[bytes, bytes]:
        """Build an engine; takes minutes on a TX2.

        Args:
            precision: One of `PRECISIONS`, supported here.
            where: The file's path, for errors.
            timings: Timing cache of an earlier build, which shortens this one; may be empty.

        Returns:
            The engine, and the timing cache for the next build.

        Raises:
            DeviceError: The parser refuses the model, or the build fails, often for want of
                memory.
        """
        network = self.network(builder)
        self.parse(network, onnx, where)
        config = self.config(builder)
        self._set_timings(config, timings)
        if precision != "fp32":
            config.set_flag(self._flag(precision))
        if precision == "int8" and self._flag("fp16") is not None:
            config.set_flag(self._flag("fp16"))  # for the layers without int8
        try:
            plan = builder.build_serialized_network(network, config)
        except Exception as error:
            raise _failed("TensorRT cannot build the engine", error) from None
        if plan is None:
            raise DeviceError(
                "TensorRT cannot build the engine",
                found="no engine",
                where=where,
                fix="Often too little free memory; its own messages are on stderr",
            )
        return bytes(plan), self._timings(config)

    # --- running --------------------------------------------------------------------------

    def deserialize(self, plan: bytes) -> Any:
        """An engine from its bytes; None when TensorRT refuses them."""
        try:
            if self._runtime is None:
                self._runtime = self.module.Runtime(self._logger)
            return self._runtime.deserialize_cuda_engine(plan)
        except Exception as error:
            _LOG.warning("TensorRT refuses an engine: %s", type(error).__name__)
            return None


class TensorPlace:
    """One input or output of an engine.

    Args:
        name: As in the ONNX file.
        shape: With the batch.
    """

    def __init__(self, name: str, shape: Any, is_input: bool, is_float32: bool) -> None:
        self.name = name
        self.shape = tuple(int(extent) for extent in shape)
        self.is_input = is_input
        self.is_float32 = is_float32


class TensorRtExecutor:
    """An engine ready to run; one of the two APIs behind it."""

    places: List[TensorPlace]

    def enqueue(self, addresses: List[int], stream: int) -> bool:
        """Start one run on a stream; addresses in the order of `places`."""
        raise NotImplementedError


class BindingsExecutor(TensorRtExecutor):
    """TensorRT before 8.5: bindings by index (the TX2's 8.2)."""

    def __init__(self, module: Any, engine: Any, context: Any) -> None:
        self._engine = engine  # a context does not keep its engine alive
        self._context = context
        self.places = [
            TensorPlace(
                engine.get_binding_name(index),
                engine.get_binding_shape(index),
                bool(engine.binding_is_input(index)),
                engine.get_binding_dtype(index) == module.float32,
            )
            for index in range(engine.num_bindings)
        ]

    def enqueue(self, addresses: List[int], stream: int) -> bool:
        """Start a run."""
        return bool(self._context.execute_async_v2(addresses, stream))


class TensorsExecutor(TensorRtExecutor):
    """TensorRT since 8.5: tensors by name."""

    def __init__(self, module: Any, engine: Any, context: Any) -> None:
        self._engine = engine
        self._context = context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.places = [
            TensorPlace(
                name,
                engine.get_tensor_shape(name),
                engine.get_tensor_mode(name) == module.TensorIOMode.INPUT,
                engine.get_tensor_dtype(name) == module.float32,
            )
            for name in names
        ]

    def enqueue(self, addresses: List[int], stream: int) -> bool:
        """Start a run."""
        for place, address in zip(self.places, addresses):
            if not self._context.set_tensor_address(place.name, address):
                return False
        return bool(self._context.execute_async_v3(stream))


def open_executor(api: TensorRtApi, engine: Any) -> TensorRtExecutor:
    """An execution context of an engine.

    Raises:
        DeviceError: No memory for it.
    """
    try:
        context = engine.create_execution_context()
    except Exception as error:
        raise _failed("TensorRT cannot prepare the engine", error) from None
    if context is None:
        raise DeviceError("TensorRT cannot prepare the engine", found="no memory on the GPU")
    if hasattr(context, "execute_async_v3"):
        return TensorsExecutor(api.module, engine, context)
    return BindingsExecutor(api.module, engine, context)


def _failed(what: str, error: Exception) -> DeviceError:
    return DeviceError(what, found=type(error).__name__, where="engine 'tensorrt'")


def load_api(name: str = MODULE, workspace_bytes: int = WORKSPACE_BYTES) -> TensorRtApi:
    """Import TensorRT.

    Raises:
        DeviceError: It is missing, or its libraries are.
    """
    try:
        return TensorRtApi(importlib.import_module(name), workspace_bytes)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise DeviceError(
            "TensorRT cannot be loaded",
            found="{}: {}".format(type(error).__name__, error)[:160],
            fix="On a Jetson it comes with JetPack's system Python",
        ) from None
