"""Darknet files: whole networks, the first layers of one, heads of other classes, grey stems."""

import struct

import numpy as np
import pytest
import torch

from pneumonia.network.darknet import read_darknet
from pneumonia.network.module import Network
from pneumonia.network.zoo import build
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv
from tests.network.darknet_files import SEEN, darknet_bytes
from tests.network.random_networks import random_tensors


def small(**options):
    return build("yolov3-tiny", **{"width": 0.125, "size": 32, "channels": 3, **options})


@pytest.fixture
def file(tmp_path):
    spec = small()
    tensors = random_tensors(spec, 0)
    path = tmp_path / "tiny.weights"
    path.write_bytes(darknet_bytes(spec, tensors))
    return path, spec, tensors


def test_whole_file_is_read_exactly(file):
    path, spec, tensors = file
    found = read_darknet(path, spec)
    assert found.version == (0, 2, 0)
    assert found.images_seen == SEEN
    assert found.layers == tuple(layer.name for layer in spec.weighted())
    assert found.skipped == ()
    assert not found.grey_stem
    assert set(found.tensors) == set(tensors)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    Network(spec, found.tensors)


def test_old_header_counts_images_in_32_bits(file):
    path, spec, tensors = file
    path.write_bytes(darknet_bytes(spec, tensors, header=struct.pack("<iiii", 0, 1, 0, 77)))
    found = read_darknet(path, spec)
    assert found.images_seen == 77
    assert torch.equal(found.tensors["conv_022.weight"], tensors["conv_022.weight"])


def test_backbone_file_fills_the_first_52_convolutions(tmp_path):
    spec = build("yolov3", width=0.0625, channels=3, size=32)
    tensors = random_tensors(spec, 0)
    path = tmp_path / "darknet53.conv.74"
    path.write_bytes(darknet_bytes(spec, tensors, upto=74))
    found = read_darknet(path, spec)
    assert len(found.layers) == 52
    assert found.layers[-1] == "conv_073"
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.tensors.items())


def test_grey_stem_computes_what_the_rgb_stem_computes_on_grey(file):
    path, spec, tensors = file
    grey = small(channels=1)
    found = read_darknet(path, grey)
    assert found.grey_stem
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        expected = Network(spec, tensors).eval()(image.repeat(1, 3, 1, 1))
        outputs = Network(grey, found.tensors).eval()(image)
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, rtol=1e-4, atol=1e-4)


def test_coco_file_gives_everything_but_the_heads(tmp_path):
    coco, ours = small(n_classes=80), small(channels=1)
    tensors = random_tensors(coco, 0)
    path = tmp_path / "yolov3-tiny.weights"
    path.write_bytes(darknet_bytes(coco, tensors))
    found = read_darknet(path, ours)
    assert found.skipped == ("conv_015", "conv_022")
    assert len(found.layers) == 11
    # what follows the skipped head must not have moved
    assert torch.equal(found.tensors["conv_021.weight"], tensors["conv_021.weight"])
    network = Network(ours)
    network.load_tensors({**network.tensors(), **found.tensors})


def test_compacted_network_round_trips(tmp_path):
    # odd channel counts, as pruning leaves them
    layers = (
        Conv("a", ("input",), 1, 5, 3, 2, 1, bias=False, batch_norm=True),
        Conv("b", ("a",), 5, 7, 1),
    )
    spec = small()._replace(layers=layers, outputs=("b",), input=small(channels=1).input)
    tensors = random_tensors(spec, 4)
    (tmp_path / "w").write_bytes(darknet_bytes(spec, tensors))
    found = read_darknet(tmp_path / "w", spec).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(("width", "said"), [(0.25, "inside layer"), (0.0625, "beyond the end")])
def test_another_width_says_what_was_expected(file, width, said):
    path, _, _ = file
    with pytest.raises(ArtefactError, match=f"does not fit the network.*{said}.*Width"):
        read_darknet(path, small(width=width, channels=1))


def test_truncated_file_is_never_half_read(file):
    path, spec, _ = file
    data = path.read_bytes()
    path.write_bytes(data[:-4])
    with pytest.raises(ArtefactError, match="inside layer 'conv_022'"):
        read_darknet(path, spec)
    path.write_bytes(data[:-3])
    with pytest.raises(ArtefactError, match="is cut"):
        read_darknet(path, spec)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "too short"),
        (b"PK\x03\x04" * 100, "Not a Darknet weights file"),
        (struct.pack("<iiiq", 0, 2, 0, 0), "is cut"),
    ],
)
def test_other_files_are_refused(tmp_path, data, said):
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(ArtefactError, match=said):
        read_darknet(tmp_path / "w", small())


def test_missing_file_and_nan_are_refused(file):
    path, spec, tensors = file
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_darknet(path.with_name("none"), spec)
    tensors["conv_010.weight"][0, 0, 0, 0] = np.nan
    path.write_bytes(darknet_bytes(spec, tensors))
    with pytest.raises(ArtefactError, match=r"not finite.*conv_010"):
        read_darknet(path, spec)


def test_layers_without_a_place_are_named(tmp_path):
    spec = build("lenet5")
    (tmp_path / "w").write_bytes(struct.pack("<iiiqf", 0, 2, 0, 0, 0.0))
    with pytest.raises(ArtefactError, match="linear_005"):
        read_darknet(tmp_path / "w", spec)
