"""Sensors on trees of both layouts, RAPL, replay, discovery, and what sampling costs.

Spans: deploy_jetson.device.power.clock, deploy_jetson.device.power.find,
deploy_jetson.device.power.ina3221, deploy_jetson.device.power.modelled,
deploy_jetson.device.power.rapl, deploy_jetson.device.power.replay,
deploy_jetson.device.power.sampler, deploy_jetson.device.power.sensor.
"""

import errno
import os
import threading
import time

import numpy as np
import pytest

from deploy_jetson.device.power import ina3221
from deploy_jetson.device.power.clock import MonotonicClock, VirtualClock
from deploy_jetson.device.power.find import open_sensor
from deploy_jetson.device.power.ina3221 import Ina3221Sensor, hwmon_channels, iio_channels
from deploy_jetson.device.power.modelled import ModelSensor
from deploy_jetson.device.power.rapl import RaplSensor
from deploy_jetson.device.power.replay import RecordedSeries, ReplaySensor, read_series
from deploy_jetson.device.power.sampler import ThreadSampler, open_sampler
from deploy_jetson.device.power.sensor import (
    PowerRail,
    PowerSensor,
    SensorGap,
    SensorInfo,
    SensorLost,
    total_of,
)
from pneumonia.runtime.errors import ConfigError, DataError, DeviceError
from tests.deploy_jetson.device.trees import TX2_MW, hwmon_tree, iio_tree, rapl_tree, write


def open_iio(root):
    return Ina3221Sensor("ina3221-iio", iio_channels(str(root)))


def test_iio_layout(tmp_path):
    iio_tree(tmp_path, first_device=5)
    sensor = open_iio(tmp_path)
    values, faults = sensor.read()
    assert values == {name: float(mw) for name, mw in TX2_MW.items()}
    assert faults == []
    assert sensor.info.total == "VDD_IN"
    scopes = {rail.name: rail.scope for rail in sensor.info.rails}
    assert scopes["VDD_IN"].startswith("module")
    assert scopes["VDD_MUX"].startswith("carrier")
    assert scopes["VDD_SYS_GPU"].startswith("part")
    assert ("0-0041 running_mode", "1") in sensor.info.notes
    sensor.close()


def test_iio_layout_with_the_old_folder_name_is_not_read_twice(tmp_path):
    iio_tree(tmp_path)
    for chip in (tmp_path / "sys/bus/i2c/drivers/ina3221x").iterdir():
        (chip / "iio_device").symlink_to(next(chip.iterdir()))
    assert len(iio_channels(str(tmp_path))) == len(TX2_MW)


