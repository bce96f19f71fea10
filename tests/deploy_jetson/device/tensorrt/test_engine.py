"""The TensorRT engine on fakes of three API generations: right answers, or none."""

import json
import logging
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.device.tensorrt import engine as engine_module
from deploy_jetson.device.tensorrt.__main__ import main
from deploy_jetson.device.tensorrt.api import TensorRtApi, load_api
from deploy_jetson.device.tensorrt.cache import MAGIC, engine_path
from deploy_jetson.device.tensorrt.engine import TensorRtEngine, check_input
from pneumonia.runtime.engines import open_engine
from pneumonia.runtime.engines.comparison import relative_rms
from pneumonia.runtime.engines.reference import ReferenceEngine
from pneumonia.runtime.errors import ArtefactError, ConfigError, DeviceError
from pneumonia.runtime.storage.bundle import load_bundle
from tests.deploy_jetson.device.tensorrt.fake_tensorrt import Host, HostCuda, fake_module
from tests.runtime.bundles import brightness_detector, varied_detector, write_bundle, write_manifest

V8, V10, V11 = "8.2.1.8", "10.3.0", "11.4.0"


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("varied"), *varied_detector())


@pytest.fixture
def bundle(bundle_folder):
    return load_bundle(bundle_folder)


def batch_of(bundle, count, seed=3):
    size = bundle.spec.input
    shape = (count, size.channels, size.height, size.width)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Machine:
    """A board with one TensorRT; `open` starts a new process on it, so to speak."""

    def __init__(self, bundle, folder, version=V8, **more):
        self.bundle, self.folder, self.version = bundle, str(folder), version
        self.host = Host(bundle, **more)

    def open(self, precision=None, **cuda):
        self.cuda = HostCuda(self.host, **cuda)
        api = TensorRtApi(fake_module(self.version, self.host))
        return TensorRtEngine(self.bundle, api, self.cuda, precision, self.folder)

    @property
    def builds(self):
        return self.host.faults.builds


def agrees(engine, bundle, tolerance=2e-3):
    batch = batch_of(bundle, 3)
    expected = ReferenceEngine(bundle.spec, bundle.weights()).run(batch)
    found = engine.run(batch)
    assert list(found) == list(bundle.spec.outputs)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert found[name].dtype == np.float32
        assert relative_rms(found[name], values) < tolerance


@pytest.mark.parametrize(
    ("version", "precision", "call"),
    [
        (V8, "fp16", "execute_async_v2"),
        (V10, "fp16", "execute_async_v3"),
        (V11, "fp32", "execute_async_v3"),
    ],
)
def test_every_generation_answers_like_the_reference(bundle, tmp_path, version, precision, call):
    machine = Machine(bundle, tmp_path, version)
    engine = machine.open()
    assert engine.precision == precision
    agrees(engine, bundle)
    assert set(machine.host.calls) == {call}
    assert engine.details["precision"] == precision
    assert engine.name == "tensorrt"


def test_fp16_only_where_it_is_fast(bundle, tmp_path):
    assert Machine(bundle, tmp_path, fast=()).open().precision == "fp32"
    with pytest.raises(DeviceError, match="no fast fp16"):
        Machine(bundle, tmp_path, fast=()).open("fp16")


def test_int8_is_refused_on_a_tx2(bundle, tmp_path):
    with pytest.raises(DeviceError, match="expected one of fp32, fp16; found 'int8'"):
        Machine(bundle, tmp_path).open("int8")


def test_int8_where_the_platform_has_it(bundle_folder, tmp_path):
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    shutil.copy(folder / "model.onnx", folder / "model.int8.onnx")
    plain = load_bundle(bundle_folder)
    with pytest.raises(ArtefactError, match=r"model\.int8\.onnx"):
        Machine(plain, tmp_path, fast=("fp16", "int8")).open("int8")
    write_manifest(folder, plain.spec, plain.model_hash)
    engine = Machine(load_bundle(folder), tmp_path, fast=("fp16", "int8")).open("int8")
    assert engine.key.file_name.split("-")[1] == "int8"


