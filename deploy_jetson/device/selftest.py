"""`pneumonia-device selftest --out DIR`: one folder that shows whether a board works.

Engines against the NumPy reference, power sensors, a profile, versions, the daemon's configuration.
Nothing in it identifies the board or its owner: no host name, serial number, address or path. To be
sent to the person who supports a remote board.
"""

import argparse
import glob
import json
import os
import re
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from deploy_jetson.device.board import describe_board, take_snapshot
from deploy_jetson.device.power.clock import MonotonicClock
from deploy_jetson.device.power.find import MODEL, SENSORS, open_sensor
from deploy_jetson.device.power.sensor import SensorGap
from deploy_jetson.device.profile.recording import ProtocolSettings
from deploy_jetson.device.profile.request import ProfileRequest
from deploy_jetson.device.profile.sweep import profile
from deploy_jetson.device.profile.verify import verify
from deploy_jetson.device.system import read_text
from deploy_jetson.device.tensorrt.engine import (
    BUNDLE_VARIABLE,
    TOLERANCES,
    check_input,
)
from pneumonia import __version__
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.engines.comparison import interleaved_latency, relative_rms
from pneumonia.runtime.engines.processor import read_processor
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import (
    DISCLAIMER,
    ConfigError,
    DeviceError,
    OutputError,
    PneumoniaError,
)
from pneumonia.runtime.storage.bundle import INT8, Bundle, load_bundle

SCHEMA = "pneumonia.selftest/1"
CONFIG = "/etc/pneumonia/daemon.ini"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
TESTED_ENGINES = ("tensorrt", "kernels", "onnxruntime")
ERROR_LIMIT = 1e-3  # of an engine in float32, relative to the reference
RUNS = 20
READINGS = 20
READING_S = 0.1
FULL = ProtocolSettings()
QUICK = ProtocolSettings(windows=2, window_s=5.0, min_inferences=20, idle_s=5.0)
HIDDEN = "(removed)"
KEPT_WORDS = ("/root", "localhost", "00:00:00:00:00:00")  # everybody has them
HOME = re.compile(r"/home/[^/\"\\\\ ]+")
NOT_INSTALLED = ("not installed", "no generated library", "cannot be loaded", "is not here")


class SelftestCheck(NamedTuple):
    """One check."""

    name: str  # what was checked
    status: str  # `ok`, `failed` or `skipped`
    detail: Dict[str, Any]  # figures, or the reason


def _run(name: str, check: Callable[[], Dict[str, Any]]) -> SelftestCheck:
    """Run one check; what is not there is skipped, everything else that goes wrong has failed."""
    try:
        return SelftestCheck(name, OK, check())
    except PneumoniaError as error:
        absent = isinstance(error, DeviceError) and any(t in str(error) for t in NOT_INSTALLED)
        return SelftestCheck(name, SKIPPED if absent else FAILED, {"reason": str(error)})
    except Exception as error:  # a fault of a foreign library is a result
        return SelftestCheck(
            name, FAILED, {"reason": "{}: {}".format(type(error).__name__, error)[:300]}
        )


def check_engine(bundle: Bundle, name: str) -> Dict[str, Any]:
    """An engine's answer against the NumPy reference, and its latency.

    Raises:
        DeviceError: It cannot be opened, or computes something else.
    """
    image = check_input(bundle)
    engine = open_engine(bundle, name, compile_missing=False)
    try:
        found = engine.run(image)
        expected = ReferenceEngine(bundle.spec, bundle.weights()).run(image)
        worst = max(relative_rms(found[key], expected[key]) for key in expected)
        precision = INT8 if bundle.arithmetic == INT8 else getattr(engine, "precision", "fp32")
        exact = name != "tensorrt" and precision == "fp32"
        limit = ERROR_LIMIT if exact else TOLERANCES[precision]
        latency_ms = interleaved_latency({name: engine}, RUNS)[name]
        details = dict(getattr(engine, "details", {}))
    finally:
        engine.close()
    if not worst <= limit:
        raise DeviceError(
            "Engine gives another answer than the network",
            expected="a relative error of at most {}".format(limit),
            found="{:.3g}".format(worst),
        )
    return {
        "relative_error": worst,
        "limit": limit,
        "latency_ms": latency_ms,
        **dict(sorted(details.items())),
    }


def check_sensor(name: str, root: str = "/") -> Dict[str, Any]:
    """Two seconds of a sensor's readings.

    Raises:
        DeviceError: It is not here, or gives nothing.
    """
    clock = MonotonicClock()
    sensor = open_sensor(name, clock, READING_S, root)
    if sensor is None:
        raise DeviceError("Power sensor is not here", found=repr(name))
    values: Dict[str, List[float]] = {}
    faults = 0
    try:
        for _ in range(READINGS):
            try:
                reading, missing = sensor.read()
            except SensorGap:
                faults += 1
            else:
                faults += len(missing)
                for rail, value in reading.items():
                    values.setdefault(rail, []).append(value)
            if not sensor.paced:
                clock.sleep(READING_S)
        info = sensor.info
    finally:
        sensor.close()
    if not values:
        raise DeviceError("Power sensor gives no reading", found=repr(name))
    units = {rail.name: rail.unit for rail in info.rails}
    rails = {
        rail: {"unit": units.get(rail), "first": some[0], "last": some[-1], "count": len(some)}
        for rail, some in values.items()
    }
    return {
        "basis": info.basis,
        "total": info.total,
        "gaps": faults,
        "rails": rails,
    }


def check_daemon() -> Dict[str, Any]:
    """The daemon's configuration, `CONFIG`.

    Raises:
        DeviceError: There is none, or it is not readable for this user.
        PneumoniaError: It is wrong.
    """
    if not os.access(CONFIG, os.R_OK):
        raise DeviceError("Configuration of the daemon is not here", fix="Run as root to read it")
    from deploy_jetson.device.daemon.config import check_config

    check_config(CONFIG)
    return {"configuration": "valid"}


