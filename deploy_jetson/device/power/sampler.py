"""Samples a sensor while the load runs, and measures the CPU time this costs."""

import resource
import threading
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from deploy_jetson.device.power.clock import MonotonicClock, VirtualClock
from deploy_jetson.device.power.sensor import PowerSensor, SensorGap, SensorLost
from pneumonia.runtime.errors import DeviceError

STOP_TIMEOUT_S = 10.0


class PowerSamples(NamedTuple):
    """Readings of a sampler."""

    stamps_s: np.ndarray  # (n,) float64, monotonic seconds in the middle of each reading
    # rail -> (n,) float64, milliwatts or millijoules; NaN where the rail failed
    values: Dict[str, np.ndarray]
    faults: Dict[str, int]  # `RAIL:CODE` -> how often; `sensor:CODE` when no rail could be read
    lost: Optional[str]  # why the sensor gave up, or None
    cpu_share: Optional[float]  # processor time of sampling over elapsed time; None when not known


class PowerSampler:
    """Takes a reading at every call; `open_sampler` calls it at regular intervals."""

    def __init__(self, sensor: PowerSensor, clock: MonotonicClock, interval_s: float) -> None:
        self.sensor = sensor
        self.clock = clock
        self.interval_s = interval_s
        self._stamps: List[float] = []
        self._readings: List[Dict[str, float]] = []
        self._faults: Dict[str, int] = {}
        self._lost: Optional[str] = None

    def tick(self) -> bool:
        """Take one reading; false when the sensor is lost."""
        if self._lost is not None:
            return False
        before = self.clock.now()
        reading: Dict[str, float] = {}
        try:
            reading, faults = self.sensor.read()
        except SensorLost as error:
            self._lost = error.found or error.what
            return False
        except SensorGap as gap:
            faults = ["sensor:" + gap.reason]
        after = self.clock.now()
        # A paced sensor waits for its value, which is fresh when the waiting ends.
        self._stamps.append(after if self.sensor.paced else (before + after) / 2)
        self._readings.append(reading)
        for fault in faults:
            self._faults[fault] = self._faults.get(fault, 0) + 1
        return True

    def start(self) -> None:
        """Begin to take samples."""
        raise NotImplementedError

    def stop(self) -> PowerSamples:
        """End sampling; returns all samples."""
        raise NotImplementedError

    def collect(self, cpu_share: Optional[float] = None) -> PowerSamples:
        """What was taken so far."""
        names = [rail.name for rail in self.sensor.info.rails]
        values = {
            name: np.array([reading.get(name, np.nan) for reading in self._readings], np.float64)
            for name in names
        }
        stamps = np.array(self._stamps, dtype=np.float64)
        return PowerSamples(stamps, values, dict(self._faults), self._lost, cpu_share)


class VirtualSampler(PowerSampler):
    """Driven by a virtual clock."""

    clock: VirtualClock

    def start(self) -> None:
        """Begin to take samples."""
        self.clock.every(self.interval_s, self.tick)

    def stop(self) -> PowerSamples:
        """End sampling; returns all samples."""
        self.clock.stop()
        return self.collect()


class ThreadSampler(PowerSampler):
    """A thread that reads on a fixed grid of time, so that delays do not add up."""

    def __init__(self, sensor: PowerSensor, clock: MonotonicClock, interval_s: float) -> None:
        super().__init__(sensor, clock, interval_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="power-sampler", daemon=True)
        self._cpu_s = 0.0
        self._began = self._ended = 0.0
        self._crash: Optional[BaseException] = None

    def start(self) -> None:
        """Begin to take samples."""
        self._began = self.clock.now()
        self._thread.start()

    def _loop(self) -> None:
        try:
            self._sample()
        except Exception as error:  # shown by stop(): a dead sampler must not look like silence
            self._crash = error
        used = resource.getrusage(resource.RUSAGE_THREAD)
        self._cpu_s = used.ru_utime + used.ru_stime
        self._ended = self.clock.now()

    def _sample(self) -> None:
        due = self.clock.now()
        while not self._stop.is_set() and self.tick():
            if self.sensor.paced:
                continue
            now = self.clock.now()
            # Late: go on from here instead of taking a burst.
            due = max(due + self.interval_s, now)
            self._stop.wait(due - now)

    def stop(self) -> PowerSamples:
        """End.

        Raises:
            DeviceError: The sensor hangs, or reading it failed with an unexpected error.
        """
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise DeviceError("Power sensor hangs", where=self.sensor.info.kind)
        if self._crash is not None:
            raise DeviceError(
                "Power sensor failed",
                found=type(self._crash).__name__,
                where=self.sensor.info.kind,
            ) from self._crash
        elapsed = self._ended - self._began
        return self.collect(self._cpu_s / elapsed if elapsed > 0 else None)


def open_sampler(sensor: PowerSensor, clock: MonotonicClock, interval_s: float) -> PowerSampler:
    """The sampler that fits the clock."""
    if isinstance(clock, VirtualClock):
        return VirtualSampler(sensor, clock, interval_s)
    return ThreadSampler(sensor, clock, interval_s)
