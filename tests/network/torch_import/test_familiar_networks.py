"""What a user does with a network: import, prune, shrink, export; every step compared.

Spans: pneumonia.network.torch_import, pneumonia.compression.network_pruning.
"""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import pneumonia
from pneumonia.network.torch_import.layouts import to_layout
from tests.network.torch_import.familiar_networks import FAMILIAR

WHOLE = {"mobilevit": {"1"}}  # attention in patches: the block around it stays whole


@pytest.mark.parametrize("name", list(FAMILIAR))
def test_import_prune_and_export(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, size = FAMILIAR[name]
    module, x = make().eval(), torch.randn(2, 3, size, size)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # as trained
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    network = pneumonia.from_torch(module, x, keep_unknown=True).eval()
    assert set(network.opaque_modules) == WHOLE.get(name, set())
    _compare(module(x), network(x))
    if name in WHOLE:
        return
    plan = pneumonia.NetworkPruning(network, rate=1.4)
    plan.start()
    plan.update()
    plan.harden()
    masked, small = network(x), plan.compacted().eval()
    plain = pneumonia.to_torch(small).eval()
    _compare(masked, plain(x))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (module, plain))
    assert after < before / 1.2
    path = tmp_path / "small.onnx"
    pneumonia.write_onnx(small, path)
    session = onnxruntime.InferenceSession(str(path))
    values = dict(
        zip(
            (output.name for output in session.get_outputs()),
            session.run(None, {"input": x[:1].numpy()}),
            strict=True,
        )
    )
    shapes = small.spec.shapes()
    for view, wanted in zip(small.interface.outputs, leaves(masked), strict=True):
        value = torch.from_numpy(values[view.layer]).reshape(-1, *shapes[view.layer])
        torch.testing.assert_close(to_layout(value, view.dims), wanted[:1], rtol=1e-4, atol=1e-5)


def leaves(value: object) -> list[Tensor]:
    """Tensors in what a module returns, in their order."""
    if isinstance(value, Tensor):
        return [value]
    assert isinstance(value, (dict, list, tuple))
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in leaves(part)]


def _compare(expected: object, found: object) -> None:
    pairs = zip(leaves(expected), leaves(found), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
