import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.errors import ArtefactError, SpecError
from pneumonia.runtime.model.layers import Conv, Linear, StorageSpec
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from pneumonia.runtime.storage.packing import (
    dense_tensors,
    measured,
    measured_spec,
    pack,
    packed_tensors,
    unpack,
)


def conv(out_channels=3, in_channels=2, kernel=2, storage=None):
    return Conv(
        "L", ("input",), in_channels, out_channels, kernel, storage=storage or StorageSpec()
    )


def test_columns_by_hand():
    weight = np.zeros((3, 2, 2, 2), np.float32)
    weight[0, 0, 0, 1] = 1  # column 1
    weight[1, 1, 1, 0] = 2  # column 6
    weight[2, 1, 0, 0] = 3  # column 4
    layer = conv(storage=StorageSpec("columns", 2, 5))
    packed = pack(layer, weight)
    assert packed["L.columns"].tolist() == [1, 6, 4]
    assert packed["L.column_offsets"].tolist() == [0, 2, 3]
    assert packed["L.weight"].tolist() == [1, 0, 0, 2, 3]
    assert measured(layer, weight) == StorageSpec("columns", 2, 5, 32)
    np.testing.assert_array_equal(unpack(layer, packed), weight)


@given(
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.integers(0, 10),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_unpack_inverts_pack_for_any_sparsity(rows, inputs, kernel, group, density, seed):
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(rows, inputs, kernel, kernel)).astype(np.float32)
    weight *= generator.random(weight.shape) < density
    layer = conv(rows, inputs, kernel, StorageSpec("columns", group))
    layer = layer._replace(storage=measured(layer, weight))
    np.testing.assert_array_equal(unpack(layer, pack(layer, weight)), weight)


def test_linear_layer_in_columns():
    weight = np.array([[0, 1, 0], [0, 2, 0]], np.float32)
    layer = Linear("L", ("input",), 3, 2, storage=StorageSpec("columns", 0, 2))
    packed = pack(layer, weight)
    assert packed["L.columns"].tolist() == [1]
    np.testing.assert_array_equal(unpack(layer, packed), weight)


def test_a_stale_count_is_refused_and_the_fix_is_named():
    layer = conv(storage=StorageSpec("columns", 2, 7))
    with pytest.raises(SpecError, match="measured_spec"):
        pack(layer, np.ones((3, 2, 2, 2), np.float32))


def test_unknown_format_names_the_known_ones():
    with pytest.raises(SpecError, match=r"dense, columns.*'zip'"):
        pack(conv(storage=StorageSpec("zip")), np.zeros((3, 2, 2, 2), np.float32))


def damage():
    weight = np.zeros((3, 2, 2, 2), np.float32)
    weight[:, 0] = 1
    layer = conv(storage=StorageSpec("columns", 2, 12))
    good = pack(layer, weight)

    def changed(name, value):
        return {**good, "L." + name: value}

    i32 = np.int32
    return layer, {
        "column beyond the layer": changed("columns", np.array([0, 1, 2, 8] * 2, i32)),
        "negative column": changed("columns", np.array([-1, 1, 2, 3] * 2, i32)),
        "columns not ascending": changed("columns", np.array([0, 2, 1, 3] * 2, i32)),
        "column twice": changed("columns", np.array([0, 1, 1, 3] * 2, i32)),
        "offsets do not start at 0": changed("column_offsets", np.array([1, 4, 8], i32)),
        "offsets fall": changed("column_offsets", np.array([0, 9, 8], i32)),
        "offsets negative": changed("column_offsets", np.array([0, 4, -8], i32)),
        "too few offsets": changed("column_offsets", np.array([0, 8], i32)),
        "other split of columns": changed("column_offsets", np.array([0, 3, 8], i32)),
        "wrong type": changed("columns", good["L.columns"].astype(np.int64)),
        "too few weights": changed("weight", good["L.weight"][:-1]),
        "tensor missing": {k: v for k, v in good.items() if k != "L.columns"},
    }


@pytest.mark.parametrize("name", sorted(damage()[1]))
def test_damaged_columns_are_refused(name):
    layer, cases = damage()
    with pytest.raises(ArtefactError, match="'L'"):
        unpack(layer, cases[name])


def network():
    return NetworkSpec(
        "n",
        InputSpec(1, 8, 8),
        (
            Conv("a", ("input",), 1, 4, 3, 1, 1, bias=False, batch_norm=True),
            Conv("b", ("a",), 4, 2, 1, storage=StorageSpec("columns", 0)),
        ),
        ("b",),
        ("x",),
    )


def dense(spec):
    from pneumonia.runtime.model.spec import tensor_shapes

    generator = np.random.default_rng(0)
    tensors = {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in tensor_shapes(spec).items()
    }
    tensors["b.weight"][:, 2] = 0
    return tensors


def test_whole_network_round_trip():
    spec, tensors = network(), dense(network())
    spec = measured_spec(spec, tensors)
    assert spec.layer("b").storage.n_kept == 6
    packed = packed_tensors(spec, tensors)
    assert packed["b.weight"].shape == (6,)
    back = dense_tensors(spec, packed)
    assert list(back) == list(tensors)
    for name in tensors:
        np.testing.assert_array_equal(back[name], tensors[name])


def test_missing_unexpected_and_misshaped_tensors_are_named():
    spec = measured_spec(network(), dense(network()))
    packed = packed_tensors(spec, dense(spec))
    with pytest.raises(ArtefactError, match=r"a\.bn_var"):
        dense_tensors(spec, {k: v for k, v in packed.items() if k != "a.bn_var"})
    with pytest.raises(ArtefactError, match="surplus"):
        dense_tensors(spec, {**packed, "surplus": np.zeros(1, np.float32)})
    with pytest.raises(ArtefactError, match=r"b\.bias"):
        dense_tensors(spec, {**packed, "b.bias": np.zeros(3, np.float32)})
    with pytest.raises(ArtefactError, match="float64"):
        dense_tensors(spec, {**packed, "a.weight": packed["a.weight"].astype(np.float64)})
