"""Puts the generated library, its sources and a report into a model bundle."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deploy_jetson.kernels.compile.build_files import write_build_files
from deploy_jetson.kernels.compile.compilers import find_compiler
from deploy_jetson.kernels.compile.lower import Chooser
from deploy_jetson.kernels.compile.mca import hot_loops
from deploy_jetson.kernels.generate import generate_library, model_chooser, write_texts
from deploy_jetson.kernels.plan.layer_problem import LayerProblem, LayerQuantization, problems_of
from deploy_jetson.kernels.plan.steps import variants_of
from deploy_jetson.kernels.plan.weight_store import STORAGES
from deploy_jetson.kernels.report import describe
from deploy_jetson.kernels.targets import TARGETS, Target, find_target, runs_here
from deploy_jetson.kernels.tune.tuner import tune
from pneumonia.runtime.atomic import write_json
from pneumonia.runtime.engines.kernels import LIBRARY, REPORT
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.json_files import read_json_object
from pneumonia.runtime.progress import Progress
from pneumonia.runtime.storage.bundle import INT8, MANIFEST, Bundle, file_record, load_bundle


class KernelsResult(NamedTuple):
    """What `compile_kernels` wrote.

    Attributes:
        library: Path of the library in the bundle.
        report: That of its report.
        sources: That of the folder of C sources.
        document: Contents of the report.
        seconds: Time it took, tuning included.
    """

    library: Path
    report: Path
    sources: Path
    document: dict[str, Any]
    seconds: float


def add_kernels(
    bundle_path: Path,
    target_name: str,
    measure: bool | None = None,
    progress: Progress | None = None,
    storage: str = "fp32",
) -> KernelsResult:
    """Generate a bundle's library for one target and list it in the manifest.

    Args:
        bundle_path: The bundle's folder; changed.
        target_name: See `compile.targets.TARGET_NAMES`.
        measure: Tune by measuring; None = if the target runs here.
        storage: How float32 weights are stored, see `weight_store.STORAGES`.

    Raises:
        ConfigError: Unknown target or storage, or measuring for a machine that is not this one.
        ArtefactError: Not a bundle, or damaged, or weights that half precision cannot hold.
        DeviceError, ExportError: No compiler, or it fails.
    """
    start = time.monotonic()
    target = find_target(target_name)
    if storage not in STORAGES:
        raise ConfigError("Unknown storage of weights", ", ".join(STORAGES), repr(storage))
    library = Path(bundle_path) / LIBRARY.format(target.name)
    report = Path(bundle_path) / REPORT.format(target.name)
    bundle = load_bundle(str(bundle_path), replaced=(library.name, report.name))
    quantization = _quantization(bundle, target)
    dense = bundle.weights()
    problems = problems_of(bundle.spec, dense, storage, quantization)
    choose = _chooser(problems, target, measure, progress)
    points = {name: bundle.threshold(name) for name in bundle.operating_points}
    made = generate_library(
        bundle.spec, dense, target, library, choose, bundle.model_hash, storage, points=points,
        quantization=quantization,
    )  # fmt: skip
    sources = Path(bundle_path) / f"kernels-{target.name}"
    write_texts(made.sources, sources)
    write_build_files(sources, library.name, target)
    loops = hot_loops(target, variants_of(made.plan.steps, target)) if target.model else []
    compiler = " ".join(find_compiler(target).command)
    document = describe(made.plan, made.sources, bundle.model_hash, compiler, loops)
    document["library_bytes"] = library.stat().st_size
    write_json(str(report), document)
    _list_files(bundle, [library, report])
    return KernelsResult(library, report, sources, document, time.monotonic() - start)


def _quantization(bundle: Bundle, target: Target) -> dict[str, LayerQuantization] | None:
    """The int8 convolutions of an int8 bundle; None for a float32 one."""
    if bundle.arithmetic != INT8:
        return None
    if not target.dots:
        able = [name for name, other in TARGETS.items() if other.dots]
        raise ConfigError(
            "This target has no dot product of int8 values", ", ".join(able), repr(target.name),
            bundle.path, "Generate its kernels from the float32 bundle",
        )  # fmt: skip
    from deploy_jetson.kernels.int8_weights import read_quantization

    return read_quantization(Path(bundle.onnx_path), bundle.spec)


def _chooser(
    problems: Mapping[str, LayerProblem],
    target: Target,
    measure: bool | None,
    progress: Progress | None,
) -> Chooser:
    if measure and not runs_here(target):
        raise ConfigError(
            "Kernels of this target cannot be measured here", found=repr(target.name),
            fix="Do not ask for it: the cost model chooses",
        )  # fmt: skip
    if measure is False or not runs_here(target):
        return model_chooser(target)
    choices = tune(problems, target, progress=progress)
    return lambda problem: choices[problem.layer.name]


def _list_files(bundle: Bundle, paths: list[Path]) -> None:
    """Add files to the manifest, so that loading the bundle verifies them."""
    where = Path(bundle.path) / MANIFEST
    manifest = read_json_object(str(where), "Manifest")
    for path in paths:
        manifest["files"][path.name] = file_record(str(path))
    write_json(str(where), manifest)
