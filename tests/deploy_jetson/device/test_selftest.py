"""The board's self-test: what it finds, how it ends, and what it must not tell."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.device import __main__ as commands
from deploy_jetson.device import selftest as selftest_module
from deploy_jetson.device.selftest import anonymous, check_sensor, identifiers, main
from pneumonia.runtime.engines.onnx import OnnxEngine
from pneumonia.runtime.errors import DeviceError
from tests.deploy_jetson.device.trees import iio_tree
from tests.runtime.bundles import brightness_detector, write_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "alice" / "bundle", *brightness_detector())


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A profile takes minutes: what it writes is the profiler's own business."""
    seen = []

    def profile(request):
        seen.append(request)
        Path(request.out).mkdir(parents=True)
        return {"runs": [{"folder": "onnxruntime", "figures": {"flags": []}}]}

    monkeypatch.setattr(selftest_module, "profile", profile)
    monkeypatch.setattr(selftest_module, "verify", lambda folder: 1)
    monkeypatch.setattr(selftest_module, "READING_S", 0.0)
    monkeypatch.setattr(selftest_module, "CONFIG", "/nowhere/daemon.ini")
    return seen


def document(folder):
    return json.loads((folder / "selftest.json").read_text())


def test_what_is_here_works_and_what_is_not_is_skipped(bundle, tmp_path, capsys, no_waiting):
    out = tmp_path / "out"
    assert main([str(bundle), "--out", str(out), "--quick"]) == 0
    found = document(out)
    status = {check["name"]: check["status"] for check in found["checks"]}
    assert status["engine onnxruntime"] == "ok"
    assert status["engine tensorrt"] == status["engine kernels"] == status["daemon"] == "skipped"
    assert status["profile"] == "ok"
    assert found["schema"] == "pneumonia.selftest/1"
    assert found["versions"]["numpy"] == np.__version__
    assert "Not a medical device" in found["disclaimer"]
    assert no_waiting[0].settings.window_s < 60
    shown = capsys.readouterr().out
    assert "all that is here works" in shown
    assert main([str(bundle), "--out", str(out)]) == 5  # never into an old folder
    assert main([str(bundle), "--out", str(tmp_path / "full")]) == 0
    assert no_waiting[-1].settings.window_s == 60


def test_an_engine_that_computes_wrong_fails_the_test(bundle, tmp_path, capsys, monkeypatch):
    run = OnnxEngine.run
    monkeypatch.setattr(
        OnnxEngine, "run", lambda self, batch: {k: v * 1.01 for k, v in run(self, batch).items()}
    )
    assert main([str(bundle), "--out", str(tmp_path / "out"), "--quick"]) == 10
    assert "failed: engine onnxruntime" in capsys.readouterr().out
    checks = {check["name"]: check for check in document(tmp_path / "out")["checks"]}
    assert "another answer" in checks["engine onnxruntime"]["detail"]["reason"]
    assert checks["profile"]["status"] == "ok"  # the others still ran


def test_a_board_on_which_no_engine_runs_has_failed(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(selftest_module, "TESTED_ENGINES", ("tensorrt", "kernels"))
    assert main([str(bundle), "--out", str(tmp_path / "out"), "--quick"]) == 10
    assert "no engine runs" in capsys.readouterr().out


def test_a_crash_of_a_check_is_its_result(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(selftest_module, "verify", lambda folder: 1 / 0)
    assert main([str(bundle), "--out", str(tmp_path / "out"), "--quick"]) == 10
    checks = {check["name"]: check for check in document(tmp_path / "out")["checks"]}
    assert checks["profile"]["detail"]["reason"].startswith("ZeroDivisionError")


def test_nothing_tells_whose_board_it_is(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/bob")
    assert main([str(bundle), "--out", str(tmp_path / "out"), "--quick"]) == 0
    text = (tmp_path / "out" / "selftest.json").read_text()
    node = os.uname().nodename
    for secret in ("alice", "/home/bob", str(tmp_path), *([node] if len(node) > 3 else [])):
        assert secret not in text
    hidden = anonymous({"a": [f"x 1421318012345 /home/{'carol'}/y", 1.5]}, ["1421318012345"])
    assert hidden == {"a": ["x (removed) /home/(removed)/y", 1.5]}


def test_serial_numbers_and_addresses_are_known(tmp_path):
    for name, text in (
        ("proc/device-tree/serial-number", "1421318012345\0"), ("etc/machine-id", "abcd" * 8),
        ("sys/class/net/wlan0/address", "dc:a6:32:01:02:03"),
        ("sys/class/net/lo/address", "00:00:00:00:00:00"),
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = identifiers([], str(tmp_path))
    assert {"1421318012345", "abcd" * 8, "dc:a6:32:01:02:03"} <= set(found)
    assert "00:00:00:00:00:00" not in found


def test_a_sensor_shows_its_rails(tmp_path):
    iio_tree(tmp_path)
    found = check_sensor("ina3221-iio", str(tmp_path))
    assert found["total"] == "VDD_IN"
    assert found["rails"]["VDD_IN"]["count"] == 20
    with pytest.raises(DeviceError, match="not here"):
        check_sensor("ina3221-hwmon", str(tmp_path))


def test_commands_of_the_board(bundle, tmp_path, capsys, monkeypatch):
    assert commands.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("selftest", "engine", "profile", "daemon"))
    assert commands.main(["nonsense"]) == commands.main([]) == 2
    capsys.readouterr()
    assert commands.main(["selftest", "--out", str(tmp_path / "none")]) == 2
    assert "No bundle" in capsys.readouterr().err
    monkeypatch.setenv("PNEUMONIA_BUNDLE", str(bundle))
    assert commands.main(["selftest", "--quick", "--out", str(tmp_path / "out")]) == 0
    for name in ("engine", "profile", "daemon", "selftest"):
        with pytest.raises(SystemExit) as end:
            commands.main([name, "--help"])
        assert end.value.code == 0
