"""From a dataset folder to a compiled model: train, prune, quantize, finetune, compile_kernels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from deploy_jetson.kernels.bundle import KernelsResult, add_kernels
from pneumonia.compression.prune.recipe import FineTuneRecipe, PruneRecipe
from pneumonia.compression.quantize.recipe import QuantizeRecipe
from pneumonia.compression.result import CompressionResult
from pneumonia.compression.run import Recipe as CompressionRecipe
from pneumonia.compression.run import run_compression
from pneumonia.recipes import RecipePart, load_recipe
from pneumonia.runtime.detection.detector import bundle_path
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.progress import Progress
from pneumonia.training.config import TrainRecipe
from pneumonia.training.loop import FitResult
from pneumonia.training.run import run_train

AnyPath = str | Path
Recipe = TypeVar("Recipe", bound=RecipePart)
Changes = Mapping[str, Any] | Sequence[str]


@dataclass(frozen=True)
class RunOptions:
    """How a run of `train`, `prune`, `quantize` or `finetune` is made.

    Attributes:
        changes: Keys of the recipe to change, as a mapping `{"admm.epochs": 20}` or as texts
            `"admm.epochs=20"`.
        resume: Continue an interrupted run after its last finished epoch.
        accept_seen: Of `prune`, `quantize` and `finetune`: take another dataset even if it
            validates on images that the run was trained on.
        threads: Threads on the CPU; None for the recipe's.
    """

    changes: Changes = ()
    resume: bool = False
    accept_seen: bool = False
    threads: int | None = None

    def overrides(self) -> list[str]:
        """The changes as `key=value` with YAML values."""
        if isinstance(self.changes, Mapping):
            texts = [f"{key}={_yaml(value)}" for key, value in self.changes.items()]
        else:
            texts = [self.changes] if isinstance(self.changes, str) else list(self.changes)
        return texts if self.threads is None else [*texts, f"threads={self.threads}"]


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def _recipe(
    recipe: AnyPath | Recipe, kind: str, model: type[Recipe], options: RunOptions
) -> Recipe:
    """A recipe by its name or from its YAML file, with the changes of the options; or as given.

    Raises:
        ConfigError: Changes beside a recipe that is an object already.
    """
    if isinstance(recipe, model):
        if options.overrides():
            raise ConfigError(
                "Changes need a recipe by its name or file",
                found=type(recipe).__name__,
                fix="Change the object: recipe.model_copy(update={...})",
            )
        return recipe
    return load_recipe(str(recipe), kind, model, options.overrides())


def train(
    data: AnyPath,
    recipe: AnyPath | TrainRecipe,
    out: AnyPath,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a detector on a dataset folder; under torchrun every process calls this.

    Args:
        data: Dataset folder, made by `pneumonia data`.
        recipe: Name of a shipped recipe, a YAML file, or a `TrainRecipe` (then without changes).
        out: Run folder to write.
        options: Changes of the recipe, resume.
        progress: Called with (done, total, note).

    Returns:
        The best epoch and its metric; `out/best` holds the weights.

    Raises:
        ConfigError: The recipe does not fit.
        DataError: The dataset cannot be read.
        TrainingError, ArtefactError, OutputError: Training cannot go on.
    """
    options = options or RunOptions()
    settings = _recipe(recipe, "train", TrainRecipe, options)
    return run_train(Path(data), settings, Path(out), options.resume, progress)


