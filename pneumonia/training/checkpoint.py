"""Checkpoints of a run folder: `best/` (a model) and `last/` (a model and what resume needs).

Tensors are safetensors, the rest is JSON: nothing is pickled. Both folders are swapped in whole.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pneumonia.network.files import load_model, same_architecture, save_model
from pneumonia.network.module import Network
from pneumonia.runs.checksums import check_files, write_checksums
from pneumonia.runs.folder import RunFolder
from pneumonia.runs.names import METRICS_FILE, STATE_FILE
from pneumonia.runtime.atomic import new_folder, write_json
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.json_files import read_json_object
from pneumonia.runtime.storage.tensorfile import read_tensors, write_tensors
from pneumonia.training.ema import WeightAverage
from pneumonia.training.hooks import TrainingHook
from pneumonia.training.optimiser import load_optimiser_state, optimiser_state

SCHEMA = "pneumonia.checkpoint/1"
STATE_TENSORS = "state.safetensors"


class FinishedEpochs(NamedTuple):
    """Progress of a run: finished epochs and best selection metric."""

    epoch: int = 0  # finished epochs
    # highest selection metric so far; -inf before the first validation
    best_metric: float = -math.inf
    best_epoch: int = 0  # epoch of it, 0 before the first validation


class TrainingState(NamedTuple):
    """The moving parts of a run, saved and restored together."""

    network: Network
    average: WeightAverage
    optimiser: torch.optim.Optimizer
    hooks: Sequence[TrainingHook]


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    # numpy has no bfloat16; a state of that type is widened, which is exact.
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {f"{prefix}/{name}": _array(tensor) for name, tensor in tensors.items()}


def _with_prefix(prefix: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    start = prefix + "/"
    return {
        name[len(start) :]: torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(start)
    }


def save_last(
    out: Path, state: TrainingState, progressed: FinishedEpochs, config: Mapping[str, Any]
) -> None:
    """Write `last/`: the averaged model and everything an exact resume needs.

    Args:
        config: The effective recipe; `load_last` gives it back for comparison.

    Raises:
        OutputError: The folder cannot be written; the `last/` before it is then untouched.
    """
    arrays = _prefixed("weights", state.network.tensors())
    arrays.update(_prefixed("optimiser", optimiser_state(state.network, state.optimiser)))
    arrays.update(_prefixed("rng", _generator_states()))
    hook_values = []
    for number, hook in enumerate(state.hooks):
        tensors, values = hook.state()
        arrays.update(_prefixed(f"hook{number}", tensors))
        hook_values.append(values)
    best = progressed.best_metric
    document = {
        "schema": SCHEMA,
        "epoch": progressed.epoch,
        "best_metric": best if math.isfinite(best) else None,
        "best_epoch": progressed.best_epoch,
        "ema_updates": state.average.updates,
        "hooks": hook_values,
        "config": dict(config),
    }
    with new_folder(str(RunFolder(out).last)) as part:
        save_model(Path(part), state.network.spec, state.average.network.tensors())
        write_tensors(str(Path(part) / STATE_TENSORS), arrays)
        write_json(str(Path(part) / STATE_FILE), document)
        write_checksums(Path(part))


def read_state(out: Path) -> dict[str, Any]:
    """`state.json` of a run's `last/`.

    Raises:
        ArtefactError: There is none, or it is damaged or of another schema.
    """
    path = RunFolder(out).last / STATE_FILE
    if not path.exists():
        raise ArtefactError(
            "Nothing to resume", expected="a finished epoch", found="no checkpoint", where=str(path)
        )
    document = read_json_object(str(path), "Checkpoint")
    if document.get("schema") != SCHEMA:
        raise ArtefactError("Checkpoint has another schema", expected=repr(SCHEMA), where=str(path))
    return document


def load_last(out: Path, state: TrainingState) -> FinishedEpochs:
    """Restore a run to its state after the last finished epoch.

    Raises:
        ArtefactError: No checkpoint, a damaged one, or one of another network or set of hooks.
    """
    document = read_state(out)
    folder = RunFolder(out).last
    spec, averaged = load_model(folder)
    if not same_architecture(spec, state.network.spec):
        raise ArtefactError(
            "Checkpoint is of another network",
            expected=f"the {state.network.spec.name!r} of this recipe",
            found=f"a {spec.name!r} that differs",
            where=str(folder),
        )
    if len(document["hooks"]) != len(state.hooks):
        raise ArtefactError(
            "Checkpoint was made with other training hooks",
            expected=str(len(state.hooks)),
            found=str(len(document["hooks"])),
            where=str(folder),
        )
    check_files(folder, (STATE_TENSORS,))
    arrays = read_tensors(str(folder / STATE_TENSORS))
    state.network.load_tensors(_with_prefix("weights", arrays))
    if state.average.network is not state.network:
        state.average.network.load_tensors(averaged)
    state.average.updates = int(document["ema_updates"])
    load_optimiser_state(state.network, state.optimiser, _with_prefix("optimiser", arrays))
    for number, hook in enumerate(state.hooks):
        hook.load_state(_with_prefix(f"hook{number}", arrays), document["hooks"][number])
    _set_generator_states(_with_prefix("rng", arrays))
    best = document["best_metric"]
    return FinishedEpochs(
        int(document["epoch"]),
        -math.inf if best is None else float(best),
        int(document["best_epoch"]),
    )


def _generator_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_generator_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def save_best(
    out: Path,
    network: Network,
    epoch: int,
    metrics: Mapping[str, float],
    save: Callable[[Path], None],
) -> None:
    """Write `best/` atomically: the averaged model and the evaluation it was chosen for.

    Args:
        epoch: Finished epochs.
        save: Writes what else belongs to it, such as `TrainingTask.save`: thresholds lie with the
            weights they were chosen for.
    """
    values = {k: (v if math.isfinite(v) else None) for k, v in metrics.items()}
    with new_folder(str(RunFolder(out).best)) as part:
        save_model(Path(part), network.spec, network.tensors())
        write_json(str(Path(part) / METRICS_FILE), {"epoch": epoch, "metrics": values})
        save(Path(part))
        write_checksums(Path(part))
