"""What bridges masked radiographs to whole ones: short trainings, judged on every whole one.

    python -m benchmarks.detector.bridge_experiments --data runs/data --work runs/bridge

42 whole validation radiographs cannot tell recipes apart. Here no whole RSNA radiograph is trained
on, so that all 287 of them judge: the detector learns from masked lungs and whole NIH frames alone,
without any patient who has a whole RSNA radiograph. Small on purpose (yolov3-tiny of width 0.5 at
160 px, 14,400 images a training): the rows compare ways of training and do not measure the
detector. For all rows alike, the threshold is the best one on the images that are scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.detector.ladder import SHOWN, beside_first, match_predictions
from benchmarks.reporting import (
    RESULTS,
    argument_parser,
    environment,
    interval_text,
    markdown_table,
    publish,
    rounded,
)
from data_prep.augment.composite import CompositeSettings
from data_prep.dataset.reader import Dataset, open_dataset
from data_prep.dataset.writer import CachedImage, DatasetFacts, new_dataset
from evaluation.analysis.catalogue import headline_statistics
from evaluation.analysis.paired import compare_studies
from evaluation.metrics.bootstrap import Resampler, estimate_all
from pneumonia.runtime.model.predictions import read_predictions
from pneumonia.training.config import DataConfig, ModelConfig, TrainRecipe
from pneumonia.training.run import run_train

MASKED = {"lungs": 1, "full": 1}  # no whole training radiograph is left in the dataset
MIXED = {**MASKED, "nih": 6}
PASTED, ALL_PASTED = (CompositeSettings(probability=p) for p in (0.5, 1.0))
BASE = TrainRecipe(
    model=ModelConfig(name="yolov3-tiny", width=0.5, size=160),
    data=DataConfig(images_per_epoch=1600),
    epochs=9,
    validate_every=9,
)


class Arm(NamedTuple):
    """One way of training."""

    name: str  # what it learns from
    against: int | None  # index of the arm it differs from in one thing; None for the first
    recipe: TrainRecipe  # the training


def _recipe(image_head: bool = False, **data: Any) -> TrainRecipe:
    model = BASE.model.model_copy(update={"image_head": image_head})
    return BASE.model_copy(update={"model": model, "data": BASE.data.model_copy(update=data)})


ARMS = (
    Arm("masked lungs", None, _recipe(kinds=MASKED)),
    Arm("masked lungs, whole NIH negatives", 0, _recipe(kinds=MIXED)),
    Arm("half of the lungs pasted into them", 1, _recipe(kinds=MIXED, composite=PASTED)),
    Arm("all of the lungs pasted into them", 2, _recipe(kinds=MIXED, composite=ALL_PASTED)),
    Arm(
        "half pasted, with an image-level gate",
        2,
        _recipe(image_head=True, kinds=MIXED, composite=PASTED),
    ),
)


def rearrange(source: Dataset, out: Path) -> None:
    """All whole RSNA radiographs become validation images; their patients leave the training."""
    if (out / "dataset.json").is_file():
        return
    judged = {record.patient_id for record in source.records if record.kind == "full"}
    with new_dataset(out) as writer:
        for i, record in enumerate(source.records):
            whole = record.kind == "full"
            if whole or (record.split == "train" and record.patient_id not in judged):
                split = "val" if whole else "train"
                cached = CachedImage(source.pixels(i), source.cache[i].sha256)
                writer.add(record._replace(split=split), cached, source.boxes(i))
        split = {"method": "whole radiographs judge", "seed": None, "leak_warning": None}
        facts = DatasetFacts({"type": "bridge"}, source.fingerprint, 512, split, [], {})
        writer.finish(facts)


def measure(dataset: Dataset, runs: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Metrics of every arm, with the paired difference to the one it is held against."""
    files = [run / "best" / "val_predictions.csv" for run in runs]
    studies = [match_predictions(dataset, "full", read_predictions(str(file))) for file in files]
    resampler = Resampler(studies[0].cases.patients, studies[0].cases.positive, 2000)
    rows = {}
    for arm, study in zip(ARMS, studies, strict=False):
        found = estimate_all(headline_statistics(study), resampler)
        rows[arm.name] = {short: rounded(found[key]) for key, short in SHOWN.items()}
        if arm.against is not None:
            pair = {"reference": studies[arm.against], "arm": study}
            (comparison,) = compare_studies(pair, resampler)
            rows[arm.name] = {**beside_first(comparison), **rows[arm.name]}
            rows[arm.name]["against"] = arm.against + 1
    return rows


def table(rows: dict[str, dict[str, Any]], n_images: int, n_patients: int) -> str:
    """The rows as Markdown."""
    head = (
        f"{n_images} whole radiographs of {n_patients} patients, none of them trained on; 95 %"
        " intervals over patients; differences are paired, to the row of that number.\n\n"
    )
    titles = ("", "training images", "RSNA", "AP50", "AUROC", "against", "RSNA", "AP50", "AUROC")
    lines = []
    for number, (name, row) in enumerate(rows.items(), 1):
        values = [interval_text(row[short]) for short in SHOWN.values()]
        deltas = [interval_text(row.get(f"{short}_delta"), "+") for short in SHOWN.values()]
        lines.append((number, name, *values, row.get("against", ""), *deltas))
    return head + markdown_table(titles, lines)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.work / "data"
    arguments.work.mkdir(parents=True, exist_ok=True)
    rearrange(open_dataset(arguments.data), folder)
    dataset = open_dataset(folder)
    runs: list[Path] = []
    for number, arm in enumerate(ARMS):
        run = arguments.work / f"arm{number}"
        if not (run / "best").is_dir():
            run_train(folder, arm.recipe, run, resume=run.exists())
        runs.append(run)
        rows = measure(dataset, runs)
        patients = {r.patient_id for r in dataset.records if r.kind == "full"}
        text = table(rows, len(dataset.select("val", ["full"])), len(patients))
        facts = {
            "rows": rows,
            "recipes": {arm.name: arm.recipe.model_dump(mode="json") for arm in ARMS[: len(runs)]},
            **environment("torch", "numpy", "albumentations"),
        }
        publish(RESULTS / "bridge_experiments.json", facts, text)


if __name__ == "__main__":
    main()
