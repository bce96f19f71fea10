"""Commands of the board in the C locale: names that are not ASCII, and names that are no text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.bundles import brightness_detector, write_bundle

ROOT = Path(__file__).parents[3]
PYTHONS = [
    sys.executable,
    *sorted(map(str, Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6"))),
]
# Newer Pythons take UTF-8 in the C locale by themselves; switched off, they do as 3.6 does.
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROBE = """
import os, sys
from deploy_jetson.device.utf8 import run_command

def main():
    print(sys.getfilesystemencoding().lower(), sys.argv[1:], os.path.exists(sys.argv[1]))
    print(sys.argv[1], sys.argv[2])
    with open(u"\\u00e4-written", "w"):
        pass
    return 7

if __name__ == "__main__":
    run_command("probe", main)
"""


def run(python, module, *arguments, cwd=None, path=ROOT):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    environment.update(C_LOCALE, PYTHONPATH=f"{path}:{ROOT}", PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run(
        [python, "-m", module, *arguments], cwd=cwd, env=environment, capture_output=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("python", PYTHONS, ids=[Path(python).name for python in PYTHONS])
def test_a_command_starts_again_in_utf8_and_prints_any_name(tmp_path, python):
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "Röntgen 肺").mkdir()
    done = run(python, "probe", "Röntgen 肺", b"\xff\xfe", cwd=tmp_path, path=tmp_path)
    assert done.returncode == 7, done.stderr.decode()
    assert done.stderr == b""
    first, second = done.stdout.decode().splitlines()
    assert first.startswith("utf-8 ")
    assert first.endswith(" True")
    assert second == r"Röntgen 肺 \udcff\udcfe"
    assert (tmp_path / "ä-written").exists()


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "Röntgen" / "bundle", *brightness_detector())


def test_the_daemons_configuration_may_name_any_folder(bundle, tmp_path):
    config = tmp_path / "Röntgen" / "daemon.ini"
    config.write_text(
        f"[daemon]\nbundle = {bundle}\nstate = {tmp_path}/Zustand-ä\nengine = reference\n"
        "[rest]\nport = 0\n",
        encoding="utf-8",
    )
    done = run(sys.executable, "deploy_jetson.device.daemon", "--config", str(config), "--check")
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout.decode() == f"{config}: valid\n"


@pytest.mark.parametrize("name", ["Ausgabe-ü".encode(), b"out-\xff"])
def test_a_profile_reaches_its_folder_under_any_name(bundle, tmp_path, name):
    out = os.path.join(os.fsencode(tmp_path), name)
    done = run(
        sys.executable, "deploy_jetson.device.profile", str(bundle), "--out", out,
        "--sensor", "model", "--engine", "kernels", "--modes", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    with open(os.path.join(out, b"energy.json"), encoding="utf-8") as stream:
        assert json.load(stream)["runs"]
    assert os.path.getsize(os.path.join(out, b"report.html")) > 1000
