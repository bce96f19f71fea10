"""2,000 images through the daemon: memory, descriptors and threads must not grow.

    python -m benchmarks.device.daemon_soak [--images 2000]          (or `make soak`)

Each image is another one (its own UID and pixels), sent by HTTP and by C-STORE in turn, an
association each, and answered in JSON and DICOM; the DICOM results go to an archive (dcmtk's
storescp, which forgets them). Sizes are of the daemon and its decoding child together. Writes
benchmarks/results/daemon_soak.json.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.device.daemon_overhead import Daemon, send_dicom
from benchmarks.reporting import RESULTS, argument_parser, environment, write_results
from tests.runtime.dicoms import chest_dataset, save

SIDE = 1024
POINTS = 20


def tree(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def state(pid: int) -> dict[str, float]:
    """Resident MB, open descriptors and threads of the tree."""
    pages = descriptors = threads = 0
    for one in tree(pid):
        pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        descriptors += len(os.listdir(f"/proc/{one}/fd"))
        threads += len(os.listdir(f"/proc/{one}/task"))
    return {
        "rss_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "descriptors": descriptors,
        "threads": threads,
    }


@contextlib.contextmanager
def archive() -> Iterator[str]:
    """Start an archive that accepts every object; returns the daemon's configuration for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with subprocess.Popen(["/usr/bin/storescp", "--ignore", "-aet", "PACS", port]) as process:
        try:
            yield f"[destination pacs]\nhost = 127.0.0.1\nport = {port}\naet = PACS\n"
        finally:
            process.kill()


def film(folder: Path, number: int) -> Path:
    """A new DICOM file with its own UID and pixels."""
    rng = np.random.default_rng(number)
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint16)
    pixels = ramp + rng.integers(0, 500, (SIDE, SIDE), dtype=np.uint16)
    uid = f"1.2.826.0.1.3680043.10.999.8.{number}"
    save(folder / "film.dcm", chest_dataset(pixels, bits=12, SOPInstanceUID=uid))
    return folder / "film.dcm"


def deliveries(daemon: Daemon) -> dict[str, int]:
    """State -> number of objects; waits until no delivery is pending."""
    head = "pneumonia_deliveries{state="
    while True:
        link = http.client.HTTPConnection("127.0.0.1", daemon.ports["rest"], timeout=60)
        with contextlib.closing(link):
            link.request("GET", "/metrics")
            lines = link.getresponse().read().decode().splitlines()
        found = [line[len(head) + 1 :].split('"} ') for line in lines if line.startswith(head)]
        states = {name: int(float(value)) for name, value in found}
        if states["pending"] == 0:
            return states
        time.sleep(0.5)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    every = max(1, options.images // POINTS)
    rows = []
    with tempfile.TemporaryDirectory() as name, archive() as destination:
        folder = Path(name)
        made = "[results]\ndicom = sr,gsps,sc\n[dicom]\nport = 0\n"
        daemon = Daemon(folder, made + destination)
        start = time.perf_counter()
        for number in range(1, options.images + 1):
            path = film(folder, number)
            if number % 2:
                assert daemon.ask("POST", "/v1/images", path.read_bytes())["status"]
            else:
                send_dicom(daemon, [path])
            if number % every == 0:
                daemon.wait(number)
                deliveries(daemon)
                journal = sum(path.stat().st_size for path in daemon.state.glob("journal.sqlite*"))
                row = {"images": number, **state(daemon.process.pid), "journal_kb": journal // 1000}
                rows.append(row)
                print(row, flush=True)
        seconds = time.perf_counter() - start
        counts = daemon.ask("GET", "/v1/jobs?limit=1")["counts"]
        delivered = deliveries(daemon)
        daemon.stop()
    settled = rows[len(rows) // 10]  # caches are warm
    result = {
        "images": options.images,
        "counts": counts,
        "deliveries": delivered,
        "images_per_s": round(options.images / seconds, 1),
        "rss_growth": round(rows[-1]["rss_mb"] / settled["rss_mb"] - 1, 4),
        "descriptors_growth": rows[-1]["descriptors"] - settled["descriptors"],
        "threads_growth": rows[-1]["threads"] - settled["threads"],
        "goal": "resident memory grows by less than 5 %, descriptors and threads not at all",
        "rows": rows,
        "engine": daemon.engine,
        **environment(),
    }
    write_results(RESULTS / "daemon_soak.json", result)
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
