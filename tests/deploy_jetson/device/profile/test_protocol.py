"""The protocol in virtual time: every figure is known by hand, every fault has its flag."""

import math

import numpy as np
import pytest

from deploy_jetson.device.board import BoardSnapshot, ClockState, CpuTimes, ThermalZone
from deploy_jetson.device.power.clock import VirtualClock
from deploy_jetson.device.power.sensor import (
    PowerRail,
    PowerSensor,
    SensorGap,
    SensorInfo,
    SensorLost,
    scope_of,
)
from deploy_jetson.device.profile.figures import figures, latency_record, spread
from deploy_jetson.device.profile.protocol import RunSurroundings, WindowLoad, measure
from deploy_jetson.device.profile.recording import (
    ProtocolSettings,
    read_recording,
    rebased,
    run_name,
    write_recording,
)

SHORT = ProtocolSettings(5, 2.0, 10, 3.0, 40, 20.0, 10.0)
LATENCY_S = 0.05
IDLE_MW, BUSY_MW = 2000.0, 9000.0


class FakeSensor(PowerSensor):
    """Idle and busy power of several rails, with faults told by a function of the read's number.

    The function gives None (fine), an exception to raise, or a set of rails that fail.
    """

    def __init__(self, rails=None, fault=None, basis="measured"):
        self.levels = rails or {"VDD_IN": (IDLE_MW, BUSY_MW), "VDD_SYS_GPU": (150.0, 4000.0)}
        total = "VDD_IN" if "VDD_IN" in self.levels else None
        made = tuple(PowerRail(name, "mw", scope_of(name), "fake") for name in self.levels)
        self.info = SensorInfo("fake", basis, made, total)
        self.fault = fault or (lambda number: None)
        self.reads, self.busy = 0, False

    def load_changed(self, busy):
        self.busy = busy

    def read(self):
        self.reads += 1
        fault = self.fault(self.reads)
        if isinstance(fault, Exception):
            raise fault
        wiggle = self.reads % 2  # a real sensor never stands still
        values = {name: pair[self.busy] + wiggle for name, pair in self.levels.items()
                  if name not in (fault or ())}  # fmt: skip
        return values, [f"{name}:EAGAIN" for name in fault or ()]


class Bench:
    """A machine in virtual time."""

    def __init__(self, sensor=None, latency=None, snapshots=None, others=0.0):
        self.clock = VirtualClock(1234.5)
        self.sensor = sensor or FakeSensor()
        self.count = 0
        self.latency = latency or (lambda number: LATENCY_S)
        self.snapshots = snapshots or (lambda: BoardSnapshot({}, {}))
        self.others = others
        self.image = None

    def infer(self):
        self.count += 1
        self.clock.sleep(self.latency(self.count))

    def run(self, settings=SHORT, folder=None):
        def times():
            now = self.clock.now()
            return CpuTimes((1 + self.others) * now, now)

        around = RunSurroundings(self.clock, self.snapshots, times)
        load = WindowLoad(self.infer, self.image, ("gpu",))
        about = {"latency_basis": "measured", "run_id": "x"}
        return measure(self.sensor, load, around, settings, about)

    def figures(self, tmp_path, settings=SHORT):
        write_recording(str(tmp_path), self.run(settings))
        return figures(read_recording(str(tmp_path)))


def flags_of(found):
    return {item["flag"]: item["why"] for item in found["flags"]}


def test_figures_known_by_hand(tmp_path):
    found = Bench().figures(tmp_path)
    total = found["total"]
    # 9 W (and half a milliwatt of wiggle) for 50 ms; idle 2 W
    assert total["rail"] == "VDD_IN"
    assert total["gross_j_per_inference"]["median"] == pytest.approx(0.45, rel=2e-4)
    assert total["net_j_per_inference"]["median"] == pytest.approx(0.35, rel=2e-4)
    assert total["idle_w"] == pytest.approx(2.0, rel=1e-3)
    assert total["mean_w"] == pytest.approx(9.0, rel=1e-3)
    assert total["inferences_per_j"] == pytest.approx(1 / 0.45, rel=2e-4)
    latency = found["latency_ms"]
    assert [latency[key] for key in ("p50", "p90", "p99", "mean")] == pytest.approx([50.0] * 4)
    assert 5 * 40 <= latency["inferences"] <= 5 * 41
    gpu = found["rails"][1]
    assert gpu["gross_j_per_inference"]["median"] == pytest.approx(0.2, rel=1e-3)
    # The total is the input rail alone, never a sum.
    assert total["mean_w"] == found["rails"][0]["mean_w"]
    assert set(flags_of(found)) == {"short_windows"}


def test_windows_hold_enough_inferences_and_only_whole_ones():
    slow = Bench(latency=lambda number: 0.7)
    recording = rebased(slow.run())
    windows = [
        (phase, times)
        for phase, times in zip(recording.phases, recording.inferences, strict=True)
        if phase.kind == "window"
    ]
    assert len(windows) == 5
    for phase, times in windows:
        assert len(times) == 10  # 7 s, longer than the two seconds asked for
        assert (phase.start_s, phase.end_s) == (times[0, 0], times[-1, 1])
    kinds = [phase.kind for phase in recording.phases]
    assert kinds == ["idle_before", "warm_up", *["window"] * 5, "idle_after"]


