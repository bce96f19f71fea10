"""The tuner: its shortlist, its measurements and its cache."""

import shutil

import pytest

from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice
from deploy_jetson.kernels.kinds.registry import candidates
from deploy_jetson.kernels.targets import TARGETS
from deploy_jetson.kernels.tune.tuner import TuningCache, shortlist, signature, tune
from pneumonia.runtime.engines.processor import read_processor
from tests.deploy_jetson.kernels.networks import (
    keep_columns,
    keep_patterns,
    layer_problem,
    random_weight,
)


def test_shortlist_holds_every_kind():
    weight = keep_patterns(random_weight(32, 32, 3, 3), 0.5)
    target = TARGETS["x86-avx2"]
    chosen = shortlist(layer_problem(weight, 26, 26), target)
    kinds = {(type(c), getattr(c, "out_tile", 0)) for c in chosen}
    assert kinds == {
        (type(c), getattr(c, "out_tile", 0))
        for c in candidates(LayerAnalysis(layer_problem(weight, 26, 26)), target)
    }  # fmt: skip
    assert len(chosen) == len(set(chosen))


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
@pytest.mark.skipif("avx2" not in read_processor().features, reason="needs AVX2")
def test_tuner_measures_once_and_remembers(tmp_path, monkeypatch):
    from deploy_jetson.kernels.tune import tuner

    monkeypatch.setattr(tuner, "SHORTLIST", 4)
    monkeypatch.setattr(tuner, "PER_KIND", 1)
    target = TARGETS["x86-avx2"]
    problems = {
        "a": layer_problem(keep_columns(random_weight(20, 16, 3, 3), 0.3, 0)),
        "b": layer_problem(keep_columns(random_weight(20, 16, 3, 3, seed=1), 0.3, 0)),
        "c": layer_problem(random_weight(9, 5, 1, 1)),
    }
    cache = tmp_path / "cache.json"
    steps = []
    chosen = tune(problems, target, cache, lambda *step: steps.append(step))
    assert set(chosen) == {"a", "b", "c"}
    keys = {name: signature(p, target) for name, p in problems.items()}
    assert len(steps) == len(set(keys.values()))
    steps.clear()
    assert tune(problems, target, cache, lambda *step: steps.append(step)) == chosen
    assert steps == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}', '{"choices": 3}'])
def test_damaged_tuning_cache_counts_as_empty(tmp_path, text):
    path = tmp_path / "cache.json"
    path.write_text(text)
    assert TuningCache(path).get("key", [ColumnsChoice(1, 1, 1)]) is None


def test_cached_choice_that_is_not_legal_any_more_is_dropped(tmp_path):
    cache = TuningCache(tmp_path / "cache.json")
    cache.put("key", ColumnsChoice(3, 2, 1))
    assert cache.get("key", [ColumnsChoice(3, 2, 1)]) == ColumnsChoice(3, 2, 1)
    assert cache.get("key", [ColumnsChoice(4, 2, 1)]) is None
