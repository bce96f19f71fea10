"""TensorRT's Python API as versions 8.2, 10 and 11 have it, computing with the NumPy reference.

Faithful where it matters: each generation has the names it really has and no others, memory is
reached through addresses on an execute call, refused files give None, and errors are recorded.
Engines are bytes that only the version and GPU that built them take.
"""

import ctypes
import enum
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import onnx

from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import DeviceError
from pneumonia.runtime.model.spec import output_shape

MAGIC = b"ptrt"


class Crash(BaseException):
    """The process is gone, as far as the real TensorRT is concerned: nobody may catch it."""


class Faults:
    """What goes wrong; counted down where it is a number."""

    def __init__(self):
        self.parse = False
        self.build = None  # "none" or an exception
        self.deserialize_none = 0
        self.context_none = 0
        self.execute_false = 0
        self.output = None  # a function of the values
        self.builds = 0
        self.workspaces, self.timings = [], []  # of every build
        self.half_output = None  # a function of the values of fp16 engines
        self.deserialized = 0


class Host:
    """The machine below: GPU, bundle to compute, faults."""

    def __init__(self, bundle, compute="62", fast=("fp16",)):
        self.spec = bundle.spec
        self.reference = ReferenceEngine(bundle.spec, bundle.weights())
        self.compute = compute
        self.fast = fast
        self.faults = Faults()
        self.calls = []


class Logger:
    WARNING = 2

    def __init__(self, severity):
        assert severity == self.WARNING


class _Parser:
    def __init__(self, module, network):
        self.module, self._network, self.num_errors = module, network, 0

    def parse(self, data):
        assert isinstance(data, bytes)
        try:
            model = onnx.load_from_string(data)
        except Exception:
            model = None
        opset = model.opset_import[0].version if model else 99
        if model is None or opset > 13 or self.module.host.faults.parse:
            self.num_errors = 2
            return False
        if self.module.needs_explicit_batch and not self._network.flags & 1:
            self.num_errors = 1  # "this network must be created with the EXPLICIT_BATCH flag"
            return False
        self._network.onnx, self._network.num_outputs = data, len(model.graph.output)
        return True

    def get_error(self, index):
        assert 0 <= index < self.num_errors
        return SimpleNamespace(desc=lambda: f"reason {index}")


class _Builder:
    def __init__(self, module):
        self.module = module
        host = module.host
        for name in module.fast_flags:
            setattr(self, f"platform_has_fast_{name}", name in host.fast)

    def create_network(self, flags):
        return SimpleNamespace(flags=flags, onnx=None, num_outputs=0)

    def create_builder_config(self):
        return self.module.config_class()

    def build_serialized_network(self, network, config):
        host = self.module.host
        host.faults.builds += 1
        if isinstance(host.faults.build, Exception):
            raise host.faults.build
        if host.faults.build == "none":
            return None
        host.faults.workspaces.append(config.workspace())
        if config.timings is not None:
            host.faults.timings.append(bytes(config.timings.data))
            config.timings.data += b"+" + "".join(config.flags).encode()
        head = {"version": self.module.__version__, "compute": host.compute,
                "flags": sorted(config.flags),
                "onnx": hashlib.sha256(network.onnx).hexdigest()}  # fmt: skip
        return memoryview(MAGIC + json.dumps(head).encode() + b"\0" * 64)  # buffer, as IHostMemory


class _Timings:
    """Measured times of earlier builds."""

    def create_timing_cache(self, data):
        assert isinstance(data, bytes)
        if data and not data.startswith(b"times"):
            raise RuntimeError("another board's")
        return SimpleNamespace(data=data or b"times", serialize=lambda: self.timings.data)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.timings = cache
        return True

    def get_timing_cache(self):
        return self.timings


class _OldConfig(_Timings):
    """8.2: an attribute."""

    def __init__(self):
        self.max_workspace_size, self.flags, self.timings = 0, [], None

    def set_flag(self, flag):
        self.flags.append(flag.name)

    def workspace(self):
        return self.max_workspace_size


class _NewConfig(_Timings):
    """8.4 and later: pools."""

    __slots__ = ("flags", "pools", "timings")  # setting max_workspace_size raises, as it does

    def __init__(self):
        self.pools, self.flags, self.timings = {}, [], None

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool.name] = size

    def set_flag(self, flag):
        self.flags.append(flag.name)

    def workspace(self):
        return self.pools["WORKSPACE"]


class _Runtime:
    def __init__(self, module):
        self.module = module

    def deserialize_cuda_engine(self, plan):
        module, faults = self.module, self.module.host.faults
        faults.deserialized += 1
        if faults.deserialize_none:
            faults.deserialize_none -= 1
            return None
        try:
            assert plan[:4] == MAGIC
            head = json.loads(plan[4:].rstrip(b"\0"))
        except (AssertionError, ValueError):
            raise Crash("a damaged engine reached TensorRT") from None
        if (head["version"], head["compute"]) != (module.__version__, module.host.compute):
            return None
        return module.engine_class(module, head)


