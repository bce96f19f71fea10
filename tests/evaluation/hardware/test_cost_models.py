"""Laws the cost models must obey, and small cases by hand.

Spans: evaluation.hardware.crossbar, evaluation.hardware.sot_mram, evaluation.hardware.tradeoff.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.hardware.crossbar import (
    CrossbarModel,
    area_reduction,
    arrays_of,
    cost,
    slices,
    tiles_used,
)
from evaluation.hardware.sot_mram import LayerLoad, SotMramModel, layer_cost, network_cost
from evaluation.hardware.tradeoff import needed_rates, pruning_to_performance

XBAR = CrossbarModel()


def test_slices_of_published_widths():
    assert [slices(bits, XBAR) for bits in (2, 5, 6, 9)] == [1, 1, 2, 2]


def big_layer(rate: float) -> np.ndarray:
    """3x3 layer of 512 filters and 512 channels, columns of whole arrays removed."""
    support = np.zeros((512, 4608), dtype=bool)
    support[:, : round(4608 / rate)] = True
    return support


@pytest.mark.parametrize(("rate", "published"), [(29.81, 0.9828), (20.88, 0.9746)])
def test_area_law(rate, published):
    """From 9 bits dense to 5 bits pruned the area falls by about 1 - 1/(2 rate)."""
    layers = {f"c{i}": big_layer(1) for i in range(8)}
    kept = {name: np.zeros_like(mask) for name, mask in layers.items()}
    budget = round(8 * 36 / rate)  # array columns of 128 word lines kept in the whole network
    for number in range(budget):
        first = number // 8 * 128
        kept[f"c{number % 8}"][:, first : first + 128] = True
    dense = sum(arrays_of(layers, dict.fromkeys(layers, 9), XBAR).values())
    pruned = sum(arrays_of(kept, dict.fromkeys(layers, 5), XBAR).values())
    assert dense == 2 * 2 * 8 * 8 * 36
    reduction = area_reduction(dense, pruned)
    assert reduction == pytest.approx(1 - 1 / (2 * rate), abs=0.005)
    assert reduction == pytest.approx(published, abs=0.005)


def test_tiles_by_hand():
    model = CrossbarModel(word_lines=2, bit_lines=2)
    support = np.zeros((4, 6), dtype=bool)
    support[0, 0] = support[0, 5] = support[3, 2] = True
    assert tiles_used(support, model).tolist() == [[True, True, False]], "two filters, 3 columns"
    assert tiles_used(np.zeros((4, 6), dtype=bool), model).size == 0


def test_cost_is_proportional_and_says_it_is_not_calibrated():
    one, ten = cost(1, XBAR), cost(10, XBAR)
    assert ten.area_mm2 == pytest.approx(10 * one.area_mm2)
    assert ten.power_mw == pytest.approx(10 * one.power_mw)
    assert one.adc_bits == 7 + 4 + 1 - 1
    assert one.area_mm2 > XBAR.adc_area
    assert not one.calibrated


# --- SOT-MRAM -----------------------------------------------------------------------------------


def test_sot_mram_layer_by_hand():
    model = SotMramModel(rows=4, columns=8)
    found = layer_cost(LayerLoad("c", 3, 6, 10, 2, 8), model)
    assert found.sub_arrays == 2 * 1
    assert found.operations == 8 * 2 * 10 * 2 * 3
    assert found.energy == found.operations * (4 * 1 + 5 + 5)
    assert found.time_ns == found.operations
    assert layer_cost(LayerLoad("gone", 0, 6, 10, 2, 8), model).sub_arrays == 0


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_sot_mram_scaling_law(filters, slabs, bits):
    """Area goes with r*c*b_w, energy and time with r*c*b_w*b_a, at full sub-arrays."""

    def load(r, c, b_w, b_a):
        return network_cost([LayerLoad("c", 256 * r, 256 * c, 9, b_w, b_a)])

    base, big = load(1, 1, 1, 1), load(filters, slabs, bits, 8)
    factor = filters * slabs * bits
    assert big.area == base.area * factor
    assert big.cells == base.cells * factor
    assert big.energy == pytest.approx(base.energy * factor * 8)
    assert big.latency_ns == pytest.approx(base.latency_ns * factor * 8)
    assert not big.calibrated


def test_what_does_not_fit_is_reloaded_for_every_image():
    loads = [LayerLoad("a", 256, 256, 1, 4, 8), LayerLoad("b", 256, 256, 100, 4, 8)]
    free = network_cost(loads)
    tight = network_cost(loads, SotMramModel(capacity_bits=free.cells - 1000))
    assert free.reload_bits == 0
    assert tight.reload_bits == 1000
    assert tight.energy == free.energy + 1000 * 100
    assert tight.latency_ns == free.latency_ns + 1000 * 5
    assert tight.images_per_s < free.images_per_s
    slowest = max(layer.time_ns for layer in free.layers)
    assert free.images_per_s == pytest.approx(1e9 / slowest)


# --- pruning to performance -----------------------------------------------------------------------


def test_comparison_needs_a_much_larger_irregular_rate():
    assert pruning_to_performance(10, 4) == 2.5
    found = needed_rates(20, 10, bits=8)
    assert found.compute == pytest.approx(27)
    assert found.storage == pytest.approx(18.2, abs=0.1)
    assert not found.measured
    measured = needed_rates(20, 10, bits=8, ppr_irregular=1.5, ppr_structured=1.0)
    assert measured.compute == pytest.approx(15)
    assert measured.measured
