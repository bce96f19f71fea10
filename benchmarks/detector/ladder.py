r"""What compression costs the real detector: every run of a ladder against the dense one.

    python -m benchmarks.detector.ladder --data runs/rsna --dense runs/dense \
        --run combined=runs/combined_4 --run combined=runs/combined_9 ... \
        --yardstick runs/yardstick --out benchmarks/results/detector_ladder.json

Per run: weights, MACs and bytes; latency on one thread with onnxruntime and with the generated
kernels, all engines in turn in one process; and on the validation images of each kind the
challenge score, AP50 and AUROC with patient-level intervals, and the paired differences to the
dense model and to the yardstick. Each model's threshold is the one that is best on these very
validation images and this kind, so every score is optimistic, for all models alike. Plots go to
docs/images.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reporting import (
    argument_parser,
    environment,
    interval_text,
    markdown_table,
    publish,
    rounded,
)
from data_prep.dataset.reader import Dataset, open_dataset
from deploy_jetson.kernels.bundle import add_kernels
from evaluation.analysis.catalogue import MatchedStudy, headline_statistics, match_study
from evaluation.analysis.paired import ModelComparison, compare_studies
from evaluation.metrics.bootstrap import Resampler, estimate_all
from evaluation.report.plots import INK, MARKS, new_figure, plot_froc, plot_precision_recall, to_svg
from evaluation.study.cases import EvaluationCases, join
from evaluation.study.cohort import Cohort
from evaluation.study.labels import make_labels
from evaluation.study.operating_points import choose
from pneumonia.exporting.bundle import export
from pneumonia.network.accounting import account
from pneumonia.network.files import load_model
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import Engine, open_engine
from pneumonia.runtime.engines.comparison import interleaved_latency
from pneumonia.runtime.model.predictions import Prediction, read_predictions, write_predictions
from pneumonia.runtime.storage.bundle import MANIFEST, load_bundle

KINDS = ("full", "lungs")
SHOWN = {"rsna.kaggle": "rsna", "coco.ap50": "ap50", "image.auroc": "auroc"}
DENSE, SHIPPED, YARDSTICK = "dense", "shipped", "YOLO11n yardstick"


def open_kind(dataset: Dataset, kind: str, folder: Path) -> MatchedStudy:
    """Truths of a kind's validation images with a run's boxes, threshold chosen on them."""
    names = (f"val_predictions_{kind}.csv", f"best/val_predictions_{kind}.csv", f"val_{kind}.csv")
    path = next(folder / name for name in names if (folder / name).is_file())
    return match_predictions(dataset, kind, read_predictions(str(path)))


def match_predictions(
    dataset: Dataset, kind: str, predictions: Sequence[Prediction]
) -> MatchedStudy:
    """Predictions of a kind's validation images beside their truths, threshold chosen on them."""
    items = dataset.select("val", [kind])
    records = [dataset.records[i] for i in items]
    truths = {dataset.records[i].image_id: dataset.boxes(i) for i in items}
    cohort = Cohort({r.image_id: {"patient": r.patient_id} for r in records})
    cases: EvaluationCases = join(make_labels(truths, frame=None), predictions, cohort)
    return match_study(cases, {"kaggle": choose(cases)["kaggle"].threshold})


def beside_first(comparison: ModelComparison) -> dict[str, list[float]]:
    """The metrics of a model, and their paired differences to the first."""
    found = comparison.differences
    return {
        **{short: rounded(found[name].value) for name, short in SHOWN.items()},
        **{f"{short}_delta": rounded(found[name].delta) for name, short in SHOWN.items()},
    }


def accuracy(
    dataset: Dataset, folders: Mapping[str, Path], draws: int
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, MatchedStudy]]]:
    """Model -> its metrics per kind, with the paired differences to dense and to the yardstick."""
    found: dict[str, dict[str, Any]] = {name: {} for name in folders}
    opened = {}
    for kind in KINDS:
        studies = {name: open_kind(dataset, kind, path) for name, path in folders.items()}
        opened[kind] = studies
        first = next(iter(studies.values())).cases
        resampler = Resampler(first.patients, first.positive, draws)
        reference = estimate_all(headline_statistics(studies[DENSE]), resampler)
        found[DENSE][kind] = {
            "n": len(first),
            "threshold": round(studies[DENSE].thresholds["kaggle"], 4),
            **{short: rounded(reference[name]) for name, short in SHOWN.items()},
        }
        for comparison in compare_studies(studies, resampler):
            found[comparison.model][kind] = {
                "n": len(first),
                "threshold": round(studies[comparison.model].thresholds["kaggle"], 4),
                **beside_first(comparison),
            }
        if YARDSTICK in studies:
            beside = {YARDSTICK: studies[YARDSTICK], **studies}
            for comparison in compare_studies(beside, resampler):
                found[comparison.model][kind] |= {
                    f"{short}_over_yardstick": rounded(comparison.differences[name].delta)
                    for name, short in SHOWN.items()
                }
    return found, opened


