import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.network.accounting import account
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv, Linear, StorageSpec
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec, tensor_shapes
from pneumonia.runtime.storage.packing import measured_spec, packed_tensors
from tests.network.parameters import parameter_count
from tests.network.random_networks import networks, random_tensors


def ones(spec):
    # one element behind every tensor: 61 million weights cost no memory
    return {name: torch.ones(()).expand(shape) for name, shape in tensor_shapes(spec).items()}


def test_yolov3_costs_what_is_published():
    spec = build("yolov3", channels=3)
    totals = account(spec, ones(spec)).totals
    assert totals.parameters == 61_523_734
    assert totals.macs == 32_644_937_728  # 65.290 BFLOPs in Darknet's own count of 1 class, 416
    assert totals.kept_macs == totals.macs
    assert totals.rate == totals.mac_rate == 1.0
    assert totals.storage_bits == 32 * (61_523_734 + 2 * 26_304)  # and running mean and variance


def test_lenet5_by_hand():
    spec = build("lenet5")
    rows = {row.name: row for row in account(spec, ones(spec)).layers}
    assert rows["conv_000"].macs == 20 * 25 * 24 * 24
    assert rows["conv_002"].macs == 50 * 20 * 25 * 8 * 8
    assert rows["linear_005"].macs == 800 * 500
    assert rows["linear_006"].macs == 500 * 10
    assert rows["conv_002"].parameters == 50 * 20 * 25 + 50
    assert rows["maxpool_001"].macs == rows["maxpool_001"].parameters == 0
    assert rows["conv_002"].shape_in == (20, 12, 12)
    assert rows["conv_002"].shape_out == (50, 8, 8)


def test_columns_by_hand():
    # 5 filters in groups of 2, P = 3 * 4 = 12 columns, ceil(log2 12) = 4 bits each
    layer = Conv("c", ("input",), 3, 5, 2, storage=StorageSpec("columns", 2))
    spec = NetworkSpec("n", InputSpec(3, 4, 4), (layer,), ("c",), ("a",))
    tensors = ones(spec) | {"c.weight": torch.zeros(5, 3, 2, 2)}
    matrix = tensors["c.weight"].view(5, 12)
    matrix[0, 3] = matrix[1, 7] = 1.0  # group 0 keeps 2 columns: 8 bits
    matrix[2, :] = 1.0  # group 1 keeps 12 columns: the bit map is shorter, 12 bits
    matrix[4, 0] = 1.0  # group 2 is one filter with 1 column: 4 bits
    row = account(spec, tensors).layers[0]
    assert row.kept_weights == 2 * 2 + 2 * 12 + 1
    assert row.kept_macs == 29 * 9
    assert row.macs == 60 * 9
    assert row.index_bits == 8 + 12 + 4
    assert row.storage_bits == 32 * (29 + 5)


def test_masked_dense_weights_count_as_not_kept_but_are_stored():
    layer = Linear("l", ("input",), 4, 3, bias=False)
    spec = NetworkSpec("n", InputSpec(4, 1, 1), (layer,), ("l",), ("a",))
    weight = torch.ones(3, 4)
    weight[1] = 0.0
    result = account(spec, {"l.weight": weight})
    assert result.totals.kept_weights == 8
    assert result.totals.storage_bits == 32 * 12
    assert result.totals.rate == 1.5


def test_nothing_kept_is_an_infinite_rate():
    layer = Linear("l", ("input",), 4, 3, bias=False)
    spec = NetworkSpec("n", InputSpec(4, 1, 1), (layer,), ("l",), ("a",))
    assert account(spec, {"l.weight": torch.zeros(3, 4)}).totals.rate == float("inf")


@given(spec=networks(), seed=st.integers(0, 99))
def test_the_count_is_what_the_packed_file_holds(spec, seed):
    tensors = random_tensors(spec, seed)
    result = account(spec, tensors)
    dense = {name: tensor.numpy() for name, tensor in tensors.items()}
    packed = packed_tensors(measured_spec(spec, dense), dense)
    floats = sum(array.size for array in packed.values() if array.dtype == "float32")
    assert result.totals.storage_bits == 32 * floats
    assert result.totals.parameters == parameter_count(spec)
    indices = sum(array.size for name, array in packed.items() if name.endswith(".columns"))
    assert result.totals.index_bits <= 32 * indices
    assert [row.name for row in result.layers] == [layer.name for layer in spec.layers]


def test_foreign_tensors_are_refused():
    spec = build("lenet5")
    with pytest.raises(ArtefactError, match=r"conv_000\.weight"):
        account(spec, {})


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
