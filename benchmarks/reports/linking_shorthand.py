"""DCA where coherence matters: the impressions of OpenI reports in shorthand, several seeds.

    python -m benchmarks.reports.linking_shorthand ../shared/data/reports/openi_reports.csv
    python -m benchmarks.reports.linking_shorthand REPORTS --only "local only, CNN" --seeds 1

Made by `benchmarks.reports.shorthand`; split 70/10/20 by report. Epochs and the weights of
untrained models are chosen on the 10 %, the 20 % are scored once, at the end. Accuracy is that of
the ambiguous mentions. `--seeds 0` trains nothing.
Writes benchmarks/results/report_linking_shorthand.{json,md}.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.reporting import (
    RESULTS,
    argument_parser,
    environment,
    interval_text,
    markdown_table,
    publish,
    spent_s,
    write_results,
)
from benchmarks.reports.shorthand import Shorthand, ambiguous
from data_prep.reports.findings.concepts import build_base
from data_prep.reports.linker.batches import EntityTable, Order, arrange, collate
from data_prep.reports.linker.dca import DynamicContext
from data_prep.reports.linker.documents import EntityCandidate, LinkDocument, LinkMention
from data_prep.reports.linker.local_models import LOCAL_MODELS
from data_prep.reports.linker.measure import Counts, agreement, difference, micro_f1
from data_prep.reports.linker.report_documents import N_MENTION_KINDS
from data_prep.reports.linker.spaces import ConceptSpace
from data_prep.reports.linker.trained_linker import learn_vectors, parse
from data_prep.reports.linker.training import LinkerSettings, train_model
from data_prep.reports.reading.splitting import coded_reports

OUT = RESULTS / "report_linking_shorthand.json"
_METHODS: dict[str, dict[str, Any]] = {
    "local only": {"hops": 0},
    "1-hop, offset, SL": {"hops": 1},
    "2-hop, offset, SL": {"hops": 2},
    "1-hop soft, offset, SL": {"hops": 1, "hard": False},
    "1-hop, size, SL": {"hops": 1, "order": "size"},
    "1-hop, random, SL": {"hops": 1, "order": "random"},
    "1-hop, offset, RL": {"hops": 1, "learn": "rl"},
    "1-hop, offset, RL, no baseline": {"hops": 1, "learn": "rl", "advantage": False},
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{name} over {label}": {**options, "local": local}
    for label, local in (("attention", "attention"), ("CNN", "cnn"))
    for name, options in _METHODS.items()
}
COMMON: dict[str, Any] = {"batch_size": 32, "warm_up": 4, "learning_rate": 4e-3}
RULE = "latest candidate spelled out, else prior"
UNTRAINED = "untrained attention"
ORDERS: tuple[Order, ...] = ("offset", "size", "random")
Places = list[int]


class WeightedSum(nn.Module):
    """In place of the joining network: local score, log prior and 1-hop coherence, weighted.

    Args:
        local: Weight of the local score; the log prior has weight 1.
        coherence: Weight of the coherence with the entities linked before.
    """

    def __init__(self, local: float, coherence: float) -> None:
        super().__init__()
        self.weights = torch.tensor([local, 1.0, coherence, 0.0, 0.0])

    def forward(self, features: Tensor) -> Tensor:
        """(..., 5) -> (..., 1)."""
        return (features @ self.weights)[..., None]


def link(model: DynamicContext, documents: Sequence[LinkDocument], order: Order) -> list[Places]:
    """Places of the chosen candidates of each document's mentions."""
    shuffle = np.random.default_rng(0)
    found: list[Places] = []
    for at in range(0, len(documents), 64):
        part = documents[at : at + 64]
        orders = [arrange(document, order, shuffle) for document in part]
        with torch.no_grad():
            chosen = model(collate(part, model.table, orders)).chosen.tolist()
        for places, steps in zip(chosen, orders, strict=True):
            back = dict(zip(steps, places, strict=False))
            found.append([back[i] for i in range(len(steps))])
    return found


def link_by_prior(document: LinkDocument) -> Places:
    """The likeliest concept of every form."""
    return [0 for _ in document.mentions]


