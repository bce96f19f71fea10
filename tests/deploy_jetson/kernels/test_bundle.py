"""A bundle's library through the verb and the engine; bad input; generation byte for byte."""

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.kernels.bundle import add_kernels
from deploy_jetson.kernels.choices import ColumnsChoice, PatternChoice, WinogradChoice
from deploy_jetson.kernels.compilers import find_compiler
from deploy_jetson.kernels.generate import generate_library, model_chooser
from deploy_jetson.kernels.lower import lower
from deploy_jetson.kernels.source import RUNTIME, write_plan
from deploy_jetson.kernels.targets import TARGETS, cpu_features
from pneumonia.cli import kernels as verb
from pneumonia.cli import run as run_command
from pneumonia.network.zoo import build
from pneumonia.runtime.bundle import load_bundle
from pneumonia.runtime.detector import DEFAULT_BUNDLE
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.engines.kernels import KernelLibrary, fitting_threads
from pneumonia.runtime.errors import ArtefactError, ConfigError, DeviceError, ExportError
from tests.deploy_jetson.kernels.networks import (
    PATTERNS,
    every_op,
    keep_columns,
    keep_patterns,
    one_layer,
    random_image,
    random_tensors,
)
from tests.deploy_jetson.kernels.programs import Instance
from tests.runtime.bundles import varied_detector, write_bundle

EXAMPLE = Path(__file__).parents[3] / "examples" / "c" / "score_tensor.c"
GOLDEN = Path(__file__).parent / "golden"
needs_avx2 = pytest.mark.skipif(
    not shutil.which("gcc") or "avx2" not in cpu_features(), reason="needs gcc and AVX2"
)


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", *varied_detector())


@needs_avx2
def test_engine_of_a_bundle_agrees_with_the_reference(bundle):
    result = add_kernels(bundle, "x86-avx2", measure=False)
    assert result.library.name == "libmodel-x86-avx2.so"
    loaded = load_bundle(str(bundle))  # the manifest still holds
    assert {"libmodel-x86-avx2.so", "kernels-x86-avx2.json"} <= set(loaded.manifest["files"])
    assert (bundle / "kernels-x86-avx2" / "network.c").is_file()
    engine = open_engine(loaded, "auto", threads=1)
    assert engine.name == "kernels"
    batch = np.stack([random_image(loaded.spec, seed) for seed in range(2)])
    found, expected = engine.run(batch), open_engine(loaded, "reference").run(batch)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4 * np.abs(value).max())


@needs_avx2
@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_a_damaged_library_is_refused_and_made_again(bundle, fault):
    library = add_kernels(bundle, "x86-avx2", measure=False).library
    whole = library.read_bytes()
    library.unlink() if fault == "gone" else library.write_bytes(whole[:1000])
    with pytest.raises(ArtefactError, match=r"libmodel-x86-avx2\.so"):
        load_bundle(str(bundle))
    add_kernels(bundle, "x86-avx2", measure=False)
    load_bundle(str(bundle))
    assert library.read_bytes() == whole


