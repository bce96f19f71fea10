"""Layers without a kernel are named before anything is generated."""

import pytest
from hypothesis import given

from deploy_jetson.kernels.plan.supported import check_supported
from pneumonia.network.zoo import ZOO, build
from pneumonia.runtime.errors import ExportError
from pneumonia.runtime.model.layers import Conv, Linear, Multiply, Norm, Route, Shortcut, Upsample
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from tests.network.random_networks import networks

UNKNOWN = {
    "groups 2": Conv("x", ("a",), 4, 4, 3, 1, 1, groups=2),
    "kernel 3 x 1": Conv("x", ("a",), 4, 4, (3, 1)),
    "dilation 2": Conv("x", ("a",), 4, 4, 3, dilation=2),
    "transposed True": Conv("x", ("a",), 4, 4, 2, 2, transposed=True),
    "activation silu": Conv("x", ("a",), 4, 4, 1, activation="silu"),
    "linear at every position": Linear("x", ("a",), 4, 4),
    "norm": Norm("x", ("a",), 4),
    "multiply": Multiply("x", ("a", "a")),
    "mode bilinear": Upsample("x", ("a",), 2, "bilinear"),
    "axis height": Route("x", ("a", "a"), "height"),
    "inputs of different shapes": Shortcut("x", ("a", "b")),
}


@pytest.mark.parametrize("reason", list(UNKNOWN))
def test_a_layer_without_kernel_is_named_with_the_reason(reason):
    ends = (Conv("a", ("input",), 1, 4, 1), Conv("b", ("input",), 1, 1, 1))
    spec = NetworkSpec("n", InputSpec(1, 8, 8), (*ends, UNKNOWN[reason]), ("x",), ())
    spec.shapes()
    with pytest.raises(ExportError, match=rf"'x' \({reason}\)"):
        check_supported(spec)


def test_many_are_counted():
    layers = tuple(Norm(f"n{i}", ("input",), 1) for i in range(7))
    spec = NetworkSpec("n", InputSpec(1, 8, 8), layers, ("n0",), ())
    with pytest.raises(ExportError, match=r"'n4' \(norm\) and 2 more"):
        check_supported(spec)


@pytest.mark.parametrize("name", list(ZOO))
def test_the_zoo_is_supported(name):
    check_supported(build(name))


@given(networks(batch_norm=False))
def test_networks_of_the_zoos_ops_are_supported(spec):
    check_supported(spec)