class _EngineBase:
    def __init__(self, module, head):
        self.module, self._head = module, head
        spec = module.host.spec
        size = spec.input
        self.io = [("input", True, (1, size.channels, size.height, size.width))]
        self.io += [(name, False, (1, *output_shape(spec, name))) for name in spec.outputs]

    def create_execution_context(self):
        faults = self.module.host.faults
        if faults.context_none:
            faults.context_none -= 1
            return None
        return self.module.context_class(self)

    def compute(self, addresses):
        host = self.module.host
        if host.faults.execute_false:
            host.faults.execute_false -= 1
            return False
        name, _, shape = self.io[0]
        batch = _view(addresses[name], shape).copy()
        for output, values in host.reference.run(batch).items():
            half = "FP16" in self._head["flags"]
            given = values.astype(np.float16).astype(np.float32) if half else values
            if half and host.faults.half_output is not None:
                given = host.faults.half_output(given)
            if host.faults.output is not None:
                given = host.faults.output(given)
            _view(addresses[output], values.shape)[...] = given
        return True


def _view(address, shape):
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


class _Engine82(_EngineBase):
    """Bindings by index; none of the tensor API."""

    @property
    def num_bindings(self):
        return len(self.io)

    def get_binding_name(self, index):
        return self.io[index][0]

    def binding_is_input(self, index):
        return self.io[index][1]

    def get_binding_shape(self, index):
        return self.io[index][2]

    def get_binding_dtype(self, index):
        return self.module.float32


class _Context82:
    def __init__(self, engine):
        self._engine = engine

    def execute_async_v2(self, bindings, stream_handle):
        self._engine.module.host.calls.append("execute_async_v2")
        names = [name for name, _, _ in self._engine.io]
        return self._engine.compute(dict(zip(names, bindings, strict=True)))


class _Engine10(_EngineBase):
    """Tensors by name; bindings are gone."""

    @property
    def num_io_tensors(self):
        return len(self.io)

    def get_tensor_name(self, index):
        return self.io[index][0]

    def get_tensor_mode(self, name):
        mode = self.module.TensorIOMode
        return mode.INPUT if {n: i for n, i, _ in self.io}[name] else mode.OUTPUT

    def get_tensor_shape(self, name):
        return next(shape for n, _, shape in self.io if n == name)

    def get_tensor_dtype(self, name):
        assert name in [n for n, _, _ in self.io]
        return self.module.float32


class _Context10:
    def __init__(self, engine):
        self._engine, self._addresses = engine, {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle):
        self._engine.module.host.calls.append("execute_async_v3")
        return self._engine.compute(self._addresses)


def fake_module(version, host):
    """A module as `import tensorrt` would give it; version: 8.2.1.8, 10.3.0 or 11.4.0."""
    major = int(version.split(".")[0])
    flags = {8: "FP16 INT8", 10: "FP16 INT8 OBEY_PRECISION_CONSTRAINTS", 11: "TF32"}[major]
    network_flags = {8: "EXPLICIT_BATCH", 10: "EXPLICIT_BATCH STRONGLY_TYPED",
                     11: "STRONGLY_TYPED"}[major]  # fmt: skip
    module = SimpleNamespace(
        __version__=version,
        host=host,
        Logger=Logger,
        float32="float32",
        BuilderFlag=enum.IntEnum("BuilderFlag", flags, start=0),
        NetworkDefinitionCreationFlag=enum.IntEnum("Flag", network_flags, start=0),
        needs_explicit_batch=major == 8,
        fast_flags=("fp16", "int8") if major < 11 else (),
        config_class=_OldConfig if major == 8 else _NewConfig,
        engine_class=_Engine82 if major == 8 else _Engine10,
        context_class=_Context82 if major == 8 else _Context10,
    )
    module.Builder = lambda logger: _Builder(module)
    module.OnnxParser = lambda network, logger: _Parser(module, network)
    module.Runtime = lambda logger: _Runtime(module)
    if major > 8:
        module.MemoryPoolType = enum.IntEnum("MemoryPoolType", "WORKSPACE", start=0)
        module.TensorIOMode = enum.IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
    return module


class HostCuda:
    """The interface of `CudaRuntime` on the host's own memory."""

    def __init__(self, host, fail_synchronize=0, limit_bytes=1 << 40):
        self.host, self.fail_synchronize, self.limit_bytes = host, fail_synchronize, limit_bytes
        self.held = []
        self.closed = False
        self.stream = 77

    def compute_capability(self):
        return self.host.compute

    def allocate(self, n_bytes):
        if n_bytes + sum(len(b) for b in self.held) > self.limit_bytes:
            raise DeviceError("CUDA failed", found="2: out of memory")
        buffer = ctypes.create_string_buffer(n_bytes)
        self.held.append(buffer)
        return SimpleNamespace(address=ctypes.addressof(buffer), n_bytes=n_bytes)

    def to_device(self, buffer, values):
        assert values.nbytes == buffer.n_bytes
        assert values.flags["C_CONTIGUOUS"]
        ctypes.memmove(buffer.address, values.ctypes.data, values.nbytes)

    def to_host(self, values, buffer):
        assert values.nbytes == buffer.n_bytes
        ctypes.memmove(values.ctypes.data, buffer.address, values.nbytes)

    def synchronize(self):
        if self.fail_synchronize:
            self.fail_synchronize -= 1
            raise DeviceError("CUDA failed", found="700: an illegal memory access")

    def free_all(self):
        self.held = []

    def close(self):
        self.free_all()
        self.closed = True
