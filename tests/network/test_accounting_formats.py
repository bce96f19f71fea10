"""Bits of sparse and quantized layers are those of the arrays that are stored."""

import torch

from pneumonia.network.accounting import account
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.model.layers import StorageSpec
from pneumonia.runtime.storage.packing import measured_spec


def counted(name: str):
    network = Network(build("lenet5"))
    tensors = {n: torch.zeros_like(t) for n, t in network.tensors().items()}
    weight = tensors["linear_005.weight"]  # 500 x 800
    weight[:, ::10] = torch.tensor([0.5, -0.5]).repeat(20000)[: 500 * 80].reshape(500, 80)
    layer = network.spec.layer("linear_005")
    spec = network.spec.replace_layers({"linear_005": layer._replace(storage=StorageSpec(name))})
    spec = measured_spec(spec, {n: t.numpy() for n, t in tensors.items()})
    return next(row for row in account(spec, tensors).layers if row.name == "linear_005")


def test_bitmap_of_floats():
    row = counted("bitmap")
    assert row.kept_weights == 40000
    assert row.storage_bits == 40000 * 32 + 500 * 32
    assert row.index_bits == 500 * 800


def test_bitmap_of_binary_codes():
    row = counted("bitmap-levels")
    assert row.kept_macs == 40000
    assert row.storage_bits == 40000 * 1 + 500 * 32
    assert row.index_bits == 500 * 800 + 2 * 32, "places, and the table of two levels"