def test_hwmon_layout(tmp_path):
    hwmon_tree(tmp_path, [("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 4992, 200), ("NC", 0, 0)])
    sensor = Ina3221Sensor("ina3221-hwmon", hwmon_channels(str(tmp_path)))
    values, _ = sensor.read()
    assert values == {"VDD_IN": 6000.0, "VDD_CPU_GPU_CV": pytest.approx(998.4)}
    assert sensor.info.total == "VDD_IN"
    assert ("1-0040 update_interval", "2") in sensor.info.notes


def test_boards_without_an_input_rail_have_no_total(tmp_path):
    hwmon_tree(tmp_path, [("VDD_GPU_SOC", 5000, 1), ("VDD_CPU_CV", 5000, 1), ("VIN_SYS_5V0", 1, 1)])
    assert Ina3221Sensor("ina3221-hwmon", hwmon_channels(str(tmp_path))).info.total is None
    assert total_of(["package-0", "package-1"]) is None
    assert total_of(["VDD_SYS_GPU", "VDD_IN", "VDD_MUX"]) == "VDD_IN"


def test_rails_of_one_name_stay_apart(tmp_path):
    iio_tree(tmp_path, {"0-0040": ("VDD_IN", "NC", "NC"), "0-0041": ("VDD_IN", "VDD_CPU", "")})
    assert [c.rail.name for c in iio_channels(str(tmp_path))] == [
        "VDD_IN", "VDD_IN@0-0041", "VDD_CPU",
    ]  # fmt: skip


def test_new_values_are_seen_and_a_renamed_rail_is_found_next_time(tmp_path):
    files = iio_tree(tmp_path)
    sensor = open_iio(tmp_path)
    sensor.read()
    write(files["VDD_IN"], 10001)
    assert sensor.read()[0]["VDD_IN"] == 10001.0
    write(files["VDD_IN"].parent / "rail_name_0", "VDD_MODULE")
    assert open_iio(tmp_path).info.total is None


class Flaky:
    """os.pread that fails as told: call number -> errno."""

    def __init__(self, monkeypatch, fails):
        self.calls, self.fails, self.real = 0, fails, os.pread
        monkeypatch.setattr(ina3221.os, "pread", self)

    def __call__(self, *arguments):
        self.calls += 1
        code = self.fails(self.calls)
        if code:
            raise OSError(code, "as told")
        return self.real(*arguments)


ONE_RAIL = {"0-0041": ("VDD_IN", "NC", "NC")}


def test_eagain_is_tried_once_more(tmp_path, monkeypatch):
    iio_tree(tmp_path, ONE_RAIL)
    sensor = open_iio(tmp_path)
    Flaky(monkeypatch, lambda call: errno.EAGAIN if call % 7 == 0 else 0)
    for _ in range(50):
        assert sensor.read() == ({"VDD_IN": 9273.0}, [])


def test_eagain_twice_is_a_gap_of_that_rail(tmp_path, monkeypatch):
    iio_tree(tmp_path, {"0-0041": ("VDD_IN", "VDD_SYS_CPU", "NC")})
    sensor = open_iio(tmp_path)
    Flaky(monkeypatch, lambda call: errno.EAGAIN if call in (1, 2) else 0)
    assert sensor.read() == ({"VDD_SYS_CPU": 3716.0}, ["VDD_IN:EAGAIN"])
    assert sensor.read()[1] == []


def test_lost_rail_and_its_return(tmp_path):
    files = iio_tree(tmp_path, ONE_RAIL)
    sensor = open_iio(tmp_path)
    sensor.read()
    sensor.close()
    files["VDD_IN"].unlink()
    assert sensor.read() == ({}, ["VDD_IN:ENOENT"])
    write(files["VDD_IN"], 5000)
    assert sensor.read() == ({"VDD_IN": 5000.0}, [])


@pytest.mark.parametrize("text", ["", "garbage", "--"])
def test_a_reading_that_is_no_number_is_a_gap(tmp_path, text):
    files = iio_tree(tmp_path, ONE_RAIL)
    files["VDD_IN"].write_text(text)
    assert open_iio(tmp_path).read() == ({}, ["VDD_IN:garbage"])


def test_rapl_counts_on_after_its_range(tmp_path):
    zones = {"0": ("package-0", 900_000, 1_000_000), "0:0": ("core", 5, 10**9)}
    where = rapl_tree(tmp_path, zones)
    sensor = RaplSensor(str(tmp_path))
    assert sensor.info.total == "package-0"
    assert sensor.read()[0]["package-0"] == 900.0
    write(where / "intel-rapl:0/energy_uj", 100_000)
    assert sensor.read()[0]["package-0"] == 1100.0  # 200 mJ on
    (where / "intel-rapl:0/energy_uj").unlink()
    values, faults = sensor.read()
    assert "package-0" not in values
    assert faults == ["package-0:FileNotFoundError"]


def test_two_packages_have_parts_of_one_name_and_no_total(tmp_path):
    zones = {"0": ("package-0", 1, 9), "1": ("package-1", 1, 9), "0:0": ("dram", 1, 9),
             "1:0": ("dram", 1, 9)}  # fmt: skip
    rapl_tree(tmp_path, zones)
    sensor = RaplSensor(str(tmp_path))
    assert sorted(r.name for r in sensor.info.rails) == [
        "dram", "dram@1:0", "package-0", "package-1",
    ]  # fmt: skip
    assert sensor.info.total is None


def test_discovery_prefers_the_boards_own_monitor(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    clock = MonotonicClock()
    assert open_sensor("auto", clock, 0.1, str(tmp_path)) is None
    rapl_tree(tmp_path, {"0": ("package-0", 1, 9)})
    assert open_sensor("auto", clock, 0.1, str(tmp_path)).info.kind == "rapl"
    hwmon_tree(tmp_path, [("VDD_IN", 5000, 1200)])
    assert open_sensor("auto", clock, 0.1, str(tmp_path)).info.kind == "ina3221-hwmon"
    iio_tree(tmp_path)
    assert open_sensor("auto", clock, 0.1, str(tmp_path)).info.kind == "ina3221-iio"


def test_named_sensor_that_is_not_here(tmp_path):
    for name in ("ina3221-iio", "ina3221-hwmon", "rapl"):
        with pytest.raises(DeviceError, match="not here"):
            open_sensor(name, MonotonicClock(), 0.1, str(tmp_path))
    for name in ("thermometer", "replay:", ""):
        with pytest.raises(ConfigError, match="Unknown power sensor"):
            open_sensor(name, MonotonicClock(), 0.1, str(tmp_path))


# --- replay ----------------------------------------------------------------------------------


def test_replay_plays_at_its_own_pace_and_ends():
    clock = VirtualClock(100.0)
    series = RecordedSeries(
        np.array([5.0, 5.5, 7.0]), {"VDD_IN": np.array([1.0, np.nan, 3.0])}, {"VDD_IN": "mw"}
    )
    sensor = ReplaySensor(series, clock)
    assert sensor.info.basis == "replayed"
    assert (sensor.read()[0], clock.now()) == ({"VDD_IN": 1.0}, 100.0)
    with pytest.raises(SensorGap):
        sensor.read()
    assert clock.now() == 100.5
    assert (sensor.read()[0], clock.now()) == ({"VDD_IN": 3.0}, 102.0)
    with pytest.raises(SensorLost, match="over"):
        sensor.read()


def test_replay_of_tegrastats_lines(tmp_path):
    line = "RAM 1/2MB CPU [1%@3] VDD_IN {}/1 VDD_SYS_GPU 7/7"
    path = tmp_path / "log.txt"
    path.write_text("\n".join([line.format(3000), "Hello", line.format(4000)]))
    series = read_series(str(path), 0.5)
    assert series.stamps_s.tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_array_equal(series.values["VDD_IN"], [3000, np.nan, 4000])


@pytest.mark.parametrize(
    "text",
    [
        "", "nothing here\n", "stamp_s,VDD_IN_mw\n", "stamp_s,VDD_IN\n0,1\n",
        "stamp_s,VDD_IN_mw\n0,1\n1\n", "stamp_s,VDD_IN_mw\n0,x\n", "stamp_s,VDD_IN_mw\n1,1\n0,1\n",
        "stamp_s,VDD_IN_mw\n,1\n", "stamp_s\n0\n",
    ],
)  # fmt: skip
def test_files_that_are_no_recording(tmp_path, text):
    path = tmp_path / "samples.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="Not a recording"):
        read_series(str(path))
    with pytest.raises(DataError, match="Not a recording"):
        read_series(str(tmp_path / "missing"))


def test_binary_garbage_is_no_recording(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 100)
    with pytest.raises(DataError, match="Not a recording"):
        read_series(str(path))


# --- sampling --------------------------------------------------------------------------------


class Scripted(PowerSensor):
    """Gives what a list says; an exception in it is raised."""

    def __init__(self, script):
        rail = PowerRail("VDD_IN", "mw", "", "")
        self.info = SensorInfo("scripted", "measured", (rail,), "VDD_IN")
        self._script = list(script)

    def read(self):
        item = self._script.pop(0) if self._script else 1.0
        if isinstance(item, BaseException):
            raise item
        return ({"VDD_IN": item}, []) if item is not None else ({}, ["VDD_IN:EIO"])


def test_sampler_keeps_gaps_as_gaps():
    clock = VirtualClock()
    sampler = open_sampler(Scripted([1.0, None, SensorGap("silent"), 4.0]), clock, 0.5)
    sampler.start()
    clock.sleep(1.6)
    samples = sampler.stop()
    assert samples.stamps_s.tolist() == [0.0, 0.5, 1.0, 1.5]
    np.testing.assert_array_equal(samples.values["VDD_IN"], [1.0, np.nan, np.nan, 4.0])
    assert samples.faults == {"VDD_IN:EIO": 1, "sensor:silent": 1}
    assert samples.lost is None


def test_sampler_stops_at_a_lost_sensor():
    clock = VirtualClock()
    lost = SensorLost("gone", found="tegrastats ended")
    sampler = open_sampler(Scripted([1.0, lost]), clock, 0.5)
    sampler.start()
    clock.sleep(5.0)
    samples = sampler.stop()
    assert (len(samples.stamps_s), samples.lost) == (1, "tegrastats ended")


def test_model_follows_the_load():
    sensor = ModelSensor(2000.0, 9000.0, "test")
    assert sensor.info.basis == "estimated"
    sensor.load_changed(True)
    assert sensor.read() == ({"VDD_IN": 9000.0}, [])
    sensor.load_changed(False)
    assert sensor.read() == ({"VDD_IN": 2000.0}, [])


class Counting(Scripted):
    """Says when it has been read so many times."""

    def __init__(self, script, reads):
        super().__init__(script)
        self.left, self.enough = reads, threading.Event()

    def read(self):
        self.left -= 1
        if self.left == 0:
            self.enough.set()
        return super().read()


def test_thread_samples_on_a_grid():
    sensor = Counting([], 15)
    sampler = open_sampler(sensor, MonotonicClock(), 0.02)
    assert isinstance(sampler, ThreadSampler)
    started = time.monotonic()
    sampler.start()
    assert sensor.enough.wait(60)
    samples = sampler.stop()
    assert 15 <= len(samples.stamps_s) <= (time.monotonic() - started) / 0.02 + 2
    assert (np.diff(samples.stamps_s) > 0).all()
    assert not [t for t in threading.enumerate() if t.name == "power-sampler"]


def test_a_crash_of_the_sensor_is_not_silence():
    sensor = Counting([1.0, ZeroDivisionError()], 2)
    sampler = open_sampler(sensor, MonotonicClock(), 0.01)
    sampler.start()
    assert sensor.enough.wait(60)
    with pytest.raises(DeviceError, match="ZeroDivisionError"):
        sampler.stop()


def test_a_sensor_that_hangs_is_reported(monkeypatch):
    class Hanging(Scripted):
        def read(self):
            release.wait(60)
            return {}, []

    release = threading.Event()
    monkeypatch.setattr("deploy_jetson.device.power.sampler.STOP_TIMEOUT_S", 0.05)
    sampler = open_sampler(Hanging([]), MonotonicClock(), 0.01)
    sampler.start()
    with pytest.raises(DeviceError, match="sensor hangs"):
        sampler.stop()
    release.set()


@pytest.mark.slow
def test_sampling_at_10_hz_costs_less_than_one_percent(tmp_path):
    """All nine rails of a dev kit, processor time of the sampling thread itself."""
    iio_tree(tmp_path)
    sensor = open_iio(tmp_path)
    read, reads, enough = sensor.read, [], threading.Event()

    def counted():
        reads.append(1)
        if len(reads) == 15:
            enough.set()
        return read()

    sensor.read = counted
    sampler = open_sampler(sensor, MonotonicClock(), 0.1)
    sampler.start()
    assert enough.wait(120)
    samples = sampler.stop()
    sensor.close()
    assert samples.cpu_share < 0.01


# --- Raspberry Pi 5 ------------------------------------------------------------------------------

PMIC = """ 3V7_WL_SW_A current(0)=0.00683203A
   VDD_CORE_A current(7)=1.50000000A
   3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.80000000V
       EXT5V_V volt(24)=5.15000000V
        BATT_V volt(25)=0.00000000V
"""


@pytest.fixture
def vcgencmd(tmp_path, monkeypatch):
    def put(text, status=0):
        (tmp_path / "answer").write_text(text)
        path = tmp_path / "vcgencmd"
        path.write_text(
            f'#!/bin/sh\n[ "$1" = pmic_read_adc ] || exit 9\n/bin/cat {tmp_path}/answer\n'
            f"exit {status}\n"
        )
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_a_pi_5_has_rails_and_no_total(vcgencmd, tmp_path):
    vcgencmd(PMIC)
    sensor = open_sensor("auto", MonotonicClock(), 0.1, str(tmp_path))
    assert sensor.info.kind == "pi5-pmic"
    assert sensor.info.total is None  # the board does not measure what it draws
    assert [rail.name for rail in sensor.info.rails] == ["3V7_WL_SW", "VDD_CORE"]
    values, missing = sensor.read()
    assert values == {"3V7_WL_SW": pytest.approx(25.278511), "VDD_CORE": pytest.approx(1200.0)}
    assert missing == []
    vcgencmd(PMIC.replace("VDD_CORE_V", "OTHER_V"))
    assert sensor.read()[1] == ["VDD_CORE:missing"]
    vcgencmd("", status=1)
    with pytest.raises(SensorGap):
        sensor.read()


@pytest.mark.parametrize("text", ["", 'error=1 error_msg="Command not registered"', "\0\xff"])
def test_a_pi_without_the_converter_has_no_such_sensor(vcgencmd, tmp_path, text):
    vcgencmd(text)
    assert open_sensor("auto", MonotonicClock(), 0.1, str(tmp_path)) is None
    with pytest.raises(DeviceError, match="not here"):
        open_sensor("pi5-pmic", MonotonicClock(), 0.1, str(tmp_path))


def test_rails_of_both_orin_modules(tmp_path):
    hwmon_tree(tmp_path / "nano", [("VDD_IN", 5040, 976), ("VDD_CPU_GPU_CV", 5040, 144),
                                   ("VDD_SOC", 5040, 288)])  # fmt: skip
    nano = Ina3221Sensor("ina3221-hwmon", hwmon_channels(str(tmp_path / "nano")))
    assert nano.info.total == "VDD_IN"
    assert nano.read()[0]["VDD_IN"] == pytest.approx(4919.04)
    agx = [("VDD_GPU_SOC", 19888, 120), ("VDD_CPU_CV", 19888, 40), ("VIN_SYS_5V0", 4976, 480)]
    hwmon_tree(tmp_path / "agx", agx)
    second = [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4976, 80), ("NC", 0, 0)]
    hwmon_tree(tmp_path / "agx", second, "1-0041", 4)
    found = Ina3221Sensor("ina3221-hwmon", hwmon_channels(str(tmp_path / "agx"))).info
    assert len(found.rails) == 4
    assert found.total is None  # an AGX measures parts only: they are not added up
