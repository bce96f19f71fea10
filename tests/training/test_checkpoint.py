"""Checkpoints whose storage is packed: what a pruning run resumes from."""

import pytest
import torch

from pneumonia.network.files import load_model
from pneumonia.network.module import Network
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import StorageSpec
from pneumonia.training.checkpoint import (
    FinishedEpochs,
    TrainingState,
    load_last,
    save_best,
    save_last,
)
from pneumonia.training.config import OptimiserConfig
from pneumonia.training.ema import WeightAverage
from pneumonia.training.optimiser import make_optimiser
from tests.support.tiny import tiny_network, tiny_spec


def _packed(seed: int) -> Network:
    """A network of which two of three columns of layer `c` are zero, in groups of 8 filters."""
    spec = tiny_spec()
    layer = spec.layer("c")
    network = Network(spec.replace_layers({"c": layer._replace(storage=StorageSpec("columns", 8))}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        weight = network.weights()["c"]
        weight[:, :, :, 1:] = 0.0
    return network


def _state(network: Network) -> TrainingState:
    optimiser = make_optimiser(network, OptimiserConfig())
    return TrainingState(network, WeightAverage(network, 0.9), optimiser, ())


def test_a_packed_network_resumes(tmp_path):
    before = _state(_packed(1))
    save_last(tmp_path, before, FinishedEpochs(4, 0.25, 3), {"seed": 1})
    stored = load_model(tmp_path / "last")[0].layer("c").storage
    assert stored.n_kept == 24 * 16 * 3  # the file knows what the running network does not
    assert stored != before.network.spec.layer("c").storage

    after = _state(_packed(2))
    assert load_last(tmp_path, after) == FinishedEpochs(4, 0.25, 3)
    for name, tensor in before.network.tensors().items():
        assert torch.equal(after.network.tensors()[name], tensor), name
        assert torch.equal(
            after.average.network.tensors()[name], before.average.network.tensors()[name]
        ), name


def test_a_network_stored_dense_and_one_stored_packed_are_the_same(tmp_path):
    save_last(tmp_path, _state(tiny_network(1)), FinishedEpochs(1), {})
    assert load_last(tmp_path, _state(_packed(2))).epoch == 1


def test_another_architecture_is_refused(tmp_path):
    save_last(tmp_path, _state(_packed(1)), FinishedEpochs(1), {})
    with pytest.raises(ArtefactError, match=r"another network.*'tiny'"):
        load_last(tmp_path, _state(tiny_network(batch_norm=False)))


def test_thresholds_that_cannot_be_written_leave_the_best_weights_alone(tmp_path):
    """Weights and thresholds are swapped in together, or not at all."""
    save_best(tmp_path, _packed(1), 1, {}, lambda folder: (folder / "points").write_text("1"))
    first = (tmp_path / "best" / "weights.safetensors").read_bytes()

    def fails(folder):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        save_best(tmp_path, _packed(2), 2, {}, fails)
    assert (tmp_path / "best" / "weights.safetensors").read_bytes() == first
    assert (tmp_path / "best" / "points").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
