"""The configuration file: what it may say, and how a mistake is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy_jetson.device.daemon import config as module
from deploy_jetson.device.daemon.config import DaemonConfigError, allowed, load_config
from deploy_jetson.device.daemon.settings import DaemonConfig, Destination
from tests.contracts.tree import ROOT
from tests.deploy_jetson.device.daemon.rig import BUNDLE

BASE = f"[daemon]\nbundle = {BUNDLE}\nstate = /tmp/state\n"


def written(tmp_path, text):
    path = tmp_path / "daemon.ini"
    path.write_text(text)
    return str(path)


def refused(tmp_path, text):
    with pytest.raises(DaemonConfigError) as caught:
        load_config(written(tmp_path, text))
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_said_is_the_default(tmp_path):
    found = load_config(written(tmp_path, BASE))
    assert found._replace(daemon=DaemonConfig().daemon) == DaemonConfig()._replace(destinations={})
    assert (found.daemon.bundle, found.daemon.state) == (BUNDLE, "/tmp/state")


def test_every_kind_of_value(tmp_path):
    text = BASE + (
        "threads = 2\n[results]\ndicom = sr, sc\n[queue]\nmax_mb = 1.5\n[rules]\nview = ap\n"
        "[dicom]\nport = 104\nallow = 10.0.0.0/8, fd00::/8\nallow_aets = CT 1,PACS\n"
        "[destination main-pacs]\nhost = pacs\naet = PACS\nkinds = sc\n"
    )
    found = load_config(written(tmp_path, text))
    assert found.daemon.threads == 2
    assert found.queue.max_mb == 1.5
    assert found.rules.view == ("AP",)
    assert found.dicom.allow == ("10.0.0.0/8", "fd00::/8")
    assert found.dicom.allow_aets == ("CT 1", "PACS")
    assert found.destinations == {"main-pacs": Destination(host="pacs", aet="PACS", kinds=("sc",))}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "nonsense = 1\n", ["line 4", "[daemon] nonsense", "Unknown key"]),
        (BASE + "[queue]\nmax_images = many\n", ["line 5", "whole number from 1", "'many'"]),
        (BASE + "[queue]\nmax_images = 0\n", ["line 5", "max_images"]),
        (BASE + "[rest]\nport = 70000\n", ["line 5", "-1 to 65535"]),
        (BASE + "[queue]\nmax_mb = nan\n", ["line 5", "max_mb"]),
        (BASE + "engine = magic\n", ["line 4", "onnxruntime"]),
        (BASE + "[nonsense]\n", ["line 4", "Unknown section", "watch"]),
        (BASE + "[destinations]\n", ["Unknown section"]),
        (BASE + "[daemon]\n", ["not INI", "line 4"]),
        (BASE + "no equals sign\n", ["not INI", "line 4"]),
        ("x = 1\n", ["not INI", "line 1"]),
        ("[daemon]\nstate = /tmp/x\n", ["bundle", "missing"]),
        ("[daemon]\nbundle = /nowhere\nstate = /tmp/x\n", ["not there", "line 2"]),
        (BASE + "[rest]\nallow = 10.0.0.1/8\n", ["line 5", "networks"]),
        (BASE + "[dicom]\naet = SEVENTEEN-LETTERS\n", ["line 5", "1 to 16"]),
        (BASE + "[rules]\nview = SIDEWAYS\n", ["line 5", "LATERAL"]),
        (BASE + "[rest]\nhost = 0.0.0.0\n", ["line 5", "token_file"]),
        (BASE + "[dicom]\nport = 104\nhost = 0.0.0.0\n", ["line 6", "allow_aets"]),
        (BASE + "[rest]\ntls_cert = a.pem\n", ["half configured"]),
        (BASE + "[watch]\nfolder = /tmp/state/in\n", ["line 5", "inside the state"]),
        (BASE + "[destination a]\nhost = h\naet = A\n", ["not made", "line 4"]),
        (BASE + "[destination a]\naet = A\n", ["host", "missing"]),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_key_and_line(tmp_path, text, words):
    message = refused(tmp_path, text)
    assert [word for word in words if word not in message] == [], message


def test_files_that_are_no_configuration(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "none", tmp_path / "binary", tmp_path):
        with pytest.raises(DaemonConfigError, match="cannot be read"):
            load_config(str(path))
    refused(tmp_path, "")


def test_every_number_has_bounds_and_every_key_is_documented():
    page = (ROOT / "docs" / "reference" / "daemon-config.md").read_text()
    parts = [part for name, part in DaemonConfig()._asdict().items() if name != "destinations"]
    for part in [*parts, Destination()]:
        for key, value in part._asdict().items():
            if isinstance(value, int | float):
                assert key in module.BOUNDS
            assert f"`{key}`" in page, key


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8",), False),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("::1", ("127.0.0.0/8", "::1/128"), True),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("nonsense", ("0.0.0.0/0",), False),
        ("10.1.2.3", (), False),
    ],
)
def test_allow_lists(address, networks, expected):
    assert allowed(address, networks) is expected


def test_the_commands_check_a_configuration(tmp_path):
    from pneumonia.cli import group, run

    good, bad = written(tmp_path, BASE), tmp_path / "bad.ini"
    bad.write_text(BASE + "nonsense = 1\n")
    assert run(group, ["daemon", "--config", good, "--check"]) == 0
    assert run(group, ["daemon", "--config", str(bad), "--check"]) == 78
    module_name = "deploy_jetson.device.daemon"
    done = subprocess.run(
        [sys.executable, "-m", module_name, "--config", str(bad)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.startswith("error: Unknown key")


def test_the_example_is_valid_and_relative_to_the_sources(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = load_config("examples/daemon.ini")
    assert Path(found.daemon.bundle).is_dir()
