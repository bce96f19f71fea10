"""Writes the head of the shipped model's card from its evaluation on the validation images.

    pneumonia evaluate FULL.csv LABELS --operating-points POINTS --out runs/ship_full ...
    pneumonia evaluate MASKED.csv LABELS --operating-points POINTS --out runs/ship_lungs ...
    python -m benchmarks.detector.shipped_model --full runs/ship_full --masked runs/ship_lungs
    pneumonia export RUN --out pneumonia/models/default --about pneumonia/models/about.md

Words are in shipped_model.md, numbers come from the two report folders.
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

WORDS = Path(__file__).with_name("shipped_model.md")


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
            if row and row["ci_low"]:
                values = (float(row[key]) for key in ("value", "ci_low", "ci_high"))
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(*values))
            else:
                cells.append("not available")
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
        f"{WORDS.read_text(encoding='utf-8')}\n## Validation, 95 % intervals over patients\n\n"
        f"{metric_table(full, read_metrics(options.full, 'at_mix'), masked, counts)}\n"
        "## Groups (whole validation images, at `kaggle`)\n\n"
        f"{subgroup_table(options.full / 'subgroups.csv')}\n"
        "Cells with fewer than 30 positives are withheld. No correction for the number of groups.\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
