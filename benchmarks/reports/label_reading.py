"""Precision of the weak labels against a reader's verdicts on the reports' text.

    python -m benchmarks.reports.label_reading ../shared/data/reports/openi_reports.csv
    python -m benchmarks.reports.label_reading REPORTS --draw train 400 7 > texts.txt

Definition that the reader applied to findings and impression, without seeing the label:

* y: they state an opacity of the lung as present (opacity, haziness, consolidation, infiltrate,
  airspace disease, pneumonia), whatever the supposed cause;
* u: one is possible or not excluded, or explained by tissue that overlies the lung, or something
  that may hide one or be taken for one is stated or suspected (atelectasis, effusion, oedema,
  congestion, mass, nodule that is not called calcified, density, volume loss, cavity, fibrosis,
  prominent interstitial markings), or the lungs are called not clear;
* n: an opacity is denied, or both lungs are called clear or normal, and none of the above. Scars,
  calcified granulomas, emphysema, large vessels and pneumothorax do not count;
* x: nothing is said of opacities of both lungs; only `uncertain` is right.

A label is right when the verdict is the same; `x` counts as `u`. `label_reading.json` holds the
places of the reports among the sorted ids of their part of the split, the verdicts, and the counts
at the time of reading, before disagreements were used to change a rule. No text, no ids.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reporting import RESULTS, argument_parser, markdown_table, publish
from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.findings.text import REPORTED, find_sections
from data_prep.reports.reading.files import SourceReport
from data_prep.reports.reading.splitting import coded_reports
from data_prep.reports.weak_labels.opacity_label import NO, UNSURE, YES, opacity_label
from evaluation.metrics.intervals import wilson

OUT = RESULTS / "label_reading.json"
VERDICTS = {YES: "y", NO: "n", UNSURE: "ux"}


def reported_text(report: SourceReport) -> str:
    """Findings and impression of a report on one line."""
    sections = (s for s in find_sections(report.text) if s.kind in REPORTED)
    return " // ".join(" ".join(report.text[s.start : s.end].split()) for s in sections)


def count_now(
    reading: dict[str, Any], parts: dict[str, list[SourceReport]], base: ConceptBase
) -> Any:
    """Verdicts by label that the present rules give: label -> verdict -> reports."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, read in reading["parts"].items():
        for place, verdict in zip(read["places"], read["verdicts"], strict=True):
            counts[opacity_label(parts[name][place].text, base), verdict] += 1
    return {label: {v: counts[label, v] for v in "ynux" if counts[label, v]} for label in VERDICTS}


def precision_cell(counts: dict[str, dict[str, int]], label: str) -> str:
    right = sum(n for verdict, n in counts[label].items() if verdict in VERDICTS[label])
    total = sum(counts[label].values())
    low, high = wilson(right, total)
    return f"{right}/{total} = {right / total:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("reports", type=Path)
    parser.add_argument("--draw", nargs=3, metavar=("PART", "COUNT", "SEED"))
    arguments = parser.parse_args()
    coded = coded_reports(arguments.reports)
    parts = {name: sorted(own, key=lambda r: r.report_id) for name, own in coded.items()}
    if arguments.draw:
        name, count, seed = arguments.draw
        for place in random.Random(int(seed)).sample(range(len(parts[name])), int(count)):
            print(place, reported_text(parts[name][place]))
        return
    table = json.loads(OUT.read_text(encoding="utf-8"))
    base = ConceptBase.load()
    lines = []
    for reading in table["readings"]:
        reading["now"] = count_now(reading, parts, base)
        cells = [
            precision_cell(reading[when], label)
            for when in ("when_read", "now")
            for label in (YES, NO)
        ]
        lines.append((reading["what"], *cells))
    head = ("reports", "`yes` when read", "`no` when read", "`yes` now", "`no` now")
    text = markdown_table(head, lines)
    publish(OUT, table, text)


if __name__ == "__main__":
    main()
