"""What the daemon costs beside decoding and inference, and how long a restart takes.

    python -m benchmarks.device.daemon_overhead --images 100 \
        --out benchmarks/results/daemon_overhead.json

Overhead per image = (wall time from the first byte sent to the last answer - time of decoding in
the child - time of inference) / images. Sender, daemon and child share the processors, so the
sender's own cost counts as the daemon's, and so does moving the pixels between processes. On a busy
machine every wall time is too long; `daemon_cpu_ms_per_image` is the daemon's processor time,
inference and receiving included, decoding (in the child) not.
"""

import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.reporting import argument_parser, environment, write_results
from tests.runtime.dicoms import chest_dataset, save

ROOT = Path(__file__).parents[2]
SIDE = 1024
READY_S = 60.0


class Daemon:
    """A daemon process with the shipped model."""

    def __init__(self, folder, text):
        self.state = folder / "state"
        config = folder / "daemon.ini"
        config.write_text(
            f"[daemon]\nbundle = {ROOT / 'pneumonia' / 'models' / 'default'}\n"
            f"state = {self.state}\nthreads = 1\n[queue]\nmax_images = 10000\nmax_mb = 100000\n"
            f"[disk]\nreserve_mb = 0\nmax_used_percent = 100\n[rest]\nport = 0\n{text}"
        )
        self.log = folder / "log"
        started = time.perf_counter()
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy_jetson.device.daemon", "--config", str(config)],
                stderr=stream, cwd=ROOT,
            )  # fmt: skip
        while not self._ready():
            if self.process.poll() is not None or time.perf_counter() - started > READY_S:
                raise SystemExit(self.log.read_text())
            time.sleep(0.01)
        self.restart_s = time.perf_counter() - started

    def _ready(self):
        for line in self.log.read_text().splitlines():
            found = json.loads(line)
            if found["event"] == "ready":
                self.ports, self.engine = found["ports"], found["engine"]
                return True
        return False

    def ask(self, method, path, body=None):
        """A JSON answer."""
        link = http.client.HTTPConnection("127.0.0.1", self.ports["rest"], timeout=60)
        with contextlib.closing(link):
            link.request(method, path, body)
            return json.loads(link.getresponse().read())

    def cpu_s(self):
        """Processor seconds of the daemon itself, without the decoding child."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def answered(self):
        """Number of images that have been answered."""
        counts = self.ask("GET", "/v1/jobs?limit=1")["counts"]
        return sum(counts.values()) - counts["received"] - counts["running"]

    def wait(self, count):
        """Wait until the given number of images is answered."""
        while self.answered() < count:
            time.sleep(0.05)  # asking costs the daemon time, too

    def stop(self, how=signal.SIGTERM):
        """End the process."""
        self.process.send_signal(how)
        self.process.wait(60)


def write_films(folder, count):
    folder.mkdir()
    noise = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint16)
    paths = []
    for number in range(count):
        pixels = ramp + noise.integers(0, 500, (SIDE, SIDE), dtype=np.uint16)
        uid = f"1.2.826.0.1.3680043.10.999.7.{number}"
        paths.append(folder / f"{number}.dcm")
        save(paths[-1], chest_dataset(pixels, bits=12, SOPInstanceUID=uid))
    return paths


def send_rest(daemon, films):
    for path in films:
        assert daemon.ask("POST", "/v1/images", path.read_bytes())["status"]


def send_dicom(daemon, films):
    port = str(daemon.ports["dicom"])
    command = ["/usr/bin/storescu", "-aec", "PNEUMONIA", "127.0.0.1", port]
    subprocess.run([*command, *map(str, films)], check=True)


def overhead(way, films, text):
    """Milliseconds an image."""
    with tempfile.TemporaryDirectory() as name:
        daemon = Daemon(Path(name), text)
        way(daemon, films[:3])
        daemon.wait(3)
        start, cpu_s = time.perf_counter(), daemon.cpu_s()
        way(daemon, films[3:])
        daemon.wait(len(films))
        wall_s, cpu_s = time.perf_counter() - start, daemon.cpu_s() - cpu_s
        last = daemon.ask("GET", "/v1/jobs?limit=500&status=done")["jobs"][: len(films) - 3]
        made = [daemon.ask("GET", f"/v1/jobs/{job['job']}/result") for job in last]
        daemon.stop()
    work_ms = sum(one["decode_ms"] + one["inference_ms"] for one in made)
    return {
        "engine": daemon.engine,
        "images": len(made),
        "wall_ms_per_image": round(1e3 * wall_s / len(made), 2),
        "decode_ms": round(statistics.median(one["decode_ms"] for one in made), 2),
        "inference_ms": round(statistics.median(one["inference_ms"] for one in made), 2),
        "daemon_cpu_ms_per_image": round(1e3 * cpu_s / len(made), 2),
        "overhead_ms_per_image": round((1e3 * wall_s - work_ms) / len(made), 2),
    }


def restart(films):
    """Seconds from exec to ready after kill -9 with images waiting."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(3):
            daemon = Daemon(Path(name), "")
            found.append(round(daemon.restart_s, 2))
            send_rest(daemon, films[number * 20 : number * 20 + 20])
            daemon.stop(signal.SIGKILL)
    return found


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        films = write_films(Path(name) / "films", max(options.images, 60) + 3)
        result = {
            **environment(),
            "cpus": len(os.sched_getaffinity(0)),
            "film": f"{SIDE} x {SIDE}, 12 bits, uncompressed",
            "rest_json": overhead(send_rest, films, ""),
            "rest_json_sr_gsps_sc": overhead(send_rest, films, "[results]\ndicom = sr,gsps,sc\n"),
            "dicom_json": overhead(send_dicom, films, "[dicom]\nport = 0\n"),
            "restart_to_ready_s": restart(films),
        }
    print(json.dumps(result, indent=1))
    if options.out:
        write_results(options.out, result)


if __name__ == "__main__":
    main()
