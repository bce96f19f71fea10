"""A k-bit network takes k bits a weight in the run and in the bundle, plus what is listed here.

Spans: pneumonia.exporting.bundle, pneumonia.compression.compact.storage_choice,
pneumonia.runtime.storage.bundle.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.compression.sets.levels import BINARY, TERNARY, k_bit
from pneumonia.exporting.bundle import ExportOptions, export
from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.files import load_model, quantized_layers, save_model
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import ExportError
from pneumonia.runtime.storage.bundle import ONNX, WEIGHTS, load_bundle

ALPHA = 101 / 8192  # few significant bits, as the projection rounds it: exact times every level


def quantized_run(folder, levels):
    """An untrained YOLOv3-tiny with random levels, and batch norms that differ by filter."""
    network = Network(build("yolov3-tiny", width=0.0625, channels=1, size=64, n_classes=1))
    initialise(network, torch.Generator().manual_seed(0))
    tensors = network.tensors()
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.ndim == 4:
            values = rng.choice(levels.values, size=tuple(tensor.shape)) * ALPHA
            tensors[name] = torch.from_numpy(values.astype(np.float32))
        elif name.endswith(("bn_weight", "bn_var")):
            tensors[name] = torch.from_numpy(rng.lognormal(size=tensor.shape).astype(np.float32))
    spec = smallest_storage(network.spec, tensors)
    save_model(folder / "best", spec, tensors)
    return spec, tensors


@pytest.mark.parametrize(
    ("levels", "bits"), [(BINARY, 1), (TERNARY, 2), (k_bit(4), 4), (k_bit(8), 8)]
)
def test_the_file_is_k_bits_a_weight(tmp_path, levels, bits):
    spec, tensors = quantized_run(tmp_path, levels)
    bundle = export(tmp_path, tmp_path / "bundle").out
    weighted = spec.weighted()
    n_weights = sum(tensors[f"{layer.name}.weight"].numel() for layer in weighted)
    n_filters = sum(layer.out_channels for layer in weighted)
    # of a layer: codes end on a whole byte, one shared table of levels, four header entries
    per_layer = 1 + 4 * (len(levels.values) + 1) + 4 * 100
    codes = n_weights * bits / 8
    bundle_bytes = (bundle / WEIGHTS).stat().st_size
    # of a filter: scale float64, bias float32; in the run batch norm's four float32
    assert bundle_bytes <= codes + len(weighted) * per_layer + n_filters * (8 + 4)
    run_bytes = (tmp_path / "best" / WEIGHTS).stat().st_size
    assert bundle_bytes <= run_bytes <= codes + 2 * len(weighted) * per_layer + n_filters * 16
    bundled, dense = load_model(bundle)
    for layer in bundled.weighted():
        # a bitmap of many zeros and one bit for the others takes less than two bits each
        if layer.in_channels * layer.out_channels > 512:
            assert layer.storage.bits == bits or levels is TERNARY, layer.name
    assert all(bool(tensor.isfinite().all()) for tensor in dense.values())


@pytest.mark.parametrize("levels", [BINARY, TERNARY, k_bit(4), k_bit(8)])
def test_an_onnx_file_of_codes_is_a_quarter_and_the_same_function(tmp_path, levels):
    spec, tensors = quantized_run(tmp_path, levels)
    wide = export(tmp_path, tmp_path / "wide")
    result = export(tmp_path, tmp_path / "coded", ExportOptions(qdq=True))
    n_weights = sum(tensors[f"{layer.name}.weight"].numel() for layer in spec.weighted())
    n_filters = sum(layer.out_channels for layer in spec.weighted())
    layers = len(spec.weighted())
    # a byte a weight; a scale and a bias a filter; nodes and names as in the float file
    bound = n_weights + 8 * n_filters + 300 * layers + wide.sizes[ONNX] - 4 * n_weights
    assert result.sizes[ONNX] <= bound
    assert result.sizes[ONNX] < 0.35 * wide.sizes[ONNX]
    coded = quantized_layers(result.spec)
    assert len(coded) >= layers - 2  # the smallest layers are not worth a table of 8-bit levels
    assert result.onnx.ops["DequantizeLinear"] == len(coded)
    assert result.onnx.relative_error < 1e-5
    x = np.random.default_rng(1).normal(size=(1, 1, 64, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(result.out / ONNX))
    bundle = load_bundle(str(result.out))
    wanted = ReferenceEngine(bundle.spec, bundle.weights()).run(x)
    for name, value in zip(bundle.spec.outputs, session.run(None, {"input": x}), strict=True):
        assert np.abs(value - wanted[name]).max() <= 1e-5 * np.abs(wanted[name]).max()
    # the codes are the stored levels: the same weights, to the last place of a float32 scale
    graph = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(result.out / ONNX).graph.initializer
    }
    for name, tensor in bundle.weights().items():
        if name.removesuffix(".weight") in coded:
            codes, scales = graph[name + "/codes"], graph[name + "/scales"]
            assert codes.dtype == np.int8
            again = codes * scales[:, None, None, None]
            np.testing.assert_allclose(again, tensor.reshape(codes.shape), rtol=2e-7)


def test_codes_are_refused_where_nothing_is_quantized(tmp_path):
    network = Network(build("yolov3-tiny", width=0.0625, channels=1, size=64, n_classes=1))
    initialise(network, torch.Generator().manual_seed(0))
    save_model(tmp_path / "best", network.spec, network.tensors())
    with pytest.raises(ExportError, match=r"No weights are quantized.*qdq"):
        export(tmp_path, tmp_path / "bundle", ExportOptions(qdq=True))
    assert not (tmp_path / "bundle").exists()


def test_the_bundle_holds_the_folded_weights_bit_by_bit(tmp_path):
    spec, tensors = quantized_run(tmp_path, k_bit(8))
    _, folded = fold_batch_norm(spec, tensors)
    _, bundled = load_model(export(tmp_path, tmp_path / "bundle").out)
    assert folded.keys() == bundled.keys()
    assert all(torch.equal(folded[name], bundled[name]) for name in folded)
