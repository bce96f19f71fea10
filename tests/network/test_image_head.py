import pytest

from pneumonia.network.image_head import add_image_head, remove_class_outputs
from pneumonia.network.zoo import build
from pneumonia.runtime.detection.heads import class_outputs, image_outputs
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.model.spec_json import parse_spec, spec_text
from tests.network.random_networks import random_tensors


def test_image_head_reads_what_the_coarsest_head_reads_and_changes_nothing_else():
    plain = build("yolov3", width=0.25, size=64)
    spec = add_image_head(plain)
    assert spec.layers[:-2] == plain.layers
    assert spec.outputs == (*plain.outputs, "linear_108")
    assert spec.layer("global_avg_pool_107").inputs == spec.layer("conv_081").inputs
    assert spec.shapes()["linear_108"] == (1, 1, 1)
    assert parse_spec(spec_text(spec)) == spec
    for unfit in (spec, build("lenet5")):
        with pytest.raises(ConfigError, match="image head"):
            add_image_head(unfit)


@pytest.mark.parametrize("n_values", [1, 3])
def test_only_a_single_logit_gates_and_only_class_logits_are_taken_out(n_values):
    plain = build("yolov3-tiny", width=0.25, size=64)
    spec = add_image_head(plain, n_values)
    tensors = random_tensors(spec, 1)
    added = [spec.outputs[-1]]
    assert (image_outputs(spec), class_outputs(spec)) == (
        (added, []) if n_values == 1 else ([], added)
    )
    found, kept = remove_class_outputs(spec, tensors)
    assert found == (spec if n_values == 1 else plain)
    assert set(tensors) - set(kept) == (
        set() if n_values == 1 else {f"{added[0]}.weight", f"{added[0]}.bias"}
    )
    assert all(kept[name] is tensors[name] for name in kept)


def test_a_classifier_keeps_its_classes():
    spec = build("lenet5")
    assert remove_class_outputs(spec, random_tensors(spec, 1))[0] == spec
