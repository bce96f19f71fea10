"""DICOM file to boxes on one core with the shipped model: images/s, its parts, and a naive script.

    python -m benchmarks.scoring_speed [--images 200] [--rounds 5]

The images are phantoms as RSNA stores its radiographs: DICOM, JPEG baseline, 1,024 x 1,024. The
naive script is what one writes with pydicom + onnxruntime in an afternoon: same model, same boxes
(compared), no limits, no child process, no outputs but a csv. Rounds of both are interleaved on one
core. Writes benchmarks/results/scoring_speed.json.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks.scoring_studies import write_dicoms

RESULTS = Path(__file__).parent / "results"
BUNDLE = Path(__file__).parents[1] / "pneumonia" / "models" / "default"
SIDE = 1024


def one_core() -> int:
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    os.environ["OMP_NUM_THREADS"] = "1"
    return core


def parts(paths: list[Path], out: Path) -> dict[str, float]:
    """Milliseconds per image of each step, in one process, one after another."""
    from pneumonia.runtime.bundle import load_bundle
    from pneumonia.runtime.decode import DEFAULT_SETTINGS, detections
    from pneumonia.runtime.detector import Detector
    from pneumonia.runtime.engines import open_engine
    from pneumonia.runtime.predictions import Prediction
    from pneumonia.runtime.preprocess import network_input
    from pneumonia.runtime.radiograph import read_radiograph
    from pneumonia.scoring.batch import ScoreSettings, describe_model
    from pneumonia.scoring.find import find_files
    from pneumonia.scoring.image_job import ImageJob
    from pneumonia.scoring.outputs import ScoredStudy
    from pneumonia.scoring.records import ImageRecord

    bundle = load_bundle(str(BUNDLE))
    detector = Detector(bundle, open_engine(bundle, "onnxruntime", threads=1))
    settings = ScoreSettings()
    job = ImageJob(detector, describe_model(detector, settings), settings, out, "0" * 32)
    spent: dict[str, float] = dict.fromkeys(
        ("read", "decode", "preprocess", "infer", "decode_boxes", "write"), 0.0
    )
    for file in find_files(paths[0].parent):
        clock = [time.perf_counter()]
        digest = hashlib.sha256(Path(file.path).read_bytes()).hexdigest()
        clock.append(time.perf_counter())
        radiograph = read_radiograph(file.path, settings.limits.read)
        clock.append(time.perf_counter())
        values, place = network_input(radiograph.pixels, bundle.spec.input)
        clock.append(time.perf_counter())
        outputs = detector.engine.run(values[None])
        clock.append(time.perf_counter())
        boxes, scores, _ = detections(bundle.spec, outputs, [place], DEFAULT_SETTINGS)[0]
        clock.append(time.perf_counter())
        found = Prediction(file.image_id, boxes, scores, place.width, place.height)
        record = ImageRecord(
            file, job.key_of(file), "scored", "", "0", digest, 0, found, radiograph.info
        )
        job.write(ScoredStudy(record, radiograph.pixels, b""))
        clock.append(time.perf_counter())
        for name, start, end in zip(spent, clock, clock[1:], strict=False):
            spent[name] += end - start
    return {name: round(1000 * seconds / len(paths), 3) for name, seconds in spent.items()}


def ours(paths: list[Path], out: Path, pictures: bool = True) -> float:
    """Seconds of a whole batch; with pictures, that is with all its default outputs."""
    from pneumonia.runtime.bundle import load_bundle
    from pneumonia.runtime.detector import Detector
    from pneumonia.runtime.engines import open_engine
    from pneumonia.scoring.batch import ScoreSettings, score_batch
    from pneumonia.scoring.outputs import OutputSettings

    bundle = load_bundle(str(BUNDLE))
    detector = Detector(bundle, open_engine(bundle, "onnxruntime", threads=1))
    settings = ScoreSettings()
    if not pictures:
        settings = ScoreSettings(overlays="none", outputs=OutputSettings(report=False))
    start = time.perf_counter()
    score_batch(paths[0].parent, out, detector, settings)
    return time.perf_counter() - start


def naive(paths: list[Path], out: Path) -> float:
    """Seconds of the script one would write: read, resize, run, decode, csv."""
    import onnxruntime
    import pydicom
    from PIL import Image

    from pneumonia.runtime.bundle import load_bundle
    from pneumonia.runtime.decode import DEFAULT_SETTINGS, detections
    from pneumonia.runtime.preprocess import network_input

    spec = load_bundle(str(BUNDLE)).spec
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(BUNDLE / "model.onnx"), options)
    names = [output.name for output in session.get_outputs()]
    _, place = network_input(np.zeros((SIDE, SIDE), np.uint8), spec.input)  # all are of one size
    start = time.perf_counter()
    with out.open("w", newline="") as stream:
        table = csv.writer(stream)
        for path in paths:
            pixels = pydicom.dcmread(path).pixel_array
            small = Image.fromarray(pixels).resize(
                (spec.input.width, spec.input.height), Image.Resampling.BILINEAR
            )
            values = np.asarray(small, np.float32)[None, None] / 255
            values = (values - np.float32(spec.input.mean)) / np.float32(spec.input.std)
            found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: values}),
                             strict=True))  # fmt: skip
            boxes, scores, _ = detections(spec, found, [place], DEFAULT_SETTINGS)[0]
            for box, score in zip(boxes, scores, strict=True):
                table.writerow([path.stem, score, *box])
    return time.perf_counter() - start


def same_boxes(ours_csv: Path, naive_csv: Path) -> bool:
    """Whether both found the same boxes, to half a pixel and 0.001 of score."""
    with ours_csv.open() as stream:
        left = [(r[0], *map(float, r[1:6])) for r in list(csv.reader(stream))[1:] if r[1]]
    with naive_csv.open() as stream:
        right = [(r[0], *map(float, r[1:])) for r in csv.reader(stream)]
    return len(left) == len(right) and all(
        a[0] == b[0] and abs(a[1] - b[1]) < 1e-3 and np.allclose(a[2:], b[2:], atol=0.5)
        for a, b in zip(left, right, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    core = one_core()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        paths = write_dicoms(root / "in", options.images, SIDE)
        ours(paths, root / "warm")
        naive(paths, root / "warm.csv")
        seconds: dict[str, list[float]] = {"ours": [], "ours_without_pictures": [], "naive": []}
        for turn in range(options.rounds):
            seconds["ours"].append(ours(paths, root / f"out{turn}"))
            seconds["ours_without_pictures"].append(ours(paths, root / f"plain{turn}", False))
            seconds["naive"].append(naive(paths, root / f"{turn}.csv"))
        split = parts(paths, root / "parts")
        same = same_boxes(root / "out0" / "predictions.csv", root / "0.csv")
    median = {kind: statistics.median(values) for kind, values in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["naive"], strict=True)]
    result = {
        "images": options.images,
        "rounds": options.rounds,
        "core": core,
        "images_per_s": {kind: round(options.images / value, 1) for kind, value in median.items()},
        "same_boxes": same,
        "ours_over_naive": round(statistics.median(ratios), 3),
        "parts_ms_per_image": split,
        "parts_sum_ms": round(sum(split.values()), 3),
        "seconds": {kind: [round(v, 2) for v in values] for kind, values in seconds.items()},
        "versions": {
            package: metadata.version(package)
            for package in ("numpy", "onnxruntime", "pillow", "pydicom")
        },
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scoring_speed.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
