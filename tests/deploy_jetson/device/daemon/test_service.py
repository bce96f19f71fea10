"""The daemon as a process: the shipped model, signals, the unit; nothing private in its logs."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy_jetson.device.daemon import logs
from tests.contracts.tree import ROOT
from tests.deploy_jetson.device.daemon.process import CANARY, PYTHON
from tests.deploy_jetson.device.daemon.rig import BUNDLE, OneBox, film, running, settings
from tests.support.peers import free_port, peer, run_peer
from tests.support.waiting import wait_for


def canary_film(path, **tags):
    texts = ("PatientID", "AccessionNumber", "StudyDescription", "InstitutionName", "StudyID")
    return film(path, PatientName=CANARY, **dict.fromkeys(texts, CANARY), **tags)


def test_a_life_with_the_shipped_model(tmp_path, start):
    daemon = start("[results]\ndicom = sr\n")
    assert daemon.ready_s < 10
    assert daemon.ask("GET", "/livez")[0] == 200
    answer = daemon.result(daemon.send(canary_film(tmp_path / "a.dcm").read_bytes()))
    assert answer["status"] == "done"
    assert answer["engine"] in ("tensorrt", "kernels", "onnxruntime", "reference")
    odd = [
        canary_film(tmp_path / "b.dcm", uid="2", ViewPosition="LL").read_bytes(),
        canary_film(tmp_path / "c.dcm", uid="3").read_bytes()[:-500],
        b"CANARY^PHI is no image",
        canary_film(tmp_path / "d.dcm", uid="4", Rows=None).read_bytes(),
        canary_film(tmp_path / "e.dcm", uid="CANARY^PHI").read_bytes(),
    ]
    found = [daemon.result(daemon.send(data)) for data in odd]
    assert [one["status"] for one in found[:4]] == ["skipped", "failed", "rejected", "rejected"]
    second = subprocess.run(
        [PYTHON, "-m", "deploy_jetson.device.daemon", "--config", str(tmp_path / "daemon.ini")],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=180,
    )  # fmt: skip
    assert second.returncode == 75
    metrics = daemon.ask("GET", "/metrics")[1].decode()
    jobs = daemon.ask("GET", "/v1/jobs")[1].decode()
    assert daemon.end() == 0
    for text in (daemon.log.read_text(), metrics, jobs, second.stderr):
        assert "CANARY" not in text
        assert "1.2.826.0.1.3680043.10.999" not in text  # nor a UID
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file() and path.suffix not in (".img", ".dcm"):  # those are the patient's
            assert b"CANARY^" not in path.read_bytes() or "journal" in path.name, path
    modes = {path.name: oct(path.stat().st_mode)[-3:] for path in daemon.state.iterdir()}
    assert modes["salt"] == modes["journal.sqlite"] == "600"


def test_sigterm_finishes_the_image_and_kill_loses_nothing(tmp_path, start):
    daemon = start()
    jobs = [daemon.send(film(tmp_path / "a", i, str(i)).read_bytes()) for i in range(6)]
    assert daemon.end() == 0
    assert daemon.lines()[-1]["event"] == "stopped"
    daemon = start(name="second")
    more = [daemon.send(film(tmp_path / "a", i, str(i)).read_bytes()) for i in range(6, 12)]
    daemon.process.kill()
    daemon.process.wait()
    daemon = start(name="third")
    found = [daemon.result(job) for job in jobs + more]
    assert {answer["status"] for answer in found} == {"done"}
    assert len(set(jobs + more)) == 12
    assert daemon.end() == 0


def test_a_notify_socket_hears_ready_and_the_child_does_not_inherit_it(tmp_path, start):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(60)
        daemon = start(environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"})
        assert channel.recv(200).startswith(b"READY=1")
        assert channel.recv(200) == b"WATCHDOG=1"
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
        (child,) = children.read_text().split()
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{child}/environ").read_bytes()
        assert daemon.end() == 0
        assert not Path(f"/proc/{child}").exists()


UNIT = ROOT / "deploy_jetson" / "device" / "daemon" / "pneumonia-daemon.service"


def test_the_unit_is_accepted(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (package systemd)")
    text = UNIT.read_text()
    places = {
        "@USER@": "root", "@PYTHON@": "/usr/bin/python3", "@ROOT@": "/opt/pneumonia",
        "@CONFIG@": "/etc/pneumonia/daemon.ini", "@STATE@": "/var/lib/pneumonia",
    }  # fmt: skip
    for place, value in places.items():
        assert place in text
        text = text.replace(place, value)
    assert "@" not in text
    unit = tmp_path / "pneumonia-daemon.service"
    for body, good in ((text, True), (text.replace("Type=notify", "Type=nonsense"), False)):
        unit.write_text(body)
        done = subprocess.run(
            [program, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
        )
        ours = [line for line in done.stderr.splitlines() if "pneumonia-daemon" in line]
        assert (ours == []) is good, done.stderr


def test_the_example_runs(tmp_path):
    text = (ROOT / "examples" / "daemon.ini").read_text()
    text = text.replace("runs/daemon", str(tmp_path / "state")).replace("8080", "0")
    text += "\n[disk]\nreserve_mb = 0\nmax_used_percent = 100\n"
    (tmp_path / "daemon.ini").write_text(text)
    with (tmp_path / "log").open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "pneumonia", "daemon", "--config", str(tmp_path / "daemon.ini")],
            stderr=stream, cwd=ROOT,
        )  # fmt: skip
    try:
        wait_for(lambda: '"event": "ready"' in (tmp_path / "log").read_text(), 180)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_damaged_bundle_and_a_taken_port_end_the_start(tmp_path, start):
    damaged = tmp_path / "bundle"
    shutil.copytree(BUNDLE, damaged)
    with (damaged / "weights.safetensors").open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"\xff\xff\xff\xff")
    daemon = start()
    for text, code in (
        (f"[daemon]\nbundle = {damaged}\nstate = {tmp_path}/s1\n", 4),
        (f"[daemon]\nbundle = {BUNDLE}\nstate = {tmp_path}/s3\n[rest]\n"
         f"port = {daemon.ports['rest']}\n", 78),
    ):  # fmt: skip
        (tmp_path / "other.ini").write_text(text)
        done = subprocess.run(
            [PYTHON, "-m", "deploy_jetson.device.daemon", "--config", str(tmp_path / "other.ini")],
            capture_output=True, text=True, check=False, cwd=ROOT, timeout=180,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.interop
def test_from_one_archive_to_another(tmp_path, start):
    """C-STORE in, SR, GSPS and SC out, all of it in the daemon's own process."""
    port = free_port()
    daemon = start(
        "[dicom]\nport = 0\n[results]\ndicom = sr,gsps,sc\n[retry]\nfirst_s = 0.1\n"
        f"[destination pacs]\nhost = 127.0.0.1\nport = {port}\naet = PACS\n"
    )
    sent = run_peer(
        "storescu", "-aec", "PNEUMONIA", "127.0.0.1", daemon.ports["dicom"], film(tmp_path / "a")
    )
    assert sent.returncode == 0, sent.stderr
    got = tmp_path / "got"
    got.mkdir()
    command = [peer("storescp"), "-od", str(got), "-aet", "PACS", str(port)]
    archive = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(got.iterdir())) == 3)
    finally:
        archive.kill()
        archive.wait()
    assert sorted(path.name[:2] for path in got.iterdir()) == ["PS", "SC", "SR"]
    assert daemon.end() == 0


