# ruff: noqa: E501  (prose of the card: one line a paragraph)
"""Writes the head of the shipped model's card from its evaluation on the validation images.

    pneumonia evaluate FULL.csv LABELS --operating-points POINTS --out runs/ship_full ...
    pneumonia evaluate MASKED.csv LABELS --operating-points POINTS --out runs/ship_lungs ...
    python -m benchmarks.shipped_model --full runs/ship_full --masked runs/ship_lungs
    pneumonia export RUN --out pneumonia/models/default --about pneumonia/models/about.md

Words stand here, numbers come from the two report folders.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "pneumonia" / "models" / "about.md"
SHOWN = {
    "rsna.kaggle": "RSNA challenge score at `kaggle`",
    "coco.ap50": "AP at IoU 0.50",
    "image.auroc": "AUROC, image level",
    "kaggle.sensitivity": "sensitivity at `kaggle`",
    "kaggle.specificity": "specificity at `kaggle`",
}

WORDS = """## Intended use

Research on detecting lung opacities on frontal chest radiographs of adults (few children were among the data), and on compressing and deploying such a detector. It may sort a research work list. It must not decide about a patient: a
negative answer rules nothing out, and boxes are hints where to look.

- Users: researchers and engineers; a radiologist reads every image.
- Input: frontal chest radiographs (AP or PA) as DICOM, PNG or JPEG. Lateral views, other body parts, children under a year, images of phones or films were not looked at.
- Output: boxes with a score; the score of an image is its highest box. Scores are no probabilities before the calibration of operating_points.json.

## Data and terms

- 245 whole radiographs and 7,903 masked to the lungs from the RSNA Pneumonia Detection Challenge 2018 (annotations for research use; images of NIH ChestX-ray14, NIH Clinical Center), 270 whole NIH ChestX-ray14 frames without finding. No image is part of the package.
- A box marks an opacity that a radiologist of the challenge took for pneumonia; the reference is their reading, without laboratory or clinical facts.
- Split by NIH patient. Thresholds, the best epoch and every choice were made on the validation images below, so their figures flatter; a test set was never used.
- Recipes and commands: `make reproduce` of commit c129321 (dense 35 minutes, then 4x, 9x, 18x and 36x in 62, on one core). Later recipes count the limits of small layers otherwise; their ladder is in docs/results.md.

## Limits of data and use

- Few whole radiographs were there to learn from and only 42 to measure on: look at the width of the intervals.
- Thresholds are for whole radiographs. Masked ones score higher; on them the same threshold calls too many.
- AP images are of sicker patients than PA ones (56 % against 9 % positive here), and the model does better on AP: it has learnt from that.
- One institution, images from before 2017, 8-bit copies of 1024 pixels seen at 256: fine opacities are lost.

## Failures, described

Seen in the 42 whole validation radiographs, the ten highest-scored negatives and the ten lowest-scored positives:

- Called without reason at `kaggle`: five negatives, all of them portable or supine AP images labelled "not normal", with hazy lungs and mostly a box over each lung; no normal image.
- Not called at `kaggle`: four positives of which three are PA: two small opacities of one lung, a cavitating opacity of a right middle field, an opacity of a right lower field, a faint one of a right upper field.
- Half found: the opacity of one side boxed, the other side's not; a small basal opacity inside a box four times its size, with a false box on the other side.
- Scores are low throughout (mostly 0.1 to 0.35), and those of true and false boxes overlap.
"""


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of a report folder by name."""
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    metrics: dict[str, Any] = document["metrics"]
    return metrics


def interval(item: dict[str, Any]) -> str:
    """A value with its interval."""
    return f"{item['value']:.3f} ({item['ci_low']:.3f} to {item['ci_high']:.3f})"


def metric_table(full: dict[str, Any], masked: dict[str, Any], counts: tuple[str, str]) -> str:
    """Both kinds side by side."""
    lines = [f"| | whole ({counts[0]}) | masked ({counts[1]}) |", "|---|---|---|"]
    lines += [
        f"| {text} | {interval(full[k])} | {interval(masked[k])} |" for k, text in SHOWN.items()
    ]
    return "\n".join(lines)


def subgroup_table(path: Path) -> str:
    """Groups that are large enough, with AUROC, sensitivity and specificity."""
    groups: dict[tuple[str, str, str, str], dict[str, dict[str, str]]] = defaultdict(dict)
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["facet"] in ("view", "sex", "age") and row["value"]:
                key = (row["facet"], row["group"], row["images"], row["positive"])
                groups[key][row["metric"]] = row
    lines = [
        "| group | images (positive) | AUROC | sensitivity | specificity |",
        "|---|---|---|---|---|",
    ]
    for (facet, group, images, positive), found in groups.items():
        cells = []
        for metric in ("auroc", "sensitivity", "specificity"):
            row = found.get(metric)
            cells.append(
                f"{float(row['value']):.2f} ({float(row['ci_low']):.2f} to {float(row['ci_high']):.2f})"
                if row and row["ci_low"] else "not available"
            )  # fmt: skip
        lines.append(f"| {facet} {group} | {images} ({positive}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write the text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", type=Path, required=True, help="report of the whole radiographs")
    parser.add_argument("--masked", type=Path, required=True, help="report of the masked ones")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    full, masked = read_metrics(options.full), read_metrics(options.masked)
    counts = (f"n = {full['image.auroc']['n']}", f"n = {masked['image.auroc']['n']}")
    text = (
        f"{WORDS}\n## Validation, 95 % intervals over patients\n\n"
        f"{metric_table(full, masked, counts)}\n\n"
        "## Groups (masked validation images, at `kaggle`)\n\n"
        f"{subgroup_table(options.masked / 'subgroups.csv')}\n\n"
        "Cells with fewer than 30 positives are withheld. No correction for the number of groups.\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
