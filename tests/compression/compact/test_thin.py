"""The live part of a masked network computes what the whole does, and goes back into it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.compact.thin import thin
from pneumonia.network.zoo import build
from pneumonia.runtime.model.layers import Conv
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from tests.compression.compact.masks import assert_same_outputs, random_masks
from tests.compression.graphs import random_specs, random_tensors
from tests.network.parameters import parameter_count


def assert_goes_there_and_back(spec: NetworkSpec, seed: int, density: float, group: int) -> None:
    """Same outputs, before and after new weights; zeros outside the masks stay zero."""
    tensors, masks = random_tensors(spec, seed), random_masks(spec, seed, density, group)
    small = thin(spec, tensors, masks)
    whole = masked_tensors(ChannelGraph(spec), tensors, masks)
    assert_same_outputs(spec, whole, small.spec, small.tensors)
    again = masked_tensors(
        ChannelGraph(small.spec), {k: v * 1.25 for k, v in small.tensors.items()}, small.masks
    )
    wide = small.widen(again)
    assert_same_outputs(spec, wide, small.spec, again)
    assert wide.keys() == whole.keys()
    for name, mask in masks.items():
        assert not wide[f"{name}.weight"][~mask].any()
        n_live = int((small.masks[name] & (small.tensors[f"{name}.weight"] != 0)).sum())
        assert n_live == int((wide[f"{name}.weight"] != 0).sum())


@given(random_specs(), st.integers(0, 1000), st.sampled_from([0.2, 0.5, 0.9]), st.integers(0, 3))
def test_random_networks(spec: NetworkSpec, seed: int, density: float, group: int) -> None:
    assert_goes_there_and_back(spec, seed, density, group)


def test_yolov3_has_fewer_filters_to_train() -> None:
    spec = build("yolov3", width=0.125, size=64)
    assert_goes_there_and_back(spec, 3, 0.5, 8)
    small = thin(spec, random_tensors(spec, 3), random_masks(spec, 3, 0.5, 8))
    assert parameter_count(small.spec) < 0.75 * parameter_count(spec)


def test_a_constant_that_is_not_zero_keeps_every_filter() -> None:
    """Sigmoid of a filter without weights is 0.5, which only its reader's bias could hold."""
    layers = (
        Conv("a", ("input",), 1, 4, kernel=1, padding=0, bias=True, activation="sigmoid"),
        Conv("b", ("a",), 4, 2, kernel=1, padding=0, bias=True),
    )
    spec = NetworkSpec("two", InputSpec(1, 4, 4), layers, ("b",), ("x",))
    mask = torch.ones(4, 1, 1, 1, dtype=torch.bool)
    mask[2] = False
    small = thin(spec, random_tensors(spec, 0), {"a": mask})
    assert small.spec == spec
    assert small.tensors["a.weight"][2].item() == pytest.approx(0)
