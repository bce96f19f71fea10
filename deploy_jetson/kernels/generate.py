"""From a network to a shared library: plan, sources, compiler."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deploy_jetson.kernels.compile.compilers import compile_library, find_compiler
from deploy_jetson.kernels.compile.lower import Chooser, NetworkPlan, lower
from deploy_jetson.kernels.compile.scratch import write_scratch
from deploy_jetson.kernels.compile.source import WEIGHTS, CSources, write_plan
from deploy_jetson.kernels.kinds.kind import Choice
from deploy_jetson.kernels.kinds.registry import cheapest
from deploy_jetson.kernels.plan.layer_problem import LayerProblem, LayerQuantization, Weights
from deploy_jetson.kernels.targets import Target
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.model.spec import NetworkSpec


class GeneratedLibrary(NamedTuple):
    """A generated network."""

    plan: NetworkPlan  # steps, buffers and choices
    sources: CSources  # generated C and packed weights
    library: Path  # path of the compiled library


def model_chooser(target: Target) -> Chooser:
    """Choices by the cost model alone."""

    def choose(problem: LayerProblem) -> Choice:
        return cheapest(problem, target)

    return choose


def write_texts(sources: CSources, folder: Path) -> None:
    """Write the C files into a folder; the weights are inside the library."""
    for name, text in sources.texts.items():
        write_bytes(str(folder / name), text.encode())


def generate_library(  # noqa: PLR0913 - the network, the machine, the file, and what it states
    spec: NetworkSpec,
    dense: Mapping[str, Weights],
    target: Target,
    library: Path,
    choose: Chooser | None = None,
    model_hash: str = "",
    storage: str = "fp32",
    *,
    points: Mapping[str, float] | None = None,
    quantization: Mapping[str, LayerQuantization] | None = None,
) -> GeneratedLibrary:
    """Generate and compile a network.

    Args:
        spec: Batch norm folded.
        dense: Its dense tensors.
        library: Path to write; replaced atomically.
        choose: Decides each layer's kernel; default: the cost model.
        model_hash: Stored in the library.
        storage: How weights are stored, see `weight_store.STORAGES`.
        points: Operating point -> threshold for `pneumonia_detect`, the default one first.
        quantization: Layer name -> its int8 weights; None: float32 throughout.
    """
    plan = lower(spec, dense, target, choose or model_chooser(target), storage, quantization)
    sources = write_plan(plan, model_hash, points)
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".part-") as scratch:
        folder = Path(scratch)
        write_scratch(folder, {**sources.texts, WEIGHTS: sources.weights})
        part = folder / library.name
        compile_library(folder, part, target, find_compiler(target))
        part.replace(library)
    return GeneratedLibrary(plan, sources, library)
