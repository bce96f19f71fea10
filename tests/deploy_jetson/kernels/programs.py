"""Generated kernels, compiled and run in this process or as a program of their own."""

import ctypes
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from deploy_jetson.kernels.compile.lower import lower
from deploy_jetson.kernels.compile.source import write_plan
from deploy_jetson.kernels.generate import generate_library, model_chooser
from deploy_jetson.kernels.kinds.analysis import LayerAnalysis
from deploy_jetson.kernels.kinds.registry import cheapest
from deploy_jetson.kernels.targets import TARGETS, runs_here
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.engines.processor import precision_of
from pneumonia.runtime.model.layers import Flatten, Linear
from pneumonia.runtime.model.spec import InputSpec, NetworkSpec
from tests.deploy_jetson.kernels.networks import (
    random_image,
    reference,
    relative_error,
)

FLOATS = ctypes.POINTER(ctypes.c_float)
HERE = [name for name, target in TARGETS.items() if runs_here(target)]
# in every run the target that most machines share, the others in the long one
EACH_TARGET = [*(pytest.param(name, marks=pytest.mark.slow) for name in HERE[:-1]), *HERE[-1:]]
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
needs_target = pytest.mark.skipif(not HERE, reason=f"no target runs on {platform.machine()}")


def generated(folder, spec, tensors, target="x86-avx2", choose=None, **more):
    return generate_library(
        spec, tensors, TARGETS[target], folder / f"lib{target}.so", choose, **more
    )


def run(folder, spec, tensors, target="x86-avx2", choose=None, threads=1):
    made = generated(folder, spec, tensors, target, choose)
    engine = KernelLibrary(str(made.library), threads=threads)
    image = random_image(spec)
    return made, engine.run(image), reference(spec, tensors, image)


class Instance:
    """An instance of a generated library, called as C calls it.

    Args:
        path: The library.
        output_shapes: Output name -> (C, H, W).
    """

    def __init__(self, path, output_shapes):
        self.c = ctypes.CDLL(str(path))
        self.c.pn_create.restype = ctypes.c_void_p
        self.c.pn_output.restype = ctypes.c_void_p
        self.c.pn_error_text.restype = ctypes.c_char_p
        self.c.pn_destroy.argtypes = [ctypes.c_void_p]
        self.c.pn_run.argtypes = [
            ctypes.c_void_p, FLOATS, ctypes.c_size_t, ctypes.POINTER(FLOATS),
            ctypes.POINTER(ctypes.c_size_t), ctypes.c_int,
        ]  # fmt: skip
        self.outputs = {n: np.zeros(shape, np.float32) for n, shape in output_shapes.items()}
        self.model = self.c.pn_create()

    def poison(self, floats):
        """Fill the arena of working memory with NaN; its address is the first member."""
        arena = ctypes.cast(self.model, ctypes.POINTER(FLOATS))[0]
        np.ctypeslib.as_array(arena, (floats,))[:] = np.nan

    def run(self, image, sizes=None, threads=1):
        """Fill `outputs`; returns the error's text, empty without one."""
        arrays = self.outputs.values()
        pointers = (FLOATS * len(arrays))(*[a.ctypes.data_as(FLOATS) for a in arrays])
        sizes = (ctypes.c_size_t * len(arrays))(*(sizes or [a.size for a in arrays]))
        pixels = None if image is None else image.ctypes.data_as(FLOATS)
        size = 0 if image is None else image.size
        status = self.c.pn_run(self.model, pixels, size, pointers, sizes, threads)
        return self.c.pn_error_text(status).decode() if status else ""

    def close(self):
        self.c.pn_destroy(self.model)


def network_limit(target):
    """Largest error of a small network with random weights, relative to its largest output."""
    return 1e-4 if precision_of(target) == "fp32" else 0.015


def assert_close(found, expected, limit):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].size == value.size
        assert relative_error(found[name], value) <= limit, name


def choosing(target, choice):
    """A chooser of one choice for the layer `tested`, and of the cheapest for the others."""

    def choose(problem):
        return choice if problem.layer.name == "tested" else cheapest(problem, TARGETS[target])

    return choose


def forced(target, kind, index=0, **fields):
    """A chooser of a kind's choice with these fields for the layer `tested`."""

    def choose(problem):
        if problem.layer.name != "tested":
            return cheapest(problem, TARGETS[target])
        legal = [
            choice
            for choice in kind.candidates(LayerAnalysis(problem), TARGETS[target])
            if all(getattr(choice, key) == value for key, value in fields.items())
        ]
        return legal[index % len(legal)]

    return choose


