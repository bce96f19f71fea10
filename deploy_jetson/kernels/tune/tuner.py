"""Chooses each layer's kernel by measuring it here; elsewhere by the cost model.

Results are cached by shape, sparsity, target and CPU, so that a second generation measures nothing.
"""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.dots.words import exact_dots
from deploy_jetson.kernels.kinds.kind import Choice
from deploy_jetson.kernels.kinds.registry import KINDS, candidates, kind_of, predicted_cycles
from deploy_jetson.kernels.library_cache import user_cache_folder
from deploy_jetson.kernels.plan.layer_problem import LayerProblem
from deploy_jetson.kernels.plan.steps import variants_of
from deploy_jetson.kernels.targets import Target, cpu_name
from deploy_jetson.kernels.tune.bench import LayerBench, candidate_steps
from deploy_jetson.kernels.tune.search import search
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.json_files import find_json_object
from pneumonia.runtime.progress import Progress, report_progress

SCHEMA = "pneumonia.kernel-tuning/1"
SHORTLIST = 24  # candidates of one layer that get a kernel compiled
PER_KIND = 3  # of them at least, for every kind of kernel and of cache use


def cache_path() -> Path:
    """The file of tuning results."""
    return user_cache_folder() / "kernel-tuning.json"


def signature(problem: LayerProblem, target: Target) -> str:
    """Key of a problem in the cache: what its time depends on."""
    analysis = LayerAnalysis(problem)
    kept = [sum(analysis.columns(vectors * target.lanes)) for vectors in (1, 2, 4)]
    shape = (
        problem.weight.shape, problem.stride, problem.padding, problem.in_height,
        problem.in_width, problem.planar,
    )  # fmt: skip
    # Kept columns to two digits: layers of one shape and rate share their result.
    rounded = [float(f"{count:.1e}") for count in kept]
    storage = () if problem.storage == "fp32" else (problem.storage,)  # decides which kinds apply
    # So do the int8 kernels that are exact.
    number = [("int8", dot.group) for dot in exact_dots(problem, target)]
    text = repr((shape, rounded, target.name, target.flags, cpu_name(), *storage, *number))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def shortlist(problem: LayerProblem, target: Target) -> list[Choice]:
    """The candidates to measure: of every group those with the fewest predicted cycles."""
    by_kind: dict[tuple[str, tuple[int, ...]], list[Choice]] = {}
    analysis = LayerAnalysis(problem)
    for choice in candidates(analysis, target):
        kind = kind_of(choice)
        by_kind.setdefault((kind.name, kind.tuning_group(choice)), []).append(choice)
    for group in by_kind.values():
        group.sort(key=lambda c: predicted_cycles(analysis, c, target))
    chosen = [choice for group in by_kind.values() for choice in group[:PER_KIND]]
    rest = [choice for group in by_kind.values() for choice in group[PER_KIND:]]
    rest.sort(key=lambda c: predicted_cycles(analysis, c, target))
    return chosen + rest[: max(0, SHORTLIST - len(chosen))]


class TuningCache:
    """Measured choices in one JSON file; a damaged or foreign file counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, list[Any]] = {}
        document = find_json_object(str(path))
        if document.get("schema") == SCHEMA:
            entries = document.get("choices")
            self._entries = entries if isinstance(entries, dict) else {}

    def get(self, key: str, legal: list[Choice]) -> Choice | None:
        """The cached choice, if it is still legal."""
        entry = self._entries.get(key)
        if not isinstance(entry, list) or not entry or entry[0] not in KINDS:
            return None
        wanted = KINDS[entry[0]].choice
        return next((c for c in legal if type(c) is wanted and list(c) == entry[1:]), None)

    def put(self, key: str, choice: Choice) -> None:
        """Remember a choice."""
        self._entries[key] = [kind_of(choice).name, *choice]

    def save(self) -> None:
        """Write the file."""
        choices = {key: self._entries[key] for key in sorted(self._entries)}
        write_json(str(self._path), {"schema": SCHEMA, "choices": choices})


def tune(
    problems: Mapping[str, LayerProblem],
    target: Target,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Choice]:
    """Measure every layer's candidates on this machine.

    Args:
        problems: Layer name -> problem.
        target: Must run here.
        cache: Cache file; default `cache_path()`.

    Returns:
        Layer name -> the fastest choice.
    """
    store = TuningCache(cache or cache_path())
    keys = {name: signature(problem, target) for name, problem in problems.items()}
    different = {keys[name]: problem for name, problem in reversed(list(problems.items()))}
    lists = {key: shortlist(problem, target) for key, problem in different.items()}
    found = {key: store.get(key, lists[key]) for key in different}
    missing = [key for key, choice in found.items() if choice is None]
    if missing:
        steps = (
            step
            for key in missing
            for parts in candidate_steps(different[key], lists[key], target)[0]
            for step in parts
        )
        with closing(LayerBench(target, variants_of(steps, target))) as bench:
            for done, key in enumerate(missing):
                quickest = _measured(bench, different[key], lists[key], target)
                found[key] = quickest
                store.put(key, quickest)
                report_progress(progress, done + 1, len(missing), different[key].layer.name)
        store.save()
    return {name: choice for name in problems if (choice := found[keys[name]]) is not None}


def _measured(
    bench: LayerBench, problem: LayerProblem, choices: list[Choice], target: Target
) -> Choice:
    analysis = LayerAnalysis(problem)
    predicted = [predicted_cycles(analysis, choice, target) for choice in choices]
    choice, _ = search(choices, predicted, lambda some: bench.seconds(problem, some))
    return choice
