"""DICOM file to boxes on one core with the shipped model: images/s, its parts, and a naive script.

    python -m benchmarks.scoring.speed [--images 400] [--rounds 5]

The images are phantoms as RSNA stores its radiographs: DICOM, JPEG baseline, 1,024 x 1,024. The
naive script is what one writes with pydicom + onnxruntime in an afternoon: same model, same boxes
(compared), no limits, no child process, no outputs but a csv. The batch runs with onnxruntime, as
the script does, and with the engine that `pneumonia score` takes by itself (`auto`). Rounds are
interleaved on one core. Ratios are of processor seconds, which other work on the machine changes
least; they hold the start of the child process. Writes benchmarks/results/scoring_speed.json.
"""

import csv
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.reporting import RESULTS, argument_parser, environment, processor_s, publish
from benchmarks.scoring.studies import write_dicoms

BUNDLE = Path(__file__).parents[2] / "pneumonia" / "models" / "default"
SIDE = 1024


def one_core() -> int:
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    os.environ["OMP_NUM_THREADS"] = "1"
    return core


def parts(paths: list[Path], out: Path) -> dict[str, float]:
    """Milliseconds per image of each step, in one process, one after another."""
    from pneumonia.runtime.detection.detector import Detector
    from pneumonia.runtime.detection.heads import DEFAULT_SETTINGS, detections
    from pneumonia.runtime.engines import open_engine
    from pneumonia.runtime.image.preprocess import network_input
    from pneumonia.runtime.image.radiograph import read_radiograph
    from pneumonia.runtime.model.predictions import Prediction
    from pneumonia.runtime.storage.bundle import load_bundle
    from pneumonia.scoring.batch.image_job import ImageJob
    from pneumonia.scoring.batch.run import ScoreSettings, describe_model
    from pneumonia.scoring.image.find import find_files
    from pneumonia.scoring.image.records import ImageRecord
    from pneumonia.scoring.outputs import ScoredStudy

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


class Clock:
    """Wall and processor seconds since it was made, those of ended children included."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), processor_s()

    def seconds(self) -> tuple[float, float]:
        """Both so far."""
        return time.perf_counter() - self._wall, processor_s() - self._cpu


def time_pipeline(
    paths: list[Path], out: Path, pictures: bool = True, engine: str = "onnxruntime"
) -> tuple[float, float]:
    """Seconds of a whole batch; with pictures, that is with all its default outputs."""
    from pneumonia.runtime.detection.detector import Detector
    from pneumonia.scoring.batch.run import ScoreSettings, score_batch
    from pneumonia.scoring.outputs import OutputSettings

    detector = Detector.load(BUNDLE, engine, threads=1)
    settings = ScoreSettings()
    if not pictures:
        settings = ScoreSettings(overlays="none", outputs=OutputSettings(report=False))
    clock = Clock()
    score_batch(paths[0].parent, out, detector, settings)
    return clock.seconds()


def time_plain_script(paths: list[Path], out: Path) -> tuple[float, float]:
    """Seconds of the script one would write: read, resize, run, decode, csv."""
    import onnxruntime
    from PIL import Image
    from pydicom.pixels import pixel_array

    from pneumonia.runtime.detection.heads import DEFAULT_SETTINGS, detections
    from pneumonia.runtime.image.preprocess import network_input
    from pneumonia.runtime.storage.bundle import load_bundle

    spec = load_bundle(str(BUNDLE)).spec
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(BUNDLE / "model.onnx"), options)
    names = [output.name for output in session.get_outputs()]
    _, place = network_input(np.zeros((SIDE, SIDE), np.uint8), spec.input)  # all are of one size
    clock = Clock()
    with out.open("w", newline="") as stream:
        table = csv.writer(stream)
        for path in paths:
            pixels = pixel_array(path, decoding_plugin="pillow")  # the fastest for JPEG baseline
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
    return clock.seconds()


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
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    core = one_core()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        paths = write_dicoms(root / "in", options.images, SIDE)
        kinds = {
            f"{engine}{'' if pictures else '_without_pictures'}": (engine, pictures)
            for engine in ("onnxruntime", "auto")
            for pictures in (True, False)
        }
        time_plain_script(paths, root / "warm.csv")
        seconds: dict[str, list[tuple[float, float]]] = {"naive": [], **{k: [] for k in kinds}}
        for turn in range(options.rounds):
            for kind, (engine, pictures) in kinds.items():
                out = root / f"{kind}{turn}"
                seconds[kind].append(time_pipeline(paths, out, pictures, engine))
            seconds["naive"].append(time_plain_script(paths, root / f"{turn}.csv"))
        split = parts(paths, root / "parts")
        same = {
            engine: same_boxes(root / f"{engine}0" / "predictions.csv", root / "0.csv")
            for engine in ("onnxruntime", "auto")
        }
        auto = json.loads((root / "auto0" / "run.json").read_text())["model"]["engine"]
    wall, cpu = (
        {kind: statistics.median(pair[column] for pair in pairs) for kind, pairs in seconds.items()}
        for column in (0, 1)
    )
    result = {
        "goal": "with pictures >= 0.8 of the script, without >= 1.0",
        "images": options.images,
        "rounds": options.rounds,
        "core": core,
        "engine_auto": auto,
        "over_naive": {
            kind: round(
                statistics.median(
                    n[1] / o[1] for o, n in zip(pairs, seconds["naive"], strict=True)
                ),
                3,
            )
            for kind, pairs in seconds.items()
        },
        "cpu_ms_per_image": {k: round(1000 * v / options.images, 2) for k, v in cpu.items()},
        "images_per_s": {kind: round(options.images / value, 1) for kind, value in wall.items()},
        "same_boxes": same,
        "parts_ms_per_image": split,
        "parts_sum_ms": round(sum(split.values()), 3),
        "cpu_seconds": {kind: [round(v[1], 2) for v in pairs] for kind, pairs in seconds.items()},
        **environment("numpy", "onnxruntime", "pillow", "pydicom"),
    }
    publish(RESULTS / "scoring_speed.json", result)


if __name__ == "__main__":
    main()