def test_a_bundle_that_is_int8_itself_needs_a_platform_with_int8(bundle_folder, tmp_path):
    bundle = load_bundle(bundle_folder)
    whole = bundle._replace(manifest={**bundle.manifest, "arithmetic": "int8"})
    with pytest.raises(DeviceError, match="expected one of fp32, fp16; found 'int8'"):
        Machine(whole, tmp_path).open()
    able = Machine(whole, tmp_path, fast=("fp16", "int8"))
    assert able.open().key.file_name.split("-")[1] == "int8"
    with pytest.raises(ConfigError, match="needs the precision int8"):
        able.open("fp16")


def test_second_start_uses_the_cache(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    assert machine.open().built
    again = machine.open()
    assert (again.built, machine.builds) == (False, 1)
    agrees(again, bundle)
    name = engine_path(again.key, str(tmp_path)).split("/")[-1]
    assert name.endswith("-fp16-sm62-trt8.2.1.8.engine")
    assert name[:16] == bundle.manifest["files"]["model.onnx"]["sha256"][:16]


@pytest.mark.parametrize("more", [{"compute": "87"}, {"version": "8.2.1.9"}])
def test_another_gpu_or_version_builds_its_own(bundle, tmp_path, more):
    first = Machine(bundle, tmp_path)
    first.open()
    other = Machine(bundle, tmp_path, **more)
    assert other.open().built
    assert not first.open().built  # its own file is still there
    assert len(list(tmp_path.glob("*.engine"))) == 2


def test_foreign_file_under_the_right_name_is_rebuilt(bundle, tmp_path, caplog):
    here = Machine(bundle, tmp_path / "here")
    mine = engine_path(here.open().key, str(tmp_path / "here"))
    there = Machine(bundle, tmp_path / "there", compute="87")
    foreign = engine_path(there.open().key, str(tmp_path / "there"))
    Path(mine).write_bytes(Path(foreign).read_bytes())
    assert here.open().built
    assert "built for something else" in caplog.text


def test_damaged_files_never_reach_tensorrt(bundle, tmp_path):
    """Every truncation and flipped byte is rebuilt; the fake dies on a damaged engine."""
    machine = Machine(bundle, tmp_path)
    path = engine_path(machine.open().key, str(tmp_path))
    whole = Path(path).read_bytes()
    random = np.random.default_rng(0)
    cuts = [0, 1, len(MAGIC), len(MAGIC) + 5, len(whole) - 1, len(whole) // 2]
    damaged = [whole[:cut] for cut in cuts]
    inside_the_plan = [len(whole) - 1, len(whole) - 100, len(whole) - 200]
    for place in [*inside_the_plan, *random.integers(0, len(whole), 9)]:
        data = bytearray(whole)
        data[place] ^= 0x41
        damaged.append(bytes(data))
    damaged += [whole + b"x", b"\0" * 99, MAGIC + b"[]\n", MAGIC + b'{"key": 1}\n']
    for number, data in enumerate(damaged):
        Path(path).write_bytes(data)
        before = machine.builds
        engine = machine.open()
        agrees(engine, bundle)
        if engine.built:  # a byte of the check's own digits may be a harmless change
            assert machine.builds == before + 1
        else:
            assert number >= len(cuts)
        assert not machine.open().built


def test_raw_plan_without_our_head_is_rebuilt(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    path = engine_path(machine.open().key, str(tmp_path))
    Path(path).write_bytes(Path(path).read_bytes().partition(b"}\n")[2])
    assert machine.open().built


def test_engine_that_tensorrt_refuses_is_rebuilt_once(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    machine.open()
    machine.host.faults.deserialize_none = 1
    assert machine.open().built
    machine.host.faults.deserialize_none = 2
    with pytest.raises(DeviceError, match="refuses the engine"):
        machine.open()
    assert machine.builds == 3


def test_cached_engine_whose_answer_changed_is_rebuilt(bundle, tmp_path, caplog):
    machine = Machine(bundle, tmp_path)
    machine.open()
    machine.host.faults.output = lambda values: values * np.float32(1.01)
    assert machine.open().built
    assert "answer has changed" in caplog.text


def test_new_engine_with_a_wrong_answer_is_never_used(bundle, tmp_path):
    for wrong in (lambda v: -v, lambda v: v * 0, lambda v: v * np.float32(np.nan), lambda v: v + 9):
        machine = Machine(bundle, tmp_path)
        machine.host.faults.output = wrong
        with pytest.raises(DeviceError, match="another answer"):
            machine.open()
    assert list(tmp_path.glob("*.engine")) == []


def test_fp32_follows_an_fp16_that_computes_wrong_and_neither_is_built_again(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    machine.host.faults.half_output = lambda values: values * np.float32(1.2)
    engine = machine.open()
    assert (engine.precision, engine.built, machine.builds) == ("fp32", True, 2)
    agrees(engine, bundle)
    again = machine.open()
    assert (again.precision, again.built, machine.builds) == ("fp32", False, 2)
    assert again.details["precision"] == "fp32"
    agrees(again, bundle)
    other = Machine(bundle, tmp_path, version="8.2.1.9")  # its own key
    assert other.open().precision == "fp16"


def test_a_refused_engine_is_not_built_again(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    machine.host.faults.output = lambda values: -values
    for precision in (None, "fp16", "fp32"):
        with pytest.raises(DeviceError, match="another answer"):
            machine.open(precision)
    assert machine.builds == 2  # fp16 and fp32, in the first start
    with pytest.raises(DeviceError, match=r"relative error 2.*sm62-trt8.2.1.8.engine.refused.json"):
        machine.open("fp16")
    machine.host.faults.output = None
    for path in tmp_path.glob("*.refused.json"):
        path.write_text("damaged")  # counts as none
    assert machine.open().precision == "fp16"


def test_builds_share_their_measured_times(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    machine.open("fp16")
    machine.open("fp32")
    assert machine.host.faults.timings == [b"times", b"times+FP16"]
    (tmp_path / "sm62-trt8.2.1.8.timings").write_bytes(b"garbage")
    engine_file = Path(engine_path(machine.open("fp32").key, str(tmp_path)))
    engine_file.unlink()
    agrees(machine.open("fp32"), bundle)


def test_scratch_memory_of_a_build_can_be_set(bundle, installed, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_TENSORRT_WORKSPACE_MIB", "256")
    assert open_engine(bundle, "tensorrt").built
    monkeypatch.delenv("PNEUMONIA_TENSORRT_WORKSPACE_MIB")
    assert open_engine(bundle, "tensorrt").built  # another setting, another engine
    assert installed.host.faults.workspaces == [256 << 20, 1 << 30]
    for wrong in ("8", "many", "-1", "1e9"):
        monkeypatch.setenv("PNEUMONIA_TENSORRT_WORKSPACE_MIB", wrong)
        with pytest.raises(ConfigError, match="16 to 65536 MiB"):
            open_engine(bundle, "tensorrt")


def test_model_it_cannot_read_says_why(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    machine.host.faults.parse = True
    with pytest.raises(DeviceError, match="reason 0; reason 1"):
        machine.open()


@pytest.mark.parametrize("fault", ["none", MemoryError()])
def test_build_that_fails(bundle, tmp_path, fault):
    machine = Machine(bundle, tmp_path)
    machine.host.faults.build = fault
    with pytest.raises(DeviceError, match="cannot build"):
        machine.open()


def test_no_memory_for_context_or_buffers(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    machine.host.faults.context_none = 9
    with pytest.raises(DeviceError, match="no memory on the GPU"):
        machine.open()
    machine.host.faults.context_none = 0
    with pytest.raises(DeviceError, match="out of memory"):
        machine.open(limit_bytes=1000)


def test_cuda_error_is_survived_once(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    engine = machine.open()
    held = len(machine.cuda.held)
    machine.cuda.fail_synchronize = 1
    agrees(engine, bundle)
    assert len(machine.cuda.held) == held  # nothing leaks
    machine.host.faults.execute_false = 1
    agrees(engine, bundle)
    machine.cuda.fail_synchronize = 2
    with pytest.raises(DeviceError, match="illegal memory access"):
        engine.run(batch_of(bundle, 1))
    agrees(engine, bundle)  # and it can come back
    assert machine.builds == 1


def test_cache_that_cannot_be_written_still_works(bundle, tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("")
    machine = Machine(bundle, blocker / "cache")
    agrees(machine.open(), bundle)
    assert "not kept" in caplog.text


def test_engine_of_another_network_is_refused(bundle, tmp_path):
    other = load_bundle(write_bundle(tmp_path / "b", *brightness_detector()))
    machine = Machine(bundle, tmp_path)
    machine.bundle = other
    with pytest.raises(ArtefactError, match="not this network's"):
        machine.open()


def test_empty_batch(bundle, tmp_path):
    found = Machine(bundle, tmp_path).open().run(batch_of(bundle, 0))
    assert [len(values) for values in found.values()] == [0, 0]


def test_closing_gives_everything_back(bundle, tmp_path):
    machine = Machine(bundle, tmp_path)
    engine = machine.open()
    engine.close()
    assert machine.cuda.closed
    assert machine.cuda.held == []


def test_check_input_is_the_networks_own_range(bundle):
    image = check_input(bundle)
    assert image.shape == (1, 3, 64, 96)
    assert image.dtype == np.float32
    assert -0.4 / 0.3 <= image.min() < image.max() <= 0.6 / 0.3 + 1e-6
    np.testing.assert_array_equal(image[0, 0], image[0, 2])


# --- as `--engine tensorrt` and `auto` ---------------------------------------------------------


@pytest.fixture
def installed(bundle, tmp_path, monkeypatch):
    """`import tensorrt` works, as on a board; gives the machine."""
    machine = Machine(bundle, tmp_path)
    fake = fake_module(V8, machine.host)
    module = types.ModuleType("tensorrt")
    module.__dict__.update(vars(fake))
    module.__spec__ = types.SimpleNamespace(name="tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(engine_module, "CudaRuntime", lambda: HostCuda(machine.host))
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    return machine


def test_engine_by_name_and_first_in_auto(bundle, installed):
    assert open_engine(bundle, "tensorrt").name == "tensorrt"
    engine = open_engine(bundle)
    assert engine.name == "tensorrt"
    agrees(engine, bundle)


def test_auto_goes_on_when_tensorrt_cannot(bundle, installed, caplog):
    installed.host.faults.build = "none"
    with caplog.at_level(logging.WARNING):
        assert open_engine(bundle).name == "onnxruntime"
    assert "TensorRT is left out" in caplog.text
    with pytest.raises(DeviceError, match="cannot build"):
        open_engine(bundle, "tensorrt")


def test_auto_without_tensorrt_and_its_name(bundle, monkeypatch):
    assert open_engine(bundle).name == "onnxruntime"
    with pytest.raises(DeviceError, match="'tensorrt' is not installed"):
        open_engine(bundle, "tensorrt")


def test_precision_from_the_environment(bundle, installed, monkeypatch):
    monkeypatch.setenv("PNEUMONIA_TENSORRT_PRECISION", "fp32")
    assert open_engine(bundle, "tensorrt").precision == "fp32"
    monkeypatch.setenv("PNEUMONIA_TENSORRT_PRECISION", "fp8")
    with pytest.raises(ConfigError, match="fp32, fp16, int8"):
        open_engine(bundle, "tensorrt")


def test_building_ahead(bundle_folder, installed, monkeypatch, capsys):
    monkeypatch.setenv("PNEUMONIA_TENSORRT_PRECISION", "")
    assert main([str(bundle_folder)]) == 0
    assert main([str(bundle_folder)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("built ")
    assert second.startswith("cached ")
    assert main([str(bundle_folder), "--precision", "int8"]) == 10
    assert "no fast int8" in capsys.readouterr().err


def test_broken_installation_is_one_line(monkeypatch):
    with pytest.raises(DeviceError, match="cannot be loaded"):
        load_api("tensorrt_that_is_not_there")
    broken = types.ModuleType("tensorrt_broken")  # bindings without their libraries
    monkeypatch.setitem(sys.modules, "tensorrt_broken", broken)
    with pytest.raises(DeviceError, match="cannot be loaded"):
        load_api("tensorrt_broken")


def test_head_of_a_cached_engine_is_readable(bundle, tmp_path):
    engine = Machine(bundle, tmp_path).open()
    data = Path(engine_path(engine.key, str(tmp_path))).read_bytes()
    head = json.loads(data[len(MAGIC) :].partition(b"\n")[0])
    assert head["key"]["compute"] == "62"
    assert sorted(head["check"]) == sorted(bundle.spec.outputs)
