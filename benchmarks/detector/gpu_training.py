"""The paper's own size on one GPU: YOLOv3 of width 1 at 416 px, dense and 36x, in minutes.

    python -m benchmarks.detector.gpu_training pack --source ../shared/data/rsna --out gpu-data
    python -m benchmarks.detector.gpu_training run gpu-data --out runs/gpu --minutes 12

`pack` makes a folder of radiographs small enough to travel (JPEG at network size, at most --mib):
all validation images, then all positives, negatives that are not normal, and normal ones as far as
they fit. `run` needs nothing but that folder and the project: it imports it, measures the speed of
training, chooses epochs so that everything ends in time, trains, prunes step by step, exports and
writes OUT/summary.json and OUT/back/, files of at most 16 MiB: the 36x bundle, validation
predictions and histories (the dense weights, 123 MB in float16, stay behind).

Try it without a GPU: `run ... --width 0.0625 --size 96 --minutes 2 --device cpu`.
"""

import argparse
import csv
import json
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.detector.training import kept_weights, perform, prune_step, settings
from benchmarks.reporting import argument_parser, write_results

CSV_FILES = ("labels.csv", "class_info.csv")
RATES = (4, 9, 18, 36)
SHARES = {"dense": 0.45, "pruning": 0.40}  # of the minutes; the rest imports, validates, exports
TEACHER_COST = 1.5  # of an image that a teacher sees as well
ADMM_EPOCHS = 3
MAX_FILE_BYTES = 16 << 20


