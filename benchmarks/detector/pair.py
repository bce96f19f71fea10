"""Scores labelled radiographs with the dense and the pruned detectors; prints the paired table.

    python -m benchmarks.detector.pair rsna/full256/images rsna/full/images \
        --labels rsna/labels.csv --classes rsna/class_info.csv --cohort rsna/images.csv \
        --subset rsna/val_full.txt --out runs/pair

The models are those of benchmarks/models (dense, 9x, 36x, 60x; float16) unless others are named
with --model NAME=BUNDLE; the first is the reference of the paired differences. A file of
predictions may stand for a bundle: its own threshold is then the best one. Every labelled image
found in the given folders is scored; DICOM, PNG and JPEG are read as `pneumonia score` reads them.
For each model: results as the images come and at RSNA's mix of classes, at the model's own
threshold, frozen with its weights, and at the threshold that is best on these very images, which
flatters. Intervals are 95 %, over patients. Writes OUT/NAME.csv (predictions), pair.json, pair.md.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import (
    argument_parser,
    environment,
    interval_text,
    markdown_table,
    publish,
    rounded,
)
from evaluation.analysis.catalogue import match_study
from evaluation.analysis.mix import compare_at_mix, estimate_at_mix
from evaluation.metrics.bootstrap import Estimate, Resampler
from evaluation.report.plots import MARKS, new_figure, to_svg
from evaluation.study.cases import EvaluationCases, join
from evaluation.study.class_mix import CLASS_ORDER, ClassMix, class_strata, parse_mix
from evaluation.study.cohort import read_cohort
from evaluation.study.image_files import find_image
from evaluation.study.labels import TruthLabels, read_labels
from evaluation.study.operating_points import choose
from pneumonia.api.evaluation_inputs import read_subset
from pneumonia.cli.terminal import progress_bar
from pneumonia.network.accounting import account
from pneumonia.network.files import load_model
from pneumonia.runtime.atomic import write_text
from pneumonia.runtime.detection.detector import Detector
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.image.radiograph import read_radiograph
from pneumonia.runtime.label_table import NORMAL, NOT_NORMAL
from pneumonia.runtime.model.predictions import Prediction, read_predictions, write_predictions
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.storage.bundle import WEIGHTS, load_bundle

MODELS = Path(__file__).parents[1] / "models"
OWN, BEST = "kaggle", "best"  # the model's frozen threshold; the one chosen on these images
SHOWN = {
    f"rsna.{OWN}": "RSNA, own threshold",
    f"rsna.{BEST}": "RSNA, best threshold",
    "coco.ap50": "AP50",
    "image.auroc": "AUROC",
    f"{OWN}.sensitivity": "sensitivity",
    f"{OWN}.specificity": "specificity",
}

PARTS = {
    "as_found": "As the images come",
    "as_found_difference": "As the images come, minus the first model (paired)",
    "at_mix": "At the stated mix of classes",
    "at_mix_difference": "At the mix, minus the first model (paired)",
}


def score(bundle_path: Path, images: Mapping[str, Path], progress: Progress) -> list[Prediction]:
    """Boxes of every image, with the engine that `pneumonia score` would take."""
    bundle = load_bundle(str(bundle_path))
    detector = Detector(bundle, open_engine(bundle, "auto", threads=1))
    found = []
    for number, (image_id, path) in enumerate(images.items(), 1):
        found.append(detector.predict(read_radiograph(str(path)).pixels, image_id))
        progress(number, len(images), bundle_path.name)
    return found


def radiograph_parser(documentation: str | None) -> argparse.ArgumentParser:
    """Arguments of a benchmark of models on folders of labelled radiographs."""
    parser = argument_parser(documentation)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of radiographs")
    parser.add_argument("--labels", type=Path, required=True, help="official RSNA csv")
    parser.add_argument("--cohort", type=Path, help="csv of patient, view ... per image")
    parser.add_argument("--subset", type=Path, help="only these ids, one per line")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=BUNDLE")
    return parser


def find_images(options: argparse.Namespace, labels: TruthLabels) -> dict[str, Path]:
    """The file of each labelled image of the subset, from the first folder that has one."""
    wanted = read_subset(options.subset) if options.subset else labels.ids
    ids = [name for name in wanted if name in set(labels.ids)]
    candidates = ((name, find_image(folder, name)) for folder in options.folders for name in ids)
    found: dict[str, Path] = {}
    for name, path in candidates:
        if path is not None:
            found.setdefault(name, path)
    return {name: found[name] for name in ids if name in found}


def weights_bytes(bundle: Path) -> int:
    """Size of a bundle's weights: the dense model is the largest."""
    return (bundle / WEIGHTS).stat().st_size


def named_bundles(models: Sequence[str]) -> dict[str, Path]:
    """The paths of NAME=BUNDLE options; without any the bundles of benchmarks/models by size."""
    if not models:
        every = sorted(MODELS.iterdir(), key=weights_bytes, reverse=True)
        return {path.name: path for path in every}
    named = (item.partition("=") for item in models)
    return {name: Path(path) for name, _, path in named}


def specificity_by_class(cases: EvaluationCases, threshold: float) -> dict[str, float]:
    """Specificity of each class of negatives at a threshold."""
    quiet = cases.image_score < threshold
    groups = {
        "normal": cases.negatives_of_class(NORMAL),
        "not normal": cases.negatives_of_class(NOT_NORMAL),
    }
    return {
        f"specificity, {name}": round(float(quiet[group & ~cases.positive].mean()), 4)
        for name, group in groups.items()
        if (group & ~cases.positive).any()
    }


