"""How far a report narrows the choice of a finding, and what a choice costs as types grow.

    python -m benchmarks.reports.annotation_clicks ../shared/data/reports/openi_reports.csv

Reports are the 20 % of OpenI that no linker is trained on; truth is their manual codes; linking is
by the vocabulary alone. A scripted reader with a code in mind uses what the page offers, in its
order. Writes benchmarks/results/annotation_clicks.json and docs/images/annotation_clicks.svg.
"""

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reporting import RESULTS, argument_parser, publish
from data_prep.annotation.candidates import (
    MAX_OFFERED,
    TypeIndex,
    groups,
    offer_findings_of_report,
    refilter,
)
from data_prep.reports.findings.concepts import NOT_FINDINGS, ConceptBase, ConceptTables, split_code
from data_prep.reports.findings.linking import LinkedConcept, link_report
from data_prep.reports.reading.files import read_reports
from data_prep.reports.reading.splitting import split_reports

OUT = RESULTS / "annotation_clicks.json"
PLOT = Path(__file__).parents[2] / "docs" / "images" / "annotation_clicks.svg"
SIZES = (10, 100, 1_000, 10_000)
MAX_HITS = 10
BUTTONS = 6  # findings of the report above the first step (pages/typing.js)


class TypedFinding(NamedTuple):
    """A finding to be typed: its manual code and what the vocabulary linked in its report."""

    code: str
    linked: tuple[LinkedConcept, ...]


class ChoiceCost(NamedTuple):
    """What one choice took: clicks and page turns, letters typed, options shown."""

    clicks: int
    letters: int
    options: int


def read_cases(source: Path, base: ConceptBase) -> list[TypedFinding]:
    """Every manual code of the test reports that means a finding."""
    reports = [report for report in read_reports(source) if not report.reason]
    split = split_reports([report.report_id for report in reports])
    cases = []
    for report in reports:
        if split[report.report_id] != "test":
            continue
        linked = tuple(link_report(report.text, base))
        codes = {base.canonical(code) for code in report.codes}
        cases += [
            TypedFinding(code, linked)
            for code in sorted(codes)
            if code in base and split_code(code)[0] not in NOT_FINDINGS
        ]
    return cases


def below(base: ConceptBase, node: str) -> int:
    """Number of all descendants of a node."""
    return sum(1 + below(base, child) for child in base.children(node))


def shrinkage(base: ConceptBase, cases: Sequence[TypedFinding]) -> dict[str, Any]:
    """Number of types offered per finding, and how often the correct type is among them."""
    sizes = {root: below(base, root) for root in base.roots()}
    group = [base.path(case.code)[0] for case in cases]
    offers = [[o for o in offer_findings_of_report(base, c.linked) if o.coarse == g]
              for c, g in zip(cases, group, strict=True)]  # fmt: skip
    pairs = list(zip(cases, offers, strict=True))
    return {
        "findings": len(cases),
        "types": len(base),
        "offered_group": statistics.fmean(sizes[g] for g in group),
        "offered_report": statistics.fmean(len({o.code for o in found}) for found in offers),
        "offered_report_any_group": statistics.fmean(
            len(offer_findings_of_report(base, case.linked)) for case in cases
        ),
        "code_among": statistics.fmean(any(o.code == c.code for o in f) for c, f in pairs),
        "heading_among": statistics.fmean(
            any(split_code(o.code)[0] == split_code(c.code)[0] for o in f) for c, f in pairs
        ),
    }


def base_of(full: ConceptBase, size: int) -> ConceptBase:
    """The `size` most frequent codes; beyond the real ones, made-up finer ones below them."""
    codes = sorted(full.counts, key=lambda code: (-full.counts[code], code))
    codes = [code for code in codes if split_code(code)[0] not in NOT_FINDINGS]
    counts = {code: full.counts[code] for code in codes[:size]}
    k = 0
    while len(counts) < size:
        k += 1
        for code in codes[: size - len(counts)]:
            counts[f"{code}/variant {k}"] = 0
    headings = {split_code(code)[0] for code in counts}
    groups = {g: [h for h in names if h in headings] for g, names in full.groups.items()}
    return ConceptBase(ConceptTables(codes=counts, groups={g: n for g, n in groups.items() if n}))


def _listed(names: Sequence[str], wanted: str) -> ChoiceCost:
    """Cost of picking an entry from a list shown nine at a time: page turns, then one click."""
    at = names.index(wanted)
    return ChoiceCost(
        1 + at // MAX_OFFERED, 0, min(len(names), (at // MAX_OFFERED + 1) * MAX_OFFERED)
    )


