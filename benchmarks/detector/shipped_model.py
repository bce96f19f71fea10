# ruff: noqa: E501  (prose of the card: one line a paragraph)
"""Writes the head of the shipped model's card from its evaluation on the validation images.

    pneumonia evaluate FULL.csv LABELS --operating-points POINTS --out runs/ship_full ...
    pneumonia evaluate MASKED.csv LABELS --operating-points POINTS --out runs/ship_lungs ...
    python -m benchmarks.detector.shipped_model --full runs/ship_full --masked runs/ship_lungs
    pneumonia export RUN --out pneumonia/models/default --about pneumonia/models/about.md

Words stand here, numbers come from the two report folders.
"""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.reporting import argument_parser, interval_text, markdown_table

OUT = Path(__file__).parents[2] / "pneumonia" / "models" / "about.md"
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

- 7,029 whole radiographs (1,629 with opacities, 392 "Not Normal", 5,008 normal) and 7,903 masked to the lungs from the RSNA Pneumonia Detection Challenge 2018 (annotations for research use; images of NIH ChestX-ray14, NIH Clinical Center), 413 whole NIH ChestX-ray14 frames without finding. Nine of ten masked ones were pasted into whole normal radiographs of other patients. No image is part of the package.
- Most whole ones are 256-pixel JPEG copies from public collections that had processed them otherwise; ids were recovered and checked, some by their place between checked neighbours alone. Tone curves, equalisation, resampling and sharpening were varied in training, so that a collection's processing tells the model less (`benchmarks/images/source_shortcuts.py`).
- A box marks an opacity that a radiologist of the challenge took for pneumonia; the reference is their reading, without laboratory or clinical facts.
- Split by NIH patient. Thresholds and every choice were made on the validation images below, so their figures flatter; a test set was never used.
- One core with bfloat16 (Zen 4): dense 24 epochs of 4,000 images in 66 minutes and 22 more from there in 60, then 4x, 9x, 18x and 36x in 48 (beside other work), taught by the dense network. `make reproduce` repeats it.

## Limits of data and use

- Only 51 "Not Normal" radiographs among 739 negatives here; RSNA has 57 %. Figures as the images come flatter: look at those for RSNA's mix of classes. The operating points were chosen at that mix.
- `kaggle` is the challenge's threshold: it misses four of ten positives, since the challenge punishes a false box as much as a missed one. To find positives use `high_sensitivity` or `balanced`.
- Thresholds are for whole radiographs. On radiographs masked to the lungs the model is worse than its predecessor, which had learnt mostly from them.
- AP images are of sicker patients than PA ones (51 % against 5 % positive here), and the model has learnt from that: at `kaggle` it finds two thirds of the positive AP images and a quarter of the positive PA ones (8 of 33).
- One institution, images from before 2017, seen at 256 pixels: fine opacities are lost.

## Failures, described

Seen in the 913 whole validation radiographs, the twelve highest-scored negatives and the twelve lowest-scored positives:

- Highest negatives: seven of twelve are "Not Normal" and eight AP, most with small or hazy lungs, effusions or tubes and a box over each lung, on the heart's left border too; the normal ones are short of breath, or have breast shadows or a pacemaker over the lower field.
- Lowest positives: eight of twelve are PA. Small or faint opacities at a base, two in an apex beside or under the clavicle, one behind the heart; one image is cut off below the apices, and three boxes of the truth show little that can be seen at this size.
- Scores are low throughout (mostly 0.1 to 0.5), and those of true and false boxes overlap.
"""


def read_metrics(folder: Path, part: str = "") -> dict[str, Any]:
    """The metrics of a report folder by name; `part` is `at_mix` for those at the mix."""
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    metrics: dict[str, Any] = (document[part] if part else document)["metrics"]
    return metrics


def interval(item: dict[str, Any]) -> str:
    """A value with its interval."""
    return interval_text((item["value"], item["ci_low"], item["ci_high"]))


def metric_table(
    full: dict[str, Any], at_mix: dict[str, Any], masked: dict[str, Any], counts: tuple[str, str]
) -> str:
    """Whole radiographs as they come and at RSNA's mix of classes, and masked ones."""
    head = ("", f"whole ({counts[0]})", "whole, at RSNA's mix", f"masked ({counts[1]})")
    parts = (full, at_mix, masked)
    return markdown_table(
        head, [(text, *(interval(part[k]) for part in parts)) for k, text in SHOWN.items()]
    )


def subgroup_table(path: Path) -> str:
    """Groups that are large enough, with AUROC, sensitivity and specificity."""
    groups: dict[tuple[str, str, str, str], dict[str, dict[str, str]]] = defaultdict(dict)
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["facet"] in ("view", "sex", "age") and row["value"]:
                key = (row["facet"], row["group"], row["images"], row["positive"])
                groups[key][row["metric"]] = row
    lines = []
    for (facet, group, images, positive), found in groups.items():
        cells = []
        for metric in ("auroc", "sensitivity", "specificity"):
            row = found.get(metric)
            cells.append(
                f"{float(row['value']):.2f} ({float(row['ci_low']):.2f} to {float(row['ci_high']):.2f})"
                if row and row["ci_low"] else "not available"
            )  # fmt: skip
        lines.append((f"{facet} {group}", f"{images} ({positive})", *cells))
    head = ("group", "images (positive)", "AUROC", "sensitivity", "specificity")
    return markdown_table(head, lines)


def main() -> None:
    """Write the text."""
    parser = argument_parser(__doc__)
    parser.add_argument("--full", type=Path, required=True, help="report of the whole radiographs")
    parser.add_argument("--masked", type=Path, required=True, help="report of the masked ones")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    full, masked = read_metrics(options.full), read_metrics(options.masked)
    counts = (f"n = {full['image.auroc']['n']}", f"n = {masked['image.auroc']['n']}")
    text = (
        f"{WORDS}\n## Validation, 95 % intervals over patients\n\n"
        f"{metric_table(full, read_metrics(options.full, 'at_mix'), masked, counts)}\n"
        "## Groups (whole validation images, at `kaggle`)\n\n"
        f"{subgroup_table(options.full / 'subgroups.csv')}\n"
        "Cells with fewer than 30 positives are withheld. No correction for the number of groups.\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
