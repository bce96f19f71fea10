"""Measures, or predicts, bundles over power modes and engines, and writes energy.json."""

import hashlib
import os
import tempfile
import uuid
from datetime import datetime, timezone
from typing import Any, Dict, List, Optional

import numpy as np

from deploy_jetson.device import board
from deploy_jetson.device.estimate.calibration import EstimateCalibration, read_calibration
from deploy_jetson.device.estimate.roofline import (
    ENGINE_MODELS,
    NetworkEstimate,
    estimate,
    find_engine_model,
)
from deploy_jetson.device.estimate.tx2 import DEFAULT_MODE, MODES, PowerMode
from deploy_jetson.device.power.clock import MonotonicClock, VirtualClock
from deploy_jetson.device.power.find import MODEL, open_sensor
from deploy_jetson.device.power.modelled import ModelSensor
from deploy_jetson.device.power.sensor import PowerSensor
from deploy_jetson.device.profile.figures import figures
from deploy_jetson.device.profile.protocol import RunSurroundings, WindowLoad, measure
from deploy_jetson.device.profile.recording import (
    RAW_FILES,
    PowerRecording,
    ProtocolSettings,
    read_recording,
    run_name,
    write_recording,
)
from deploy_jetson.device.profile.report import write_report
from deploy_jetson.device.profile.request import (
    LoadedBundle,
    ProfileRequest,
    check_request,
    load_stage,
)
from pneumonia import __version__
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.errors import (
    DISCLAIMER,
    ConfigError,
    DeviceError,
    OutputError,
    SpecError,
    os_errors_as,
)
from pneumonia.runtime.progress import Progress, report_progress
from pneumonia.runtime.storage.bundle import Bundle, file_record

SCHEMA = "pneumonia.energy/1"
ENERGY = "energy.json"
RUNS = "runs"
MEASURED, ESTIMATED = "measured", "estimated"
# A prediction has nothing to average: its run only has to be long enough to be looked at.
PREDICTED_INFERENCES = 100  # in each of three windows
PREDICTED_SAMPLES = 20
GPU_ENGINES = ("tensorrt",)
IMAGE_SIDE = 1024
SETTLE_S = 5.0  # after a change of the power mode


