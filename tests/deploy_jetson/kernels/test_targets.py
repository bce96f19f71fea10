"""The table of targets: what derives from an entry, and which one suits a machine."""

import json
import re
import shutil
import subprocess

import pytest

from deploy_jetson.kernels.compile.compilers import Compiler
from deploy_jetson.kernels.compile.mca import find_mca, has_model
from deploy_jetson.kernels.targets import TARGET_HELP, TARGETS, native_targets
from pneumonia.cli.model.kernels import command
from pneumonia.runtime.engines.kernels import libraries
from pneumonia.runtime.engines.processor import Processor, read_processor
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.storage.bundle import load_bundle
from tests.runtime.bundles import varied_detector, write_bundle

A57_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
ARMV8_2_FEATURES = A57_FEATURES + " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
TX2 = f"""processor : 0
Features : {A57_FEATURES}
CPU implementer : 0x41
CPU part : 0xd07
processor : 1
Features : fp asimd evtstrm aes pmull sha1 sha2 crc32
CPU implementer : 0x4e
CPU part : 0x003
"""


AVX512 = Processor(
    "x86_64", frozenset(["avx2", "fma", *TARGETS["x86-avx512"].cpu_features]), frozenset()
)


def arm(features, *cores):
    return Processor("aarch64", frozenset(features.split()), frozenset(cores))


def test_a_machine_with_two_kinds_of_cores_has_what_both_have(tmp_path):
    (tmp_path / "cpuinfo").write_text(TX2)
    found = read_processor(str(tmp_path / "cpuinfo"))
    assert "cpuid" not in found.features
    assert "crc32" in found.features
    assert found.cores == {"0x41:0xd07", "0x4e:0x003"}
    assert not read_processor(str(tmp_path / "missing")).features


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (arm(A57_FEATURES, "0x41:0xd07", "0x4e:0x003"), ["cortex-a57"]),
        (arm(A57_FEATURES, "0x41:0xd08"), ["cortex-a72"]),
        (arm(A57_FEATURES, "0x41:0xd03"), ["cortex-a57"]),  # an A53 has no entry
        (arm(ARMV8_2_FEATURES, "0x41:0xd0b"), ["cortex-a76"]),
        (arm(ARMV8_2_FEATURES, "0x41:0xd42"), ["cortex-a78ae"]),
        (arm(ARMV8_2_FEATURES, "0x41:0xd40"), ["neoverse-v1"]),
        (arm(ARMV8_2_FEATURES, "0x61:0x022"), ["cortex-a76"]),  # unknown, with newer instructions
        (Processor("x86_64", frozenset({"avx2", "fma"}), frozenset()), ["x86-avx2"]),
        (AVX512, ["x86-avx512", "x86-avx2"]),
    ],
)  # fmt: skip
def test_a_machine_gets_its_own_core_else_the_most_instructions(processor, expected):
    assert [target.name for target in native_targets(processor)] == expected


def test_a_machine_without_vectors_is_refused():
    with pytest.raises(ConfigError, match="riscv64 without the vector"):
        native_targets(Processor("riscv64", frozenset(), frozenset()))


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_an_entry_is_complete(target):
    assert TARGETS[target.name] is target
    assert target.note
    assert f"{target.name}: {target.note}" in TARGET_HELP
    assert target.name in next(p for p in command.params if p.name == "target").help
    if target.machine == "aarch64":  # nothing can be measured here
        assert target.boards
        assert target.cpu_parts
        assert target.model
        assert all(re.fullmatch(r"0x[0-9a-f]{2}:0x[0-9a-f]{3}", part) for part in target.cpu_parts)


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_compilers_know_the_flags_of_a_target(tmp_path, target):
    gcc = "gcc" if target.machine == "x86_64" else f"{target.machine}-linux-gnu-gcc"
    if not shutil.which(gcc):
        pytest.skip(f"needs {gcc}")
    (tmp_path / "a.c").write_text("float f(float a, float b, float c) { return a * b + c; }")
    flags = Compiler((gcc,), "gcc").flags(target)
    subprocess.run([gcc, *flags, "-Werror", "-c", "a.c"], cwd=tmp_path, check=True)


def test_flags_of_zig_are_those_of_gcc_in_its_own_spelling():
    assert TARGETS["cortex-a57"].zig_flags == (
        "-target", "aarch64-linux-gnu.2.27", "-mcpu=cortex_a57",
    )  # fmt: skip
    assert TARGETS["neoverse-v1"].flags == ("-mcpu=neoverse-v1+nosve",)
    assert TARGETS["neoverse-v1"].zig_flags[-1] == "-mcpu=neoverse_v1-sve"
    assert TARGETS["x86-avx512"].flags[0] == "-march=skylake-avx512"


def test_an_older_llvm_gives_no_rates_of_cores_it_does_not_model(tmp_path):
    old = tmp_path / "llvm-mca"
    old.write_text("#!/bin/sh\necho '  Debian LLVM version 14.0.6'\n")
    old.chmod(0o755)
    assert has_model(str(old), TARGETS["cortex-a72"])
    assert not has_model(str(old), TARGETS["cortex-a76"])
    assert not has_model(str(old), TARGETS["x86-avx2"])


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_llvm_mca_knows_the_models(target):
    program = find_mca()
    if not program or not has_model(program, target):
        pytest.skip("needs llvm-mca with a model of this core")
    command = [program, f"-mtriple={target.machine}", f"-mcpu={target.model.core}"]
    lines = "".join(f"fmla v{n}.4s, v30.4s, v31.s[0]\n" for n in range(24))
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    cycles = int(re.search(r"Total Cycles:\s+(\d+)", done.stdout).group(1))
    assert 24 * 100 / cycles == pytest.approx(target.fma_per_cycle, rel=0.05)


def test_a_bundle_with_several_libraries_tries_the_one_of_this_core_first(tmp_path, monkeypatch):
    folder = write_bundle(tmp_path / "bundle", *varied_detector())
    manifest = json.loads((folder / "manifest.json").read_text())
    files = manifest["files"]
    for name in [*TARGETS, "older"]:
        target = TARGETS.get(name)
        report = {} if target is None else {
            "cpu_parts": target.cpu_parts, "cpu_features": target.cpu_features,
            "lanes": target.lanes,
        }  # fmt: skip
        (folder / f"kernels-{name}.json").write_text(json.dumps(report))
        for file in (f"kernels-{name}.json", f"libmodel-{name}.so"):
            files[file] = {"sha256": "", "bytes": 0}
    bundle = load_bundle(str(folder))._replace(manifest=manifest)

    def first(processor, count):
        monkeypatch.setattr("pneumonia.runtime.engines.kernels.read_processor", lambda: processor)
        return [name[len("libmodel-") : -3] for name in libraries(bundle)][:count]

    assert first(arm(A57_FEATURES, "0x41:0xd08"), 1) == ["cortex-a72"]
    # float16 is in a bundle because somebody asked for it
    assert first(arm(ARMV8_2_FEATURES, "0x41:0xd42"), 2) == ["cortex-a78ae-fp16", "cortex-a78ae"]
    x86 = Processor("x86_64", frozenset(), frozenset())
    own = [name for name in first(x86, 99) if name.startswith("x86-")]
    assert own == ["x86-vnni", "x86-avx512", "x86-avx2"]
    assert len(first(x86, 99)) == len(TARGETS) + 1  # one without a record is tried last, not lost
    assert first(x86, 99)[-1] == "older"
    files["libmodel-native.so"] = files["libmodel-older.so"]
    assert first(arm(A57_FEATURES, "0x41:0xd08"), 2) == ["native", "cortex-a72"]
