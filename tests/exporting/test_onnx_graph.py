import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.exporting import onnx_file
from pneumonia.exporting.onnx_file import check_format, check_onnx, sample_input
from pneumonia.exporting.onnx_graph import ALLOWED_OPS, emit_onnx
from pneumonia.exporting.onnx_nodes import GatheredInput
from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.module import Network
from pneumonia.network.zoo import ZOO, build
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import ExportError
from pneumonia.runtime.model.layers import Conv, StorageSpec
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from tests.network.random_networks import networks, random_tensors


def arrays(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def write(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def run_onnx(model, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


@given(spec=networks(zoo_only=False), seed=st.integers(0, 99), batch=st.integers(1, 3))
def test_torch_numpy_and_onnxruntime_agree_on_every_op(spec, seed, batch):
    tensors = random_tensors(spec, seed)
    images = sample_input(spec.input, batch)
    with torch.no_grad():
        torch_outputs = Network(spec, tensors).eval()(torch.from_numpy(images))
    numpy_outputs = ReferenceEngine(spec, arrays(tensors)).run(images)
    folded, folded_tensors = fold_batch_norm(spec, tensors)
    model = emit_onnx(folded, arrays(folded_tensors), batch).model
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= ALLOWED_OPS
    onnx_outputs = run_onnx(model, images)
    assert list(onnx_outputs) == list(torch_outputs) == list(numpy_outputs)
    for name, value in torch_outputs.items():
        expected = value.numpy()
        scale = max(1.0, float(np.abs(expected).max()))
        for found in (numpy_outputs[name], onnx_outputs[name]):
            assert found.shape == expected.shape
            assert float(np.abs(found - expected).max()) <= 2e-5 * scale, name


@pytest.mark.parametrize("name", list(ZOO))
def test_every_zoo_network_passes_the_check(tmp_path, name):
    size = {"yolov3": 64, "yolov3-tiny": 64}.get(name)
    spec = build(name, width=0.25, size=size)
    tensors = random_tensors(spec, 1)
    folded, folded_tensors = fold_batch_norm(spec, tensors)
    path = write(tmp_path / "m.onnx", emit_onnx(folded, arrays(folded_tensors), 2).model)
    report = check_onnx(path, spec, tensors, 2)
    assert (report.opset, report.ir_version) == (13, 7)
    assert report.relative_error < 2e-5
    assert report.ops["Conv"] == len(spec.weighted())
    assert "BatchNormalization" not in report.ops


def columns_conv(in_channels, kept, group_size=0):
    """One 3x3 convolution of 4 filters that keeps the given columns, plus its tensors."""
    layer = Conv("c", ("input",), in_channels, 4, 3, padding=1,
                 storage=StorageSpec("columns", group_size))  # fmt: skip
    spec = NetworkSpec("n", InputSpec(in_channels, 6, 6), (layer,), ("c",), ("a",))
    generator = np.random.default_rng(0)
    weight = np.zeros((4, in_channels, 3, 3), dtype=np.float32)
    for channel, row, column in kept:
        weight[:, channel, row, column] = generator.standard_normal(4)
    return spec, {"c.weight": weight, "c.bias": np.arange(4, dtype=np.float32)}


def test_half_dead_channels_are_not_read():
    spec, tensors = columns_conv(6, [(1, 0, 0), (1, 2, 2), (4, 1, 1), (5, 0, 2)])
    graph = emit_onnx(spec, tensors)
    assert graph.gathered == (GatheredInput("c", 6, 3),)
    assert [node.op_type for node in graph.model.graph.node] == ["Gather", "Conv"]
    sizes = {init.name: list(init.dims) for init in graph.model.graph.initializer}
    assert sizes["c.weight"] == [4, 3, 3, 3]
    images = sample_input(spec.input, 1)
    found = run_onnx(graph.model, images)["c"]
    expected = ReferenceEngine(spec, tensors).run(images)["c"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_mostly_alive_or_dense_channels_are_read_whole():
    spec, tensors = columns_conv(6, [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)])
    assert emit_onnx(spec, tensors).gathered == ()
    spec, tensors = columns_conv(6, [(1, 0, 0)])
    dense = spec.replace_layers({"c": spec.layer("c")._replace(storage=StorageSpec())})
    assert emit_onnx(dense, tensors).gathered == ()


def test_convolution_that_keeps_nothing_gives_its_bias():
    spec, tensors = columns_conv(6, [])
    graph = emit_onnx(spec, tensors)
    onnx.checker.check_model(graph.model, full_check=True)
    found = run_onnx(graph.model, sample_input(spec.input, 1))["c"]
    np.testing.assert_array_equal(found[0, :, 2, 3], [0, 1, 2, 3])


def test_batch_norm_left_is_an_error_that_names_the_layer():
    spec = build("vgg16", width=0.25)
    with pytest.raises(ExportError, match=r"not folded.*conv_000"):
        emit_onnx(spec, arrays(random_tensors(spec, 0)))


def test_input_and_output_have_the_spec_names_and_fixed_sizes():
    spec = build("lenet5")
    graph = emit_onnx(spec, arrays(random_tensors(spec, 0)), batch=5).model.graph
    sizes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert sizes == {"input": [5, 1, 28, 28], "linear_006": [5, 10]}


@pytest.fixture
def lenet(tmp_path):
    spec = build("lenet5")
    tensors = random_tensors(spec, 0)
    return spec, tensors, write(tmp_path / "m.onnx", emit_onnx(spec, arrays(tensors)).model)


def test_newer_opset_in_the_file_is_refused(lenet):
    _, _, path = lenet
    model = onnx.load(str(path))
    model.opset_import[0].version = 18
    write(path, model)
    with pytest.raises(ExportError, match=r"expected opset 13.*18"):
        check_format(path)


def test_newer_ir_version_in_the_file_is_refused(lenet):
    _, _, path = lenet
    model = onnx.load(str(path))
    model.ir_version = 10
    write(path, model)
    with pytest.raises(ExportError, match=r"IR <= 7.*IR 10"):
        check_format(path)


def test_op_outside_the_list_is_refused(lenet):
    _, _, path = lenet
    model = onnx.load(str(path))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Celu"
    write(path, model)
    with pytest.raises(ExportError, match=r"TensorRT 8\.2.*Celu.*linear_005"):
        check_format(path)


def test_truncated_file_is_refused(lenet):
    _, _, path = lenet
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ExportError, match="not valid"):
        check_format(path)


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_numbers_that_differ_are_refused(lenet, factor):
    spec, tensors, path = lenet
    wrong = {**tensors, "linear_006.weight": tensors["linear_006.weight"] * factor}
    with pytest.raises(ExportError, match=r"disagree.*linear_006"):
        check_onnx(path, spec, wrong, 1)


def test_sample_input_has_the_range_of_real_images():
    images = sample_input(InputSpec(3, 40, 50, mean=0.5, std=0.25), 2)
    assert images.shape == (2, 3, 40, 50)
    assert images.min() >= -2
    assert images.max() <= 2
    assert images.std() > 0.3
    np.testing.assert_array_equal(images[:, 0], images[:, 2])
    assert onnx_file.TOLERANCE <= 1e-4
