"""What lies in a run, a checkpoint or a bundle, in numbers."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pneumonia.network.accounting import LayerAccount, NetworkAccount, NetworkTotals, account
from pneumonia.network.files import load_model
from pneumonia.runs.compression import read_compression
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.layers import Conv, Linear
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.runtime.storage.bundle import MANIFEST, load_bundle

SCHEMA = "pneumonia.inspection/1"


class PruningRates(NamedTuple):
    """Rates that a pruning run records relative to its starting network."""

    weights: int  # stored in that network
    macs: int  # multiply-accumulates of them
    nominal_rate: float  # those weights / weights inside the masks as projected
    # the same of multiply-accumulates; None in runs that did not write it
    nominal_mac_rate: float | None
    realised_rate: float  # those weights / stored weights, dead paths removed
    mac_rate: float  # the same of multiply-accumulates


class Inspection(NamedTuple):
    """A model and its cost."""

    folder: Path  # where the model lies: the bundle, or the checkpoint of the run
    kind: str  # `bundle` (checked against its manifest) or `checkpoint`
    spec: NetworkSpec  # the network
    account: NetworkAccount  # layers and totals
    files: dict[str, int]  # name -> bytes of the files of the folder
    model_hash: str | None = None  # of a bundle
    # weights of the network before anything was compressed, where it is known
    trained_weights: int | None = None
    # rates against the network before pruning; of the folder of a pruning run alone
    pruned: PruningRates | None = None

    @property
    def whole_rate(self) -> float | None:
        """Weights before any compression over those kept now; None where they are not known."""
        kept = self.account.totals.kept_weights
        return self.trained_weights / kept if self.trained_weights and kept else None

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values; rates of an empty network are null."""
        return {
            "schema": SCHEMA,
            "folder": str(self.folder),
            "kind": self.kind,
            "model_hash": self.model_hash,
            "network": self.spec.name,
            "input": self.spec.input._asdict(),
            "outputs": list(self.spec.outputs),
            "class_names": list(self.spec.class_names),
            "totals": {
                **self.account.totals._asdict(),
                "rate": _finite(self.account.totals.rate),
                "mac_rate": _finite(self.account.totals.mac_rate),
                "trained_weights": self.trained_weights,
                "whole_rate": self.whole_rate,
            },
            "pruned": self.pruned._asdict() if self.pruned else None,
            "layers": [
                {**row._asdict(), "storage": storage_of(self.spec, row)}
                for row in self.account.layers
            ],
            "files": self.files,
        }


def inspect_folder(path: Path, which: str | None = None) -> Inspection:
    """Read and count a model.

    Args:
        path: A bundle, a run, or a checkpoint.
        which: `best` or `last` of a run; None takes the best one, else the last.

    Raises:
        ArtefactError: No model there, or a damaged one.
    """
    if (path / MANIFEST).is_file():
        bundle = load_bundle(str(path))
        tensors = {name: torch.from_numpy(array) for name, array in bundle.weights().items()}
        cost = account(bundle.spec, tensors)
        trained = _trained_weights(bundle.manifest.get("run"))
        files, identity = _files(path), bundle.model_hash
        return Inspection(path, "bundle", bundle.spec, cost, files, identity, trained)
    folder = RunFolder(path).checkpoint(which)
    spec, tensors = load_model(folder)
    cost, files = account(spec, tensors), _files(folder)
    trained = None
    with suppress(ArtefactError):  # a checkpoint may stand alone
        trained = _trained_weights(RunFolder(folder.parent).record())
    pruned = _pruned(path)
    return Inspection(
        folder, "checkpoint", spec, cost, files, trained_weights=trained, pruned=pruned
    )


def _pruned(path: Path) -> PruningRates | None:
    """The totals of a pruning run's report; None without one, or when it is damaged."""
    try:
        record = read_compression(path)
        before = record["totals_before"]
        return PruningRates(
            before["kept_weights"],
            before["kept_macs"],
            record["nominal_rate"],
            record.get("nominal_mac_rate"),
            record["realised_rate"],
            record["mac_rate"],
        )
    except (ArtefactError, KeyError, TypeError):
        return None


def _trained_weights(record: object) -> int | None:
    found = record.get("trained_weights") if isinstance(record, dict) else None
    return found if isinstance(found, int) else None


def storage_of(spec: NetworkSpec, row: LayerAccount) -> str:
    """`dense`, `columns` or `columns/8` (filters per group); empty for a layer without weights."""
    layer = spec.layer(row.name)
    if not isinstance(layer, (Conv, Linear)):
        return ""
    group = f"/{layer.storage.group_size}" if layer.storage.group_size else ""
    return layer.storage.format + group


def kept_share(row: LayerAccount | NetworkTotals) -> float:
    """Kept weights as a share of the dense ones; 1 where there are none."""
    return row.kept_weights / row.weights if row.weights else 1.0


def _files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None