def test_whole_images_are_measured_apart(tmp_path):
    bench = Bench()
    bench.image = lambda: bench.clock.sleep(0.08)
    found = bench.figures(tmp_path)
    assert found["image_latency_ms"]["p50"] == pytest.approx(80.0)
    assert found["total"]["gross_j_per_image"] == pytest.approx(0.72, rel=2e-4)
    assert found["total"]["net_j_per_image"] == pytest.approx(0.56, rel=2e-4)
    assert found["total"]["gross_j_per_inference"]["median"] == pytest.approx(0.45, rel=2e-4)


def test_latency_percentiles():
    starts = np.arange(100.0)
    times = np.stack([starts, starts + np.arange(1, 101) / 1e3], axis=1)
    found = latency_record(times)
    assert found["p50"] == pytest.approx(50.5)
    assert found["p90"] == pytest.approx(90.1)
    assert found["p99"] == pytest.approx(99.01)
    assert latency_record(np.zeros((0, 2))) is None


def test_spread_and_its_interval():
    found = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.median, found.min, found.max) == (3.0, 1.0, 100.0)
    assert 1.0 <= found.low <= 3.0 <= found.high <= 100.0
    assert found == spread([1.0, 2.0, 3.0, 4.0, 100.0])  # seeded
    assert spread([2.0] * 5)[3:] == (2.0, 2.0)
    assert spread([1.0, 2.0])[3:] == (None, None)
    assert spread([]) is None


# --- warm-up ---------------------------------------------------------------------------------


def test_warm_up_waits_for_the_latency_to_settle():
    falling = Bench(latency=lambda number: 0.05 + 0.1 * math.exp(-number / 50))
    recording = falling.run()
    spent = np.diff(recording.inferences[1], axis=1)
    assert len(spent) > 60
    assert recording.notes == []


def test_warm_up_gives_up_in_time(tmp_path):
    drifting = Bench(latency=lambda number: 0.02 * 1.01**number if number < 300 else 0.05)
    found = drifting.figures(tmp_path, SHORT._replace(max_warm_up_s=10.0))
    assert "not_warm" in flags_of(found)


def test_warm_up_waits_for_the_temperature():
    bench = Bench()

    def heating():
        seconds = bench.clock.now() - 1234.5
        return BoardSnapshot({}, {"GPU": ThermalZone(40 + 30 * (1 - math.exp(-seconds / 5)), 95.0)})

    bench.snapshots = heating
    recording = bench.run(SHORT._replace(max_warm_up_s=120.0))
    warm = recording.phases[1]
    # d/dt of 30 (1 - exp(-t/5)) is below 0.5 C/min after 33 s
    assert 25 < warm.end_s - warm.start_s < 40
    assert recording.notes == []


# --- faults ----------------------------------------------------------------------------------


def test_eagain_now_and_then_costs_nothing(tmp_path):
    sensor = FakeSensor(fault=lambda number: {"VDD_IN"} if number % 7 == 0 else None)
    found = Bench(sensor).figures(tmp_path)
    assert found["total"]["gross_j_per_inference"]["median"] == pytest.approx(0.45, rel=3e-4)
    assert found["faults"]["VDD_IN:EAGAIN"] > 10
    assert found["rails"][0]["quality"]["missing"] == found["faults"]["VDD_IN:EAGAIN"]
    assert "gaps" not in flags_of(found)


def test_rail_lost_in_the_third_window(tmp_path):
    # idle 3 s, guards and a warm-up of 2 s: 2.6 s into the windows is the second of them
    sensor = FakeSensor(fault=lambda number: {"VDD_IN"} if number > 85 else None)
    found = Bench(sensor).figures(tmp_path)
    voids = [window["void"] for window in found["rails"][0]["windows"]]
    assert voids[0] is None
    assert all(voids[2:])
    assert found["total"]["idle_w"] == pytest.approx(2.0, rel=1e-3)  # of the phase before
    flagged = flags_of(found)
    assert {"gaps", "unstable_baseline", "few_windows"} <= set(flagged)
    assert "usable, no interval" in flagged["few_windows"]
    # the other rail is not touched
    assert all(window["void"] is None for window in found["rails"][1]["windows"])


def test_no_reading_is_never_zero_watts(tmp_path):
    sensor = FakeSensor(fault=lambda number: {"VDD_IN", "VDD_SYS_GPU"})
    found = Bench(sensor).figures(tmp_path)
    total = found["total"]
    assert total["gross_j_per_inference"] is None
    assert (total["mean_w"], total["idle_w"], total["inferences_per_j"]) == (None, None, None)
    assert {"gaps", "few_windows", "unstable_baseline"} <= set(flags_of(found))
    assert found["latency_ms"]["p50"] == pytest.approx(50.0)  # still true