def link_by_latest(document: LinkDocument) -> Places:
    """The latest concept spelled out before that is a candidate, else the likeliest: a rule."""
    found: Places = []
    for number, mention in enumerate(document.mentions):
        names = [candidate.entity for candidate in mention.candidates]
        spelt = [m.gold for m in document.mentions[:number] if not ambiguous(m)]
        found.append(next((names.index(n) for n in reversed(spelt) if n in names), 0))
    return found


def count_right(documents: Sequence[LinkDocument], places: Sequence[Places]) -> Counts:
    """(documents, 3): ambiguous mentions that are right, and twice their number; see micro_f1."""
    rows = []
    for document, chosen in zip(documents, places, strict=True):
        judged = [
            mention.candidates[place].entity == mention.gold
            for mention, place in zip(document.mentions, chosen, strict=True)
            if ambiguous(mention)
        ]
        rows.append((sum(judged), len(judged), len(judged)))
    return np.array(rows, dtype=np.int64)


class ShorthandBenchmark:
    """Documents of one split and the vectors of its training reports."""

    def __init__(self, source: Path, epochs: int, patience: int) -> None:
        by_part = coded_reports(source)
        base = build_base([report.codes for report in by_part["train"]], {"name": "OpenI"})
        parsed = {name: parse(base, chosen) for name, chosen in by_part.items()}
        words = learn_vectors(base, parsed["train"], 100)
        shorthand = Shorthand(base, [(r.sentences, r.mentions) for r in parsed["train"]])
        self.documents = {
            name: [
                document
                for r in chosen
                if any(map(ambiguous, (document := shorthand.document(
                    r.name, r.sentences, r.mentions, counted=name == "train")).mentions))
            ]
            for name, chosen in parsed.items()
        }  # fmt: skip
        self.table = EntityTable(ConceptSpace(base, words), words)
        self.limits: dict[str, Any] = {"epochs": epochs, "patience": patience}

    def new_model(self, config: LinkerSettings) -> DynamicContext:
        """An untrained model."""
        torch.manual_seed(config.seed)
        local = LOCAL_MODELS[config.local](self.table)
        return DynamicContext(local, self.table, N_MENTION_KINDS, config.hops, config.hard).eval()

    def run(self, config: LinkerSettings, file: Path) -> dict[str, Any]:
        """Train one model and score it; what an earlier run wrote to `file` is taken over."""
        wanted = config.model_dump()
        if file.is_file() and (stored := json.loads(file.read_text()))["config"] == wanted:
            return dict(stored)
        start = time.process_time()
        model = self.new_model(config)

        def validate(model: DynamicContext) -> float:
            return micro_f1(self.count(model, "val", config.order))

        train_model(model, self.table, self.documents["train"], config, validate)
        seconds = round(time.process_time() - start, 1)
        scored = {part: self.count(model, part, config.order).tolist() for part in ("val", "test")}
        found = {"config": wanted, "seconds": seconds, **scored}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_results(file, found)
        return found

    def untrained(self) -> dict[str, dict[str, Any]]:
        """The attention model and DCA over it with initial diagonals, weighted by validation."""
        found: dict[str, dict[str, Any]] = {}
        for hops, coherences in ((0, (0.0,)), (1, (0.3, 1.0, 3.0, 10.0))):
            model = self.new_model(LinkerSettings.model_validate({**COMMON, "hops": hops}))
            scored: dict[tuple[float, float], float] = {}
            for weights in product((0.0, 1.0, 3.0, 8.0), coherences):
                model.join = WeightedSum(*weights)
                scored[weights] = micro_f1(self.count(model, "val", "offset"))
            best = max(scored, key=lambda weights: scored[weights])
            model.join = WeightedSum(*best)
            for order in ORDERS if hops else ORDERS[:1]:
                name = f"1-hop, {order}, {UNTRAINED}" if hops else f"local only, {UNTRAINED}"
                counts = {part: self.count(model, part, order) for part in ("val", "test")}
                found[name] = {"weights": best, "seconds": 0.0, **counts}
        return found

    def count(self, model: DynamicContext, part: str, order: Order) -> Counts:
        """Right ambiguous mentions of a part, by document."""
        documents = self.documents[part]
        return count_right(documents, link(model, documents, order))

    def rules(self, part: str) -> dict[str, list[Counts]]:
        """Counts of what needs no training."""
        documents = self.documents[part]
        return {
            name: [count_right(documents, [rule(document) for document in documents])]
            for name, rule in (("prior only", link_by_prior), (RULE, link_by_latest))
        }


