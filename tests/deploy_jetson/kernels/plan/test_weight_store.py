"""Weights in fewer bits: what is stored, what it becomes, and that no kernel sees a difference."""

import json
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploy_jetson.kernels.bundle import add_kernels
from deploy_jetson.kernels.compile.source import RUNTIME, kernel_texts
from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.kinds.registry import KINDS, kind_of
from deploy_jetson.kernels.plan.weight_store import BYTE_GROUP, WeightStore, encode
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.cli import run as run_command
from pneumonia.cli.model import kernels as verb
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.storage.bundle import load_bundle
from tests.deploy_jetson.kernels.networks import (
    every_op,
    keep_columns,
    keep_patterns,
    keep_some,
    one_layer,
    random_image,
    random_tensors,
    reference,
)
from tests.deploy_jetson.kernels.programs import (
    EACH_TARGET,
    HERE,
    assert_close,
    darb,
    emulated,
    forced,
    fully_connected,
    needs_gcc,
    needs_target,
    run_emulated,
    run_program,
)
from tests.runtime.bundles import varied_detector, write_bundle

pytestmark = needs_gcc


def halved(tensors):
    """Weights rounded to half precision: what a library that stores halves must compute with."""
    return {
        name: value.astype(np.float16).astype(np.float32) if name.endswith(".weight") else value
        for name, value in tensors.items()
    }


EXPAND = """
#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
#include "cases.h"
void *aligned_memory(size_t bytes) { return malloc(bytes); }
int main(void) {
  const unsigned char *image = hold_weights();
  fwrite(image, 1, pn_image_bytes, stdout);
  release_weights();
  return 0;
}
"""


def expanded(folder, file):
    """What expand.c makes of a weights file, as bytes."""
    target = TARGETS[HERE[-1]]
    for name, text in kernel_texts(target, []).items():
        (folder / name).write_text(text)
    rows = ", ".join("{" + ", ".join(map(str, segment)) + "}" for segment in file.segments)
    values = ", ".join(map(str, file.data))
    (folder / "cases.h").write_text(
        f"const unsigned char pn_weights[] __attribute__((aligned(64))) = {{{values}}};\n"
        f"const segment pn_segments[] = {{{rows}}};\n"
        f"const int pn_n_segments = {len(file.segments)};\n"
        f"const size_t pn_image_bytes = {file.image_bytes};\n"
    )
    (folder / "main.c").write_text(EXPAND)
    subprocess.run(
        ["gcc", "-O3", *target.flags, "-fsanitize=address,undefined", "main.c", "expand.c",
         "-o", "expand", "-lpthread"],
        cwd=folder, check=True,
    )  # fmt: skip
    return subprocess.run(["./expand"], cwd=folder, capture_output=True, check=True).stdout


@needs_target
def test_every_finite_half_becomes_the_float_it_is(tmp_path):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    store = WeightStore()
    store.add(np.arange(5, dtype=np.int32))
    at = store.add(halves.astype(np.float32), weights=True)
    image = expanded(tmp_path, store.file("fp16"))
    found = np.frombuffer(image, np.float32, len(halves), at)
    assert found.tobytes() == halves.astype(np.float32).tobytes()
    assert np.frombuffer(image, np.int32, 5).tolist() == [0, 1, 2, 3, 4]


@needs_target
@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_file_and_memory_agree(tmp_path, storage):
    generator = np.random.default_rng(3)
    weights = generator.standard_normal((7, 33)).astype(np.float32)
    weights[3:5] = 0
    store = WeightStore()
    first = store.add(weights, weights=True)
    lists = store.add(np.arange(77, dtype=np.int32))
    assert store.add(weights, weights=True) == first  # stored once
    file = store.file(storage)
    assert len(file.data) < file.image_bytes == len(store.data())
    image = expanded(tmp_path, file)
    found = np.frombuffer(image, np.float32, weights.size, first).reshape(weights.shape)
    if storage == "fp16":
        np.testing.assert_array_equal(found, weights.astype(np.float16))
    else:
        np.testing.assert_allclose(found, weights, atol=np.abs(weights).max() / 127 / 2)
        assert not found[3].any()
    assert np.frombuffer(image, np.int32, 77, lists).tolist() == list(range(77))


FLOATS = st.floats(-(2.0**20), 2.0**20, width=32)


@given(arrays(np.float32, st.integers(1, 200), elements=FLOATS))
def test_a_byte_is_off_by_half_a_step_of_its_group(weights):
    rows = encode(weights, "int8")
    scales = rows[:, :4].copy().view(np.float32)
    found = (rows[:, 4:].view(np.int8) * scales).ravel()[: len(weights)]
    allowed = np.repeat(scales.ravel(), BYTE_GROUP)[: len(weights)] * 0.5001
    assert (np.abs(found - weights) <= allowed + 1e-38).all()


