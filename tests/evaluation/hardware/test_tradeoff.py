"""Irregular against structured models: bytes from real files, measured ratios, verdicts by hand."""

import numpy as np
import pytest
import torch

from evaluation.hardware.crossbar import CrossbarModel, tile_fill, tiles_used
from evaluation.hardware.footprint import count
from evaluation.hardware.tradeoff import ModelCost, judge_pairs, measured_ppr, read_cost
from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.compression.sets.units import Columns, Irregular
from pneumonia.network.files import load_model, save_model
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ArtefactError

LENET = build("lenet5", channels=1, size=28, n_classes=10, width=1.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dense LeNet-5, one with a tenth of its columns, one with a twentieth of its weights."""
    network = Network(LENET)
    initialise(network, torch.Generator().manual_seed(0))
    base = tmp_path_factory.mktemp("models")
    tensors = {name: t.detach().clone() for name, t in network.tensors().items()}
    save_model(base / "dense", LENET, tensors)
    for name, make in (
        ("columns", lambda w: Columns(max(1, w[0].numel() // 10))),
        ("loose", lambda w: Irregular(max(1, w.numel() // 20))),
    ):
        cut = dict(tensors)
        for layer in LENET.weighted():
            key = f"{layer.name}.weight"
            cut[key] = make(tensors[key]).project(tensors[key]).z
        groups = {layer.name: 0 for layer in LENET.weighted()} if name == "columns" else None
        spec, kept = compact(LENET, cut, group_sizes=groups)
        save_model(base / name, smallest_storage(spec, kept), kept)
    return base


def cost(name, **changes):
    base = ModelCost(name, "dense", 1000, 1000, 1_000_000, 32.0, 4000, 4000, 4400)
    return base._replace(**changes)


def test_costs_are_those_of_the_files(folders):
    dense, columns, loose = (
        read_cost(n, folders / n, count_macs(folders / n)) for n in ("dense", "columns", "loose")
    )
    assert (dense.kind, columns.kind, loose.kind) == ("dense", "structured", "irregular")
    assert dense.kept == dense.weights == 430_500
    assert dense.total_bytes == dense.value_bytes == 4 * 430_500
    assert dense.index_bytes == 0
    spec, tensors = load_model(folders / "loose")
    weights = [tensors[f"{layer.name}.weight"] for layer in spec.weighted()]
    nonzero = sum(int(weight.count_nonzero()) for weight in weights)
    assert nonzero <= loose.kept <= 1.01 * nonzero, "fillers of long runs are stored values, too"
    assert nonzero < 430_500 / 19
    # relative indexing of 5 %: 4 bytes each and 5 to 8 bits of run, fillers included
    assert 5 / 8 < loose.index_bytes / loose.kept < 1.5
    assert columns.index_bytes < loose.index_bytes
    assert loose.total_bytes <= (folders / "loose" / "weights.safetensors").stat().st_size


def count_macs(folder):
    from pneumonia.network.files import read_spec

    return count(read_spec(folder))[1]


def test_a_measured_ratio_needs_one_engine_for_both():
    dense = cost("dense", latency_ms=8.0, engine="kernels")
    pruned = cost("pruned", kept=250, macs=250_000, latency_ms=4.0, engine="kernels")
    assert measured_ppr(dense, pruned) == 2.0, "4 times less work, twice as fast"
    assert measured_ppr(dense, pruned._replace(engine="onnxruntime")) is None
    assert measured_ppr(dense, pruned._replace(latency_ms=None)) is None
    assert measured_ppr(dense, dense) is None


def test_pairs_are_judged_by_what_was_measured():
    dense = cost("dense", latency_ms=8.0, engine="kernels")
    firm = cost("firm", kind="structured", kept=250, macs=250_000, total_bytes=1100,
                latency_ms=2.0, engine="kernels")  # fmt: skip
    loose = cost("loose", kind="irregular", kept=100, macs=100_000, total_bytes=600,
                 latency_ms=4.0, engine="kernels")  # fmt: skip
    accuracy = {"dense": 0.5, "firm": 0.5, "loose": 0.5005}
    (pair,) = judge_pairs(dense, [firm, loose], accuracy)
    assert (pair.rate_irregular, pair.rate_structured) == (10.0, 4.0)
    # PPR 10 / 2 = 5 against 4 / 4 = 1: it would take 20 times fewer weights to be as fast
    assert pair.needed.measured
    assert pair.needed.compute == pytest.approx(20.0)
    assert pair.rate_irregular < pair.needed.compute
    assert pair.smaller
    assert pair.faster is False
    assert pair.reservations == ()
    (other,) = judge_pairs(dense, [firm, loose._replace(bits=4.0)], {**accuracy, "loose": 0.45})
    assert "accuracy differs by 0.050" in other.reservations[0]
    assert "bits differ" in other.reservations[1]


def test_without_times_the_reported_ratios_are_used_and_named():
    firm = cost("firm", kind="structured", kept=250)
    loose = cost("loose", kind="irregular", kept=100)
    same = dict.fromkeys(("dense", "firm", "loose"), 0.5)
    (pair,) = judge_pairs(cost("dense"), [firm, loose], same)
    assert not pair.needed.measured
    assert pair.needed.compute == pytest.approx(4 * 2.7)
    assert pair.faster is None


def test_a_narrower_dense_network_counts_as_structured_and_the_reference_as_none():
    narrow = cost("narrow", kept=300)
    loose = cost("loose", kind="irregular", kept=100)
    same = dict.fromkeys(("dense", "narrow", "loose"), 0.5)
    assert len(judge_pairs(cost("dense"), [narrow, loose], same)) == 1
    assert judge_pairs(cost("dense"), [cost("again"), loose], {**same, "again": 0.5}) == []


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="Neither a bundle nor a run"):
        read_cost("x", tmp_path, 0)


def test_fill_of_arrays_by_hand():
    model = CrossbarModel(word_lines=4, bit_lines=2)
    support = np.zeros((5, 10), dtype=bool)
    support[0, :6] = True  # with filter 2 the first group: 6 columns, an array and a half
    support[2, 0] = True
    support[4, 9] = True  # the second group: one cell
    found = tile_fill(support, model)
    assert found.tolist() == [5 / 8, 2 / 8, 1 / 8]
    assert found.size == tiles_used(support, model).sum()
