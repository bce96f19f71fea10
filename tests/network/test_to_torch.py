"""Pruned networks as plain torch modules: same outputs, same names, no need of this package."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pneumonia.network.module import Network
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import from_torch
from pneumonia.network.zoo import build
from tests.network.torch_import.torch_cases import CASES, imported, odd, outputs, pruned
from tests.network.torch_import.torch_networks import NETWORKS


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_plain_module_is_the_pruned_network(name):
    _, x, found = imported(name)
    _, small = pruned(found, 4.0)
    plain = to_torch(small).double()
    ours = [m for m in plain.modules() if type(m).__module__.startswith("pneumonia")]
    assert ours == []
    three = torch.cat([x, x[:1]]).double()
    for expected, value in zip(outputs(small, three), outputs(plain, three), strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "vit"])
def test_names_are_those_of_the_original(name):
    module, _, found = imported(name)
    plain, original = to_torch(found).state_dict(), module.state_dict()
    assert plain.keys() == original.keys()
    assert all(torch.equal(plain[key], original[key]) for key in plain if "num_batches" not in key)


@pytest.mark.parametrize("case", list(CASES))
def test_every_op_has_a_plain_form(case):
    module, x = CASES[case].eval(), torch.randn(2, 3, 8, 8)
    plain = to_torch(from_torch(module, x)).eval()
    torch.testing.assert_close(plain(x), module(x), rtol=1e-5, atol=1e-5)


def test_an_opaque_module_is_itself_again():
    module, x = odd(), torch.randn(2, 3, 8, 8)
    plain = to_torch(from_torch(module, x, opaque=("0.odd",))).eval()
    torch.testing.assert_close(plain(x), module(x), rtol=1e-5, atol=1e-6)


def test_a_detector_of_the_zoo_can_leave_as_well():
    network = Network(build("yolov3-tiny", width=0.125, size=64)).eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        plain, expected = to_torch(network)(x), network(x)
    for value, name in zip(plain, network.spec.outputs, strict=True):
        torch.testing.assert_close(value, expected[name])


LOAD = """
import sys
sys.modules["pneumonia"] = None  # an import of it would fail
import torch
x = torch.load(sys.argv[1] + "/x.pt")
found = torch.load(sys.argv[1] + "/module.pt", weights_only=False)(x)
again = torch.export.load(sys.argv[1] + "/program.pt2").module()(x)
torch.save([found, again], sys.argv[1] + "/y.pt")
"""


@pytest.mark.slow
def test_it_is_loaded_with_torch_alone(tmp_path):
    _, x, found = imported("mobilenetv2")
    _, small = pruned(found, 4.0)
    plain = to_torch(small).float().eval()
    torch.save(x, tmp_path / "x.pt")
    torch.save(plain, tmp_path / "module.pt")
    torch.export.save(torch.export.export(plain, (x,)), tmp_path / "program.pt2")
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = plain(x)
    for value in torch.load(tmp_path / "y.pt"):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_a_plain_module_trains():
    _, x, found = imported("resnet18")
    plain = to_torch(found).train()
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.01)
    before = [p.clone() for p in plain.parameters()]
    nn.functional.cross_entropy(plain(x), torch.tensor([1, 2])).backward()
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, plain.parameters(), strict=True))
