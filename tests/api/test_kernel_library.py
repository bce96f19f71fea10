"""A network of one's own as generated C: the same outputs as torch, or the layers in the way."""

import shutil

import numpy as np
import pytest
import torch

from pneumonia.api import kernel_library
from pneumonia.api.kernel_library import write_kernels
from pneumonia.compression.network_pruning import NetworkPruning
from pneumonia.network.torch_import.imported import from_torch
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.errors import ConfigError, ExportError, OutputError
from tests.deploy_jetson.kernels.programs import needs_gcc
from tests.network.torch_import.torch_networks import network


@needs_gcc
def test_a_pruned_resnet_as_c_is_the_masked_one(tmp_path):
    module, x = network("resnet18")
    found = from_torch(module, x).eval()
    plan = NetworkPruning(found, 4.0)
    plan.harden()
    made = write_kernels(plan.compacted(), tmp_path / "deep" / "small.so", "x86-avx2")
    assert made.path == tmp_path / "deep" / "small.so"
    assert made.relative_error < 1e-5
    assert made.latency_ms > 0
    with torch.no_grad():
        expected = found(x)[0].numpy()
    (value,) = KernelLibrary(str(made.path)).run(x[0].numpy()).values()
    np.testing.assert_allclose(value.ravel(), expected, rtol=1e-4, atol=1e-5)


@needs_gcc
def test_other_outputs_than_those_of_torch_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_library, "TOLERANCE", -1.0)
    found = from_torch(torch.nn.Conv2d(1, 4, 3), torch.randn(1, 1, 8, 8))
    with pytest.raises(ExportError, match="other outputs than torch"):
        write_kernels(found, tmp_path / "small.so", "x86-avx2")


@needs_gcc
def test_a_library_that_replaces_one_in_use_is_the_one_that_is_checked(tmp_path):
    first = torch.nn.Conv2d(1, 4, 3)
    second = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Upsample(scale_factor=2))
    path = tmp_path / "net.so"
    for module in (first, second, first):
        found = from_torch(module, torch.randn(1, 1, 8, 8))
        assert write_kernels(found, path, "x86-avx2").relative_error < 1e-5
    x = torch.randn(1, 1, 8, 8)
    (value,) = KernelLibrary(str(path)).run(x[0].numpy()).values()
    np.testing.assert_allclose(value, first(x)[0].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["", "folder", "file/net.so", "/proc/net.so"])
def test_a_path_that_cannot_be_written_is_refused_before_compiling(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kernel_library, "generate_library", None)
    found = from_torch(torch.nn.Conv2d(1, 4, 3), torch.randn(1, 1, 8, 8))
    with pytest.raises(OutputError, match="Cannot write library"):
        write_kernels(found, name, "x86-avx2")


def test_layers_without_a_kernel_are_named_and_nothing_is_written(tmp_path):
    module, x = network("mobilenetv2")
    found = from_torch(module, x)
    with pytest.raises(ExportError, match=r"'features.0.0' \(activation relu6\).*ONNX Runtime"):
        write_kernels(found, tmp_path / "net.so", "x86-avx2")
    with pytest.raises(ConfigError, match="x86-avx2"):
        write_kernels(found, tmp_path / "net.so", "z80")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="needs gcc for aarch64")
def test_a_library_for_another_machine_is_not_checked(tmp_path):
    module, x = network("resnet18")
    made = write_kernels(from_torch(module, x), tmp_path / "net.so", "cortex-a57")
    assert made.path.is_file()
    assert made.relative_error is made.latency_ms is None
