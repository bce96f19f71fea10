"""A batch against the slower of decoding alone and detecting alone, and its memory.

    python -m benchmarks.scoring.throughput [--images 1000] [--rounds 3] [--jobs 1] [--bundle B ...]
    python -m benchmarks.scoring.throughput --wait-ms 250 --images 1000 --rounds 1

Wants two free cores: one child decodes, this process detects with one thread and writes. Rounds of
the three are interleaved. However well the parts overlap, a batch cannot take less time than its
processor time over the cores: that bound stands beside the result. With `--no-pictures` the batch
writes its tables only. Writes benchmarks/results/scoring_throughput.json, or
scoring_throughput_without_pictures.json, one entry per bundle.

With `--wait-ms`, decoding and detecting each wait that long per image on top of their work, as they
do for a network drive and an accelerator. The processor is then not the limit, so the result shows
how well the parts overlap. Writes benchmarks/results/scoring_overlap.json.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import RESULTS, argument_parser, environment, processor_s, publish
from benchmarks.scoring.slow_worker import WAIT
from benchmarks.scoring.studies import write_dicoms
from pneumonia.runtime.child import ChildLimits, DecodingChild
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.storage.bundle import load_bundle
from pneumonia.scoring.batch.run import ScoreSettings, score_batch
from pneumonia.scoring.outputs import OutputSettings

BUNDLE = Path(__file__).parents[2] / "pneumonia" / "models" / "default"


class WaitingEngine(Engine):
    """An engine that waits before each run."""

    def __init__(self, inner: Engine, seconds: float) -> None:
        super().__init__(inner.spec)
        self.name = inner.name
        self._inner, self._seconds = inner, seconds

    def _run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(self._seconds)
        return self._inner.run(batch)


def open_detector(folder: Path, wait_ms: float) -> Detector:
    bundle = load_bundle(str(folder))
    engine = open_engine(bundle, "auto", threads=1)
    return Detector(bundle, WaitingEngine(engine, wait_ms / 1000) if wait_ms else engine)


def decode_limits(wait_ms: float) -> ChildLimits:
    """Limits of the decoding child, which waits `wait_ms` for every file."""
    if not wait_ms:
        return ChildLimits()
    os.environ[WAIT] = str(wait_ms)
    return ChildLimits(command=(sys.executable, "-m", "benchmarks.scoring.slow_worker"))


def decode_alone(paths: list[Path], jobs: int, limits: ChildLimits) -> float:
    """Seconds to decode all, with as many children as the batch has."""

    def run(share: list[Path], worker: DecodingChild) -> None:
        for path in share:
            assert worker.decode(str(path)).status == "read"

    workers = [DecodingChild(limits) for _ in range(jobs)]
    for worker in workers:
        worker.decode(str(paths[0]))  # started and warm
    threads = [
        threading.Thread(target=run, args=(paths[n::jobs], worker))
        for n, worker in enumerate(workers)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.close()
    return seconds


def detect_alone(detector: Detector, paths: list[Path]) -> float:
    """Seconds to detect in as many decoded images, of which a few are held in memory."""
    with DecodingChild(ChildLimits()) as worker:
        images = [worker.decode(str(path)).pixels for path in paths[:8]]
    detector.predict(images[0], "warm")
    start = time.perf_counter()
    for number in range(len(paths)):
        detector.predict(images[number % len(images)], "image")
    return time.perf_counter() - start


def tree_rss_mb() -> float:
    """Resident memory of this process and its children, MB."""
    total = 0
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    for pid in [str(me), *children]:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


class Memory:
    """Resident memory at each tenth of a batch."""

    def __init__(self) -> None:
        self.mb: list[float] = []

    def note(self, done: int, total: int, note: str) -> None:
        """Called after each image."""
        if done * 10 // total > len(self.mb) - 1:
            self.mb.append(round(tree_rss_mb(), 1))


def measure(folder: Path, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """All rounds with one model."""
    detector = open_detector(folder, options.wait_ms)
    limits = decode_limits(options.wait_ms)
    paths = sorted((root / "in").iterdir())
    rates: dict[str, list[float]] = {"decode_alone": [], "detect_alone": [], "batch": []}
    ratios, bounds = [], []
    cores = len(os.sched_getaffinity(0))
    for turn in range(options.rounds):
        memory = Memory()
        seconds = {
            "decode_alone": decode_alone(paths, options.jobs, limits),
            "detect_alone": detect_alone(detector, paths),
        }
        start, cpu = time.perf_counter(), processor_s()
        out = root / f"out-{detector.bundle.model_hash[:8]}-{turn}"
        settings = ScoreSettings(jobs=options.jobs, limits=limits)
        if options.no_pictures:
            settings = replace(settings, overlays="none", outputs=OutputSettings(report=False))
        summary = score_batch(root / "in", out, detector, settings, memory.note)
        seconds["batch"] = time.perf_counter() - start
        for kind, value in seconds.items():
            rates[kind].append(len(paths) / value)
        slower = max(seconds["decode_alone"], seconds["detect_alone"])
        ratios.append(slower / seconds["batch"])
        bounds.append(min(1.0, slower / ((processor_s() - cpu) / cores)))
        flags = summary.document["totals"]["flags"]
    return {
        "model": f"{detector.bundle.model_name} {detector.bundle.model_hash[:12]}",
        "engine": detector.engine.name,
        "images": len(paths),
        "positive": flags["positive"],
        "jobs": options.jobs,
        "pictures": not options.no_pictures,
        "wait_ms": options.wait_ms,
        "cores": cores,
        "images_per_s": {kind: round(statistics.median(v), 1) for kind, v in rates.items()},
        "batch_over_slower_part": round(statistics.median(ratios), 3),
        "bound_by_processor_time": round(statistics.median(bounds), 3),
        "rounds": [round(ratio, 3) for ratio in ratios],
        "rss_mb_at_each_tenth": memory.mb,
        "rss_growth_after_first_tenth": round(memory.mb[-1] / memory.mb[1] - 1, 4),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--wait-ms", type=float, default=0.0)
    parser.add_argument("--bundle", type=Path, nargs="+", default=[BUNDLE])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_dicoms(Path(name) / "in", options.images)
        found = [measure(folder, options, Path(name)) for folder in options.bundle]
    result = {
        "goal": "batch_over_slower_part >= 0.90, memory flat",
        "folder": tempfile.gettempdir(),
        "models": found,
        **environment("numpy", "onnxruntime", "pillow", "pydicom"),
    }
    name = "overlap" if options.wait_ms else "throughput"
    name = f"scoring_{name}{'_without_pictures' if options.no_pictures else ''}.json"
    publish(RESULTS / name, result)


if __name__ == "__main__":
    main()
