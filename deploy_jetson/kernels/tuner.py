"""Chooses each layer's kernel by measuring it here; elsewhere by the cost model.

Results are cached by shape, sparsity, target and CPU, so that a second generation measures nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy_jetson.kernels.bench import LayerBench, candidate_steps
from deploy_jetson.kernels.choices import (
    Choice,
    ColumnsChoice,
    PatternChoice,
    Problem,
    RowsChoice,
    TapsChoice,
    WinogradChoice,
)
from deploy_jetson.kernels.cost import Facts, candidates, predicted_cycles
from deploy_jetson.kernels.library_cache import user_cache_folder
from deploy_jetson.kernels.search import search
from deploy_jetson.kernels.steps import KernelStep
from deploy_jetson.kernels.targets import Target, cpu_name
from deploy_jetson.kernels.variants import Variant
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.progress import Progress

SCHEMA = "pneumonia.kernel-tuning/1"
KINDS: Mapping[str, type[Choice]] = {
    "columns": ColumnsChoice,
    "winograd": WinogradChoice,
    "pattern": PatternChoice,
    "taps": TapsChoice,
    "rows": RowsChoice,
}
SHORTLIST = 24  # candidates of one layer that get a kernel compiled
PER_KIND = 3  # of them at least, for every kind of kernel and of cache use


def cache_path() -> Path:
    """The file of tuning results."""
    return user_cache_folder() / "kernel-tuning.json"


def signature(problem: Problem, target: Target) -> str:
    """Key of a problem in the cache: what its time depends on."""
    facts = Facts(problem)
    kept = [sum(facts.columns(vectors * target.lanes)) for vectors in (1, 2, 4)]
    shape = (
        problem.weight.shape, problem.stride, problem.padding, problem.in_height,
        problem.in_width, problem.planar,
    )  # fmt: skip
    # Kept columns to two digits: layers of one shape and rate share their result.
    rounded = [float(f"{count:.1e}") for count in kept]
    storage = () if problem.winograd == problem.stride_one_3x3 else (problem.storage,)
    text = repr((shape, rounded, target.name, target.flags, cpu_name(), *storage))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def shortlist(problem: Problem, target: Target) -> list[Choice]:
    """The candidates worth measuring, the cost model's favourites of every kind first."""
    by_kind: dict[object, list[Choice]] = {}
    facts = Facts(problem)
    for choice in candidates(problem, target, facts):
        kind = (
            type(choice),
            getattr(choice, "out_tile", 0),  # every Winograd tile is a kind of its own
            getattr(choice, "frames", 0),
            getattr(choice, "piece_bytes", 0) > 0,
            getattr(choice, "block_tiles", 0),
            getattr(choice, "cache_floats", 0),
        )
        by_kind.setdefault(kind, []).append(choice)
    for group in by_kind.values():
        group.sort(key=lambda c: predicted_cycles(facts, c, target))
    chosen = [choice for group in by_kind.values() for choice in group[:PER_KIND]]
    rest = [choice for group in by_kind.values() for choice in group[PER_KIND:]]
    rest.sort(key=lambda c: predicted_cycles(facts, c, target))
    return chosen + rest[: max(0, SHORTLIST - len(chosen))]


class TuningCache:
    """Measured choices in one JSON file; a damaged or foreign file counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, list[Any]] = {}
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(document, dict) and document.get("schema") == SCHEMA:
            entries = document.get("choices")
            self._entries = entries if isinstance(entries, dict) else {}

    def get(self, key: str, legal: list[Choice]) -> Choice | None:
        """The cached choice, if it is still legal."""
        entry = self._entries.get(key)
        if not isinstance(entry, list) or not entry or entry[0] not in KINDS:
            return None
        return next((c for c in legal if type(c) is KINDS[entry[0]] and list(c) == entry[1:]), None)

    def put(self, key: str, choice: Choice) -> None:
        """Remember a choice."""
        kind = next(name for name, cls in KINDS.items() if cls is type(choice))
        self._entries[key] = [kind, *choice]

    def save(self) -> None:
        """Write the file."""
        choices = {key: self._entries[key] for key in sorted(self._entries)}
        write_json(str(self._path), {"schema": SCHEMA, "choices": choices})


def tune(
    problems: Mapping[str, Problem],
    target: Target,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Choice]:
    """Measure every layer's candidates on this machine.

    Args:
        problems: Layer name -> problem.
        target: Must run here.
        cache: Cache file; default `cache_path()`.
        progress: Called after every different layer.

    Returns:
        Layer name -> the quickest choice.
    """
    store = TuningCache(cache or cache_path())
    keys = {name: signature(problem, target) for name, problem in problems.items()}
    different = {keys[name]: problem for name, problem in reversed(list(problems.items()))}
    lists = {key: shortlist(problem, target) for key, problem in different.items()}
    found = {key: store.get(key, lists[key]) for key in different}
    missing = [key for key, choice in found.items() if choice is None]
    if missing:
        bench = LayerBench(target, _variants(different, lists, missing, target))
        try:
            for done, key in enumerate(missing):
                quickest = _measured(bench, different[key], lists[key], target)
                found[key] = quickest
                store.put(key, quickest)
                if progress:
                    progress(done + 1, len(missing), different[key].layer.name)
        finally:
            bench.close()
        store.save()
    return {name: choice for name in problems if (choice := found[keys[name]]) is not None}


def _variants(
    problems: Mapping[str, Problem],
    lists: Mapping[str, list[Choice]],
    keys: list[str],
    target: Target,
) -> list[Variant]:
    found = set()
    for key in keys:
        steps, _ = candidate_steps(problems[key], lists[key], target)
        found |= {
            variant
            for parts in steps
            for step in parts
            if isinstance(step, KernelStep)
            for variant in step.variants(target)
        }
    return sorted(found, key=lambda variant: variant.name)


def _measured(bench: LayerBench, problem: Problem, choices: list[Choice], target: Target) -> Choice:
    facts = Facts(problem)
    predicted = [predicted_cycles(facts, choice, target) for choice in choices]
    choice, _ = search(choices, predicted, lambda some: bench.seconds(problem, some))
    return choice
