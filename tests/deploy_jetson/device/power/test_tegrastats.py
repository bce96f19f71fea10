"""Lines of tegrastats: our own of every family, and the collected ones where they are present."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_jetson.device.power.sensor import SensorGap, SensorLost, total_of
from deploy_jetson.device.power.tegrastats import TegrastatsSensor, parse_rails
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
    assert parse_rails(TX2) == {
        "VDD_SYS_GPU": 152, "VDD_SYS_SOC": 687, "VDD_4V0_WIFI": 0, "VDD_IN": 3056,
        "VDD_SYS_CPU": 152, "VDD_SYS_DDR": 883,
    }  # fmt: skip


def test_rails_and_temperatures_of_one_name():
    rails = parse_rails(XAVIER)
    assert rails["GPU"] == 0
    assert total_of(list(rails)) is None
    assert sum(rails.values()) == 311 + 932 + 1482


def test_units_and_unconnected_rails():
    assert parse_rails(ORIN) == {"VDD_GPU_SOC": 3150, "VIN_SYS_5V0": 4968}


def test_a_line_without_rails():
    assert parse_rails(OLD) == {}


def test_cut_line_drops_the_unfinished_rail():
    for end in range(TX2.index("VDD_IN"), TX2.index("VDD_IN") + len("VDD_IN 3056")):
        assert "VDD_IN" not in parse_rails(TX2[:end])


@given(st.text(max_size=200))
def test_garbage_is_not_a_sample(text):
    assert parse_rails(text) is None or "RAM " in text


@given(st.integers(0, len(TX2)), st.text(max_size=20))
def test_any_damage_never_invents_a_rail(at, garbage):
    rails = parse_rails(TX2[:at] + "\n" + garbage)
    whole = parse_rails(TX2)
    for name, now in (rails or {}).items():
        if name in whole and name not in garbage:
            assert whole[name] == now


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
    lines = {key: (board, parse_rails(text)) for key, (board, text) in collected().items()}
    assert len(lines) == 32
    assert [key for key, (_, rails) in lines.items() if rails is None] == ["edge-03"]
    get = {key: rails for key, (_, rails) in lines.items()}
    assert get["tx2-b-04"]["VDD_IN"] == 9273
    assert get["tx2-c-02"]["VDD_SYS_DDR"] == 115
    assert get["tx2-c-08"]["VDD_SYS_CPU"] == 152
    assert get["agx-e-01"]["GPU"] == 0
    assert total_of(list(get["agx-e-01"])) is None
    assert get["orin-f-01"]["VDD_IN"] == 5299
    assert get["orin-g-04"]["VDD_GPU_SOC"] == 5139
    assert "NC" not in get["edge-01"]
    assert "VDD_IN" not in get["edge-02"]
    whole = [rails for key, (board, rails) in lines.items()
             if board.startswith("TX2") and key != "edge-02"]  # fmt: skip
    assert len(whole) == 13
    for rails in whole:
        parts = sum(rails.values()) - rails["VDD_IN"]
        assert 1.28 < rails["VDD_IN"] / parts < 2.14


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