class ProfileSweep:
    """One call of `pneumonia profile`.

    Args:
        request: Checked.
    """

    def __init__(self, request: ProfileRequest, progress: Optional[Progress] = None) -> None:
        self.request = request
        self.progress = progress
        self.stages = [load_stage(path) for path in request.bundles]
        labels = [stage.label for stage in self.stages]
        if len(set(labels)) != len(labels):  # folders of the same name in different places
            self.stages = [
                stage._replace(label="{}-{}".format(stage.label, index))
                for index, stage in enumerate(self.stages, 1)
            ]
        self.calibration: Optional[EstimateCalibration] = None
        if request.calibration is not None:
            self.calibration = read_calibration(request.calibration)
        self.tx2 = board.is_tx2(request.root)
        self.entries: List[Dict[str, Any]] = []
        self.skipped: List[Dict[str, Any]] = []

    def run(self) -> Dict[str, Any]:
        """Run all combinations.

        Returns:
            The contents of energy.json.

        Raises:
            DeviceError: Nothing could be measured; the reason of the last failure.
        """
        sensor = self._sensor(MonotonicClock())
        modelled = sensor is None or sensor.info.kind == MODEL
        if sensor is not None:
            sensor.close()
        try:
            if modelled and not self.tx2:
                self._predict()
            else:
                self._measure(modelled)
        except BaseException:
            if self.entries:  # the report shows the finished runs even after an error
                write_report(self.request.out, self._document())
            raise
        return self._finish()

    def _sensor(self, clock: MonotonicClock) -> Optional[PowerSensor]:
        """The sensor of the request; None when power has to be modelled."""
        if self.request.sensor == MODEL:
            return None
        interval_s = 1.0 / self.request.settings.rate_hz
        return open_sensor(self.request.sensor, clock, interval_s, self.request.root)

    # --- prediction -----------------------------------------------------------------------

    def _predict(self) -> None:
        for number in self.request.modes:
            if number not in MODES:
                expected = ", ".join(str(mode) for mode in MODES)
                raise ConfigError("Unknown power mode", expected, repr(number), where="--modes")
        names = ["tensorrt" if name == "auto" else name for name in self.request.engines]
        for name in names:
            find_engine_model(name)
        self._claim_output()
        for stage in self.stages:
            for number in self.request.modes or tuple(MODES):
                for name in dict.fromkeys(names):
                    self._predicted_run(stage, name, MODES[number])

    def _predicted_run(self, stage: LoadedBundle, engine: str, mode: PowerMode) -> None:
        expected = self._estimate(stage, engine, mode, self.calibration)
        clock = VirtualClock()
        load = WindowLoad(lambda: clock.sleep(expected.latency_s), None, ())
        around = RunSurroundings(clock, lambda: board.BoardSnapshot({}, {}), lambda: None)
        about = self._about(stage, engine, {"number": mode.number})
        about["mode"]["name"] = mode.name
        about["prediction"] = expected.record()
        about["latency_basis"] = about["power_basis"] = ESTIMATED
        about["board"] = {"model": "Jetson TX2 (predicted)", "tx2": False}
        sensor = _model_sensor(expected)
        recording = measure(sensor, load, around, _predicted_settings(expected.latency_s), about)
        self._keep(recording, run_name(stage.label, engine, mode.number))
        report_progress(self.progress, len(self.entries), 0, "{} {}".format(engine, mode.name))

    def _estimate(
        self,
        stage: LoadedBundle,
        engine: str,
        mode: PowerMode,
        calibration: Optional[EstimateCalibration],
    ) -> NetworkEstimate:
        return estimate(stage.work, engine, mode, stage.facts, calibration, self.request.threads)

    # --- measurement ----------------------------------------------------------------------

    def _measure(self, modelled: bool) -> None:
        self._claim_output()
        before = board.power_mode() if self.request.modes else None
        try:
            for mode in self.request.modes or (None,):
                if mode is not None:
                    board.set_power_mode(mode)
                    MonotonicClock().sleep(SETTLE_S)
                for stage in self.stages:
                    for engine in self.request.engines:
                        self._try_run(stage, engine, modelled)
        finally:
            if before is not None:
                board.set_power_mode(before.number)

    def _try_run(self, stage: LoadedBundle, engine: str, modelled: bool) -> None:
        """One run; an engine that is not available is skipped with its reason."""
        try:
            opened = open_engine(stage.bundle, engine, self.request.threads)
        except DeviceError as error:
            self.skipped.append({"label": stage.label, "engine": engine, "why": str(error)})
            return
        try:
            self._measured_run(stage, opened, modelled)
        finally:
            opened.close()  # a sweep opens many engines, which share the board's memory

    def _measured_run(self, stage: LoadedBundle, engine: Engine, modelled: bool) -> None:
        mode = board.power_mode()
        about = self._about(stage, engine.name, mode._asdict() if mode else None)
        about["latency_basis"] = MEASURED
        about["board"] = board.describe_board(self.request.root)
        about["engine_details"] = dict(sorted(getattr(engine, "details", {}).items()))
        expected = self._prediction(stage, engine.name, mode)
        about["prediction"] = expected.record() if expected else None
        clock = MonotonicClock()
        sensor = self._open_measuring(clock, modelled, stage, engine.name, mode)
        about["power_basis"] = sensor.info.basis
        root = self.request.root
        around = RunSurroundings(
            clock, lambda: board.take_snapshot(root), lambda: board.cpu_times(root)
        )
        batch = _noise(stage.bundle)
        about["input_sha256"] = hashlib.sha256(batch.tobytes()).hexdigest()
        load = _load(stage.bundle, engine, batch)
        try:
            recording = measure(sensor, load, around, self.request.settings, about, self.progress)
        finally:
            sensor.close()
        number = mode.number if mode else None
        self._keep(recording, run_name(stage.label, engine.name, number))

    def _prediction(
        self, stage: LoadedBundle, engine: str, mode: Optional[board.PowerModeNow]
    ) -> Optional[NetworkEstimate]:
        """Uncalibrated prediction for a TX2; only on a TX2 in a known power mode."""
        if not self.tx2 or mode is None or mode.number not in MODES or engine not in ENGINE_MODELS:
            return None
        return self._estimate(stage, engine, MODES[mode.number], None)

    def _open_measuring(
        self, clock: MonotonicClock, modelled: bool, stage: LoadedBundle, engine: str,
        mode: Optional[board.PowerModeNow],
    ) -> PowerSensor:  # fmt: skip
        if modelled:
            number = mode.number if mode and mode.number in MODES else DEFAULT_MODE
            find_engine_model(engine)
            return _model_sensor(self._estimate(stage, engine, MODES[number], self.calibration))
        sensor = self._sensor(clock)
        assert sensor is not None, "it was there a moment ago"
        return sensor

    # --- results --------------------------------------------------------------------------

    def _about(self, stage: LoadedBundle, engine: str, mode: Optional[Any]) -> Dict[str, Any]:
        return {
            "run_id": uuid.uuid4().hex,
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "version": __version__,
            "bundle": stage.record(),
            "engine": engine,
            "threads": self.request.threads,
            "mode": mode,
        }

    def _keep(self, recording: PowerRecording, name: str) -> None:
        """Write a run's raw files; its figures are those of the files."""
        taken = [entry["folder"] for entry in self.entries]
        folder, number = os.path.join(RUNS, name), 1
        while folder in taken:
            number += 1
            folder = os.path.join(RUNS, "{}-{}".format(name, number))
        path = os.path.join(self.request.out, folder)
        write_recording(path, recording)
        kept = read_recording(path)
        files = {name: file_record(os.path.join(path, name)) for name in RAW_FILES}
        self.entries.append(
            {
                "folder": folder,
                "files": files,
                "about": kept.about,
                "settings": kept.settings._asdict(),
                "figures": figures(kept),
            }
        )
        self._write()  # an interrupted sweep keeps its finished runs

    def _claim_output(self) -> None:
        """Create the output folder before measuring, so that an unwritable one fails early."""
        with os_errors_as(OutputError, "Output cannot be written", self.request.out):
            os.makedirs(self.request.out, exist_ok=True)
            tempfile.TemporaryFile(dir=self.request.out).close()

    def _document(self) -> Dict[str, Any]:
        bases = [entry["about"][key] for entry in self.entries for key in _BASES]
        return {
            "schema": SCHEMA,
            "disclaimer": DISCLAIMER,
            "estimated": ESTIMATED in bases,
            "runs": self.entries,
            "skipped": self.skipped,
        }

    def _write(self) -> None:
        write_json(os.path.join(self.request.out, ENERGY), self._document())

    def _finish(self) -> Dict[str, Any]:
        if not self.entries:
            reason = self.skipped[-1]["why"] if self.skipped else "nothing to run"
            os.rmdir(self.request.out)
            raise DeviceError("No engine could be profiled", found=reason)
        self._write()
        write_report(self.request.out, self._document())
        return self._document()