@needs_target
@pytest.mark.parametrize("target", EACH_TARGET)
def test_whole_network_from_halves(tmp_path, target):
    spec = every_op()
    tensors = random_tensors(spec)
    sizes = {}
    for storage in ("fp32", "fp16"):
        library = tmp_path / f"lib{storage}.so"
        made = generate_library(spec, tensors, TARGETS[target], library, storage=storage)
        sizes[storage] = len(made.sources.weights)
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    image = random_image(spec)
    expected = reference(spec, halved(tensors), image)
    one, two = KernelLibrary(str(library), threads=2), KernelLibrary(str(library))
    assert_close(one.run(image), expected, 1e-5)
    one.close()
    assert_close(two.run(image), expected, 1e-5)  # the weights are still there
    two.close()
    assert_close(KernelLibrary(str(library)).run(image), expected, 1e-5)  # and made again


LISTS = {
    "pattern": (one_layer((17, 35, 7, 11)), keep_patterns),
    "taps": (one_layer((24, 18, 19, 26)), keep_some),
    "rows": (fully_connected(37), lambda weight, _: darb(weight)),
}


@needs_target
@pytest.mark.parametrize("kind", LISTS)
def test_kernels_with_lists_of_their_own_from_halves(tmp_path, kind):
    spec, keep = LISTS[kind]
    tensors = random_tensors(spec)
    tensors["tested.weight"] = keep(tensors["tested.weight"], 0.4)
    choose, library = forced(HERE[-1], KINDS[kind]), tmp_path / "lib.so"
    made = generate_library(spec, tensors, TARGETS[HERE[-1]], library, choose, storage="fp16")
    assert kind_of(made.plan.choices["tested"]) is KINDS[kind]
    image = random_image(spec)
    found = KernelLibrary(str(library)).run(image)
    assert_close(found, reference(spec, halved(tensors), image), 1e-5)


@needs_target
def test_bytes_are_a_quarter_and_near(tmp_path):
    spec = every_op()
    tensors = random_tensors(spec)
    target, library = TARGETS[HERE[-1]], tmp_path / "lib.so"
    made = generate_library(spec, tensors, target, library, storage="int8")
    assert len(made.sources.weights) < 0.35 * made.sources.image_bytes
    image = random_image(spec)
    assert_close(KernelLibrary(str(library)).run(image), reference(spec, tensors, image), 0.03)


@pytest.mark.slow
@needs_target
def test_sanitizers_find_nothing_with_halves(tmp_path):
    target = HERE[-1]
    spec = every_op()
    tensors = halved(random_tensors(spec))
    build = ["gcc", "-std=gnu11", "-O1", "-g", *TARGETS[target].flags,
             "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]  # fmt: skip
    found, expected = run_program(tmp_path, (spec, tensors), target, build, storage="fp16")
    assert_close(found, expected, 1e-4)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_a57_from_fewer_bits(tmp_path, storage):
    spec = one_layer((17, 35, 7, 11), skip=True)
    tensors = halved(random_tensors(spec))
    tensors["tested.weight"] = keep_columns(tensors["tested.weight"], 0.5, 16)
    found, expected = run_emulated(tmp_path, spec, tensors, storage=storage)
    assert_close(found, expected, 1e-4 if storage == "fp16" else 0.03)


@needs_target
def test_command_stores_halves_and_says_so(tmp_path, capsys):
    bundle = write_bundle(tmp_path / "bundle", *varied_detector())
    arguments = [str(bundle), "--target", HERE[-1], "--no-tune", "--weights", "fp16"]
    assert run_command(verb.command, arguments) == 0
    assert " as fp16" in capsys.readouterr().out
    report = json.loads((bundle / f"kernels-{HERE[-1]}.json").read_text())
    assert report["weights_storage"] == "fp16"
    assert report["weights_bytes"] < report["weights_memory_bytes"]
    loaded = load_bundle(str(bundle))
    image = random_image(loaded.spec)[None]
    found = open_engine(loaded, "kernels", threads=1).run(image)
    expected = open_engine(loaded, "reference").run(image)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-2 * np.abs(value).max())


def test_unknown_storage_is_refused_in_one_line(tmp_path, capsys):
    bundle = write_bundle(tmp_path / "bundle", *varied_detector())
    assert run_command(verb.command, [str(bundle), "--weights", "fp8"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "fp32, fp16, int8" in said
    assert "'fp8'" in said


def test_a_weight_too_large_for_halves_names_its_layer(tmp_path):
    spec, tensors = varied_detector()
    weight = tensors["c4.weight"]
    weight[tuple(np.argwhere(weight)[0])] = 70000
    bundle = write_bundle(tmp_path / "bundle", spec, tensors)
    with pytest.raises(ArtefactError, match=r"at most 65504; found 70000 .*'c4'.*--weights fp32"):
        add_kernels(bundle, "cortex-a57", storage="fp16")


def test_storages_are_numbered_as_in_c():
    text = (RUNTIME / "engine.h").read_text()
    assert "enum { STORED_AS_THEY_ARE, STORED_HALVES, STORED_BYTES };" in text
    assert f"#define BYTE_GROUP {BYTE_GROUP}" in text


def test_store_aligns_and_stores_equal_arrays_once():
    store = WeightStore()
    first = store.add(np.arange(3, dtype=np.float32))
    second = store.add(np.ones(20, np.float32))
    assert (first, second, store.add(np.arange(3, dtype=np.float32))) == (0, 64, 0)
    assert len(store.data()) == 192
    assert np.frombuffer(store.data(), np.float32, 20, 64).tolist() == [1] * 20
    assert WeightStore().data()  # a symbol needs an address