@needs_avx2
def test_the_c_example_gives_what_python_gives(bundle, tmp_path):
    result = add_kernels(bundle, "x86-avx2", measure=False)
    program, image = tmp_path / "score_tensor", tmp_path / "image.f32"
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", f"-I{result.sources}", str(EXAMPLE), "-o",
         str(program), str(result.library), f"-Wl,-rpath,{bundle}"],
        check=True,
    )  # fmt: skip
    spec = load_bundle(str(bundle)).spec
    random_image(spec).tofile(image)
    done = subprocess.run([program, image, "2"], capture_output=True, text=True, check=True)
    expected = KernelLibrary(str(result.library)).run(random_image(spec))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(expected)
    for line, value in zip(lines, expected.values(), strict=True):
        assert float(line[-1]) == pytest.approx(value.max(), rel=1e-5)
    bad = subprocess.run([program, EXAMPLE], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "float32 values" in bad.stderr


@needs_avx2
def test_a_changed_library_is_refused(bundle):
    result = add_kernels(bundle, "x86-avx2", measure=False)
    with result.library.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\0\1\2\3")
    with pytest.raises(ArtefactError, match="libmodel-x86-avx2"):
        load_bundle(str(bundle))


@needs_avx2
def test_a_library_of_another_model_is_refused(tmp_path):
    spec, tensors = varied_detector()
    library = tmp_path / "libother.so"
    generate_library(spec, tensors, TARGETS["x86-avx2"], library, model_hash="1234" * 16)
    with pytest.raises(ArtefactError, match="another model; expected abcdabcdabcd"):
        KernelLibrary(str(library), "abcd" * 16)


@needs_avx2
def test_wrong_sizes_and_threads_are_errors_not_crashes(tmp_path):
    spec, tensors = varied_detector()
    library = tmp_path / "libsizes.so"
    generate_library(spec, tensors, TARGETS["x86-avx2"], library)
    engine = KernelLibrary(str(library))
    with pytest.raises(DeviceError, match=r"expected \(3, 64, 96\)"):
        engine.run(np.zeros((3, 64, 95), np.float32))
    for threads in (0, 65):
        with pytest.raises(DeviceError, match="out of range"):
            KernelLibrary(str(library), threads=threads)
    instance = Instance(library, engine.output_shapes)
    image = np.zeros((3, 64, 96), np.float32)
    assert "wrong size" in instance.run(image, sizes=[1, 2])
    assert "pointer" in instance.run(None)
    assert not instance.c.pn_output(7)
    instance.close()
    engine.close()
    with pytest.raises(DeviceError, match="closed"):
        engine.run(image)


def test_foreign_files_are_not_libraries(tmp_path):
    path = tmp_path / "libmodel-native.so"
    path.write_bytes(b"not a library")
    with pytest.raises(DeviceError, match="cannot be loaded"):
        KernelLibrary(str(path))


def test_bundle_without_library_says_how_to_make_one(bundle):
    with pytest.raises(DeviceError, match="pneumonia kernels BUNDLE"):
        open_engine(load_bundle(str(bundle)), "kernels")


def test_missing_compiler_names_what_was_looked_for(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="ziglang"):
        find_compiler(TARGETS["cortex-a57"])
    monkeypatch.setenv("CC", "nosuchcc -m64")
    with pytest.raises(DeviceError, match="'nosuchcc'"):
        find_compiler(TARGETS["x86-avx2"])


def test_compiler_that_fails_shows_its_first_error(tmp_path, monkeypatch):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'x.c:1: error: no such thing' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    spec, tensors = varied_detector()
    library = tmp_path / "lib.so"
    with pytest.raises(ExportError, match="no such thing"):
        generate_library(spec, tensors, TARGETS["x86-avx2"], library)
    assert not library.exists()
    assert not list(tmp_path.glob(".part-*"))


def test_tuning_for_another_machine_is_refused(bundle, monkeypatch):
    monkeypatch.setattr("deploy_jetson.kernels.bundle.runs_here", lambda target: False)
    with pytest.raises(ConfigError, match="cannot be measured here"):
        add_kernels(bundle, "cortex-a57", measure=True)


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


def test_command_for_the_jetson_predicts_and_counts_spills(bundle, capsys):
    if not shutil.which("aarch64-linux-gnu-gcc"):
        pytest.skip("needs gcc-aarch64-linux-gnu")
    code = run_command(verb.command, [str(bundle), "--target", "cortex-a57"])
    said = capsys.readouterr().out
    assert code == 0
    assert "predicted, not measured: TX2 mode 1 (Max-Q, 4 x 1.2 GHz)" in said
    assert "register spills 0" in said
    report = json.loads((bundle / "kernels-cortex-a57.json").read_text())
    assert report["target"] == "cortex-a57"
    assert all(layer["predicted_cycles"] > 0 for layer in report["layers"])
    foreign = platform.machine() != "aarch64"
    reason = f"a library for aarch64 on {platform.machine()}" if foreign else ""
    with pytest.raises(DeviceError, match=reason):  # it does not load on this machine, and says so
        open_engine(load_bundle(str(bundle)), "kernels")
    assert open_engine(load_bundle(str(bundle)), "auto").name != "kernels"


def test_library_for_the_jetson_asks_for_the_glibc_of_jetpack_4(tmp_path, monkeypatch):
    if not shutil.which("aarch64-linux-gnu-gcc"):
        pytest.skip("needs gcc-aarch64-linux-gnu")
    monkeypatch.delenv("CC", raising=False)
    library = tmp_path / "lib.so"
    generate_library(*varied_detector(), TARGETS["cortex-a57"], library)
    wanted = {int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())}
    assert wanted
    assert max(wanted) <= 27


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--target", "sparc"], 2), (["--target", "cortex-a57", "--tune"], 2)]
)
def test_command_refuses_in_one_line(bundle, capsys, arguments, code):
    assert run_command(verb.command, [str(bundle), *arguments]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_command_needs_a_bundle(tmp_path, capsys):
    assert run_command(verb.command, [str(tmp_path)]) == 4


# --- generation is deterministic, and the golden files are its contract ---------------------------


def golden_plans():
    """Name -> sources of small layers, one per kernel kind and one network of every op."""
    for target in ("cortex-a57", "x86-avx512"):
        spec = one_layer((9, 20, 5, 7))
        tensors = random_tensors(spec)
        choices = {
            "columns": (ColumnsChoice(7, 2, 5), keep_columns),
            "winograd": (WinogradChoice(4, 4, 1, 4), lambda w, *_: w),
            "pattern": (
                PatternChoice(5, 1, 1, 3),
                lambda w, *_: keep_patterns(w, 0.5, patterns=PATTERNS[3:5]),
            ),
        }
        for kind, (choice, prune) in choices.items():
            changed = {**tensors, "tested.weight": prune(tensors["tested.weight"], 0.5, 4)}
            wide = kind == "pattern" and target == "cortex-a57"
            wanted = PatternChoice(5, 2, 2, 1) if wide else choice

            def choose(problem, choice=wanted):
                return choice if problem.layer.name == "tested" else ColumnsChoice(7, 1, 5)

            plan = lower(spec, changed, TARGETS[target], choose)
            sources = write_plan(plan, "golden")
            yield f"{kind}-{target}", sources.texts["kernels.c"] + sources.texts["network.c"]


def test_generated_c_is_the_golden_c():
    """After a wanted change: python -m tests.deploy_jetson.kernels.test_bundle."""
    found = dict(golden_plans())
    assert sorted(found) == sorted(path.stem for path in GOLDEN.glob("*.c"))
    for name, text in found.items():
        assert text == (GOLDEN / f"{name}.c").read_text(), name


def test_generation_is_the_same_byte_for_byte():
    spec = every_op()
    tensors = random_tensors(spec)
    target = TARGETS["x86-avx2"]
    one, two = (
        write_plan(lower(spec, dict(tensors), target, model_chooser(target)), "h") for _ in range(2)
    )
    assert one.texts == two.texts
    assert one.weights == two.weights


def test_runtime_c_ships_with_the_package():
    assert {path.name for path in RUNTIME.iterdir()} == {
        "engine.c", "engine.h", "expand.c", "pneumonia_model.h",
    }  # fmt: skip


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in golden_plans():
        (GOLDEN / f"{name}.c").write_text(text)


def test_a_small_network_is_run_by_one_thread(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)))
    shipped = load_bundle(str(DEFAULT_BUNDLE)).spec  # 135 million multiply-adds
    assert fitting_threads(shipped) == 1
    assert fitting_threads(build("yolov3", width=0.25, size=256)) == 4  # 775 million
    assert fitting_threads(build("yolov3")) == 6
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3})
    assert fitting_threads(build("yolov3")) == 1
