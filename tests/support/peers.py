"""Programs of others that judge our outputs; a test that needs one skips with a printed reason."""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

# what the package lists call them, for the message and for .ci/run
PEERS = {
    "dciodvfy": "dicom3tools",
    "dcentvfy": "dicom3tools",
    "dsrdump": "dcmtk",
    "dcmpschk": "dcmtk",
    "dcmp2pgm": "dcmtk",
    "dcmj2pnm": "dcmtk",
    "storescu": "dcmtk",
    "storescp": "dcmtk",
    "echoscu": "dcmtk",
    "Orthanc": "orthanc",
    "chromium": "chromium",
    "pdftotext": "poppler-utils",
    "pdfimages": "poppler-utils",
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}


def find_peer(name):
    """Path of a program; a virtual environment's own `storescu` (pynetdicom) is not the peer."""
    folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", *os.get_exec_path()]
    return shutil.which(name, path=os.pathsep.join(folders))


def peer(name):
    """Path of a program, or a skip that says which package has it."""
    path = find_peer(name)
    if path is None:
        pytest.skip(f"{name} is not installed (package {PEERS[name]})")
    return path


def run_peer(name, *arguments, timeout=180):
    """Run a program; returns the finished process with text output."""
    return subprocess.run(
        [peer(name), *map(str, arguments)],
        capture_output=True,
        timeout=timeout,
        check=False,
        encoding="utf-8",
        errors="replace",
    )


_claims = []


def free_port():
    """A TCP port of loopback for a server that is started later; no test gets it twice.

    It lies below the ports that the kernel gives to outgoing connections. A UDP socket of the same
    number, kept until the process ends, claims it among the test processes of this machine.
    """
    for port in itertools.chain(range(_first_port(), 32000), range(10000, 32000)):
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), socket.socket() as probe:
            claim.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            _claims.append(claim)
            return port
        claim.close()
    raise AssertionError("no port is free")


def _first_port():
    return 10000 + os.getpid() * 37 % 20000


@dataclass
class Orthanc:
    """A running Orthanc on loopback."""

    http_port: int
    dicom_port: int
    has_dicomweb: bool = False

    def request(self, path, data=None, method=None, headers=None):
        url = f"http://127.0.0.1:{self.http_port}{path}"
        request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return answer.read()

    def get(self, path):
        return json.loads(self.request(path))

    def post(self, path, data):
        return json.loads(self.request(path, data=data, method="POST"))

    def store(self, *files):
        """C-STORE by dcmtk's storescu."""
        return run_peer("storescu", "-aec", "ORTHANC", "127.0.0.1", self.dicom_port, *files)


@contextlib.contextmanager
def running_orthanc(folder, **options):
    """Start Orthanc with its own storage on free ports; it is gone afterwards."""
    program = peer("Orthanc")
    folder = Path(folder)
    http_port, dicom_port = free_port(), free_port()
    plugins = [
        str(path)
        for place in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")
        for path in sorted(Path(place).glob("libOrthancDicomWeb.so*"))
    ][:1]  # twice the same plugin is an error
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": plugins,
        "DicomWeb": {"Enable": True},
        **options,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder
        )
        try:
            server = Orthanc(http_port, dicom_port, bool(plugins))
            _wait_until_up(server, process, folder / "orthanc.log")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(server, process, log, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            server.get("/system")
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("Orthanc does not answer")
