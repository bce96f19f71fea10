"""Lines of tegrastats: our own of every family, and the collected ones where they are present."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_jetson.device.power.sensor import SensorGap, SensorLost, total_of
from deploy_jetson.device.power.tegrastats import TegrastatsSensor
from deploy_jetson.device.power.tegrastats_line import parse_line
from pneumonia.runtime.errors import DeviceError

TX2 = (
    "RAM 2344/7852MB (lfb 1154x4MB) SWAP 0/3926MB (cached 0MB) CPU [1%@345,off,off,7%@2035,0%@345,"
    "2%@345] EMC_FREQ 4%@1600 GR3D_FREQ 62%@624 APE 150 MTS fg 0% bg 0% PLL@37.5C MCPU@37.5C "
    "PMIC@100C GPU@35C thermal@36.5C VDD_SYS_GPU 152/160 VDD_SYS_SOC 687/680 VDD_4V0_WIFI 0/0 "
    "VDD_IN 3056/3001 VDD_SYS_CPU 152/150 VDD_SYS_DDR 883/880"
)
XAVIER = (
    "RAM 721/31927MB (lfb 7291x4MB) CPU [2%@1190,0%@1190,off,off] EMC_FREQ 0%@665 GR3D_FREQ 0%@318 "
    "GPU@37.5C CPU@37.5C thermal@36.9C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 SYS5V 1482/1482"
)
ORIN = (
    "11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) CPU [90%@2201,100%@2201] EMC_FREQ 1%@2133 "
    "GR3D_FREQ 14%@[407,405] VIC_FREQ 115 NVDLA0_FREQ @1600 NVENC off APE 174 CV0@-256C "
    "tj@77.281C/70.5C VDD_GPU_SOC 3150mW/2971mW/3999mW NC 0mW/0mW VIN_SYS_5V0 4968mW/5048mW NC "
    "0mW/0mW"
)
OLD = "RAM 3468/3983MB (lfb 48x4MB) cpu [17%,13%,29%,5%]@408 EMC 1%@408 APE 25 GR3D 3%@76"


def test_tx2_line():
    line = parse_line(TX2)
    assert line.rails["VDD_IN"] == (3056, 3001)
    assert list(line.rails) == [
        "VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR",
    ]  # fmt: skip
    assert line.cores[1] == (None, None)  # off is not 0 %
    assert line.cores[3] == (7, 2035)
    assert line.units["EMC"] == (4, 1600)
    assert line.units["GR3D"] == (62, 624)
    assert line.temperatures_c["GPU"] == 35.0
    assert line.ram_mb == (2344, 7852)
    assert line.stamp is None
    assert "RAM" not in line.rails
    assert "SWAP" not in line.rails


def test_rails_and_temperatures_of_one_name():
    line = parse_line(XAVIER)
    assert line.rails["GPU"] == (0, 0)
    assert line.temperatures_c["GPU"] == 37.5
    assert len(line.cores) == 4
    assert total_of(list(line.rails)) is None
    assert sum(now for now, _ in line.rails.values()) == 311 + 932 + 1482


def test_units_sentinels_and_unconnected_rails():
    line = parse_line(ORIN)
    assert line.rails == {"VDD_GPU_SOC": (3150, 2971), "VIN_SYS_5V0": (4968, 5048)}
    assert line.temperatures_c == {"CV0": None, "tj": 77.281}
    assert line.units["GR3D"] == (14, 407)
    assert line.units["NVDLA0"] == (None, 1600)
    assert line.stamp == "11-21-2025 08:49:48"


def test_old_line_shares_one_clock():
    line = parse_line(OLD)
    assert [core.clock_mhz for core in line.cores] == [408] * 4
    assert [core.load_percent for core in line.cores] == [17, 13, 29, 5]
    assert line.units["EMC"] == (1, 408)
    assert line.units["GR3D"] == (3, 76)
    assert line.rails == {}


def test_cut_line_drops_the_unfinished_rail():
    for end in range(TX2.index("VDD_IN"), TX2.index("VDD_IN") + len("VDD_IN 3056")):
        assert "VDD_IN" not in parse_line(TX2[:end]).rails


@given(st.text(max_size=200))
def test_garbage_is_not_a_sample(text):
    assert parse_line(text) is None or "RAM " in text


@given(st.integers(0, len(TX2)), st.text(max_size=20))
def test_any_damage_never_invents_a_rail(at, garbage):
    line = parse_line(TX2[:at] + "\n" + garbage)
    whole = parse_line(TX2)
    for name, (now, _) in line.rails.items() if line else ():
        if name in whole.rails and name not in garbage:
            assert whole.rails[name][0] == now


# --- the collected lines ---------------------------------------------------------------------

SAMPLES = Path(os.environ.get("PNEUMONIA_DATA", "../shared/data")) / "tegrastats/samples.txt"


def collected():
    """Id -> (board, line)."""
    found, head = {}, None
    for text in SAMPLES.read_text(encoding="utf-8").splitlines():
        if text.startswith("@"):
            head = [field.strip() for field in text[1:].split("|")]
        elif text.strip() and not text.startswith("#"):
            found[head[0]] = (head[1], text)
    return found


@pytest.mark.real_data
@pytest.mark.skipif(not SAMPLES.is_file(), reason=f"no {SAMPLES}")
def test_all_collected_lines():
    lines = {key: (board, parse_line(text)) for key, (board, text) in collected().items()}
    assert len(lines) == 32
    assert [key for key, (_, line) in lines.items() if line is None] == ["edge-03"]
    get = {key: line for key, (_, line) in lines.items()}
    assert get["tx2-b-04"].rails["VDD_IN"] == (9273, 9056)
    assert get["tx2-b-04"].cores[2].clock_mhz == 2036
    assert get["tx2-b-04"].stamp == "2018-08-23 16:30:36"
    assert get["tx2-c-02"].rails["VDD_SYS_DDR"] == (115, 124)
    assert get["tx2-c-04"].cores[1] == get["tx2-c-04"].cores[2] == (None, None)
    assert get["tx2-c-05"].units["GR3D"] == (0, None)
    assert get["tx2-c-08"].rails["VDD_SYS_CPU"] == (152, 438)
    assert [core.clock_mhz for core in get["tx1-a-01"].cores] == [408] * 4
    assert get["nano-d-03"].units["GR3D"] == (34, None)
    assert get["agx-e-01"].rails["GPU"] == (0, 0)
    assert get["agx-e-01"].temperatures_c["GPU"] == 37.5
    assert total_of(list(get["agx-e-01"].rails)) is None
    assert get["orin-f-01"].rails["VDD_IN"] == (5299, 5299)
    assert get["orin-g-04"].rails["VDD_GPU_SOC"][0] == 5139
    assert get["orin-g-03"].units["NVDLA0"] == (None, 1600)
    assert get["edge-01"].temperatures_c["CV0"] is None
    assert "NC" not in get["edge-01"].rails
    assert "VDD_IN" not in get["edge-02"].rails
    whole = [line for key, (board, line) in lines.items()
             if board.startswith("TX2") and key != "edge-02"]  # fmt: skip
    assert len(whole) == 13
    for line in whole:
        parts = sum(now for now, _ in line.rails.values()) - line.rails["VDD_IN"][0]
        assert 1.28 < line.rails["VDD_IN"][0] / parts < 2.14


# --- the program -----------------------------------------------------------------------------


def fake_program(tmp_path, body):
    """A `tegrastats` of a few lines of Python; it gets --interval MS like the real one."""
    path = tmp_path / "tegrastats"
    path.write_text(f"#!{sys.executable}\nimport sys, time\nstep = int(sys.argv[2]) / 1e3\n{body}")
    path.chmod(0o755)
    return (str(path),)


def test_sensor_reads_lines_as_they_come(tmp_path):
    body = (
        "print('warning: running as user', flush=True)\n"
        "for watts in (3000, 4000, 5000):\n"
        f"    print('{TX2}'.replace('3056/', '%d/' % watts), flush=True); time.sleep(0.02)\n"
    )
    # The interval bounds the wait for a line: long, or a busy machine is taken for silence.
    sensor = TegrastatsSensor(10, fake_program(tmp_path, body))
    assert sensor.info.total == "VDD_IN"
    assert sensor.paced
    readings = [sensor.read() for _ in range(2)]  # the first line told the rails
    assert [values["VDD_IN"] for values, _ in readings] == [4000.0, 5000.0]
    with pytest.raises(SensorLost, match="ended"):
        sensor.read()
    sensor.close()
    sensor.close()


def test_sensor_counts_garbage_and_lost_rails(tmp_path):
    cut = TX2[: TX2.index("VDD_IN")]
    body = f"for line in ('{TX2}', 'Hello world!', '{cut}'):\n    print(line, flush=True)\n"
    sensor = TegrastatsSensor(10, fake_program(tmp_path, body))
    with pytest.raises(SensorGap, match="not_a_sample"):
        sensor.read()
    values, faults = sensor.read()
    assert "VDD_IN" not in values
    assert faults == ["VDD_IN:missing", "VDD_SYS_CPU:missing", "VDD_SYS_DDR:missing"]
    sensor.close()


def test_sensor_that_falls_silent_is_a_gap(tmp_path):
    body = f"print('{TX2}', flush=True)\ntime.sleep(30)\n"
    sensor = TegrastatsSensor(0.05, fake_program(tmp_path, body))
    with pytest.raises(SensorGap, match="silent"):
        sensor.read()
    sensor.close()  # ends the program


def test_program_without_rails_or_missing(tmp_path):
    with pytest.raises(DeviceError, match="no power rail"):
        TegrastatsSensor(0.05, fake_program(tmp_path, f"print('{OLD}\\n' * 9)"))
    with pytest.raises(DeviceError, match=r"no power rail|ended"):
        TegrastatsSensor(0.05, fake_program(tmp_path, "sys.exit(1)"))
    with pytest.raises(DeviceError, match="not installed"):
        TegrastatsSensor(0.05, ("no-such-tegrastats",))
