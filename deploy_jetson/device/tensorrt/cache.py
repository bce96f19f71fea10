"""Built engines on disk: one file each, with a header that identifies it and a hash of the rest.

TensorRT may crash on a file that is cut or comes from another machine, so it never sees one: a
file that is not exactly what this machine would build is simply not there.
"""

import hashlib
import io
import json
import logging
import os
from typing import Any, Dict, NamedTuple, Optional

from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.errors import OutputError

MAGIC = b"PNTRT1\n"
MAX_HEAD_BYTES = 1 << 20
MAX_FILE_BYTES = 4 << 30
MAX_TIMINGS_BYTES = 64 << 20
FOLDER = "tensorrt"
_LOG = logging.getLogger(__name__)


class EngineKey(NamedTuple):
    """What an engine depends on."""

    version: str  # of TensorRT
    compute: str  # capability of the GPU, for example `62`
    onnx_sha256: str  # of the model file
    precision: str  # fp32, fp16 or int8
    workspace_mib: int  # scratch memory of the build

    @property
    def file_name(self) -> str:
        """File name of the engine, such as `0123456789abcdef-fp16-sm62-trt8.2.1.8.engine`."""
        return "{}-{}-sm{}-trt{}.engine".format(
            self.onnx_sha256[:16], self.precision, self.compute, self.version
        )

    @property
    def refusal_name(self) -> str:
        """The file that remembers that such an engine computes wrong."""
        return self.file_name + ".refused.json"

    @property
    def timings_name(self) -> str:
        """The builder's timing cache: of one board and version, for all models."""
        return "sm{}-trt{}.timings".format(self.compute, self.version)


class CachedEngine(NamedTuple):
    """A built engine and its outputs for the check input when it was built."""

    plan: bytes
    check: Dict[str, Any]


def cache_folder() -> str:
    """$PNEUMONIA_CACHE, else the user's cache folder."""
    folder = os.environ.get("PNEUMONIA_CACHE")
    if folder is None:
        root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(root, "pneumonia")
    return os.path.join(folder, FOLDER)


def engine_path(key: EngineKey, folder: Optional[str] = None) -> str:
    """Where a key's engine lies."""
    return os.path.join(folder or cache_folder(), key.file_name)


def _head(key: EngineKey, engine: CachedEngine) -> bytes:
    document = {
        "key": key._asdict(),
        "bytes": len(engine.plan),
        "sha256": hashlib.sha256(engine.plan).hexdigest(),
        "check": engine.check,
    }
    return json.dumps(document, allow_nan=False).encode("ascii") + b"\n"


def store(key: EngineKey, engine: CachedEngine, folder: Optional[str] = None) -> bool:
    """Write an engine to the cache; False, with a warning, if the cache is not writable."""
    path = engine_path(key, folder)
    try:
        write_bytes(path, MAGIC + _head(key, engine) + engine.plan)
    except OutputError as error:
        _LOG.warning("TensorRT engine is not kept, the next start builds again: %s", error)
        return False
    return True


def _parse(data: bytes, key: EngineKey) -> CachedEngine:
    """Raises ValueError with the reason when the file is not this key's whole engine."""
    if not data.startswith(MAGIC):
        raise ValueError("not a cached engine")
    line, found, plan = data[len(MAGIC) :].partition(b"\n")
    if not found or len(line) > MAX_HEAD_BYTES:
        raise ValueError("its head is cut off")
    head = json.loads(line.decode("ascii"))
    if head["key"] != dict(key._asdict()):
        raise ValueError("it was built for something else")
    if len(plan) != head["bytes"] or hashlib.sha256(plan).hexdigest() != head["sha256"]:
        raise ValueError("it is cut off or damaged")
    if not isinstance(head["check"], dict):
        raise ValueError("it was never checked")
    return CachedEngine(plan, head["check"])


def load(key: EngineKey, folder: Optional[str] = None) -> Optional[CachedEngine]:
    """The key's engine; None when there is none, or none that can be trusted."""
    path = engine_path(key, folder)
    try:
        with io.open(path, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES)
    except OSError:
        return None
    try:
        return _parse(data, key)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _LOG.warning("Cached TensorRT engine is not used: %s", error)
        return None


def refusal(key: EngineKey, folder: Optional[str] = None) -> Optional[str]:
    """Why this key's engine was refused before; None when it was not."""
    path = os.path.join(folder or cache_folder(), key.refusal_name)
    try:
        with io.open(path, encoding="utf-8") as stream:
            document = json.load(stream)
        return str(document["reason"]) if document["key"] == dict(key._asdict()) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def refuse(key: EngineKey, reason: str, folder: Optional[str] = None) -> None:
    """Remember that this key's engine computes wrong, so that no start builds it again."""
    document = {"key": key._asdict(), "reason": reason}
    _keep(key.refusal_name, json.dumps(document).encode("ascii") + b"\n", folder)


def load_timings(key: EngineKey, folder: Optional[str] = None) -> bytes:
    """The timing cache for a key; empty when there is none."""
    try:
        with io.open(os.path.join(folder or cache_folder(), key.timings_name), "rb") as stream:
            return stream.read(MAX_TIMINGS_BYTES)
    except OSError:
        return b""


def store_timings(key: EngineKey, timings: bytes, folder: Optional[str] = None) -> None:
    """Write the timing cache, unless it is empty."""
    if timings:
        _keep(key.timings_name, timings, folder)


def _keep(name: str, data: bytes, folder: Optional[str]) -> None:
    try:
        write_bytes(os.path.join(folder or cache_folder(), name), data)
    except OutputError as error:
        _LOG.warning("TensorRT cache cannot be written: %s", error)