def latencies(bundles: Mapping[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Model -> median ms of one image on one thread, every engine of every model in turn."""
    engines: dict[str, Engine] = {}
    for name, path in bundles.items():
        bundle = load_bundle(str(path))
        for kind in ("onnxruntime", "kernels"):
            engines[f"{name}/{kind}"] = open_engine(bundle, kind, threads=1)
    times = interleaved_latency(engines, rounds)
    found: dict[str, dict[str, float]] = {name: {} for name in bundles}
    for key, value in times.items():
        name, _, kind = key.rpartition("/")
        found[name][f"{kind}_ms"] = round(value, 3)
    return found


def counted(bundle: Path) -> dict[str, Any]:
    """Weights, parameters, MACs and file sizes of a bundle."""
    totals = account(*load_model(bundle)).totals
    return {
        "weights": totals.kept_weights,
        "parameters": totals.parameters,
        "macs": totals.kept_macs,
        "weights_bytes": (bundle / "weights.safetensors").stat().st_size,
        "onnx_bytes": (bundle / "model.onnx").stat().st_size,
        "model_hash": load_bundle(str(bundle)).model_hash,
    }


def score_bundle(shipped: Path, dataset: Dataset, out: Path) -> None:
    """Copy a finished bundle and score the validation images with it."""
    shutil.copytree(shipped, out, dirs_exist_ok=True)
    bundle = load_bundle(str(out))
    detector = Detector(bundle, open_engine(bundle, "onnxruntime", threads=1))
    for kind in KINDS:
        found = [predicted(detector, dataset, i) for i in dataset.select("val", [kind])]
        write_predictions(str(out / f"val_{kind}.csv"), found)


def predicted(detector: Detector, dataset: Dataset, item: int) -> Prediction:
    """Boxes of an image of the dataset, in pixels of the original."""
    record = dataset.records[item]
    found = detector.predict(dataset.pixels(item), record.image_id)
    boxes = dataset.original_boxes(item, found.boxes)
    return Prediction(record.image_id, boxes, found.scores, record.width, record.height)


def plot_ladder(rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Challenge score against the rate, one line per scheme."""
    figure, axes = new_figure()
    dense = next(row for row in rows if row["scheme"] == DENSE)[kind]["rsna"]
    axes.axhspan(dense[1], dense[2], color=INK, alpha=0.08, label="dense, 95 % interval")
    axes.axhline(dense[0], color=INK, linewidth=1)
    schemes = list(dict.fromkeys(row["scheme"] for row in rows if row.get("rate")))
    for mark, scheme in zip(MARKS, [s for s in schemes if s != DENSE], strict=False):
        points = [(row["rate"], *row[kind]["rsna"]) for row in rows if row["scheme"] == scheme]
        rate, value, low, high = np.array(sorted(points)).T
        axes.errorbar(rate, value, [value - low, high - value], marker=mark, capsize=3,
                      label=scheme)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 4, 9, 16, 25, 36], ["1", "2", "4", "9", "16", "25", "36"])
    axes.minorticks_off()
    axes.set_xlabel("times fewer stored weights")
    axes.set_ylabel("RSNA challenge score")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return to_svg(figure, f"RSNA score against pruning rate, {kind}")


def plot_cost(rows: Sequence[Mapping[str, Any]]) -> str:
    """Latency against the size of the weights file."""
    figure, axes = new_figure()
    for engine, mark in (("onnxruntime", "o"), ("kernels", "s")):
        points = [
            (row["weights_bytes"] / 1e6, row[f"{engine}_ms"]) for row in rows
            if f"{engine}_ms" in row and "weights_bytes" in row
        ]  # fmt: skip
        if points:
            axes.plot(*np.array(sorted(points)).T, marker=mark, linestyle="", label=engine)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("weights file, MB")
    axes.set_ylabel("latency of one image, one thread, ms")
    axes.legend(frameon=False, fontsize=9)
    return to_svg(figure, "Latency against size")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    head = ["model", "weights", "rate", "MACs", "file MB", "ORT ms", "kernels ms"]
    for kind in KINDS:
        head += [f"{kind}: RSNA", "difference to dense", "to the yardstick", "AP50", "AUROC"]
    lines = []
    for row in rows:
        cells = [
            row["name"],
            f"{row['weights']:,}" if "weights" in row else "",
            f"{row['rate']:.1f}x" if row.get("rate") else "",
            f"{row['macs'] / 1e6:.0f} M" if "macs" in row else "",
            f"{row['weights_bytes'] / 1e6:.2f}" if "weights_bytes" in row else "",
            f"{row['onnxruntime_ms']:.2f}" if "onnxruntime_ms" in row else "",
            f"{row['kernels_ms']:.2f}" if "kernels_ms" in row else "",
        ]
        for kind in KINDS:
            values = row[kind]
            shown = (values["rsna"], values.get("rsna_delta"), values.get("rsna_over_yardstick"))
            cells += [interval_text(item) for item in shown]
            cells += [f"{values['ap50'][0]:.3f}", f"{values['auroc'][0]:.3f}"]
        lines.append(cells)
    return markdown_table(head, lines)