def local_of(name: str) -> str | None:
    """The local-only method that a DCA method stands on."""
    if name.startswith("local only"):
        return None
    if name.endswith(UNTRAINED):
        return f"local only, {UNTRAINED}"
    if " over " not in name:
        return None
    return f"local only over {name.rpartition(' over ')[2]}"


def table_of(counts: dict[str, list[Counts]]) -> dict[str, dict[str, Any]]:
    """Accuracy of each method with interval, and the paired difference to its local model."""
    rows: dict[str, dict[str, Any]] = {}
    for name, runs in counts.items():
        a = agreement(runs)
        row: dict[str, Any] = {"accuracy": [round(v, 4) for v in (a.f1, a.f1_low, a.f1_high)]}
        row["seeds"] = [round(micro_f1(run), 4) for run in runs]
        local = local_of(name)
        for other in (local, RULE):
            if other is not None and other != name and other in counts:
                row[f"over {other}"] = [round(v, 4) for v in difference(runs, counts[other])]
        rows[name] = row
    return rows


def pairwise(local: Tensor, vectors: Tensor, rounds: int = 10) -> Tensor:
    """Global pairwise linking, quadratic in mentions: max-product belief propagation.

    Every two mentions exchange messages over the products of their candidates' vectors (Ganea and
    Hofmann, EMNLP 2017, with one bilinear form for all pairs and damping 0.5).

    Args:
        local: (n, C) scores.
        vectors: (n, C, D).
        rounds: Rounds of messages.
    """
    n, n_candidates, _ = vectors.shape
    flat = vectors.flatten(0, 1)
    fit = (flat @ flat.T).view(n, n_candidates, n, n_candidates).permute(0, 2, 1, 3) / max(1, n - 1)
    apart = ~torch.eye(n, dtype=torch.bool)[..., None]
    messages = torch.zeros(n, n, n_candidates)  # from the first to a candidate of the second
    for _ in range(rounds):
        belief = local + (messages * apart).sum(dim=0)
        without = belief[:, None] - messages.transpose(0, 1)
        sent = (without[..., None] + fit).amax(dim=2).log_softmax(dim=2)
        messages = 0.5 * messages + 0.5 * sent
    return local + (messages * apart).sum(dim=0)


def measure_cost(model: DynamicContext, documents: Sequence[LinkDocument]) -> list[dict[str, Any]]:
    """Milliseconds and candidate pairs for documents of n mentions: DCA and the pairwise model."""
    pool = [m for d in documents for m in d.mentions if ambiguous(m)]
    rows = []
    for n in (10, 20, 40, 80, 160):
        mentions = [pool[i % len(pool)] for i in range(n)]
        document = LinkDocument("", tuple(_trimmed(m, i) for i, m in enumerate(mentions)))
        batch = collate([document], model.table, [list(range(n))])
        score = batch.log_prior[0], batch.vectors[0]
        row: dict[str, Any] = {"mentions": n, "ms": {}}
        with torch.no_grad():
            ways: dict[str, Callable[[], Any]] = {
                "DCA": partial(model, batch),
                "pairwise": partial(pairwise, *score),
            }
            for name, way in ways.items():
                way()
                row["ms"][name] = round(1e3 * min(spent_s(way) for _ in range(3)), 2)
        rows.append(row)
    return rows


def _trimmed(mention: LinkMention, place: int, keep: int = 8) -> LinkMention:
    listed: tuple[EntityCandidate, ...] = (mention.candidates * keep)[:keep]
    return mention._replace(place=place, candidates=listed)