def inner(python, files, choice, **environment):
    """Tests of this folder once more, with other versions; what they printed."""
    folder = "tests/deploy_jetson/device/daemon/"
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", choice,
         *[folder + name for name in files]],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=900,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_with_the_packages_of_the_device():
    """PNEUMONIA_OLD_PYDICOM names a venv with pydicom 2.3 and pynetdicom 1.5; see Makefile."""
    venv = os.environ.get("PNEUMONIA_OLD_PYDICOM")
    if not venv:
        pytest.skip("PNEUMONIA_OLD_PYDICOM names no environment with pydicom 2.3 (Makefile)")
    python = str(Path(venv) / "bin" / "python")
    files = ("interfaces/test_dicom.py", "test_service.py", "test_faults.py")
    # the rest reads no DICOM, and the example starts the command, which needs our own packages
    choice = "not of_the_device and not example_runs"
    inner(python, files, choice, PNEUMONIA_DAEMON_PYTHON=python)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_with_the_python_of_the_device():
    """PNEUMONIA_PYTHON36 names a Python 3.6 with the device's packages; see Makefile."""
    python = os.environ.get("PNEUMONIA_PYTHON36")
    if not python:
        pytest.skip("PNEUMONIA_PYTHON36 names no Python 3.6 with the device's packages (Makefile)")
    ask = [python, "-c", "import sys, pydicom, pynetdicom; print(*sys.version_info[:2])"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "3 6\n"
    choice = (
        "life or sigterm or hears_ready or damaged_bundle or another or hanging or gets_out"
        " or stops_while or wrong_in_the_configuration"
    )
    inner(
        sys.executable, ("test_service.py", "test_faults.py"), choice,
        PNEUMONIA_DAEMON_PYTHON=python,
    )  # fmt: skip


def test_the_engine_is_named_and_a_slow_one_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logs.LOGGER, "propagate", True)
    with running(settings(tmp_path / "a")) as rig:
        text = rig.request("GET", "/metrics")[1].decode()
        assert 'pneumonia_engine{name="one-box"} 1.0\n' in text
        assert "slow_engine" not in caplog.messages
    monkeypatch.setattr(OneBox, "name", "reference")
    with running(settings(tmp_path / "b")):
        assert "slow_engine" in caplog.messages
