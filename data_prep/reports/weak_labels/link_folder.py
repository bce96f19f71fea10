"""Link all reports of a source and write the result as one folder, only when complete."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.reports.findings.concepts import ConceptBase
from data_prep.reports.findings.linking import LinkedConcept, MentionLinker, link_report
from data_prep.reports.findings.scope import ABSENT, PRIOR
from data_prep.reports.reading.files import SourceReport, read_reports
from data_prep.reports.weak_labels.opacity_label import UNSURE, opacity_label
from pneumonia.runtime.atomic import new_folder, write_json, write_text
from pneumonia.runtime.csv_tables import csv_text
from pneumonia.runtime.errors import DISCLAIMER, DataError
from pneumonia.runtime.output_folders import require_own_or_empty
from pneumonia.runtime.progress import Progress, report_progress

SCHEMA = "pneumonia.links/1"
OWN_NAMES = {"links.json", "reports.csv", "concepts.csv", "images.csv", "dataset"}
CONCEPT_COLUMNS = (
    "report_id", "section", "start", "end", "alias", "code", "heading", "site", "side",
    "assertion", "score",
)  # fmt: skip
REPORT_COLUMNS = ("report_id", "status", "reason", "opacity", "concepts", "codes")
IMAGE_COLUMNS = ("image_id", "report_id", "opacity")


class LinkedReports(NamedTuple):
    """Summary of a linking run."""

    counts: dict[str, Any]  # reports by status, reason and label; concepts by assertion
    images: dict[str, tuple[str, str]]  # image_id -> (report_id, weak label)


class _Tables:
    """Rows of the three tables: codes, positions and ids, never text of a report."""

    def __init__(self) -> None:
        self.reports: list[Sequence[object]] = []
        self.concepts: list[Sequence[object]] = []
        self.images: dict[str, tuple[str, str]] = {}
        self.status: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.assertions: Counter[str] = Counter()

    def refuse(self, report: SourceReport) -> None:
        self.status["rejected"] += 1
        self.reasons[report.reason] += 1
        self.reports.append((report.report_id, "rejected", report.reason, "", 0, ""))

    def add(self, report: SourceReport, found: Sequence[LinkedConcept], label: str) -> None:
        self.status["linked"] += 1
        self.labels[label] += 1
        stated = dict.fromkeys(c.code for c in found if c.assertion not in (ABSENT, PRIOR))
        row = (report.report_id, "linked", "", label, len(found), ";".join(stated))
        self.reports.append(row)
        for c in found:
            self.assertions[c.assertion] += 1
            place = (report.report_id, c.section, *c.span)
            what = (c.alias, c.code, c.heading, c.site, c.side, c.assertion, f"{c.score:.4f}")
            self.concepts.append(place + what)
        # a report without a list of images uses its id as the image name
        for image in report.images or (report.report_id,):
            known = self.images.get(image)
            # two reports of one image with different labels give `uncertain`
            agreed = label if known is None or known[1] == label else UNSURE
            self.images[image] = (report.report_id, agreed)


def link_source(
    source: Path,
    out: Path,
    base: ConceptBase,
    linker: MentionLinker | None = None,
    progress: Progress | None = None,
    fill: Callable[[Path, LinkedReports], None] | None = None,
) -> LinkedReports:
    """Link every report of a source.

    Args:
        out: New folder, or an earlier output to replace; it is created only when complete.
        progress: Called as (done, total, note); the total is not known before the end.
        fill: Called with the folder before it is renamed to `out`, to add further files.

    Raises:
        DataError: The source cannot be read or has no usable report.
        OutputError: `out` holds something else or cannot be written.
    """
    require_own_or_empty(str(out), "linked reports", "links.json", OWN_NAMES)
    tables = _Tables()
    for number, report in enumerate(read_reports(source), 1):
        if report.reason:
            tables.refuse(report)
        else:
            found = link_report(report.text, base, linker)
            tables.add(report, found, opacity_label(report.text, base))
        if number % 50 == 0:
            report_progress(progress, number, 0)
    if not tables.status["linked"]:
        reasons = ", ".join(f"{name}: {n}" for name, n in sorted(tables.reasons.items()))
        raise DataError("No report can be used", found=reasons or "none", where=str(source))
    linked = LinkedReports(_counts(tables), tables.images)
    with new_folder(str(out)) as part:
        _write(Path(part), tables, linked, base)
        if fill is not None:
            fill(Path(part), linked)
    return linked


def _counts(tables: _Tables) -> dict[str, Any]:
    return {
        "linked": tables.status["linked"],
        "rejected": dict(sorted(tables.reasons.items())),
        "opacity": dict(sorted(tables.labels.items())),
        "assertions": dict(sorted(tables.assertions.items())),
        "images": len(tables.images),
    }


def _write(folder: Path, tables: _Tables, linked: LinkedReports, base: ConceptBase) -> None:
    images = [(image, *pair) for image, pair in sorted(linked.images.items())]
    write_text(str(folder / "reports.csv"), csv_text(REPORT_COLUMNS, tables.reports))
    write_text(str(folder / "concepts.csv"), csv_text(CONCEPT_COLUMNS, tables.concepts))
    write_text(str(folder / "images.csv"), csv_text(IMAGE_COLUMNS, images))
    info = {
        "schema": SCHEMA,
        "disclaimer": DISCLAIMER,
        "concept_base": base.source,
        "counts": linked.counts,
    }
    write_json(str(folder / "links.json"), info)
