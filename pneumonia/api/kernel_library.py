"""One network as generated C in a shared library, checked against torch."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from deploy_jetson.kernels.generate import generate_library
from deploy_jetson.kernels.targets import NATIVE, SINGLE, find_target, runs_here
from pneumonia.exporting.onnx_file import sample_input
from pneumonia.network.batch_norm import fold_batch_norm
from pneumonia.network.module import Network, check_network
from pneumonia.runtime.engines.comparison import interleaved_ms, relative_error
from pneumonia.runtime.engines.kernel_library import KernelLibrary
from pneumonia.runtime.errors import ExportError, OutputError, os_errors_as

__all__ = ["KernelFile", "write_kernels"]

TOLERANCE = 1e-3  # of an output's largest value
HALF_TOLERANCE = 2e-2  # of targets that compute in float16
TIMED_RUNS = 5


class KernelFile(NamedTuple):
    """A generated library.

    Attributes:
        path: The library; `pn_run` and the other functions of `examples/c` are in it.
        target: The machine it was made for.
        relative_error: Largest difference to torch over the output's largest value; None where the
            target does not run on this machine.
        latency_ms: Least time of five images by one thread; None as above.
    """

    path: Path
    target: str
    relative_error: float | None
    latency_ms: float | None


def write_kernels(network: Network, path: str | Path, target: str = NATIVE) -> KernelFile:
    """Generate a network's C, compile it, and check it on a random image where it runs here.

    Args:
        network: Of `from_torch` (for example pruned and compacted), or any other of this package.
        path: The shared library to write.
        target: `native` (this machine) or a name that `pneumonia kernels --help` lists.

    Raises:
        ExportError: Layers have no kernel (they are named), or the outputs differ.
        ConfigError: Unknown target, or the network is a plain torch module.
        DeviceError: There is no compiler, or it fails.
        OutputError: The library cannot be written.
    """
    check_network(network)
    spec, tensors = network.spec, {name: t.cpu() for name, t in network.tensors().items()}
    folded, values = fold_batch_norm(spec, tensors)
    machine = find_target(target)
    library = _writable(Path(path).absolute())
    generate_library(folded, {name: t.numpy() for name, t in values.items()}, machine, library)
    if not runs_here(machine):
        return KernelFile(library, machine.name, None, None)
    image = sample_input(spec.input, 1)
    with torch.no_grad():
        expected = Network(spec, tensors).eval()(torch.from_numpy(image))
    kernels = KernelLibrary(str(library))
    found = kernels.run(image[0])
    latency_ms = min(interleaved_ms({"": lambda: kernels.run(image[0])}, TIMED_RUNS)[""])
    kernels.close()
    error = max(
        relative_error(found[name].ravel(), expected[name][0].numpy().ravel())
        for name in spec.outputs
    )
    limit = TOLERANCE if machine.number is SINGLE else HALF_TOLERANCE
    if not error <= limit:
        raise ExportError(
            "Generated kernels compute other outputs than torch",
            expected=f"within {limit:g} of their largest value",
            found=f"{error:.3g}",
            where=str(library),
        )
    return KernelFile(library, machine.name, error, latency_ms)


def _writable(library: Path) -> Path:
    """The path of the library if it can be written there; creates its folder."""
    if library.is_dir():
        raise OutputError(
            "Cannot write library",
            expected="the path of a file, for example model.so",
            found="a folder",
            where=str(library),
        )
    with os_errors_as(OutputError, "Cannot write library", library):
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=library.parent):
            pass
    return library