class Models(NamedTuple):
    """What is compared."""

    # what each model costs, the dense one first, in the order of the table
    rows: list[dict[str, Any]]
    predictions: dict[str, Path]  # model -> folder with its predictions
    bundles: dict[str, Path]  # model -> its bundle; the yardstick has none


def gather(options: argparse.Namespace, dataset: Dataset) -> Models:
    """Bundles of all runs and of the shipped model, with their kernels."""
    models = Models([], {}, {})

    def add(name: str, row: dict[str, Any], bundle: Path, predictions: Path) -> None:
        models.rows.append({**row, "name": name})
        models.bundles[name], models.predictions[name] = bundle, predictions

    def missing(bundle: Path) -> bool:
        return not (options.reuse and (bundle / MANIFEST).is_file())

    def compile_kernels_of(bundle: Path) -> None:
        if not options.no_kernels:
            add_kernels(bundle, "native")

    runs = [(DENSE, "=", str(options.dense)), *(item.partition("=") for item in options.run)]
    for scheme, _, path in runs:
        out = options.bundles / Path(path).name
        if missing(out):
            export(Path(path), out)
            compile_kernels_of(out)
        row: dict[str, Any] = {"scheme": scheme, **counted(out)}
        row["rate"] = round(models.rows[0]["weights"] / row["weights"], 2) if models.rows else 1.0
        name = DENSE if scheme == DENSE else f"{scheme} {row['rate']:.3g}x"
        add(name, row, out, Path(path))
    if options.shipped:
        out = options.bundles / SHIPPED
        if missing(out):
            score_bundle(options.shipped, dataset, out)
            compile_kernels_of(out)
        add(SHIPPED, {"scheme": SHIPPED, **counted(out)}, out, out)
    if options.yardstick:
        models.rows.append({"scheme": "yardstick", "name": YARDSTICK})
        models.predictions[YARDSTICK] = options.yardstick
    return models


def main() -> None:
    """Measure and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", required=True, help="dataset folder")
    parser.add_argument("--dense", type=Path, required=True, help="run folder of the reference")
    parser.add_argument("--run", action="append", default=[], metavar="SCHEME=RUN")
    parser.add_argument("--shipped", type=Path, help="a finished bundle, scored here")
    parser.add_argument("--yardstick", type=Path, help="folder of benchmarks.detector.yardstick")
    parser.add_argument("--bundles", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--out", type=Path, required=True, help="JSON; .md is written beside it")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--no-kernels", action="store_true")
    parser.add_argument("--reuse", action="store_true", help="bundles of an earlier call")
    parser.add_argument("--bundles-only", action="store_true", help="make them, measure nothing")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    models = gather(options, dataset)
    rows = models.rows
    if options.bundles_only:
        return
    metrics, studies = accuracy(dataset, models.predictions, options.draws)
    times = {} if options.no_kernels else latencies(models.bundles, options.rounds)
    for row in rows:
        row.update(metrics[row["name"]] | times.get(row["name"], {}))
    document = {
        "benchmark": "detector_ladder",
        **environment("torch", "onnxruntime", "numpy"),
        "draws": options.draws,
        "rows": rows,
    }
    publish(options.out, document, table(rows))
    for kind in KINDS:
        last = [row["name"] for row in rows if "rate" in row][-1]
        best = {name: studies[kind][name] for name in (DENSE, last)}
        for name, text in (
            (f"results_rate_{kind}", plot_ladder(rows, kind)),
            (f"results_pr_{kind}", plot_precision_recall(best, (0.5,))),
            (f"results_froc_{kind}", plot_froc(best, None, (0.4,))),
        ):
            (options.images / f"{name}.svg").write_text(text)
    if times:
        (options.images / "results_cost.svg").write_text(plot_cost(rows))


if __name__ == "__main__":
    main()
