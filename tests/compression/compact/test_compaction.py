"""Compaction must not change any output: random networks, YOLOv3, constants, idempotence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pneumonia.compression.compact.compaction import compact
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.network.files import load_model, save_model
from pneumonia.network.image_head import add_image_head
from pneumonia.network.zoo import build
from pneumonia.runtime.model.layers import Conv, Flatten, Linear, Shortcut
from pneumonia.runtime.model.ops import weight_shape
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from tests.compression.compact.masks import assert_same_outputs, random_masks
from tests.compression.graphs import random_specs, random_tensors
from tests.network.parameters import parameter_count
from tests.network.random_networks import networks
from tests.network.random_networks import random_tensors as trained_tensors


@given(random_specs(), st.integers(0, 1000), st.sampled_from([0.2, 0.5, 0.9]), st.integers(0, 3))
def test_masked_dense_equals_compacted(
    spec: NetworkSpec, seed: int, density: float, group: int
) -> None:
    tensors = random_tensors(spec, seed)
    masks = random_masks(spec, seed, density, group)
    small, kept = compact(spec, tensors, masks, dict.fromkeys(masks, group))
    dense = masked_tensors(ChannelGraph(spec), tensors, masks)
    assert_same_outputs(spec, dense, small, kept)
    assert small.outputs == spec.outputs
    for after in small.weighted():  # residual branches that add nothing are gone
        before = spec.layer(after.name)
        assert isinstance(before, (Conv, Linear))
        assert after.out_channels <= before.out_channels
        assert after.in_channels <= before.in_channels
    again_spec, again = compact(small, kept, None, dict.fromkeys(masks, group))
    assert again_spec == small
    assert all(torch.equal(again[name], kept[name]) for name in kept)


@given(networks(zoo_only=False), st.integers(0, 1000), st.sampled_from([0.3, 0.6]))
def test_masked_equals_compacted_with_every_op(
    spec: NetworkSpec, seed: int, density: float
) -> None:
    """Filters left out at random, unit by unit; columns where a layer is not grouped."""
    spec = spec.densely_stored()
    graph, tensors = ChannelGraph(spec), trained_tensors(spec, seed)
    generator = torch.Generator().manual_seed(seed)
    live = (torch.rand(graph.n_units, generator=generator) < density) | graph.protected
    masks = {}
    for layer in spec.weighted():
        shape = weight_shape(layer)
        rows = live[graph.unit_out[layer.name]].reshape(-1, *[1] * (len(shape) - 1))
        read = torch.rand((1, *shape[1:]), generator=generator) < 0.8
        masks[layer.name] = (rows & read).expand(shape)
    small, kept = compact(spec, tensors, masks)
    assert_same_outputs(spec, masked_tensors(graph, tensors, masks), small, kept)


@given(random_specs(), st.integers(0, 1000), st.data())
def test_filters_that_emit_constants_are_folded_or_kept(
    spec: NetworkSpec, seed: int, data: st.DataObject
) -> None:
    """Weights zeroed without their bias or batch norm: still the same outputs."""
    tensors = random_tensors(spec, seed)
    for layer in spec.weighted():
        dead = data.draw(st.lists(st.integers(0, layer.out_channels - 1), max_size=4))
        tensors[layer.name + ".weight"][dead] = 0
    small, kept = compact(spec, tensors)
    assert_same_outputs(spec, tensors, small, kept)


def chain(padding: int, bias: bool, batch_norm: bool) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Two convolutions; filter 0 of the first emits the constant 0.5."""
    spec = NetworkSpec(
        "chain",
        InputSpec(1, 6, 6),
        (
            Conv("a", ("input",), 1, 3, 1, bias=True, activation="leaky_relu"),
            Conv("b", ("a",), 3, 2, 3, 1, padding, bias=bias, batch_norm=batch_norm),
        ),
        ("b",),
        ("x",),
    )
    tensors = random_tensors(spec, 1)
    tensors["a.weight"][0] = 0
    tensors["a.bias"][0] = 0.5
    return spec, tensors


@pytest.mark.parametrize(("bias", "batch_norm"), [(True, False), (False, True), (False, False)])
def test_a_constant_is_folded_where_the_reader_does_not_pad(bias: bool, batch_norm: bool) -> None:
    spec, tensors = chain(0, bias, batch_norm)
    small, kept = compact(spec, tensors)
    assert small.layer("a").out_channels == 2  # type: ignore[union-attr]
    assert_same_outputs(spec, tensors, small, kept)


