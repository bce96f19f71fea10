"""Time of `pneumonia data import-rsna`: the first run, and the second, which must do nothing.

    python benchmarks/images/import_speed.py SOURCE [--out runs/import_speed]

SOURCE is an RSNA folder (Kaggle layout, or csv + PNG/JPEG).
Writes benchmarks/results/import_speed.json.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--out", default="runs/import_speed")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    command = [
        sys.executable, "-m", "pneumonia", "data", "import-rsna", options.source,
        "--out", options.out,
    ]  # fmt: skip
    first, second = timed(command), timed(command)
    from data_prep.dataset.reader import open_dataset

    images = len(open_dataset(options.out))
    result = {
        "images": images,
        "first_run_s": round(first, 1),
        "images_per_s": round(images / first, 1),
        "second_run_s": round(second, 2),
        "goal": "9,000 images in <= 180 s on 2 cores; the second run in seconds",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "import_speed.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