def check_profile(bundle_path: str, out: str, settings: ProtocolSettings) -> Dict[str, Any]:
    """A profile of the best engine, verified against its raw samples.

    Raises:
        PneumoniaError: See `profile` and `verify`.
    """
    document = profile(ProfileRequest((bundle_path,), out, settings=settings))
    runs = [
        {"run": entry["folder"], "flags": entry["figures"]["flags"]} for entry in document["runs"]
    ]
    return {"verified_runs": verify(out), "runs": runs}


def versions() -> Dict[str, str]:
    """Versions of the packages that are imported by now."""
    names = ("numpy", "PIL", "pydicom", "pynetdicom", "onnxruntime", "tensorrt")
    found = {"pneumonia": __version__, "python": sys.version.split()[0]}
    for name in names:
        module = sys.modules.get(name)
        found[name] = str(getattr(module, "__version__", "not loaded"))
    return found


def identifiers(paths: Sequence[str] = (), root: str = "/") -> List[str]:
    """Texts that would identify the board or its owner: names, serial numbers, addresses, paths."""
    found = [os.uname().nodename, os.path.expanduser("~")]
    found += [os.path.dirname(os.path.abspath(path)) for path in paths]
    names = ("proc/device-tree/serial-number", "etc/machine-id")
    found += [read_text(os.path.join(root, name)) or "" for name in names]
    addresses = glob.glob(os.path.join(root, "sys/class/net/*/address"))
    found += [read_text(path) or "" for path in addresses]
    words = {text.strip("\0") for text in found}
    return sorted((w for w in words if len(w) > 3 and w not in KEPT_WORDS), key=len, reverse=True)


def anonymous(value: Any, hidden: Sequence[str]) -> Any:
    """JSON data without the texts that identify the board."""
    text = HOME.sub("/home/" + HIDDEN, json.dumps(value))
    for word in hidden:
        text = text.replace(json.dumps(word)[1:-1], HIDDEN)
    return json.loads(text)


def selftest(bundle_path: str, out: str, settings: ProtocolSettings) -> List[SelftestCheck]:
    """Run all checks and write DIR/selftest.json and DIR/profile.

    Raises:
        OutputError: The folder exists already, or cannot be written.
        ArtefactError: The bundle is damaged.
    """
    if os.path.exists(out):
        raise OutputError("Output exists already", where=out, fix="Name a new folder with --out")
    bundle = load_bundle(bundle_path)
    started = time.monotonic()
    checks = [
        _run("engine " + name, lambda name=name: check_engine(bundle, name))  # type: ignore[misc]
        for name in TESTED_ENGINES
    ]
    checks += [
        _run("sensor " + name, lambda name=name: check_sensor(name))  # type: ignore[misc]
        for name in SENSORS[1:]
        if name != MODEL
    ]
    checks.append(_run("daemon", check_daemon))
    checks.append(
        _run("profile", lambda: check_profile(bundle_path, os.path.join(out, "profile"), settings))
    )
    processor = read_processor()
    document = {
        "schema": SCHEMA,
        "disclaimer": DISCLAIMER,
        "model": bundle.model_name,
        "model_hash": bundle.model_hash,
        "versions": versions(),
        "board": describe_board(),
        "processor": {"cores": sorted(processor.cores), "features": sorted(processor.features)},
        "snapshot": take_snapshot().record(),
        "checks": [item._asdict() for item in checks],
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(
        os.path.join(out, "selftest.json"), anonymous(document, identifiers([bundle_path, out]))
    )
    return checks


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="pneumonia-device selftest",
        description="Check engines, sensors, power and configuration; writes one folder to send. "
        "It takes about ten minutes and holds nothing that identifies the board.",
        epilog=DISCLAIMER,
    )
    made.add_argument("bundle", metavar="BUNDLE", nargs="?", help="The installed one otherwise")
    made.add_argument("--out", required=True, metavar="DIR", help="New folder for the results")
    made.add_argument("--quick", action="store_true", help="A profile of seconds, not of minutes")
    return made


def _line(check: SelftestCheck) -> str:
    keys = ("reason", "relative_error", "latency_ms", "total")
    shown = [(key, check.detail[key]) for key in keys if check.detail.get(key) is not None]
    texts = ["{} {}".format(k, "{:.3g}".format(v) if isinstance(v, float) else v) for k, v in shown]
    return "{:<8} {:<22} {}".format(check.status, check.name, ", ".join(texts)).rstrip()


def _outcome(checks: Sequence[SelftestCheck]) -> Tuple[str, int]:
    failed = [check.name for check in checks if check.status == FAILED]
    worked = any(check.name.startswith("engine") and check.status == OK for check in checks)
    if failed:
        return "failed: " + ", ".join(failed), DeviceError.exit_code
    if not worked:
        return "failed: no engine runs", DeviceError.exit_code
    return "all that is here works", 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run; 0 when everything that is here works, 10 otherwise."""
    options = parser().parse_args(None if arguments is None else list(arguments))
    bundle = options.bundle or os.environ.get(BUNDLE_VARIABLE)
    try:
        if not bundle:
            raise ConfigError("No bundle to test", fix="Name one: selftest BUNDLE --out DIR")
        checks = selftest(bundle, options.out, QUICK if options.quick else FULL)
    except PneumoniaError as error:
        sys.stderr.write("error: {}\n".format(error))
        return error.exit_code
    text, code = _outcome(checks)
    lines = [_line(check) for check in checks] + [text, "written {}".format(options.out)]
    sys.stdout.write("\n".join(lines) + "\n")
    return code