def test_a_constant_stays_where_padding_would_make_the_fold_inexact() -> None:
    spec, tensors = chain(1, True, False)
    small, kept = compact(spec, tensors)
    assert small == spec
    assert_same_outputs(spec, tensors, small, kept)


def test_compacted_sizes_by_hand() -> None:
    """a: 4 filters, 1 masked; b reads only channels 1 and 2; so a keeps filters 1 and 2."""
    spec = NetworkSpec(
        "hand",
        InputSpec(1, 4, 4),
        (
            Conv("a", ("input",), 1, 4, 3, 1, 1, bias=False, batch_norm=True),
            Conv("b", ("a",), 4, 2, 1, bias=True),
        ),
        ("b",),
        ("x",),
    )
    tensors = random_tensors(spec, 0)
    masks = {
        "a": torch.tensor([True, True, True, False]).reshape(4, 1, 1, 1).expand(4, 1, 3, 3),
        "b": torch.tensor([[False, True, True, True]] * 2).reshape(2, 4, 1, 1),
    }
    small, kept = compact(spec, tensors, masks, {"b": 0})
    assert torch.equal(kept["a.weight"], tensors["a.weight"][[1, 2]])
    assert torch.equal(kept["a.bn_mean"], tensors["a.bn_mean"][[1, 2]])
    assert torch.equal(kept["b.weight"], tensors["b.weight"][:, [1, 2]])
    assert torch.equal(kept["b.bias"], tensors["b.bias"])
    assert small.layer("b").storage.format == "dense"  # nothing is left to leave out
    assert parameter_count(small) == 2 * 9 + 4 + 2 * 2 + 2


def test_flatten_drops_every_feature_of_a_removed_channel() -> None:
    from pneumonia.runtime.model.layers import Flatten

    spec = NetworkSpec(
        "flat",
        InputSpec(1, 2, 2),
        (
            Conv("a", ("input",), 1, 3, 1, activation="relu"),
            Flatten("f", ("a",)),
            Linear("b", ("f",), 12, 2),
        ),
        ("b",),
        ("x",),
    )
    tensors = random_tensors(spec, 3)
    masks = {"a": torch.tensor([True, False, True]).reshape(3, 1, 1, 1)}
    small, kept = compact(spec, tensors, masks)
    assert kept["b.weight"].shape == (2, 8)
    assert torch.equal(kept["b.weight"], tensors["b.weight"][:, [0, 1, 2, 3, 8, 9, 10, 11]])
    dense = masked_tensors(ChannelGraph(spec), tensors, masks)
    assert_same_outputs(spec, dense, small, kept)


@pytest.mark.parametrize("group", [0, 4])
def test_yolov3_compacts_through_all_its_residual_groups(group: int, tmp_path: object) -> None:
    spec = add_image_head(build("yolov3", width=0.125, size=64))
    tensors = random_tensors(spec, 0)
    masks = random_masks(spec, 5, 0.6, group)
    small, kept = compact(spec, tensors, masks, dict.fromkeys(masks, group))
    dense = masked_tensors(ChannelGraph(spec), tensors, masks)
    assert_same_outputs(spec, dense, small, kept)
    assert parameter_count(small) < parameter_count(spec)
    assert any(layer.storage.format == "columns" for layer in small.weighted())
    from pathlib import Path

    saved = save_model(Path(str(tmp_path)), small, kept)
    assert saved == small  # the storage was measured already
    loaded_spec, loaded = load_model(Path(str(tmp_path)))
    assert loaded_spec == small
    assert all(torch.equal(loaded[name], kept[name]) for name in kept)


def test_compacting_again_changes_nothing_where_dead_paths_empty_a_sum() -> None:
    """Only the zero filter of `a` is read: the sum is zero once the other one is gone."""
    spec = NetworkSpec(
        "sum", InputSpec(1, 4, 4),
        (
            Conv("a", ("input",), 1, 2, 3, 1, 1, bias=False),
            Shortcut("unread", ("a", "a")),
            Flatten("flat", ("a",)),
            Linear("out", ("flat",), 32, 2),
        ),
        ("out",),
        (),
    )  # fmt: skip
    tensors = random_tensors(spec, 0)
    first = torch.arange(32) < 16
    masks = {
        "a": torch.tensor([False, True]).reshape(2, 1, 1, 1).expand(2, 1, 3, 3),
        "out": first.expand(2, 32),
    }
    small, kept = compact(spec, tensors, masks)
    assert [layer.name for layer in small.layers] == ["a", "flat", "out"]
    assert_same_outputs(spec, masked_tensors(ChannelGraph(spec), tensors, masks), small, kept)
    assert compact(small, kept)[0] == small
