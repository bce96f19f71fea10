"""Coupled filters against those that Torch-Pruning finds (where it is installed).

Spans: pneumonia.compression.compact.coupling, benchmarks.torch_pruning_peer.pair.
"""

import pytest

from pneumonia.network.torch_import.imported import from_torch
from tests.network.torch_import.torch_networks import network

pytest.importorskip("torch_pruning")
from benchmarks.torch_pruning_peer.pair import our_groups, their_groups


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenetv2", "densenet", "unet", "yolo"]
)
def test_coupled_filters_are_those_of_torch_pruning(name: str) -> None:
    module, x = network(name)
    theirs, ours = their_groups(module, x), our_groups(from_torch(module, x))
    assert ours == theirs
    assert len(ours) > 10
