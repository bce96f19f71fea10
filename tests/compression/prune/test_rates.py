"""The search for the strength that reaches a global rate, on curves with plateaus and jumps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.prune import rates as module
from pneumonia.compression.prune.rates import STRONGEST, LayerRates, RatePlan, StageStart, plan_rate
from pneumonia.runtime.errors import PruneError
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec


class Curve:
    """A method whose realised rate at strength x is a given function."""

    def __init__(self, steps):
        self.steps = steps  # (from this x on, this rate), ascending
        self.tried = []

    def plan(self, start, method, layer_rates):
        (x,) = layer_rates.values()
        self.tried.append(x)
        rate = [1.0, *(rate for at, rate in self.steps if x >= at)][-1]
        return RatePlan(None, {}, {}, rate, rate, dict(layer_rates))


def planned(curve, target, monkeypatch):
    monkeypatch.setattr(module, "apply_rates", curve.plan)
    spec = NetworkSpec(
        "one", InputSpec(1, 4, 4), (Conv("conv", ("input",), 1, 1, 1),), ("conv",), ()
    )
    start = StageStart(ChannelGraph(spec), {"conv": torch.zeros(1)}, {}, 1)
    return plan_rate(start, None, LayerRates({"conv": 1.0}, {}), target)


def test_a_plateau_below_the_target_does_not_hide_the_rate_behind_it(monkeypatch):
    """As patterns under connectivity do: nothing changes for long, then a layer gives way."""
    curve = Curve([(1.5, 2.19), (1e4, 2.24), (1e6, 3.329)])
    assert planned(curve, 2.235, monkeypatch).realised_rate == 2.24


def test_a_jump_over_the_target_ends_above_it(monkeypatch):
    curve = Curve([(1.5, 2.0), (7.0, 3.3)])
    found = planned(curve, 2.5, monkeypatch)
    assert found.realised_rate == 3.3
    assert len(curve.tried) < module.MAX_TRIALS


def test_what_even_the_strongest_does_not_reach_is_refused(monkeypatch):
    curve = Curve([(1.5, 2.0), (9.0, 3.3)])
    with pytest.raises(PruneError, match=r"expected at most 3\.3 .*; found 4"):
        planned(curve, 4.0, monkeypatch)
    assert STRONGEST in curve.tried


@given(
    st.lists(st.tuples(st.floats(0.01, 8), st.floats(1.05, 50)), min_size=1, max_size=6),
    st.floats(1.1, 40),
)
def test_any_staircase_is_climbed_or_refused(steps, target):
    places = sorted(10**place for place, _ in steps)
    stairs = list(zip(places, sorted(rate for _, rate in steps), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        try:
            found = planned(Curve(stairs), target, patch).realised_rate
        except PruneError:
            assert stairs[-1][1] < target * (1 - module.TOLERANCE)
        else:
            assert found >= target * (1 - module.TOLERANCE)