def pack(source: Path, out: Path, size: int, quality: int, mib: float) -> dict[str, int]:
    """Write the folder; returns images and bytes by split."""
    with (source / "images.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] == "full"]
    random.Random(0).shuffle(rows)

    def order(row: dict[str, str]) -> int:
        if row["split"] == "val":
            return 0
        return 1 if row["Target"] == "1" else 3 if row["class"] == "Normal" else 2

    (out / "images").mkdir(parents=True)
    taken, n_bytes = [], 0
    for row in sorted((r for r in rows if r["split"] in ("train", "val")), key=order):
        pixels = cv2.imread(str(source / row["file"]), cv2.IMREAD_GRAYSCALE)
        scale = size / max(pixels.shape)
        if scale < 1:
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if n_bytes + len(data) > mib * 2**20:
            break
        n_bytes += len(data)
        file = f"images/{row['patientId']}.jpg"
        (out / file).write_bytes(data.tobytes())
        taken.append({**row, "file": file, "size": str(max(pixels.shape))})
    with (out / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(taken[0]))
        writer.writeheader()
        writer.writerows(taken)
    chosen = {row["patientId"] for row in taken}
    for name in CSV_FILES:
        head, *lines = (source / name).read_text(encoding="utf-8").splitlines()
        kept = [head, *(line for line in lines if line.partition(",")[0] in chosen)]
        (out / name).write_text("\n".join(kept) + "\n", encoding="utf-8")
    n_val = sum(row["split"] == "val" for row in taken)
    return {"train": len(taken) - n_val, "val": n_val, "bytes": n_bytes}


def training_keys(options: argparse.Namespace) -> list[str]:
    """Keys of the recipe `rsna` for this size and device."""
    return [
        f"model.width={options.width}",
        f"model.size={options.size}",
        f"batch_size={options.batch}",
        f"device={options.device}",
        f"workers={options.workers}",
        "data.kinds={full: 1}",
        "data.composite.probability=0",
        f"data.images_per_epoch={options.epoch_images}",
    ]


def measure_images_per_s(options: argparse.Namespace, minutes: Path) -> float:
    """Speed of the second epoch of a short training; the first one starts workers and kernels."""
    keys = [*training_keys(options), f"data.images_per_epoch={8 * options.batch}", "epochs=2"]
    run = options.out / "probe"
    data = str(options.out / "data")
    perform(minutes, run, ["train", "--data", data, "--recipe", "rsna", *settings(keys)])
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        return float(list(csv.DictReader(stream))[-1]["images_per_s"])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Import, train, prune, export; returns the summary."""
    started = time.perf_counter()
    out, minutes = options.out, options.out / "minutes.json"
    out.mkdir(parents=True, exist_ok=True)
    data = out / "data"
    if not (data / "dataset.json").is_file():
        source = ["data", "import-rsna", str(options.data), "--cache-size", str(options.size)]
        perform(minutes, data, source)
    images_per_s = measure_images_per_s(options, minutes)
    left_s = 60 * options.minutes - (time.perf_counter() - started)
    epoch_s = options.epoch_images / images_per_s
    epochs = max(1, round(SHARES["dense"] * left_s / epoch_s))
    train = ["train", "--data", str(data), "--recipe", "rsna"]
    keys = [*training_keys(options), f"epochs={epochs}", f"validate_every={epochs}"]
    dense = model = out / "dense"
    perform(minutes, dense, [*train, *settings(keys)])
    step_epochs = SHARES["pruning"] * left_s / (TEACHER_COST * epoch_s) / (len(RATES) + 1)
    retrain = max(1, round(step_epochs) - ADMM_EPOCHS)
    for rate in RATES:
        epochs_now = retrain * (2 if rate == RATES[-1] else 1)
        keys = [
            "distil=0.5",
            f"admm.epochs={ADMM_EPOCHS}",
            f"admm.steps_per_update={max(1, options.epoch_images // options.batch // 4)}",
            f"images_per_epoch={options.epoch_images}",
            f"retrain.epochs={epochs_now}",
            f"validate_every={epochs_now}",
        ]
        step = out / f"combined-{rate}x"
        prune_step(minutes, model, step, rate, kept_weights(dense), keys)
        model = step
    bundle = out / "bundle-36x"
    export = ["export", str(model), "--weights", "fp16", "--no-onnx"]
    perform(minutes, bundle, export)
    summary = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "width": options.width,
        "size": options.size,
        "images_per_s": round(images_per_s, 1),
        "dense_epochs": epochs,
        "retrain_epochs": retrain,
        "images_per_epoch": options.epoch_images,
        "kept_weights": {path.name: kept_weights(path) for path in (dense, model)},
        "validation": {path.name: _metrics(path) for path in (dense, model)},
        "took_s": round(time.perf_counter() - started, 1),
        "minutes": json.loads(minutes.read_text()),
    }
    write_results(out / "summary.json", summary)
    _bring_back(out, (dense, model), bundle)
    return summary


def _metrics(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((path / "best" / "metrics.json").read_text())["metrics"]
    return found


def _bring_back(out: Path, runs: Sequence[Path], bundle: Path) -> None:
    """One archive of the bundle and one of the tables of both runs, in parts of 16 MiB."""
    back, small = out / "back", out / "tables"
    for folder in (back, small):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    shutil.copy(out / "summary.json", small)
    for path in runs:
        (small / path.name).mkdir()
        for pattern in ("*.csv", "*.yaml", "*.json", "best/*.csv", "best/*.json"):
            for file in path.glob(pattern):
                shutil.copy(file, small / path.name)
    for folder in (small, bundle):
        archive = Path(shutil.make_archive(str(out / folder.name), "gztar", folder))
        content = archive.read_bytes()
        for number, start in enumerate(range(0, len(content), MAX_FILE_BYTES)):
            part = content[start : start + MAX_FILE_BYTES]
            (back / f"{archive.name}.{number:02d}").write_bytes(part)


def main() -> None:
    """Pack or run."""
    parser = argument_parser(__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("--source", type=Path, required=True)
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--size", type=int, default=416)
    packing.add_argument("--quality", type=int, default=60)
    packing.add_argument("--mib", type=float, default=40.0)
    running = verbs.add_parser("run")
    running.add_argument("data", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--minutes", type=float, default=12.0)
    running.add_argument("--width", type=float, default=1.0)
    running.add_argument("--size", type=int, default=416)
    running.add_argument("--batch", type=int, default=64)
    running.add_argument("--workers", type=int, default=14)
    running.add_argument("--epoch-images", type=int, default=4096)
    running.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if options.verb == "pack":
        result: dict[str, Any] = dict(
            pack(options.source, options.out, options.size, options.quality, options.mib)
        )
    else:
        result = run(options)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
