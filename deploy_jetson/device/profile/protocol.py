"""The measuring protocol: idle, warm-up, windows, whole images, idle again; one process, one run.

Power and latency come from the same windows. The engine is loaded during the idle phases, so that
the net figure is what inferring costs, not what owning the engine costs.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from deploy_jetson.device.board import (
    BoardSnapshot,
    CpuTimes,
    clocks_lowered_by_governor,
    throttling_reasons,
)
from deploy_jetson.device.power.clock import MonotonicClock
from deploy_jetson.device.power.sampler import open_sampler
from deploy_jetson.device.power.sensor import PowerSensor
from deploy_jetson.device.profile.recording import (
    IDLE_AFTER,
    IDLE_BEFORE,
    IMAGES,
    WARM_UP,
    WINDOW,
    PowerRecording,
    ProtocolSettings,
    RunPhase,
)
from pneumonia.runtime.progress import Progress, report_progress

BLOCK = 20  # inferences per block of the warm-up
SETTLED_SHARE = 0.02  # between the medians of two blocks
SETTLED_SLOPE = 0.5  # degrees Celsius per minute
GUARD_SHARE = 0.1  # of an idle phase, waited after a load
MAX_GUARD_S = 3.0
CO_LOAD_CORES = 0.25  # what others may use of the processor


class WindowLoad(NamedTuple):
    """Load that runs in the measuring windows."""

    infer: Callable[[], None]  # one inference; returns when its result is on the host
    # one whole image, decoding aside: preprocessing, inference, boxes; None when unknown
    image: Optional[Callable[[], None]]
    units: Tuple[str, ...]  # clocks it depends on: `gpu`, `cpu`


class RunSurroundings(NamedTuple):
    """How the run looks at the machine."""

    clock: MonotonicClock  # time
    snapshot: Callable[[], BoardSnapshot]  # clocks and temperatures now
    cpu_times: Callable[[], Optional[CpuTimes]]  # processor times now; None where unknown


class _Run:
    """State of one run."""

    def __init__(
        self, load: WindowLoad, around: RunSurroundings, settings: ProtocolSettings
    ) -> None:
        self.load = load
        self.around = around
        self.settings = settings
        self.clock = around.clock
        self.phases: List[RunPhase] = []
        self.inferences: List[np.ndarray] = []
        self.snapshots: Dict[str, Any] = {}
        self.notes: List[List[str]] = []

    def idle(self, kind: str) -> None:
        """An idle phase, kept away from the load's edges.

        Power falls slowly, and a sample next to an edge is interpolated with one of the load.
        """
        guard_s = self._guard_s()
        self.clock.sleep(guard_s)
        start = self.clock.now()
        self.clock.sleep(self.settings.idle_s)
        self._keep(kind, start, self.clock.now(), [])
        self.clock.sleep(2 / self.settings.rate_hz)

    def _guard_s(self) -> float:
        return max(2 / self.settings.rate_hz, min(MAX_GUARD_S, GUARD_SHARE * self.settings.idle_s))

    def tail(self, call: Callable[[], None]) -> None:
        """Keep the load running past the last window's edge, to cover the sample there."""
        end = self.clock.now() + 2 / self.settings.rate_hz
        while self.clock.now() < end:
            call()

    def _keep(self, kind: str, start: float, end: float, times: List[Tuple[float, float]]) -> None:
        self.phases.append(RunPhase(kind, start, end))
        self.inferences.append(np.array(times, dtype=np.float64).reshape(-1, 2))

    def _timed(self, call: Callable[[], None], times: List[Tuple[float, float]]) -> float:
        start = self.clock.now()
        call()
        end = self.clock.now()
        times.append((start, end))
        return end

    def warm_up(self) -> None:
        """Until latency and temperature have settled, or time is up."""
        times: List[Tuple[float, float]] = []
        heat: List[Tuple[float, float]] = []
        start = end = self.clock.now()
        settled = False
        while not settled and end - start < self.settings.max_warm_up_s:
            for _ in range(BLOCK):
                end = self._timed(self.load.infer, times)
            hottest = self.around.snapshot().hottest_c
            if hottest is not None:
                heat.append((end, hottest))
            if len(times) >= max(self.settings.warm_up_inferences, 2 * BLOCK):
                settled = _settled(times) and self._cool(heat)
        if not settled:
            reason = "no settled latency and temperature after {:.0f} s".format(end - start)
            self.notes.append(["not_warm", reason])
        self._keep(WARM_UP, start, end, times)

    def _cool(self, heat: List[Tuple[float, float]]) -> bool:
        """Whether the temperature has stopped rising, over half a window; true without zones."""
        if not heat:
            return True
        span = self.settings.window_s / 2
        recent = [item for item in heat if item[0] >= heat[-1][0] - span]
        if heat[-1][0] - heat[0][0] < span or len(recent) < 2:
            return False
        minutes = (recent[-1][0] - recent[0][0]) / 60
        return (recent[-1][1] - recent[0][1]) / minutes < SETTLED_SLOPE

    def window(self, kind: str, call: Callable[[], None], name: str) -> None:
        times: List[Tuple[float, float]] = []
        before = self.around.cpu_times()
        start = end = self.clock.now()
        least = self.settings.min_inferences
        while end - start < self.settings.window_s or len(times) < least:
            end = self._timed(call, times)
        after = self.around.cpu_times()
        seen = self.around.snapshot()  # at once: the governor has not noticed the end yet
        self.snapshots[name] = seen.record()
        self._keep(kind, times[0][0], end, times)
        for reason in throttling_reasons(seen, self.load.units):
            self.notes.append(["throttled", "{}: {}".format(name, reason)])
        for reason in clocks_lowered_by_governor(seen, self.load.units):
            self.notes.append(["governor", "{}: {}".format(name, reason)])
        if before is not None and after is not None:
            others = (after.machine_s - before.machine_s) - (after.own_s - before.own_s)
            cores = others / (end - start)
            if cores > CO_LOAD_CORES:
                text = "{}: other programs used {:.2f} cores".format(name, cores)
                self.notes.append(["co_load", text])