_BASES = ("latency_basis", "power_basis")


def _predicted_settings(latency_s: float) -> ProtocolSettings:
    window_s = PREDICTED_INFERENCES * latency_s
    rate_hz = PREDICTED_SAMPLES / window_s
    return ProtocolSettings(3, window_s, PREDICTED_INFERENCES, window_s, 40, window_s, rate_hz)


def _model_sensor(expected: NetworkEstimate) -> ModelSensor:
    source = "estimator: " + expected.basis
    return ModelSensor(expected.idle_w * 1e3, expected.busy_w * 1e3, source)


def _noise(bundle: Bundle) -> np.ndarray:
    """The input image; the work of a network does not depend on its content."""
    size = bundle.spec.input
    shape = (1, size.channels, size.height, size.width)
    batch: np.ndarray = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    return batch


def _load(bundle: Bundle, engine: Engine, batch: np.ndarray) -> WindowLoad:
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (IMAGE_SIDE, IMAGE_SIDE)).astype(np.uint8)
    units = ("gpu",) if engine.name in GPU_ENGINES else ("cpu",)

    def infer() -> None:
        engine.run(batch)

    try:
        detector = Detector(bundle, engine)
    except SpecError:  # a classifier has no image-to-boxes path
        return WindowLoad(infer, None, units)

    def image() -> None:
        detector.predict(pixels, "profile")

    return WindowLoad(infer, image, units)


def profile(request: ProfileRequest, progress: Optional[Progress] = None) -> Dict[str, Any]:
    """Profile bundles; see `ProfileRequest`.

    Returns:
        The contents of energy.json, which is written with report.html and the raw recordings.

    Raises:
        ConfigError, OutputError: See `check_request`.
        ArtefactError: A bundle or the calibration is damaged.
        DeviceError: No engine runs, the sensor is missing or hangs, a mode cannot be set.
    """
    check_request(request)
    return ProfileSweep(request, progress).run()


def all_flags(document: Dict[str, Any]) -> List[str]:
    """Every flag of every run, with the run it belongs to."""
    return [
        "{}: {} ({})".format(entry["folder"], item["flag"], item["why"])
        for entry in document["runs"]
        for item in entry["figures"]["flags"]
    ]