def _add(*costs: ChoiceCost) -> ChoiceCost:
    return ChoiceCost(*(sum(values) for values in zip(*costs, strict=True)))


def cost_by_steps(
    base: ConceptBase, case: TypedFinding, linked: Sequence[LinkedConcept]
) -> ChoiceCost:
    """ChoiceCost by coarse type, candidates, finer types; `Whole tree` if no candidate fits."""
    path = base.path(case.code)
    spent = _listed(groups(base), path[0])
    offers = [offer.code for offer in refilter(base, linked, path[0])]
    known = [code for code in path[1:] if code in offers]
    if known:
        spent = _add(spent, _listed(offers, known[-1]))
        start = path.index(known[-1])
    else:
        spent = _add(spent, ChoiceCost(1, 0, len(offers)))  # seen in vain, then `Whole tree`
        spent = _add(spent, _listed(groups(base), path[0]))
        start = 0
    return _add(spent, _finer(base, path[start:]))


def cost_by_buttons(base: ConceptBase, case: TypedFinding) -> ChoiceCost:
    """One click on what the report says, then finer types; else the three steps."""
    path = base.path(case.code)
    buttons = [offer.code for offer in offer_findings_of_report(base, case.linked)[:BUTTONS]]
    seen = ChoiceCost(0, 0, len(buttons))
    known = [at for at, code in enumerate(path) if code in buttons]
    if not known:
        return _add(seen, cost_by_steps(base, case, case.linked))
    return _add(seen, ChoiceCost(1, 0, 0), _finer(base, path[known[-1] :]))


def _finer(base: ConceptBase, path: Sequence[str]) -> ChoiceCost:
    """From the first node of a path down to the last."""
    steps = [_listed(base.children(a), b) for a, b in pairwise(path)]
    return _add(ChoiceCost(0, 0, 0), *steps)


def cost_by_search(index: TypeIndex, case: TypedFinding) -> ChoiceCost:
    """Letters of the code until it is among ten hits, then a click: a flat list of all types."""
    options = 0
    for n in range(1, len(case.code) + 1):
        hits = index.search(case.code[:n], MAX_HITS)
        options = len(hits)
        if case.code in hits:
            return ChoiceCost(1, n, options)
    return ChoiceCost(1, len(case.code), options)


def growth(full: ConceptBase, cases: Sequence[TypedFinding], limit: int) -> list[dict[str, Any]]:
    """Mean cost per choice at each size of the type set, on the same findings."""
    rows = []
    for size in SIZES:
        base = base_of(full, size)
        chosen = [case for case in cases if case.code in base.counts][:limit]
        index = TypeIndex(base)
        start = time.process_time()
        ways = {
            "buttons": [cost_by_buttons(base, case) for case in chosen],
            "report": [cost_by_steps(base, case, case.linked) for case in chosen],
            "steps": [cost_by_steps(base, case, ()) for case in chosen],
        }
        spent_ms = 1000 * (time.process_time() - start) / (3 * len(chosen))
        ways["flat"] = [cost_by_search(index, case) for case in chosen]
        row: dict[str, Any] = {"types": size, "findings": len(chosen), "server_ms": spent_ms}
        for name, costs in ways.items():
            row[name] = {
                field: statistics.fmean(getattr(cost, field) for cost in costs)
                for field in ChoiceCost._fields
            }
            row[name]["actions"] = row[name]["clicks"] + row[name]["letters"]
        rows.append(row)
    return rows


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Actions and options per choice against the number of types."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "annotation"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.1), constrained_layout=True)
    names = {
        "buttons": "buttons of the report, else steps",
        "report": "steps with report",
        "steps": "steps without report",
        "flat": "flat, prefix",
    }
    for axis, field, title in zip(
        axes, ("actions", "options"),
        ("clicks, page turns and letters", "options shown"), strict=True,
    ):  # fmt: skip
        for (way, label), mark in zip(names.items(), "sdo^", strict=True):
            axis.plot([r["types"] for r in rows], [r[way][field] for r in rows], mark + "-",
                      label=label)  # fmt: skip
        axis.set(xscale="log", xlabel="types", ylabel=title + " per choice", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("reports", type=Path)
    parser.add_argument("--limit", type=int, default=100_000, help="findings per size")
    arguments = parser.parse_args()
    base = ConceptBase.load()
    cases = read_cases(arguments.reports, base)
    found = {
        "reports": "OpenI, test 20 %",
        "linking": "vocabulary alone",
        "shrinkage": shrinkage(base, cases),
        "growth": growth(base, cases, arguments.limit),
    }
    publish(OUT, found)
    plot(found["growth"], PLOT)


if __name__ == "__main__":
    main()
