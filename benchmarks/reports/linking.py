"""The ablation of report linking on OpenI: dictionary, local only, dynamic context and its parts.

    python -m benchmarks.reports.linking ../shared/data/reports/openi_reports.csv
    python -m benchmarks.reports.linking REPORTS --only "local only, CNN" "DCA ... over CNN" --out F

Split 70/10/20 by report. Everything (epoch, default method) is chosen on the 10 %; the 20 % are
scored once, after all models are trained. Writes benchmarks/results/report_linking.{json,md}.
"""

import argparse
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.reporting import (
    RESULTS,
    argument_parser,
    environment,
    interval_text,
    markdown_table,
    publish,
    spent_s,
)
from benchmarks.reports.shorthand import Shorthand
from data_prep.reports.findings.concepts import NIL, NORMAL, build_base, same_code
from data_prep.reports.findings.linking import DictionaryLinker, finder_of, link_report
from data_prep.reports.findings.scope import PRESENT
from data_prep.reports.linker.candidates import learn_priors
from data_prep.reports.linker.measure import agreement, count_codes, difference
from data_prep.reports.linker.report_documents import asserted_mentions
from data_prep.reports.linker.trained_linker import (
    ParsedReport,
    TrainedLinker,
    fit,
    learn_vectors,
    parse,
    report_codes,
    unbiased_documents,
)
from data_prep.reports.linker.training import LinkerSettings
from data_prep.reports.reading.files import SourceReport, read_reports
from data_prep.reports.reading.splitting import split_reports
from data_prep.reports.weak_labels.opacity_label import opacity_label

OUT = RESULTS / "report_linking.json"
LEVELS = ("heading", "code")
VARIANTS: dict[str, dict[str, Any]] = {
    "local only, attention": {"hops": 0},
    "local only, CNN": {"hops": 0, "local": "cnn"},
    "DCA 1-hop hard, offset, SL": {"hops": 1},
    "DCA 1-hop soft, offset, SL": {"hops": 1, "hard": False},
    "DCA 2-hop hard, offset, SL": {"hops": 2},
    "DCA 2-hop soft, offset, SL": {"hops": 2, "hard": False},
    "DCA 1-hop hard, size, SL": {"hops": 1, "order": "size"},
    "DCA 1-hop hard, random, SL": {"hops": 1, "order": "random"},
    "DCA 1-hop hard, offset, RL": {"hops": 1, "learn": "rl"},
    "DCA 2-hop hard, offset, RL": {"hops": 2, "learn": "rl"},
    "DCA 1-hop hard, offset, SL over CNN": {"hops": 1, "local": "cnn"},
    "DCA 2-hop hard, offset, SL over CNN": {"hops": 2, "local": "cnn"},
    "DCA 1-hop hard, size, SL over CNN": {"hops": 1, "local": "cnn", "order": "size"},
    "DCA 1-hop hard, random, SL over CNN": {"hops": 1, "local": "cnn", "order": "random"},
    "DCA 1-hop hard, offset, RL over CNN": {"hops": 1, "local": "cnn", "learn": "rl"},
}
# These also learn from the training reports in shorthand, where the gold of a mention is known.
WITH_SHORTHAND = " with shorthand"
for _name in ("local only, CNN", "DCA 1-hop hard, offset, SL over CNN"):
    VARIANTS[_name + WITH_SHORTHAND] = VARIANTS[_name]
LOCAL = "local only, attention"
LOCAL_CNN = "local only, CNN"


def dictionary_codes(linker: TrainedLinker, reports: list[ParsedReport]) -> list[list[str]]:
    """Untrained baseline: first code of each alias with its qualifiers, present mentions only."""
    words = DictionaryLinker(linker.base)
    found = []
    for report in reports:
        present = [m for m in report.mentions if m.assertion == PRESENT]
        found.append(report_codes(words.link("", present)))
    return found


def prior_codes(linker: TrainedLinker, reports: list[ParsedReport]) -> list[list[str]]:
    """The candidate with the largest p(code | mention), which may be NIL."""
    found = []
    for report in reports:
        best = [linker.generator.all_codes(m)[0].entity for m in asserted_mentions(report.mentions)]
        found.append(list(dict.fromkeys(code for code in best if code != NIL)) or [NORMAL])
    return found


