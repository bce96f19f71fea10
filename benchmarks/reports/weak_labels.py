"""The default labeller against manual codes: which weak labels reports get that were coded so.

    python -m benchmarks.reports.weak_labels ../shared/data/reports/openi_reports.csv

The test part of the fixed split. No linker is involved: the label comes from the assertions alone.
Writes benchmarks/results/weak_labels.{json,md}. The manual codes are not the text: a coder may
leave out what the report says, so `yes` in the rows without an opacity is an upper bound of errors.
"""

from collections import Counter
from pathlib import Path

from benchmarks.reporting import RESULTS, argument_parser, markdown_table, publish
from data_prep.reports.findings.concepts import ConceptBase, split_code
from data_prep.reports.reading.files import SourceReport
from data_prep.reports.reading.splitting import coded_reports
from data_prep.reports.weak_labels.opacity_label import NO, UNSURE, YES, opacity_label

OUT = RESULTS / "weak_labels.json"
LABELS = (YES, UNSURE, NO)
GROUPS = {
    "opacity": "coded with an opacity of the lung",
    "alike": "coded with a finding that may hide one or be taken for one",
    "other": "coded with other findings",
    "normal": "coded normal",
}


def coded_group(base: ConceptBase, report: SourceReport) -> str:
    """The first of GROUPS that the report's manual codes belong to."""
    codes = [base.canonical(code) for code in report.codes]
    if any(base.means_opacity(code) for code in codes):
        return "opacity"
    if any(split_code(code)[0] in base.opacity_like for code in codes):
        return "alike"
    return "normal" if codes == ["normal"] else "other"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("reports", type=Path)
    arguments = parser.parse_args()
    base = ConceptBase.load()
    table: Counter[tuple[str, str]] = Counter()
    for report in coded_reports(arguments.reports)["test"]:
        if "No Indexing" not in report.codes:
            table[coded_group(base, report), opacity_label(report.text, base)] += 1
    counts = {group: {label: table[group, label] for label in LABELS} for group in GROUPS}
    rows = [(title, *(counts[group][n] for n in LABELS)) for group, title in GROUPS.items()]
    text = markdown_table(("weak label of test reports", "yes", "uncertain", "no"), rows)
    publish(OUT, {"part": "test", "counts": counts}, text)


if __name__ == "__main__":
    main()
