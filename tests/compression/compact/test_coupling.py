"""Units and components against what Darknet's configuration says by eye."""

import torch
from hypothesis import given

from pneumonia.compression.compact.coupling import (
    ChannelGraph,
    close_units,
    prunable,
    select_layers,
)
from pneumonia.compression.sets.network_set import live_units
from pneumonia.network.zoo import build
from pneumonia.runtime.model.layers import Conv, Route, Shortcut
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from tests.compression.graphs import random_specs


def names(*numbers: int) -> tuple[str, ...]:
    return tuple(f"conv_{n:03d}" for n in numbers)


def test_yolov3_residual_stages_are_the_five_groups_of_darknet53() -> None:
    graph = ChannelGraph(build("yolov3", width=0.125))
    tied = [c.layers for c in graph.components() if len(c.layers) > 1]
    assert tied == [
        names(1, 3),
        names(5, 7, 10),
        names(12, *range(14, 36, 3)),
        names(37, *range(39, 61, 3)),
        names(62, *range(64, 74, 3)),
    ]
    assert graph.protected_layers() == ["conv_081", "conv_093", "conv_105"]
    assert sum(len(c.layers) for c in graph.components()) == 75


def test_a_route_reader_sees_its_producers_channels_one_after_another() -> None:
    graph = ChannelGraph(build("yolov3", width=0.125))
    # conv_087 reads route_086 = upsample(conv_084) + shortcut_061 (the trunk of conv_037)
    joined = torch.cat([graph.unit_out["conv_084"], graph.unit_out["conv_037"]])
    assert torch.equal(graph.unit_in["conv_087"], joined)


def small(*layers: Conv | Shortcut | Route, outputs: tuple[str, ...]) -> NetworkSpec:
    return NetworkSpec("small", InputSpec(2, 4, 4), layers, outputs, ("x",))


def test_a_shortcut_over_a_route_ties_parts_of_a_layer() -> None:
    spec = small(
        Conv("a", ("input",), 2, 2, 1),
        Conv("b", ("input",), 2, 1, 1),
        Route("r", ("a", "b")),
        Conv("c", ("r",), 3, 3, 1),
        Shortcut("s", ("c", "r")),
        Conv("head", ("s",), 3, 1, 1),
        outputs=("head",),
    )
    graph = ChannelGraph(spec)
    assert torch.equal(graph.unit_out["c"][:2], graph.unit_out["a"])
    assert torch.equal(graph.unit_out["c"][2:], graph.unit_out["b"])
    assert [c.layers for c in graph.components()] == [("a", "b", "c"), ("head",)]


def test_layers_added_to_the_input_or_the_output_are_protected() -> None:
    spec = small(
        Conv("a", ("input",), 2, 2, 1),
        Shortcut("s", ("a", "input")),
        Conv("b", ("s",), 2, 3, 1),
        Conv("c", ("b",), 3, 3, 1),
        Shortcut("out", ("b", "c")),
        outputs=("out",),
    )
    graph = ChannelGraph(spec)
    assert graph.protected_layers() == ["a", "b", "c"]
    everything = select_layers(spec, ["*"])
    assert not any(prunable(c, graph, everything) for c in graph.components())


def test_a_component_is_prunable_only_if_all_of_it_is_selected() -> None:
    spec = build("yolov3", width=0.125)
    graph = ChannelGraph(spec)
    stage = next(c for c in graph.components() if c.layers == names(1, 3))
    assert prunable(stage, graph, {"conv_001", "conv_003"})
    assert not prunable(stage, graph, {"conv_001"})
    assert select_layers(spec, ["conv_00[0-2]", "nothing_*"]) == list(names(0, 1, 2))


def test_unread_units_are_removed_along_the_whole_path() -> None:
    spec = small(
        Conv("a", ("input",), 2, 2, 1),
        Conv("b", ("a",), 2, 2, 1),
        Conv("head", ("b",), 2, 1, 1),
        outputs=("head",),
    )
    graph = ChannelGraph(spec)
    read = {"a": torch.ones(2, 2) > 0, "b": torch.eye(2) > 0, "head": torch.tensor([[False, True]])}
    live = close_units(graph, read, torch.ones(graph.n_units, dtype=torch.bool))
    assert graph.live_rows(live, "b").tolist() == [False, True]
    assert graph.live_rows(live, "a").tolist() == [False, True]
    read["head"] = torch.zeros(1, 2) > 0  # nothing is read at all: one filter stays everywhere
    live = close_units(graph, read, torch.ones(graph.n_units, dtype=torch.bool))
    assert graph.live_rows(live, "b").tolist() == [True, False]
    assert graph.live_rows(live, "a").tolist() == [True, False]


@given(random_specs())
def test_units_follow_every_layer_of_a_random_network(spec: NetworkSpec) -> None:
    graph = ChannelGraph(spec)
    shapes = spec.shapes()
    for layer in spec.layers:
        assert graph.unit_out[layer.name].numel() == shapes[layer.name][0]
        if isinstance(layer, Shortcut):
            for source in layer.inputs:
                assert torch.equal(graph.unit_out[source], graph.unit_out[layer.name])
    listed = [name for component in graph.components() for name in component.layers]
    assert sorted(listed) == sorted(layer.name for layer in spec.weighted())


def test_a_residual_branch_that_only_feeds_itself_dies() -> None:
    """Trunk channel 0 is read by the branch alone, which writes trunk channel 0 alone."""
    spec = small(
        Conv("trunk", ("input",), 2, 2, 1),
        Conv("branch", ("trunk",), 2, 2, 1),
        Shortcut("sum", ("branch", "trunk")),
        Conv("head", ("sum",), 2, 1, 1),
        outputs=("head",),
    )
    graph = ChannelGraph(spec)
    read = {"branch": torch.eye(2) > 0, "head": torch.tensor([[False, True]])}
    live = close_units(graph, read, torch.ones(graph.n_units, dtype=torch.bool))
    assert graph.live_rows(live, "trunk").tolist() == [False, True]
    assert graph.live_rows(live, "branch").tolist() == [False, True]


def test_a_layer_without_weights_keeps_one_filter() -> None:
    """b has nothing left: it still stands with a filter, and so does a, which nobody reads."""
    spec = small(
        Conv("a", ("input",), 2, 3, 1),
        Conv("b", ("a",), 3, 4, 1),
        Conv("head", ("b",), 4, 1, 1),
        outputs=("head",),
    )
    graph = ChannelGraph(spec)
    masks = {
        "a": torch.ones(3, 2, 1, 1, dtype=torch.bool),
        "b": torch.zeros(4, 3, 1, 1, dtype=torch.bool),
        "head": torch.ones(1, 4, 1, 1, dtype=torch.bool),
    }
    live = live_units(graph, masks)
    assert graph.live_rows(live, "b").tolist() == [True, False, False, False]
    assert graph.live_rows(live, "a").sum() == 1
    assert bool(graph.live_rows(live, "head").all())