def run_poisoned(folder, spec, tensors, target, choose=None, **more):
    """A run on memory full of NaN, which every sum keeps; see `run`.

    Activations of earlier layers, of the run before, or nothing at all lie in the arena: no step
    may read what no step of the same run has written.
    """
    made = generated(folder, spec, tensors, target, choose, **more)
    instance = Instance(made.library, KernelLibrary(str(made.library)).output_shapes)
    image = random_image(spec)
    assert instance.run(image, threads=2) == ""
    instance.poison(made.plan.arena_floats)
    assert instance.run(image, threads=2) == ""
    instance.close()
    return instance.outputs, reference(spec, tensors, image)


def fully_connected(rows):
    """input -> flatten -> a layer with lists of its own -> heads."""
    layers = (
        Flatten("flat", ("input",)),
        Linear("tested", ("flat",), 2 * 5 * 7, rows, activation="relu"),
        Linear("last", ("tested",), rows, 3),
    )
    return NetworkSpec("fc", InputSpec(2, 5, 7), layers, ("last", "tested"), ())


def darb(weight):
    """One weight per block of 1, 2, 4 or 8 of a row, the block's size row by row."""
    kept = np.zeros_like(weight)
    for row in range(len(weight)):
        size = 1 << row % 4
        for first in range(0, weight.shape[1], size):
            kept[row, first + abs(weight[row, first : first + size]).argmax()] = 1
    return weight * kept


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "pneumonia_model.h"
int main(int argc, char **argv) {
  const pn_tensor *in = pn_input();
  size_t n = (size_t)in->channels * in->height * in->width, sizes[64];
  float *x = malloc(n * 4), *out[64];
  FILE *f = fopen(argv[1], "rb");
  if (fread(x, 4, n, f) != n) return 9;
  fclose(f);
  for (int i = 0; i < pn_output_count(); i++) {
    const pn_tensor *t = pn_output(i);
    sizes[i] = (size_t)t->channels * t->height * t->width;
    out[i] = malloc(sizes[i] * 4);
  }
  pn_model *m = pn_create();
  for (int repeat = 0; repeat < 2; repeat++) {
    int status = pn_run(m, x, n, out, sizes, argc > 3 ? atoi(argv[3]) : 1);
    if (status) { puts(pn_error_text(status)); return status; }
  }
  f = fopen(argv[2], "wb");
  for (int i = 0; i < pn_output_count(); i++) fwrite(out[i], 4, sizes[i], f);
  fclose(f);
  pn_destroy(m);
  for (int i = 0; i < pn_output_count(); i++) free(out[i]);
  free(x);
  return 0;
}
"""


def run_program(
    folder, network, target, build, command=(), choose=None, threads="1", *, storage="fp32",
    quantization=None,
):  # fmt: skip
    """Link the generated files into a program and run it; returns the outputs."""
    spec, tensors = network
    choose = choose or model_chooser(TARGETS[target])
    plan = lower(spec, tensors, TARGETS[target], choose, storage, quantization)
    sources = write_plan(plan, "")
    for name, text in sources.texts.items():
        (folder / name).write_text(text)
    (folder / "weights.bin").write_bytes(sources.weights)
    (folder / "main.c").write_text(MAIN)
    image = random_image(spec)
    image.tofile(folder / "image.f32")
    files = [name for name in sources.texts if name.endswith((".c", ".S"))]
    subprocess.run([*build, "main.c", *files, "-o", "program", "-lpthread"], cwd=folder, check=True)
    done = subprocess.run(
        [*command, "./program", "image.f32", "out.f32", threads],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    values = np.fromfile(folder / "out.f32", np.float32)
    expected = reference(spec, tensors, image)
    ends = np.cumsum([value.size for value in expected.values()])
    return dict(zip(expected, np.split(values, ends[:-1]), strict=True)), expected


QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
CROSS_LIBC = Path("/usr/aarch64-linux-gnu")
ARM_TARGETS = [name for name, target in TARGETS.items() if target.machine == "aarch64"]
EACH_ARM_TARGET = [pytest.param(name, marks=pytest.mark.slow) for name in ARM_TARGETS]
emulated = pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and QEMU),
    reason="needs gcc-aarch64-linux-gnu and qemu-user",
)


@cache
def qemu_command(target):
    """qemu for a target's core; where this qemu has no model of it, for one with everything."""
    known = subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True, check=False)
    core = TARGETS[target].cpu.partition("+")[0]
    return [QEMU, "-cpu", core if core in known.stdout.split() else "max"]


def cross_build(target, *options):
    """The cross compiler's command for a target."""
    return [
        "aarch64-linux-gnu-gcc", "-std=gnu11", "-O2", "-ffp-contract=fast",
        "-fno-schedule-insns", *TARGETS[target].flags, *options,
    ]  # fmt: skip


def run_emulated(
    folder, spec, tensors, choose=None, threads="1", storage="fp32", target="cortex-a57", *,
    quantization=None,
):  # fmt: skip
    return run_program(
        folder, (spec, tensors), target, cross_build(target, "-static"), qemu_command(target),
        choose, threads, storage=storage, quantization=quantization,
    )  # fmt: skip
