"""What lies in a run, a checkpoint or a bundle, in numbers."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pneumonia.network.accounting import Account, LayerAccount, Totals, account
from pneumonia.network.files import checkpoint_folder, load_model
from pneumonia.runtime.bundle import MANIFEST, load_bundle
from pneumonia.runtime.spec import Conv, Linear, NetworkSpec

SCHEMA = "pneumonia.inspection/1"


class Inspection(NamedTuple):
    """A model and its cost.

    Attributes:
        folder: Where the model lies: the bundle, or the checkpoint of the run.
        kind: `bundle` (checked against its manifest) or `checkpoint`.
        spec: The network.
        account: Layers and totals.
        files: Name -> bytes of the files of the folder.
        model_hash: Of a bundle.
    """

    folder: Path
    kind: str
    spec: NetworkSpec
    account: Account
    files: dict[str, int]
    model_hash: str | None = None

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
            },
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
        return Inspection(path, "bundle", bundle.spec, cost, _files(path), bundle.model_hash)
    folder = checkpoint_folder(path, which)
    spec, tensors = load_model(folder)
    return Inspection(folder, "checkpoint", spec, account(spec, tensors), _files(folder))


def storage_of(spec: NetworkSpec, row: LayerAccount) -> str:
    """`dense`, `columns` or `columns/8` (filters per group); empty for a layer without weights."""
    layer = spec.layer(row.name)
    if not isinstance(layer, (Conv, Linear)):
        return ""
    group = f"/{layer.storage.group_size}" if layer.storage.group_size else ""
    return layer.storage.format + group


def kept_share(row: LayerAccount | Totals) -> float:
    """Kept weights as a share of the dense ones; 1 where there are none."""
    return row.kept_weights / row.weights if row.weights else 1.0


def _files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None
