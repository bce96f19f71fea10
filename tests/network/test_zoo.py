import pytest

from pneumonia.network.zoo import ZOO, build
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.model.layers import Conv, Detect, Route, Shortcut, Upsample
from pneumonia.runtime.model.spec_json import parse_spec, spec_text
from tests.network.parameters import parameter_count


def test_yolov3_is_darknets_list_of_107_entries():
    spec = build("yolov3", channels=3)
    kinds = [type(layer) for layer in spec.layers]
    assert len(kinds) == 107
    counts = [kinds.count(kind) for kind in (Conv, Shortcut, Route, Upsample, Detect)]
    assert counts == [75, 23, 4, 2, 3]
    assert [int(layer.name.rpartition("_")[2]) for layer in spec.layers] == list(range(107))
    assert spec.outputs == ("detect_082", "detect_094", "detect_106")


def test_yolov3_joins_what_the_cfg_file_joins():
    # yolov3.cfg: route -4; route -1, 61; route -4; route -1, 36; shortcut -3
    spec = build("yolov3", channels=3)
    assert spec.layer("route_083").inputs == ("conv_079",)
    assert spec.layer("route_086").inputs == ("upsample_085", "shortcut_061")
    assert spec.layer("route_095").inputs == ("conv_091",)
    assert spec.layer("route_098").inputs == ("upsample_097", "shortcut_036")
    assert spec.layer("shortcut_004").inputs == ("conv_003", "conv_001")
    assert spec.layer("shortcut_074").inputs == ("conv_073", "shortcut_071")
    strided = [layer.name for layer in spec.layers if isinstance(layer, Conv) and layer.stride == 2]
    assert strided == ["conv_001", "conv_005", "conv_012", "conv_037", "conv_062"]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("yolov3", {"channels": 3}, 61_523_734),
        ("yolov3", {"channels": 3, "n_classes": 80}, 61_949_149),  # yolov3.weights of COCO
        ("yolov3", {"channels": 1}, 61_523_734 - 2 * 9 * 32),
        # 8,858,734 values in yolov3-tiny.weights, of which 2 x 3,184 are running statistics
        ("yolov3-tiny", {"channels": 3, "n_classes": 80}, 8_858_734 - 2 * 3_184),
        ("lenet5", {}, 431_080),
        ("resnet18", {}, 11_173_962),
        ("vgg16", {}, 14_724_042),
    ],
)
def test_parameter_counts_are_the_published_ones(name, options, expected):
    assert parameter_count(build(name, **options)) == expected


def test_shapes_of_the_three_scales():
    shapes = build("yolov3", channels=3).shapes()
    assert shapes["shortcut_074"] == (1024, 13, 13)
    assert [shapes[n] for n in ("detect_082", "detect_094", "detect_106")] == [
        (18, 13, 13),
        (18, 26, 26),
        (18, 52, 52),
    ]
    assert build("yolov3", size=608).shapes()["detect_106"] == (18, 76, 76)


def test_small_anchors_go_to_the_fine_scale_scaled_with_the_input():
    heads = {h.stride: h for h in build("yolov3", size=832).detect_layers()}
    assert sorted(heads) == [8, 16, 32]
    assert heads[8].anchors == ((20.0, 26.0), (32.0, 60.0), (66.0, 46.0))
    assert heads[32].anchors == ((232.0, 180.0), (312.0, 396.0), (746.0, 652.0))


def test_own_anchors_are_sorted_by_area():
    own = [(90, 80), (10, 10), (50, 40), (30, 20), (70, 60), (20, 10)]
    heads = {h.stride: h.anchors for h in build("yolov3", anchors=own).detect_layers()}
    assert heads[8] == ((10.0, 10.0), (20.0, 10.0))
    assert heads[32] == ((70.0, 60.0), (90.0, 80.0))


@pytest.mark.parametrize("name", list(ZOO))
@pytest.mark.parametrize("width", [0.1, 0.25, 0.77, 2.0])
def test_width_multiplies_inner_channels_in_multiples_of_eight(name, width):
    spec, full = build(name, width=width), build(name)
    outs = [layer.out_channels for layer in spec.weighted()]
    for layer, wide, out in zip(spec.weighted(), full.weighted(), outs, strict=True):
        if layer.name in spec.outputs or any(layer.name in h.inputs for h in spec.detect_layers()):
            assert out == wide.out_channels
        else:
            assert out % 8 == 0
            assert abs(out - width * wide.out_channels) <= 4 or out == 8
    assert parse_spec(spec_text(spec)) == spec


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("yolov4", {}, "yolov3, yolov3-tiny"),
        ("yolov3", {"size": 100}, "multiple of 32"),
        ("yolov3", {"size": 0}, "multiple of 32"),
        ("yolov3", {"width": 0.0}, "0 < w"),
        ("yolov3", {"width": float("nan")}, "0 < w"),
        ("yolov3", {"channels": 0}, ">= 1"),
        ("yolov3", {"anchors": [(1, 2), (3, 4)]}, "multiple of 3"),
        ("yolov3", {"anchors": []}, "multiple of 3"),
        ("yolov3", {"anchors": [(1, 2), (3, 4), (5, -1)]}, "positive"),
        ("lenet5", {"anchors": [(1, 2)]}, "detectors"),
        ("lenet5", {"size": 4}, "size 4"),
    ],
)
def test_refusals_say_what_would_be_right(name, options, said):
    with pytest.raises(ConfigError, match=said):
        build(name, **options)
