"""A batch against the slower of decoding alone and detecting alone, and its memory.

    python -m benchmarks.scoring_throughput [--images 1000] [--rounds 3] [--jobs 1]

Wants two free cores: one child decodes, this process detects. Rounds of the three are interleaved.
Writes benchmarks/results/scoring_throughput.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

from benchmarks.scoring_studies import write_dicoms
from pneumonia.runtime.bundle import load_bundle
from pneumonia.runtime.detector import Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.scoring.batch import ScoreSettings, score_batch
from pneumonia.scoring.decoding import DecodeLimits, DecodeWorker

RESULTS = Path(__file__).parent / "results"
BUNDLE = Path(__file__).parents[1] / "pneumonia" / "models" / "default"


def open_detector() -> Detector:
    bundle = load_bundle(str(BUNDLE))
    return Detector(bundle, open_engine(bundle, "onnxruntime", threads=1))


def decode_alone(paths: list[Path], jobs: int) -> float:
    """Seconds to decode all, with as many children as the batch has."""

    def run(share: list[Path], worker: DecodeWorker) -> None:
        for path in share:
            assert worker.decode(str(path)).status == "read"

    workers = [DecodeWorker(DecodeLimits()) for _ in range(jobs)]
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
    with DecodeWorker(DecodeLimits()) as worker:
        images = [worker.decode(str(path)).pixels for path in paths[:8]]
    detector.detect(images[0], "warm")
    start = time.perf_counter()
    for number in range(len(paths)):
        detector.detect(images[number % len(images)], "image")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    detector = open_detector()
    rates: dict[str, list[float]] = {"decode_alone": [], "detect_alone": [], "batch": []}
    ratios, curves = [], []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        paths = write_dicoms(root / "in", options.images)
        for turn in range(options.rounds):
            memory = Memory()
            settings = ScoreSettings(jobs=options.jobs)
            seconds = {
                "decode_alone": decode_alone(paths, options.jobs),
                "detect_alone": detect_alone(detector, paths),
            }
            start = time.perf_counter()
            score_batch(root / "in", root / f"out{turn}", detector, settings, memory.note)
            seconds["batch"] = time.perf_counter() - start
            for kind, value in seconds.items():
                rates[kind].append(options.images / value)
            slower = max(seconds["decode_alone"], seconds["detect_alone"])
            ratios.append(slower / seconds["batch"])
            curves.append(memory.mb)
    result = {
        "images": options.images,
        "jobs": options.jobs,
        "cores": len(os.sched_getaffinity(0)),
        "images_per_s": {kind: round(statistics.median(v), 1) for kind, v in rates.items()},
        "batch_over_slower_part": round(statistics.median(ratios), 3),
        "rounds": [round(ratio, 3) for ratio in ratios],
        "goal": ">= 0.90, memory flat",
        "rss_mb_at_each_tenth": curves[-1],
        "rss_growth_after_first_tenth": round(curves[-1][-1] / curves[-1][1] - 1, 4),
        "versions": {
            package: metadata.version(package)
            for package in ("numpy", "onnxruntime", "pillow", "pydicom")
        },
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scoring_throughput.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