def model_codes(linker: TrainedLinker, reports: list[ParsedReport]) -> list[list[str]]:
    """What a trained linker decides."""
    documents = [linker.make(r.name, r.sentences, r.mentions) for r in reports]
    return [report_codes(decisions) for decisions in linker.decide_all(documents)]


class Ablation:
    """One split, one set of priors and vectors; models are trained one after another."""

    def __init__(self, reports: list[SourceReport], epochs: int, work: Path) -> None:
        part = split_reports([report.report_id for report in reports])
        coded = [report for report in reports if report.codes and not report.reason]
        by_part = {
            name: [report for report in coded if part[report.report_id] == name]
            for name in ("train", "val", "test")
        }
        self.epochs = epochs
        self.work = work
        self.test_reports = by_part["test"]
        self.base = build_base([report.codes for report in by_part["train"]], {"name": "OpenI"})
        self.train, self.val, self.test = (parse(self.base, by_part[n]) for n in by_part)
        self.priors = learn_priors(
            self.base, [(asserted_mentions(r.mentions), r.codes) for r in self.train]
        )
        self.words = learn_vectors(self.base, self.train, 100)
        self.plain = self.new_linker({})
        self.documents = unbiased_documents(self.plain, self.train)
        shorthand = Shorthand(self.base, [(r.sentences, r.mentions) for r in self.train])
        self.shortened = [
            shorthand.document(r.name, r.sentences, r.mentions, counted=True) for r in self.train
        ]
        self.codes: dict[str, dict[str, list[list[list[str]]]]] = {"val": {}, "test": {}}
        self.seconds: dict[str, float] = {}
        self.linkers: dict[str, list[TrainedLinker]] = {}

    def new_linker(self, options: dict[str, Any]) -> TrainedLinker:
        """An untrained linker on the common priors and vectors."""
        config = LinkerSettings(**options, epochs=self.epochs)
        return TrainedLinker(self.base, self.priors, self.words, config)

    def run(self, name: str, options: dict[str, Any], seeds: int) -> None:
        """Train one method with several seeds; what an earlier run trained is taken from `work`."""
        start = time.process_time()
        self.linkers[name] = []
        more = self.shortened if name.endswith(WITH_SHORTHAND) else []
        for seed in range(seeds):
            linker = self.new_linker({**options, "seed": seed})
            folder = self.work / f"{name} {seed}".replace(",", "").replace(" ", "-")
            if folder.is_dir() and (stored := TrainedLinker.load(folder)).config == linker.config:
                linker = stored
            else:
                best = fit(linker, [*self.documents, *more], self.val)
                linker.save(folder)
                print(f"{name} seed {seed}: validation {best:.4f}", flush=True)
            self.linkers[name].append(linker)
        self.seconds[name] = (time.process_time() - start) / seeds

    def score(self, part: str) -> None:
        """Let every method link a part of the reports."""
        reports = self.val if part == "val" else self.test
        self.codes[part]["dictionary"] = [dictionary_codes(self.plain, reports)]
        self.codes[part]["prior only"] = [prior_codes(self.plain, reports)]
        for name, linkers in self.linkers.items():
            self.codes[part][name] = [model_codes(linker, reports) for linker in linkers]

    def table(self, part: str) -> dict[str, Any]:
        """Agreement of every method on a part, with differences to dictionary and local only."""
        reports = self.val if part == "val" else self.test
        gold = [r.codes for r in reports]
        counts = {
            name: {level: [count_codes(c, gold, level) for c in runs] for level in LEVELS}
            for name, runs in self.codes[part].items()
        }
        found: dict[str, Any] = {}
        for name, levels in counts.items():
            row: dict[str, Any] = {}
            for level, runs in levels.items():
                row[level] = {k: round(v, 4) for k, v in agreement(runs)._asdict().items()}
                for other in ("dictionary", LOCAL, LOCAL_CNN):
                    if other != name and other in counts:
                        gap = difference(runs, counts[other][level])
                        row[level][f"over {other}"] = [round(value, 4) for value in gap]
            found[name] = row
        return found


def weak_label_table(ablation: Ablation, linker: TrainedLinker) -> dict[str, Any]:
    """Weak labels of the test part against "a manual code is an opacity"."""
    headings = {heading.casefold() for heading in ablation.base.opacity}
    table: Counter[tuple[bool, str]] = Counter()
    for report in ablation.test_reports:
        if "No Indexing" in report.codes:
            continue
        truth = any(same_code(code)[0] in headings for code in report.codes)
        table[truth, opacity_label(report.text, linker.base)] += 1
    return {
        "coded with an opacity": {k: table[True, k] for k in ("yes", "uncertain", "no")},
        "coded without": {k: table[False, k] for k in ("yes", "uncertain", "no")},
    }


