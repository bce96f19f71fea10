"""Ctrl-C as a terminal sends it: to the command and to its worker processes.

Spans: pneumonia.training, pneumonia.cli.training.train.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

RECIPE = {
    "model": {"name": "yolov3-tiny", "width": 0.0625, "size": 64},
    "epochs": 400,  # longer than the test
    "batch_size": 8,
    "workers": 1,
    "device": "cpu",
}


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_leaves_a_run_that_resumes(rectangles_path: Path, tmp_path: Path):
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(RECIPE))
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "pneumonia", "train", "--data", str(rectangles_path),
        "--recipe", str(tmp_path / "long.yaml"), "--out", str(out),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A shell starts its background jobs with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not (out / "last" / "state.json").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)
    assert not list(out.rglob(".part*"))
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    done = json.loads((out / "last" / "state.json").read_text())["epoch"]
    resumed = subprocess.run(
        [*command, "--set", f"epochs={done + 1}", "--resume"],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((out / "last" / "state.json").read_text())["epoch"] == done + 1