def test_sensor_that_goes_away(tmp_path):
    lost = SensorLost("gone", found="tegrastats ended")
    found = Bench(FakeSensor(fault=lambda number: lost if number > 60 else None)).figures(tmp_path)
    assert flags_of(found)["sensor_lost"] == "tegrastats ended"
    assert found["total"]["gross_j_per_inference"] is None


def test_long_silence_voids_the_windows_it_touches(tmp_path):
    quiet = SensorGap("silent")
    sensor = FakeSensor(fault=lambda number: quiet if 100 <= number < 107 else None)
    found = Bench(sensor).figures(tmp_path)
    voids = [window["void"] is not None for window in found["rails"][0]["windows"]]
    assert 1 <= sum(voids) <= 2
    assert found["faults"] == {"sensor:silent": 7}
    assert found["total"]["gross_j_per_inference"]["median"] == pytest.approx(0.45, rel=3e-4)


def test_sensor_that_does_not_keep_up(tmp_path):
    bench = Bench()
    settings = SHORT._replace(rate_hz=10.0)
    recording = bench.run(settings)
    thinned = recording.samples._replace(
        stamps_s=recording.samples.stamps_s[::2],
        values={name: values[::2] for name, values in recording.samples.values.items()},
    )
    write_recording(str(tmp_path), recording._replace(samples=thinned))
    found = figures(read_recording(str(tmp_path)))
    assert flags_of(found)["slow_sampling"] == "5 samples/s instead of 10"
    assert found["total"]["gross_j_per_inference"]["median"] == pytest.approx(0.45, rel=3e-3)


def test_counter_that_never_changes(tmp_path):
    class Stuck(FakeSensor):
        def read(self):
            return {"VDD_IN": 3000.0, "VDD_SYS_GPU": 10.0}, []

    assert "constant_reading" in flags_of(Bench(Stuck()).figures(tmp_path))


def test_no_input_rail_means_no_total(tmp_path):
    rails = {"VDD_GPU_SOC": (500.0, 4000.0), "VIN_SYS_5V0": (900.0, 4500.0)}
    found = Bench(FakeSensor(rails)).figures(tmp_path)
    assert found["total"] is None
    assert "never added up" in flags_of(found)["no_input_rail"]
    assert found["rails"][0]["gross_j_per_inference"]["median"] == pytest.approx(0.2, rel=1e-3)


def test_baseline_that_drifts(tmp_path):
    class Heating(FakeSensor):
        def read(self):
            values, faults = super().read()
            values["VDD_IN"] += self.reads * 0.5
            return values, faults

    found = Bench(Heating()).figures(tmp_path)
    baseline = found["rails"][0]["baseline"]
    assert baseline["after_w"] > baseline["before_w"]
    assert "unstable_baseline" in flags_of(found)


def test_throttling_and_other_programs_are_flagged(tmp_path):
    hot = BoardSnapshot({"gpu": ClockState(800.0, 1300.0, None)}, {"GPU": ThermalZone(93.0, 95.5)})
    cool = BoardSnapshot({"gpu": ClockState(1300.0, 1300.0, None)}, {})
    bench = Bench(others=0.5)
    bench.snapshots = lambda: hot if bench.count > 160 else cool
    found = flags_of(bench.figures(tmp_path))
    assert "gpu at 800 MHz, cap 1300 MHz" in found["throttled"]
    assert "more)" in found["throttled"]
    assert "other programs used 0.50 cores" in found["co_load"]
    assert "throttled" not in flags_of(Bench().figures(tmp_path))


def test_a_load_that_fails_stops_the_sampler():
    bench = Bench()
    bench.latency = lambda number: 0.05 if number < 60 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        bench.run()
    reads = bench.sensor.reads
    bench.clock.sleep(10.0)
    assert bench.sensor.reads == reads


# --- files -----------------------------------------------------------------------------------


def test_files_give_the_same_recording_back(tmp_path):
    sensor = FakeSensor(fault=lambda number: {"VDD_IN"} if number % 9 == 0 else None)
    made = rebased(Bench(sensor).run())
    write_recording(str(tmp_path), made)
    read = read_recording(str(tmp_path))
    assert read.about == made.about
    assert read.settings == made.settings
    assert read.sensor == made.sensor
    assert read.phases == made.phases
    assert read.samples.faults == made.samples.faults
    np.testing.assert_array_equal(read.samples.stamps_s, made.samples.stamps_s)
    for name, values in made.samples.values.items():
        np.testing.assert_array_equal(read.samples.values[name], values)
    for ours, theirs in zip(read.inferences, made.inferences, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_run_names_are_safe():
    assert run_name("../../etc/passwd", "kernels", None) == ".._.._etc_passwd-kernels"
    assert run_name("b dense", "tensorrt", 3) == "b_dense-tensorrt-mode3"
    assert run_name("", "x", 0) == "bundle-x-mode0"
