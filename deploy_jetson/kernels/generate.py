"""From a network to a shared library: plan, sources, compiler."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deploy_jetson.kernels.choices import Choice, Problem, Weights
from deploy_jetson.kernels.compilers import compile_library, find_compiler
from deploy_jetson.kernels.cost import cheapest
from deploy_jetson.kernels.lower import Chooser, Plan, lower
from deploy_jetson.kernels.source import WEIGHTS, Sources, write_plan
from deploy_jetson.kernels.targets import Target
from pneumonia.runtime.atomic import write_bytes
from pneumonia.runtime.spec import NetworkSpec


class Generated(NamedTuple):
    """A generated network.

    Attributes:
        plan: What was decided.
        sources: What was written.
        library: The compiled file.
    """

    plan: Plan
    sources: Sources
    library: Path


def model_chooser(target: Target) -> Chooser:
    """Choices by the cost model alone."""

    def choose(problem: Problem) -> Choice:
        return cheapest(problem, target)

    return choose


def write_texts(sources: Sources, folder: Path) -> None:
    """Write the C files into a folder; the weights lie in the library."""
    for name, text in sources.texts.items():
        write_bytes(str(folder / name), text.encode())


def write_scratch(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files that live only until they are compiled: without waiting for the disk."""
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def generate_library(
    spec: NetworkSpec,
    dense: Mapping[str, Weights],
    target: Target,
    library: Path,
    choose: Chooser | None = None,
    model_hash: str = "",
    storage: str = "fp32",
) -> Generated:
    """Generate and compile a network.

    Args:
        spec: Batch norm folded.
        dense: Its dense tensors.
        target: The machine.
        library: Result; replaced whole.
        choose: Decides each layer's kernel; default: the cost model.
        model_hash: Built into the library.
        storage: How weights are stored, see `packing.STORAGES`.
    """
    plan = lower(spec, dense, target, choose or model_chooser(target), storage)
    sources = write_plan(plan, model_hash)
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".part-") as scratch:
        folder = Path(scratch)
        write_scratch(folder, {**sources.texts, WEIGHTS: sources.weights})
        part = folder / library.name
        compile_library(folder, part, target, find_compiler(target))
        part.replace(library)
    return Generated(plan, sources, library)
