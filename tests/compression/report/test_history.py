"""Nominal rates by hand, and from plans of runs that did not write them."""

import pytest

from pneumonia.compression.report.history import nominal_mac_rate, planned_layers
from pneumonia.network.accounting import account
from pneumonia.network.zoo import build
from tests.compression.graphs import random_tensors

LENET = build("lenet5", channels=1, size=28, n_classes=10, width=1.0)
DENSE = account(LENET, random_tensors(LENET, 0))
WEIGHTS = {"conv_000": 500, "conv_002": 25_000, "linear_005": 400_000, "linear_006": 5_000}
POSITIONS = {"conv_000": 24 * 24, "conv_002": 8 * 8, "linear_005": 1, "linear_006": 1}


def plan(kept: dict[str, int], nominal: dict[str, int] | None = None) -> dict[str, object]:
    layers = {name: {"kept_weights": n, "rate": 2.0} for name, n in kept.items()}
    return {"layers": layers} | ({} if nominal is None else {"nominal_weights": nominal})


def test_macs_inside_the_masks_are_those_of_every_position() -> None:
    nominal = {"conv_000": 100, "conv_002": 5_000, "linear_005": 8_000, "linear_006": 500}
    dense = sum(WEIGHTS[name] * POSITIONS[name] for name in WEIGHTS)
    inside = sum(nominal[name] * POSITIONS[name] for name in WEIGHTS)
    found = nominal_mac_rate(DENSE, plan(dict.fromkeys(WEIGHTS, 1), nominal))
    assert found == pytest.approx(dense / inside)


def test_layers_that_are_not_pruned_count_whole() -> None:
    dense = sum(WEIGHTS[name] * POSITIONS[name] for name in WEIGHTS)
    found = nominal_mac_rate(DENSE, plan({"conv_002": 5_000}, {"conv_002": 10_000}))
    assert found == pytest.approx(dense / (dense - 15_000 * 64))
    planned = planned_layers(DENSE, plan({"conv_002": 5_000}, {"conv_002": 10_000}))
    rates = {name: row["nominal_rate"] for name, row in planned.items()}
    assert rates == {"conv_000": 1.0, "conv_002": 2.5, "linear_005": 1.0, "linear_006": 1.0}


def test_older_plans_have_settled_masks_alone() -> None:
    halves = {name: n // 2 for name, n in WEIGHTS.items()}
    assert nominal_mac_rate(DENSE, plan(halves)) == pytest.approx(2.0)
    assert {row["nominal_rate"] for row in planned_layers(DENSE, plan(halves)).values()} == {2.0}