def own_mix(cases: EvaluationCases) -> ClassMix:
    """The classes as the images come."""
    normal, not_normal, opacity = np.bincount(class_strata(cases), minlength=len(CLASS_ORDER))
    return ClassMix(float(opacity), float(not_normal), float(normal), "as the images come")


def defined_metrics(estimates: Mapping[str, Estimate]) -> dict[str, list[float]]:
    """The metrics of the table, those that are defined."""
    return {name: rounded(estimates[name]) for name in SHOWN if name in estimates}


def table(rows: Sequence[Mapping[str, Any]], head: str) -> str:
    """The rows as Markdown."""
    lines = [head, ""]
    for part, title in PARTS.items():
        cells = [
            (row["model"], *(interval_text(row[part].get(metric)) for metric in SHOWN))
            for row in rows
            if row[part]
        ]
        lines += [f"**{title}**", "", markdown_table(("model", *SHOWN.values()), cells)]
    lines += ["**Specificity by class, own threshold**", ""]
    lines += [f"- {row['model']}: {row['by_class']}" for row in rows]
    return "\n".join(lines) + "\n"


def figure(rows: Sequence[Mapping[str, Any]], rates: Mapping[str, float]) -> str:
    """Challenge score at the models' own thresholds against the rate, as found and at the mix."""
    canvas, axes = new_figure()
    for (part, text), mark in zip(
        (("as_found", "as the images come"), ("at_mix", "at RSNA's mix of classes")), MARKS,
        strict=False,
    ):  # fmt: skip
        points = [(rates[row["model"]], *row[part][f"rsna.{OWN}"]) for row in rows]
        rate, value, low, high = np.array(sorted(points)).T
        axes.errorbar(rate, value, [value - low, high - value], marker=mark, capsize=3, label=text)
    axes.set_xscale("log")
    axes.set_xticks(sorted(rates.values()), [f"{rate:.3g}x" for rate in sorted(rates.values())])
    axes.minorticks_off()
    axes.set_xlabel("times fewer stored weights")
    axes.set_ylabel("RSNA challenge score")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return to_svg(canvas, "Challenge score of the whole validation radiographs against the rate")


def main() -> None:
    """Score, compare, write."""
    parser = radiograph_parser(__doc__)
    parser.add_argument("--classes", type=Path, required=True, help="csv of patientId,class")
    parser.add_argument("--mix", default="rsna", help="OPACITY:NOT_NORMAL:NORMAL")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--figure", type=Path, help="SVG of the score against the rate")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    bundles = named_bundles(options.model)
    labels = read_labels(options.labels)
    images = find_images(options, labels)
    cohort = read_cohort(*[path for path in (options.classes, options.cohort) if path])
    options.out.mkdir(parents=True, exist_ok=True)
    studies, thresholds = {}, {}
    for name, bundle in bundles.items():
        path = bundle if bundle.is_file() else options.out / f"{name}.csv"
        if path != bundle:
            started = time.perf_counter()
            with progress_bar(f"score {name}") as progress:
                write_predictions(str(path), score(bundle, images, progress))
            print(f"{name}: {len(images)} images in {time.perf_counter() - started:.0f} s")
        cases = join(labels, read_predictions(str(path)), cohort, list(images))
        best = choose(cases)["kaggle"].threshold
        own = best if path == bundle else load_bundle(str(bundle)).threshold(OWN)
        thresholds[name] = {OWN: own, BEST: best}
        studies[name] = match_study(cases, thresholds[name])
    first = next(iter(studies.values())).cases
    mix = parse_mix(options.mix)
    rows: dict[str, dict[str, Any]] = {
        name: {
            "model": name,
            "thresholds": {key: round(value, 5) for key, value in thresholds[name].items()},
            "by_class": specificity_by_class(studies[name].cases, thresholds[name][OWN]),
        }
        for name in studies
    }
    for part, at in (("as_found", own_mix(first)), ("at_mix", mix)):
        with progress_bar(at.name) as progress:
            for name, study in studies.items():
                estimates = estimate_at_mix(study, at, options.draws, progress=progress).estimates
                rows[name][part] = defined_metrics(estimates)
                rows[name][f"{part}_difference"] = {}
        resampler = Resampler(first.patients, class_strata(first), options.draws, seed=0)
        for item in compare_at_mix(studies, at, resampler) if len(studies) > 1 else ():
            rows[item.model][f"{part}_difference"] = defined_metrics(
                {metric: row.delta for metric, row in item.differences.items()}
            )
    document = {
        "benchmark": "detector_pair",
        "n_images": len(first),
        "n_positive": int(first.positive.sum()),
        "n_patients": len(set(first.patients.tolist())),
        "mix": mix.text,
        "draws": options.draws,
        **environment("numpy", "onnxruntime", "pneumonia"),
        "rows": list(rows.values()),
    }
    head = (
        f"{document['n_images']} radiographs, {document['n_positive']} positive,"
        f" {document['n_patients']} patients; mix: {mix.text}. Research use only, not a medical"
        " device."
    )
    text = table(list(rows.values()), head)
    publish(options.out / "pair.json", document, text)
    if options.figure:
        kept = {
            n: account(*load_model(path)).totals.kept_weights
            for n, path in bundles.items()
            if path.is_dir()
        }
        first_kept = next(iter(kept.values()))
        rates = {name: first_kept / count for name, count in kept.items()}
        write_text(str(options.figure), figure([rows[name] for name in rates], rates))


if __name__ == "__main__":
    main()
