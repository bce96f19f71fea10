"""A bundle's library through the verb and the engine; bad input."""

import json
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.kernels.bundle import add_kernels
from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.targets import TARGETS
from pneumonia.cli import run as run_command
from pneumonia.cli.model import kernels as verb
from pneumonia.network.zoo import build
from pneumonia.runtime.detection.detector import DEFAULT_BUNDLE
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.engines.processor import read_processor
from pneumonia.runtime.engines.thread_count import fitting_threads
from pneumonia.runtime.errors import ArtefactError, ConfigError, DeviceError
from pneumonia.runtime.storage.bundle import load_bundle
from tests.deploy_jetson.kernels.networks import (
    random_image,
)
from tests.deploy_jetson.kernels.programs import Instance
from tests.runtime.bundles import varied_detector, write_bundle

EXAMPLE = Path(__file__).parents[3] / "examples" / "c" / "score_tensor.c"


needs_avx2 = pytest.mark.skipif(
    not shutil.which("gcc") or "avx2" not in read_processor().features, reason="needs gcc and AVX2"
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
        with pytest.raises(ConfigError, match="out of range"):
            KernelLibrary(str(library), threads=threads)
    instance = Instance(library, engine.output_shapes)
    image = np.zeros((3, 64, 96), np.float32)
    assert "wrong size" in instance.run(image, sizes=[1, 2])
    assert "pointer" in instance.run(None)
    for value in (np.nan, np.inf, -np.inf):
        image[2, 63, 95] = value
        assert "NaN or infinity" in instance.run(image)
        with pytest.raises(DeviceError, match="NaN or infinity"):
            engine.run(image)
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


def test_tuning_for_another_machine_is_refused(bundle, monkeypatch):
    monkeypatch.setattr("deploy_jetson.kernels.bundle.runs_here", lambda target: False)
    with pytest.raises(ConfigError, match="cannot be measured here") as caught:
        add_kernels(bundle, "cortex-a57", measure=True)
    assert "--" not in str(caught.value)  # Python has no such option


def test_command_for_the_jetson_predicts_and_counts_spills(bundle, capsys):
    if not shutil.which("aarch64-linux-gnu-gcc"):
        pytest.skip("needs gcc-aarch64-linux-gnu")
    code = run_command(verb.command, [str(bundle), "--target", "cortex-a57"])
    said = capsys.readouterr().out
    assert code == 0
    assert "predicted, not measured: TX2 mode 1 (Max-Q, 1 of 4 A57 cores at 1.2 GHz)" in said
    assert "register spills 0" in said
    report = json.loads((bundle / "kernels-cortex-a57.json").read_text())
    assert report["target"] == "cortex-a57"
    assert all(layer["predicted_cycles"] > 0 for layer in report["layers"])
    foreign = platform.machine() != "aarch64"
    reason = f"a library for aarch64 on {platform.machine()}" if foreign else ""
    with pytest.raises(DeviceError, match=reason):  # it does not load on this machine, and says so
        open_engine(load_bundle(str(bundle)), "kernels")
    assert open_engine(load_bundle(str(bundle)), "auto").name != "kernels"


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--target", "sparc"], 2), (["--target", "cortex-a57", "--tune"], 2)]
)
def test_command_refuses_in_one_line(bundle, capsys, arguments, code):
    assert run_command(verb.command, [str(bundle), *arguments]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_command_needs_a_bundle(tmp_path, capsys):
    assert run_command(verb.command, [str(tmp_path)]) == 4


def test_a_small_network_is_run_by_one_thread(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)))
    shipped = load_bundle(str(DEFAULT_BUNDLE)).spec  # 135 million multiply-adds
    assert fitting_threads(shipped) == 1
    assert fitting_threads(build("yolov3", width=0.25, size=256)) == 4  # 775 million
    assert fitting_threads(build("yolov3")) == 6
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3})
    assert fitting_threads(build("yolov3")) == 1
