"""Whole networks: every operation, threads, instances, networks that do not fit."""

import numpy as np
import pytest

from deploy_jetson.kernels.compile.lower import lower
from deploy_jetson.kernels.compile.source import write_plan
from deploy_jetson.kernels.generate import model_chooser
from deploy_jetson.kernels.kinds.columns import chain
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.errors import ArtefactError, ExportError
from tests.deploy_jetson.kernels.networks import (
    every_op,
    keep_columns,
    random_image,
    random_tensors,
    residual_tower,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_ARM_TARGET,
    EACH_TARGET,
    HERE,
    assert_close,
    emulated,
    generated,
    needs_gcc,
    needs_target,
    network_limit,
    run,
    run_emulated,
    run_poisoned,
    run_program,
)
from tests.runtime.bundles import varied_detector

pytestmark = needs_gcc


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
@pytest.mark.parametrize("threads", [1, 3])
def test_whole_network_of_every_op(tmp_path, target, threads):
    spec = every_op()
    tensors = random_tensors(spec)
    tensors["c8.weight"][5:9] = 0  # empty filters: nothing but the bias is left
    tensors["c3.weight"][:] = 0  # an empty layer
    _, found, expected = run(tmp_path, spec, tensors, target, threads=threads)
    assert_close(found, expected, 1e-4)


@needs_target
def test_runs_repeat_and_instances_do_not_share(tmp_path):
    spec = residual_tower()
    tensors = random_tensors(spec)
    path = str(generated(tmp_path, spec, tensors).library)
    one, two = KernelLibrary(path, threads=2), KernelLibrary(path)
    images = [random_image(spec, seed) for seed in range(3)]
    first = [one.run(image)["sum2"] for image in images]
    for image, value in zip(images, first, strict=True):
        np.testing.assert_array_equal(two.run(image)["sum2"], value)
        np.testing.assert_array_equal(one.run(image)["sum2"], value)
    one.close()
    two.close()


@pytest.mark.slow
@needs_target
@pytest.mark.parametrize("threads", ["1", "2"])
def test_address_and_undefined_sanitizers_find_nothing(tmp_path, threads, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    target = HERE[-1]
    spec = residual_tower((6, 20, 33)) if threads == "2" else every_op()
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.6, 8)
    build = [
        "gcc", "-std=gnu11", "-O1", "-g", "-ffp-contract=fast", *TARGETS[target].flags,
        "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
    ]  # fmt: skip
    found, expected = run_program(tmp_path, (spec, tensors), target, build, threads=threads)
    assert_close(found, expected, 1e-4)


@emulated
@pytest.mark.parametrize("target", EACH_ARM_TARGET)
def test_arm_whole_network(tmp_path, target):
    spec = every_op()
    tensors = random_tensors(spec)
    found, expected = run_emulated(tmp_path, spec, tensors, threads="2", target=target)
    assert_close(found, expected, network_limit(target))


@needs_target
@pytest.mark.parametrize("spec", [every_op(), residual_tower()], ids=["every op", "chains"])
def test_whole_networks(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(chain, "WORTH_BYTES", 0)
    tensors = random_tensors(spec)
    for name in tensors:
        if name.endswith(".weight"):
            tensors[name] = keep_columns(tensors[name], 0.5, 8)
    found, expected = run_poisoned(tmp_path, spec, tensors, HERE[-1])
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("spoil", ["shape", "nan", "missing", "batch norm"])
def test_unfit_networks_name_the_layer(spoil):
    spec, tensors = varied_detector(batch_norm=spoil == "batch norm")
    expected = {"shape": "c4.weight", "nan": "c4.weight", "missing": "c4.weight"}
    if spoil == "shape":
        tensors["c4.weight"] = tensors["c4.weight"][:, :1]
    elif spoil == "nan":
        tensors["c4.weight"][0, 0] = np.nan
    elif spoil == "missing":
        del tensors["c4.weight"]
    target = TARGETS["x86-avx2"]
    with pytest.raises((ArtefactError, ExportError), match=expected.get(spoil, "'c0'")):
        lower(spec, tensors, target, model_chooser(target))


def test_the_step_table_can_be_read():
    spec = every_op()
    renamed = spec._replace(name="a */ name")
    target = TARGETS["x86-avx2"]
    plan = lower(renamed, random_tensors(spec), target, model_chooser(target))
    text = write_plan(plan, "h").texts["network.c"]
    assert max(map(len, text.splitlines())) <= 120
    assert "Read pneumonia_model.h first" in text


def test_generation_is_the_same_byte_for_byte():
    spec = every_op()
    tensors = random_tensors(spec)
    target = TARGETS["x86-avx2"]
    one, two = (
        write_plan(lower(spec, dict(tensors), target, model_chooser(target)), "h") for _ in range(2)
    )
    assert one.texts == two.texts
    assert one.weights == two.weights
