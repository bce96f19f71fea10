"""A YOLO11n trained from scratch on the same images for the same minutes, as a yardstick.

    python -m benchmarks.detector.yardstick --data runs/rsna --minutes 35 --out runs/yardstick

ultralytics is AGPL-3.0: it is never a dependency, nothing of it is imported here or shipped. It
runs as a program in a virtual environment of its own (about 5.5 GB), which the first run makes.
Both are scored afterwards by the same code on the same validation lists:

    pneumonia compare runs/yardstick/val_full.csv runs/scored/val_full.csv --labels ...

The warm-up is a tenth of an epoch: the default of three would fill a run of two or three epochs.

Writes val_full.csv, val_lungs.csv (the contract of predictions.csv), weights and yardstick.json
(minutes by the clock and by the processor, epochs, versions).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.reporting import argument_parser
from data_prep.dataset.reader import Dataset, open_dataset
from pneumonia.runtime.model.predictions import Prediction, write_predictions

PACKAGES = ("torch==2.14.1", "torchvision==0.29.1", "ultralytics")

TRAIN = """
import json, resource, sys, time
import torch
from ultralytics import YOLO, __version__
data, out, hours, size, batch, seed, threads = sys.argv[1:8]
start = time.perf_counter()
model = YOLO("yolo11n.yaml")
model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(int(threads)))
model.train(data=data, time=float(hours), imgsz=int(size), batch=int(batch), device="cpu",
            workers=1, project=out, name="train", exist_ok=True, pretrained=False, single_cls=True,
            seed=int(seed), warmup_epochs=0.1, amp=False, plots=False, verbose=False, val=False,
            save_period=-1)
wall = time.perf_counter() - start
use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(u.ru_utime + u.ru_stime for u in use)
facts = {"wall_minutes": wall / 60, "cpu_minutes": cpu / 60, "epochs": model.trainer.epoch + 1,
         "ultralytics": __version__, "torch": torch.__version__,
         "parameters": sum(p.numel() for p in model.model.parameters())}
json.dump(facts, open(out + "/train.json", "w"))
"""

PREDICT = """
import json, sys
from ultralytics import YOLO
weights, listing, size, out = sys.argv[1:5]
model = YOLO(weights)
rows = {}
for path in open(listing).read().split():
    r = model.predict(path, imgsz=int(size), conf=0.01, iou=0.4, max_det=100, verbose=False)[0]
    rows[path] = [b + [s] for b, s in zip(r.boxes.xyxy.tolist(), r.boxes.conf.tolist())]
json.dump(rows, open(out, "w"))
"""


def make_environment(folder: Path) -> Path:
    """The interpreter of the yardstick's own environment, made at the first call."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def write_images(dataset: Dataset, out: Path, repeats: dict[str, int]) -> Path:
    """Write images and labels as files of the YOLO layout; returns the data file."""
    listing: dict[str, list[str]] = {"train": [], "val_full": [], "val_lungs": []}
    for i, record in enumerate(dataset.records):
        if not record.labelled or (record.split == "val" and record.kind == "nih"):
            continue
        stem = f"{record.kind}_{record.image_id}"
        image = out / "images" / f"{stem}.png"
        label = out / "labels" / f"{stem}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(dataset.pixels(i))).save(image)
        boxes = dataset.boxes(i) / np.tile([record.width, record.height], 2)
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        lines = [f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f}" for x, y, w, h in np.hstack([centres, sizes])]
        label.write_text("\n".join(lines))
        name = "train" if record.split == "train" else f"val_{record.kind}"
        listing[name] += [str(image.resolve())] * (
            repeats.get(record.kind, 1) if name == "train" else 1
        )
    for name, paths in listing.items():
        (out / f"{name}.txt").write_text("\n".join(paths))
    data = out / "data.yaml"
    # The validation list is only what the trainer insists on: no epoch is chosen by it.
    data.write_text(
        f"path: {out.resolve()}\ntrain: train.txt\nval: val_full.txt\nnames: {{0: opacity}}\n"
    )
    return data


def read_boxes(
    dataset: Dataset, kind: str, found: dict[str, list[list[float]]]
) -> list[Prediction]:
    """Predictions in pixels of the originals."""
    rows = []
    for i in dataset.select("val", [kind]):
        record = dataset.records[i]
        (values,) = (v for p, v in found.items() if Path(p).stem == f"{kind}_{record.image_id}")
        table = np.asarray(values, np.float32).reshape(-1, 5)
        boxes = dataset.original_boxes(i, table[:, :4])
        rows.append(Prediction(record.image_id, boxes, table[:, 4], record.width, record.height))
    return rows


def main() -> None:
    """Train, predict, write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", required=True, help="dataset folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="training time by the clock")
    parser.add_argument("--environment", type=Path, default=Path("runs/yardstick-venv"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat-full", type=int, default=5, help="whole radiographs per epoch")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    python = make_environment(options.environment)
    dataset = open_dataset(options.data)
    data = write_images(dataset, out, {"full": options.repeat_full})
    settings = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "YOLO_OFFLINE": "true"}

    def run(code: str, *arguments: object) -> None:
        command = [str(python), "-c", code, *map(str, arguments)]
        subprocess.run(command, check=True, env=settings, cwd=out)

    run(TRAIN, data, out, options.minutes / 60, options.size, options.batch, options.seed,
        options.threads)  # fmt: skip
    for kind in ("full", "lungs"):
        target = out / f"val_{kind}.json"
        run(PREDICT, out / "train/weights/last.pt", out / f"val_{kind}.txt", options.size, target)
        found = json.loads(target.read_text())
        write_predictions(str(out / f"val_{kind}.csv"), read_boxes(dataset, kind, found))
    facts = json.loads((out / "train.json").read_text())
    facts |= {"size": options.size, "batch": options.batch, "threads": options.threads}
    (out / "yardstick.json").write_text(json.dumps(facts, indent=1))
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