def growth(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Power of n with which the time grows over the longer half of the documents."""
    n, ms = zip(*((r["mentions"], r["ms"][name]) for r in rows[len(rows) // 2 :]), strict=True)
    return round(float(np.polyfit(np.log(n), np.log(ms), 1)[0]), 2)


def as_markdown(result: dict[str, Any]) -> str:
    n = result["test"]
    head = (
        "# Report linking in shorthand\n\n"
        f"{n['reports']} test reports with {n['mentions']} ambiguous mentions (mean "
        f"{n['candidates']} candidates; gold among them for {n['reachable']:.3f}). Accuracy "
        "with 95 % bootstrap intervals over reports, differences paired; of trained models the "
        f"mean of {result['seeds']} seeds.\n"
    )
    lines = []
    for name, row in result["methods"]["test"].items():
        mean, low, high = row["accuracy"]
        val = result["methods"]["val"][name]["accuracy"][0]
        gaps = [row.get(f"over {other}") for other in (local_of(name), RULE)]
        test = f"{mean:.3f} ({low:.3f}-{high:.3f})"
        lines.append((name, f"{val:.3f}", test, *(interval_text(gap, "+") for gap in gaps)))
    cost = [(row["mentions"], row["ms"]["DCA"], row["ms"]["pairwise"]) for row in result["cost"]]
    power = result["growth"]
    return "\n".join((
        head,
        markdown_table(("method", "val", "test", "over its local model", "over the rule"), lines),
        markdown_table(("mentions", "DCA, ms", "pairwise, ms"), cost),
        f"Time grows with the power {power['DCA']} of the number of mentions (DCA) and "
        f"{power['pairwise']} (pairwise), from 40 to 160 mentions of 8 candidates.\n",
    ))  # fmt: skip


def describe(documents: Sequence[LinkDocument]) -> dict[str, Any]:
    mentions = [m for d in documents for m in d.mentions if ambiguous(m)]
    reachable = [any(c.entity == m.gold for c in m.candidates) for m in mentions]
    return {
        "reports": len(documents),
        "mentions": len(mentions),
        "candidates": round(float(np.mean([len(m.candidates) for m in mentions])), 1),
        "reachable": round(float(np.mean(reachable)), 4),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("reports", type=Path, help="csv, or folder of OpenI's XML")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="Methods; all otherwise.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/report_linking_shorthand"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = ShorthandBenchmark(options.reports, options.epochs, options.patience)
    untrained = bench.untrained()
    runs: dict[str, list[dict[str, Any]]] = {name: [run] for name, run in untrained.items()}
    for seed in range(options.seeds):
        for name in options.only or VARIANTS:
            config = LinkerSettings(**{**COMMON, **VARIANTS[name]}, seed=seed, **bench.limits)
            file = options.work / f"{name} {seed}.json".replace(",", "").replace(" ", "-")
            found = bench.run(config, file)
            val = micro_f1(np.array(found["val"]))
            print(f"{name}, seed {seed}: validation {val:.4f}, {found['seconds']} s", flush=True)
            runs.setdefault(name, []).append(found)
    tables = {}
    for part in ("val", "test"):
        counts = {name: [np.array(run[part]) for run in found] for name, found in runs.items()}
        tables[part] = table_of({**bench.rules(part), **counts})
    seconds = {name: round(float(np.mean([run["seconds"] for run in found])), 1)
               for name, found in runs.items()}  # fmt: skip
    cost = measure_cost(bench.new_model(LinkerSettings(**COMMON, hops=1)), bench.documents["test"])
    result = {
        **environment("torch"), "seeds": options.seeds, **bench.limits,
        **{part: describe(documents) for part, documents in bench.documents.items()},
        "weights": {name: run["weights"] for name, run in untrained.items()},
        "processor_seconds_to_train": seconds, "methods": tables,
        "cost": cost, "growth": {name: growth(cost, name) for name in ("DCA", "pairwise")},
    }  # fmt: skip
    text = as_markdown(result)
    publish(options.out, result, text)


if __name__ == "__main__":
    main()
