"""What context can bring at most: a trained linker given the right codes of all earlier mentions.

    pneumonia data train-linker REPORTS --out runs/linker
    python -m benchmarks.reports.linking_ceiling REPORTS runs/linker

On the validation part, against the linker as it is: its context switched off, its context made
right (the manual code of every earlier mention in place of the linked one), and every mention
right whose code is among its candidates. Writes benchmarks/results/report_linking_ceiling.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reporting import RESULTS, argument_parser, environment, publish
from data_prep.reports.findings.concepts import NIL
from data_prep.reports.findings.linking import LinkDecision
from data_prep.reports.linker.batches import arrange, collate
from data_prep.reports.linker.documents import LinkDocument, gold_place
from data_prep.reports.linker.measure import count_codes, difference, micro_f1
from data_prep.reports.linker.trained_linker import TrainedLinker, parse, report_codes
from data_prep.reports.reading.splitting import coded_reports

OUT = RESULTS / "report_linking_ceiling.json"
Decisions = list[list[LinkDecision]]


def decide_with_right_context(
    linker: TrainedLinker, documents: Sequence[LinkDocument]
) -> Decisions:
    """Decisions when the right code of every earlier mention stands in the context."""
    found: Decisions = []
    for document in documents:
        if not document.mentions:
            found.append([])
            continue
        order = arrange(document, linker.config.order, np.random.default_rng(0))
        with torch.no_grad():
            places = linker.model.teach(collate([document], linker.table, [order]))[0].argmax(dim=1)
        chosen = dict(zip(order, places.tolist(), strict=True))
        found.append(
            [
                LinkDecision(m.candidates[chosen[i]].entity, 1.0)
                for i, m in enumerate(document.mentions)
            ]
        )
    return found


def decide_without_context(linker: TrainedLinker, documents: Sequence[LinkDocument]) -> Decisions:
    """Decisions of the same weights when nothing joins the context."""
    hops, linker.model.hops = linker.model.hops, 0
    try:
        return linker.decide_all(documents)
    finally:
        linker.model.hops = hops


def right_where_possible(documents: Sequence[LinkDocument], decided: Decisions) -> Decisions:
    """The right code wherever it is a candidate, else what was decided."""
    return [
        [
            LinkDecision(m.gold, 1.0) if m.gold is not None and gold_place(m) >= 0 else decision
            for m, decision in zip(document.mentions, decisions, strict=True)
        ]
        for document, decisions in zip(documents, decided, strict=True)
    ]


def repeats(document: LinkDocument) -> list[bool]:
    """Which mentions stand for a code that an earlier one of the document stands for."""
    seen: set[str | None] = {NIL}
    found = []
    for mention in document.mentions:
        found.append(mention.gold in seen - {NIL})
        seen.add(mention.gold)
    return found


def compare(reports: Path, folder: Path) -> dict[str, Any]:
    """The table of this benchmark."""
    linker = TrainedLinker.load(folder)
    val = parse(linker.base, coded_reports(reports)["val"])
    documents = [linker.make(r.name, r.sentences, r.mentions, r.codes) for r in val]
    gold = [r.codes for r in val]
    as_is = linker.decide_all(documents)
    ways = {
        "as it is": as_is,
        "context switched off": decide_without_context(linker, documents),
        "context made right": decide_with_right_context(linker, documents),
        "every mention right whose code is a candidate": right_where_possible(documents, as_is),
    }
    again = np.array([one for document in documents for one in repeats(document)])
    rows: dict[str, Any] = {}
    for name, decided in ways.items():
        pairs = zip(documents, decided, strict=True)
        right = np.array(
            [d.code == m.gold for doc, own in pairs for m, d in zip(doc.mentions, own, strict=True)]
        )
        rows[name] = {
            "mentions": round(float(right.mean()), 4),
            "repeated": round(float(right[again].mean()), 4),
        }
        codes, base = ([report_codes(d) for d in way] for way in (decided, as_is))
        for level in ("heading", "code"):
            counts, before = (count_codes(found, gold, level) for found in (codes, base))
            rows[name][level] = round(micro_f1(counts), 4)
            rows[name][f"{level}, over as it is"] = [
                round(v, 4) for v in difference([counts], [before])
            ]
    return {
        **environment("torch"),
        "linker": linker.config.model_dump(),
        "reports": len(val),
        "mentions": len(again),
        "repeated": int(again.sum()),
        "ways": rows,
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("reports", type=Path, help="csv, or folder of OpenI's XML")
    parser.add_argument("linker", type=Path, help="of `pneumonia data train-linker`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = compare(options.reports, options.linker)
    publish(OUT, found)


if __name__ == "__main__":
    main()
