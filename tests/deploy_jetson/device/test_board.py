"""What the board says of itself, on trees that are not there and programs that pretend."""

import os

import pytest

from deploy_jetson.device.board import (
    BoardSnapshot,
    ClockState,
    CpuTimes,
    ThermalZone,
    clocks_lowered_by_governor,
    cpu_times,
    describe_board,
    is_tx2,
    power_mode,
    set_power_mode,
    take_snapshot,
    throttling_reasons,
)
from pneumonia.runtime.errors import DeviceError
from tests.deploy_jetson.device.trees import NVPMODEL, tx2_board, write


def test_snapshot_of_a_tx2(tmp_path):
    tx2_board(tmp_path, gpu=(850000000, 1300500000))
    found = take_snapshot(str(tmp_path))
    assert found.clocks["gpu"] == ClockState(850.0, 1300.5, "nvhost_podgov")
    assert found.clocks["cpu3"] == ClockState(2035.2, 2035.2, "schedutil")
    assert found.zones["BCPU-therm"] == ThermalZone(41.0, 95.5)
    assert "PMIC-Die" not in found.zones  # a constant, not a temperature
    assert found.hottest_c == 41.0
    assert found.record()["clocks"]["gpu"]["cap_mhz"] == 1300.5


def test_an_empty_machine_has_an_empty_snapshot(tmp_path):
    assert take_snapshot(str(tmp_path)) == BoardSnapshot({}, {})
    assert take_snapshot(str(tmp_path)).hottest_c is None
    assert cpu_times(str(tmp_path)) is None
    assert not is_tx2(str(tmp_path))


def test_performance_limited_by_clock_or_heat():
    clocks = {
        "gpu": ClockState(1300.0, 1300.5, None),
        "cpu0": ClockState(345.6, 2035.2, None),
        "cpu3": ClockState(2030.0, 2035.2, None),
    }
    cool = {"GPU-therm": ThermalZone(60.0, 95.5)}
    assert throttling_reasons(BoardSnapshot(clocks, cool), ("gpu",)) == []
    # The load runs on one core; the others may sleep.
    assert throttling_reasons(BoardSnapshot(clocks, cool), ("cpu",)) == []
    slow = dict(clocks, gpu=ClockState(1122.0, 1300.5, None))
    assert throttling_reasons(BoardSnapshot(slow, cool), ("gpu",)) == [
        "gpu at 1122 MHz, cap 1300 MHz"
    ]
    assert throttling_reasons(BoardSnapshot(slow, cool), ("cpu",)) == []
    for governor in ("nvhost_podgov", "schedutil"):  # waits for the load; nothing holds it back
        idle = {"gpu": ClockState(1122.0, 1300.5, governor)}
        assert throttling_reasons(BoardSnapshot(idle, cool), ("gpu",)) == []
        assert clocks_lowered_by_governor(BoardSnapshot(idle, cool), ("gpu",)) == [
            f"gpu at 1122 MHz, cap 1300 MHz, {governor}"
        ]
    assert clocks_lowered_by_governor(BoardSnapshot(slow, cool), ("gpu",)) == []
    hot = {"GPU-therm": ThermalZone(90.6, 95.5), "odd": ThermalZone(99.0, None)}
    assert throttling_reasons(BoardSnapshot(clocks, hot), ("gpu",)) == [
        "GPU-therm at 90.6 C, trip 95.5 C"
    ]
    assert throttling_reasons(BoardSnapshot({}, {}), ("gpu", "cpu")) == []


def test_identity(tmp_path):
    tx2_board(tmp_path)
    assert is_tx2(str(tmp_path))
    found = describe_board(str(tmp_path))
    assert found["model"] == "quill"
    assert found["l4t"].startswith("# R32 (release), REVISION: 7.1")
    assert found["tx2"] is True
    text = str(found)
    assert os.uname().nodename not in text or os.uname().nodename in ("quill", "")


def test_cpu_times_count_busy_fields_only(tmp_path):
    write(tmp_path / "proc/stat", "cpu  100 20 50 1000 5 1 1 7 0 0")
    found = cpu_times(str(tmp_path))
    assert found.machine_s == pytest.approx(172 / os.sysconf("SC_CLK_TCK"))
    assert found.own_s > 0
    assert isinstance(found, CpuTimes)
    write(tmp_path / "proc/stat", "garbage")
    assert cpu_times(str(tmp_path)) is None


@pytest.fixture
def nvpmodel(tmp_path, monkeypatch):
    """Puts an nvpmodel on PATH; call it with whether switching works."""

    def make(works=True):
        state = tmp_path / "state"
        state.write_text("3")
        path = tmp_path / "nvpmodel"
        path.write_text(NVPMODEL.format(state=state, works=int(works)))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return state

    return make


def test_power_mode_is_read_and_set(nvpmodel):
    state = nvpmodel()
    assert power_mode() == (3, "MAXP_CORE_ARM")
    assert set_power_mode(1) == (1, "MAXQ")
    assert state.read_text() == "1"
    assert set_power_mode(1) == (1, "MAXQ")


def test_mode_that_is_not_taken(nvpmodel):
    nvpmodel(works=False)
    with pytest.raises(DeviceError, match="not taken; expected 0; found 3"):
        set_power_mode(0)


def test_no_nvpmodel(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode() is None
    with pytest.raises(DeviceError, match="cannot be set here"):
        set_power_mode(0)


def test_a_good_answer_counts_whatever_the_exit_status(nvpmodel, tmp_path):
    nvpmodel()
    path = tmp_path / "nvpmodel"
    path.write_text(path.read_text() + "exit 255\n")
    assert power_mode() == (3, "MAXP_CORE_ARM")


def test_program_that_prints_garbage(tmp_path, monkeypatch):
    path = tmp_path / "nvpmodel"
    path.write_text("#!/bin/sh\nprintf '\\377\\376 nothing'\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert power_mode() is None