def prune(
    run: AnyPath,
    recipe: AnyPath | PruneRecipe,
    out: AnyPath,
    rate: float | None = None,
    data: AnyPath | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> CompressionResult:
    """Prune the detector of a run with ADMM, retrain what is left, compact it.

    Args:
        run: Run folder of `train` or of an earlier compression, or a bundle.
        recipe: Name of a shipped recipe, a YAML file, or a `PruneRecipe` (then without changes).
        out: Run folder to write.
        rate: Weights before over weights after; None for the recipe's.
        data: Dataset folder; None for the one that the run was trained on.
        options: Changes of the recipe, resume.
        progress: Called with (done, total, note).

    Returns:
        Parameters, MACs, bytes and validation metrics before and after.

    Raises:
        PruneError: Nothing to prune, or the rate cannot be reached.
        ConfigError, DataError, ArtefactError, OutputError: Inputs do not fit.
    """
    options = options or RunOptions()
    if rate is not None:
        options = replace(options, changes=[*options.overrides(), f"rate={rate}"], threads=None)
    settings = _recipe(recipe, "prune", PruneRecipe, options)
    return _compress(run, settings, out, data, options, progress)


def quantize(
    run: AnyPath,
    recipe: AnyPath | QuantizeRecipe,
    out: AnyPath,
    data: AnyPath | None = None,
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> CompressionResult:
    """Train the weights of a run onto few levels (8 bits down to binary).

    Args:
        run: Run folder of `train`, `prune` or `quantize`, or a bundle.
        recipe: Name of a shipped recipe, a YAML file, or a `QuantizeRecipe` (without changes).
        out: Run folder to write.
        data: Dataset folder; None for the one that the run was trained on.
        options: Changes of the recipe, resume.
        progress: Called with (done, total, note).

    Raises:
        ConfigError, DataError, ArtefactError, OutputError: Inputs do not fit.
    """
    options = options or RunOptions()
    settings = _recipe(recipe, "quantize", QuantizeRecipe, options)
    return _compress(run, settings, out, data, options, progress)


def finetune(
    run: AnyPath,
    out: AnyPath,
    data: AnyPath | None = None,
    recipe: AnyPath | FineTuneRecipe = "finetune",
    options: RunOptions | None = None,
    progress: Progress | None = None,
) -> CompressionResult:
    """Train a run on, usually on other images; what pruning removed stays removed.

    Args:
        run: Run folder of `train`, `prune` or `finetune`, or a bundle; `default` is the shipped.
        out: Run folder to write.
        data: Dataset folder; None for the one that the run was trained on (not of a bundle).
        recipe: Name of a shipped recipe, a YAML file, or a `FineTuneRecipe` (without changes).
        options: Changes of the recipe, resume.
        progress: Called with (done, total, note).

    Returns:
        Validation metrics before and after, on the images of `data`.

    Raises:
        ConfigError: The run is quantized, or the recipe does not fit.
        DataError, ArtefactError, OutputError: Inputs do not fit.
    """
    options = options or RunOptions()
    settings = _recipe(recipe, "finetune", FineTuneRecipe, options)
    return _compress(run, settings, out, data, options, progress)


def _compress(
    run: AnyPath,
    settings: CompressionRecipe,
    out: AnyPath,
    data: AnyPath | None,
    options: RunOptions,
    progress: Progress | None,
) -> CompressionResult:
    folder = None if data is None else Path(data)
    return run_compression(
        Path(bundle_path(run)), settings, Path(out), folder, options.resume, progress,
        options.accept_seen,
    )  # fmt: skip


def compile_kernels(
    bundle: AnyPath,
    target: str = "native",
    tune: bool | None = None,
    weights: str = "fp32",
    progress: Progress | None = None,
) -> KernelsResult:
    """Generate the network of a bundle as C and compile it; the library is added to the bundle.

    Args:
        bundle: Folder of the bundle.
        target: `native` (this machine) or a name that `pneumonia kernels --help` lists.
        tune: Measure the kernels of every layer; None for yes where the target runs here.
        weights: Storage of the weights: `fp32`, `fp16` or `int8`; arithmetic follows the bundle.
        progress: Called with (done, total, note).

    Raises:
        ConfigError: Unknown target or storage.
        ArtefactError: The bundle is damaged.
        DeviceError, ExportError: No compiler, or it fails.
    """
    return add_kernels(Path(bundle), target, tune, progress, weights)