def _settled(times: List[Tuple[float, float]]) -> bool:
    spans = [end - start for start, end in times[-2 * BLOCK :]]
    older, newer = float(np.median(spans[:BLOCK])), float(np.median(spans[BLOCK:]))
    return abs(newer - older) < SETTLED_SHARE * max(older, 1e-12)


def measure(
    sensor: PowerSensor,
    load: WindowLoad,
    around: RunSurroundings,
    settings: ProtocolSettings,
    about: Dict[str, Any],
    progress: Optional[Progress] = None,
) -> PowerRecording:
    """Run the protocol.

    Args:
        sensor: Open; closed by the caller.
        around: Time and the machine; with a virtual clock everything happens at once.
        about: Kept with the recording as it is.

    Raises:
        DeviceError: The sensor hangs, or the load failed.
    """
    run = _Run(load, around, settings)
    sampler = open_sampler(sensor, around.clock, 1.0 / settings.rate_hz)
    steps = settings.windows + 3 + (load.image is not None)
    done = 0

    def tell(note: str) -> None:
        nonlocal done
        report_progress(progress, done, steps, note)
        done += 1

    sampler.start()
    try:
        run.snapshots["before"] = around.snapshot().record()
        tell("idle before")
        run.idle(IDLE_BEFORE)
        sensor.load_changed(True)
        tell("warm-up")
        run.warm_up()
        for number in range(settings.windows):
            tell("window {} of {}".format(number + 1, settings.windows))
            run.window(WINDOW, load.infer, "window_{}".format(number + 1))
        if load.image is not None:
            tell("whole images")
            run.window(IMAGES, load.image, "images")
        run.tail(load.image or load.infer)
        sensor.load_changed(False)
        tell("idle after")
        run.idle(IDLE_AFTER)
        run.snapshots["after"] = around.snapshot().record()
        around.clock.sleep(1.0 / settings.rate_hz)  # one more sample behind the last edge
    finally:
        samples = sampler.stop()
    return PowerRecording(
        about, settings, sensor.info, samples, run.phases, run.inferences, run.snapshots, run.notes
    )
