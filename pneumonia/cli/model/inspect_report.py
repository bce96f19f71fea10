"""`pneumonia inspect --report`: the page on a compressed network."""

from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.runtime.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia.compression.quantize.mismatch import ChipMetrics
    from pneumonia.compression.report.page import MeasuredNetwork
    from pneumonia.network.module import Network

REPORTED_METRIC = "rsna"


def write_report(model: Path, against: Path | None, out: Path, n_chips: int, sigma: float) -> Path:
    """Write the page of a run or bundle; with chips, evaluate it on simulated ones first.

    Args:
        model: Run or bundle.
        against: What it is compared with; None = the run it came from where that is there, else
            its own network with every layer dense.
        out: Folder of the page.
        n_chips: 0 = none.
        sigma: Standard deviation of a programmed level, in steps between levels.

    Returns:
        The page.
    """
    from pneumonia.compression.report.page import PAGE, CompressionReport, write_page
    from pneumonia.runs.folder import RunFolder

    own = read_model(model)
    dense = against or _parent(model)
    reference = _as_dense(own) if dense is None else read_model(dense)
    if dense is not None and not {*own.weights} <= {*reference.weights}:
        raise ConfigError(
            "Networks do not match", expected=f"the layers of {model}",
            found=f"{len(reference.weights)} and {len(own.weights)} layers", where=str(dense),
        )  # fmt: skip
    chips = _chips(model, n_chips, sigma) if n_chips else None
    run = RunFolder(model) if RunFolder(model).record_file.is_file() else None
    write_page(out, CompressionReport(own, reference, run, chips, REPORTED_METRIC))
    return out / PAGE


def read_model(path: Path) -> "MeasuredNetwork":
    """A run's best checkpoint, or a bundle, with dense weights."""
    import torch

    from pneumonia.compression.report.page import MeasuredNetwork
    from pneumonia.network.accounting import account
    from pneumonia.network.files import load_model
    from pneumonia.runs.folder import RunFolder
    from pneumonia.runtime.storage.bundle import MANIFEST, load_bundle

    if (path / MANIFEST).is_file():
        bundle = load_bundle(str(path))
        spec = bundle.spec
        tensors = {name: torch.from_numpy(array) for name, array in bundle.weights().items()}
    else:
        spec, tensors = load_model(RunFolder(path).checkpoint())
    weights = {layer.name: tensors[f"{layer.name}.weight"] for layer in spec.weighted()}
    return MeasuredNetwork(path.name or str(path), spec, weights, account(spec, tensors))


def _parent(model: Path) -> Path | None:
    """The folder a run was compressed from, when it is still there."""
    from pneumonia.runs.folder import RunFolder

    run = RunFolder(model)
    parent = run.parent() if run.record_file.is_file() else None
    return parent.path if parent else None


def _as_dense(model: "MeasuredNetwork") -> "MeasuredNetwork":
    import torch

    from pneumonia.network.accounting import account
    from pneumonia.runtime.model.spec import tensor_shapes

    spec = model.spec.densely_stored()
    weights = {name: torch.ones_like(weight) for name, weight in model.weights.items()}
    tensors = {name: torch.ones(shape) for name, shape in tensor_shapes(spec).items()}
    return model._replace(
        name="the same network, dense", spec=spec, weights=weights, account=account(spec, tensors)
    )


def _chips(run: Path, n_chips: int, sigma: float) -> "ChipMetrics":
    """Validation score of the run on simulated chips."""
    from data_prep.dataset.reader import open_dataset
    from pneumonia.compression.quantize.mismatch import simulate_chips
    from pneumonia.network.files import load_model
    from pneumonia.network.module import Network
    from pneumonia.runs.folder import RunFolder
    from pneumonia.training.config import TrainRecipe
    from pneumonia.training.detector.task import DetectionTask

    folder = RunFolder(run)
    training = folder.training_recipe(TrainRecipe)
    data = open_dataset(folder.dataset_path())
    spec, tensors = load_model(folder.checkpoint())
    task = DetectionTask(data, spec, training)
    network = Network(spec)
    network.load_tensors(tensors)

    def evaluate(chip: "Network") -> float:
        return task.evaluate(chip)[REPORTED_METRIC]

    return simulate_chips(network, sigma, evaluate, n_chips)
