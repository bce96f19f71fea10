"""The real TensorRT for RTX, where its wheel is installed: it parses and builds without a GPU.

Optional and never a dependency (NVIDIA's own licence): pip install tensorrt-rtx-cu12. It has the
strongly typed API of 11.x, knows no TX2, and cannot run anything here.

Spans: deploy_jetson.device.tensorrt.api, deploy_jetson.device.tensorrt.engine.
"""

from pathlib import Path

import pytest

from deploy_jetson.device.tensorrt.api import TensorRtApi
from pneumonia.runtime.errors import DeviceError
from pneumonia.runtime.storage.bundle import load_bundle
from tests.runtime.bundles import varied_detector, write_bundle

rtx = pytest.importorskip("tensorrt_rtx", reason="the tensorrt-rtx-cu12 wheel is not installed")


class HostApi(TensorRtApi):
    """Names a GPU, since there is none to ask."""

    def config(self, builder):
        config = super().config(builder)
        config.num_compute_capabilities = 1
        config.set_compute_capability(self.module.ComputeCapability.SM86, 0)
        return config


@pytest.fixture
def onnx(tmp_path):
    bundle = load_bundle(write_bundle(tmp_path, *varied_detector()))
    return Path(bundle.onnx_path).read_bytes()


def test_our_model_is_parsed(onnx):
    api = HostApi(rtx)
    builder = api.builder()
    network = api.network(builder)
    api.parse(network, onnx, "model.onnx")
    assert (network.num_inputs, network.num_outputs) == (1, 2)
    assert tuple(network.get_input(0).shape) == (1, 3, 64, 96)
    assert [network.get_output(i).name for i in range(2)] == ["d7", "d11"]


def test_our_model_is_built(onnx):
    api = HostApi(rtx)
    builder = api.builder()
    assert api.best_precision(builder) == "fp32"  # no flags: the file's own types
    plan, _ = api.build(builder, onnx, "fp32", "model.onnx")
    assert len(plan) > 1000


def test_damaged_models_are_refused_with_a_reason(onnx):
    api = HostApi(rtx)
    for bad in (b"garbage", onnx[: len(onnx) // 2], b""):
        with pytest.raises(DeviceError, match="cannot read the ONNX model"):
            api.build(api.builder(), bad, "fp32", "model.onnx")


def test_damaged_engines_are_refused():
    api = HostApi(rtx)
    assert api.deserialize(b"garbage" * 100) is None
