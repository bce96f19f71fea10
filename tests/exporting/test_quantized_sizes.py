"""A k-bit network takes k bits a weight in the run and in the bundle, plus what is listed here."""

import numpy as np
import pytest
import torch

from pneumonia.compression.compact.storage_choice import smallest_storage
from pneumonia.compression.sets.levels import BINARY, TERNARY, k_bit
from pneumonia.exporting.bundle import export_run
from pneumonia.network.files import WEIGHTS_FILE, load_model, save_model
from pneumonia.network.fold import fold_batch_norm
from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build

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
    bundle = export_run(tmp_path, tmp_path / "bundle").out
    weighted = spec.weighted()
    n_weights = sum(tensors[f"{layer.name}.weight"].numel() for layer in weighted)
    n_filters = sum(layer.out_channels for layer in weighted)
    # of a layer: codes end on a whole byte, one shared table of levels, four header entries
    per_layer = 1 + 4 * (len(levels.values) + 1) + 4 * 100
    codes = n_weights * bits / 8
    bundle_bytes = (bundle / WEIGHTS_FILE).stat().st_size
    # of a filter: scale float64, bias float32; in the run batch norm's four float32
    assert bundle_bytes <= codes + len(weighted) * per_layer + n_filters * (8 + 4)
    run_bytes = (tmp_path / "best" / WEIGHTS_FILE).stat().st_size
    assert bundle_bytes <= run_bytes <= codes + 2 * len(weighted) * per_layer + n_filters * 16
    bundled, dense = load_model(bundle)
    for layer in bundled.weighted():
        # a bitmap of many zeros and one bit for the others takes less than two bits each
        if layer.in_channels * layer.out_channels > 512:
            assert layer.storage.bits == bits or levels is TERNARY, layer.name
    assert all(bool(tensor.isfinite().all()) for tensor in dense.values())


def test_the_bundle_holds_the_folded_weights_bit_by_bit(tmp_path):
    spec, tensors = quantized_run(tmp_path, k_bit(8))
    _, folded = fold_batch_norm(spec, tensors)
    _, bundled = load_model(export_run(tmp_path, tmp_path / "bundle").out)
    assert folded.keys() == bundled.keys()
    assert all(torch.equal(folded[name], bundled[name]) for name in folded)