def measure_cost(ablation: Ablation, linker: TrainedLinker) -> list[dict[str, float]]:
    """Milliseconds to link one report of n mentions, least of five."""
    sentences = [
        f"{s.strip()}."
        for report in ablation.test_reports
        for s in report.text.split("FINDINGS:")[-1].split("IMPRESSION:")[0].split(".")
        if any(m.assertion == PRESENT for m in finder_of(linker.base)(s))
    ]
    rows = []
    for n in (5, 10, 25, 50, 100, 150, 200):
        text, mentions = "", 0
        for sentence in sentences:
            found = len(asserted_mentions(finder_of(linker.base)(sentence)))
            if mentions + found <= n:
                text, mentions = text + " " + sentence, mentions + found
        link_report(text, linker.base, linker)
        best = min(spent_s(partial(link_report, text, linker.base, linker)) for _ in range(5))
        rows.append({"mentions": mentions, "characters": len(text), "ms": round(1e3 * best, 2)})
    return rows


def as_markdown(result: dict[str, Any]) -> str:
    head = (
        f"# Report linking on OpenI\n\n{result['reports']['test']} test reports; micro-F1 against "
        f"the manual codes, mean of {result['seeds']} seeds, 95 % bootstrap interval over reports. "
        f"Chosen on {result['reports']['val']} validation reports: **{result['chosen']}**.\n"
    )
    titles = (
        "method", "val: headings", "codes", "test: headings", "codes",
        "codes, over local attention", "codes, over its own local model",
    )  # fmt: skip
    lines = []
    for name, row in result["test"].items():
        val = result["val"][name]
        cells = [f"{val[level]['f1']:.3f}" for level in LEVELS]
        for level in LEVELS:
            a = row[level]
            cells.append(f"{a['f1']:.3f} ({a['f1_low']:.3f}-{a['f1_high']:.3f})")
        own = LOCAL_CNN if "over CNN" in name else LOCAL
        cells.append(interval_text(row["code"].get(f"over {LOCAL}"), "+"))
        cells.append(
            interval_text(row["code"].get(f"over {own}"), "+") if name.startswith("DCA") else ""
        )
        lines.append((name, *cells))
    cost = [(row["mentions"], row["characters"], row["ms"]) for row in result["cost"]]
    labels = ("yes", "uncertain", "no")
    weak = [(name, *(row[k] for k in labels)) for name, row in result["weak_labels"].items()]
    return "\n".join((
        head,
        markdown_table(titles, lines),
        markdown_table(("mentions", "characters", "ms"), cost),
        markdown_table(("weak label of test reports", *labels), weak),
    ))  # fmt: skip


def run_openi(options: argparse.Namespace) -> None:
    """Train every method, choose on validation, judge once on test, write the tables."""
    seeds, epochs, out = options.seeds, options.epochs, options.out
    ablation = Ablation(list(read_reports(options.reports)), epochs, options.work)
    for name, variant in VARIANTS.items():
        if name in (options.only or VARIANTS):
            ablation.run(name, variant, seeds)
    ablation.score("val")
    val = ablation.table("val")
    chosen = max(
        (name for name in ablation.linkers if name.startswith("DCA")),
        key=lambda name: sum(val[name][level]["f1"] for level in LEVELS),
    )
    linker = ablation.linkers[chosen][0]
    ablation.score("test")  # the only look at the test part
    result = {
        **environment("torch"),
        "seeds": seeds,
        "epochs": epochs,
        "reports": {n: len(getattr(ablation, n)) for n in ("train", "val", "test")},
        "chosen": chosen,
        "processor_seconds_to_train": {name: round(s, 1) for name, s in ablation.seconds.items()},
        "val": val,
        "test": ablation.table("test"),
        "cost": measure_cost(ablation, linker),
        "weak_labels": weak_label_table(ablation, linker),
    }
    text = as_markdown(result)
    publish(out, result, text)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("reports", type=Path, help="csv, or folder of OpenI's XML")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="Methods; all otherwise.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--work", type=Path, default=Path("runs/report_linking"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run_openi(options)


if __name__ == "__main__":
    main()
