"""The daemon in a process of its own."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.contracts.tree import ROOT
from tests.deploy_jetson.device.daemon.rig import BUNDLE
from tests.support.waiting import wait_for

CANARY = "CANARY^PHI"
PYTHON = os.environ.get("PNEUMONIA_DAEMON_PYTHON", sys.executable)


def processor_s(pid):
    """Processor time of a process, of all its threads and children so far."""
    total = 0.0
    for one in [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]:
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")
    return total


class Process:
    """A daemon in a process of its own."""

    def __init__(self, tmp_path, text="", name="daemon", environment=None):
        self.state = tmp_path / "state"
        config = tmp_path / (name + ".ini")
        config.write_text(
            f"[daemon]\nbundle = {BUNDLE}\nstate = {self.state}\nthreads = 1\n"
            f"[disk]\nreserve_mb = 0\nmax_used_percent = 100\n[rest]\nport = 0\n{text}"
        )
        self.log = tmp_path / (name + ".log")
        started = time.monotonic()
        hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's way would be inherited
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "deploy_jetson.device.daemon", "--config", str(config)],
                stderr=stream, cwd=ROOT, env={**os.environ, **(environment or {})},
            )  # fmt: skip
        signal.signal(signal.SIGHUP, hang_up)
        self.ports = wait_for(self._ready, 180)
        # of a machine that does other things, too, the processor's time is what is ours
        self.ready_s = min(time.monotonic() - started, processor_s(self.process.pid))

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def _ready(self):
        assert self.process.poll() is None, self.log.read_text()
        found = [line for line in self.lines() if line["event"] == "ready"]
        return found[0]["ports"] if found else None

    def ask(self, method, path, body=None):
        link = http.client.HTTPConnection("127.0.0.1", self.ports["rest"], timeout=60)
        with contextlib.closing(link):
            link.request(method, path, body)
            answer = link.getresponse()
            return answer.status, answer.read()

    def send(self, data):
        return json.loads(self.ask("POST", "/v1/images", data)[1])["job"]

    def result(self, job):
        def ask():
            status, body = self.ask("GET", f"/v1/jobs/{job}/result")
            return json.loads(body) if status == 200 else None

        return wait_for(ask)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
