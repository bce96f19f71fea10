"""Inputs of a compression, the network a method returns, and the result of the run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pneumonia.compression.phase import Trainer
from pneumonia.network.accounting import NetworkAccount
from pneumonia.runs.folder import RunFolder
from pneumonia.runtime.model.spec import NetworkSpec
from pneumonia.training.config import TrainConfig


class CompressionJob(NamedTuple):
    """Inputs of every compression method."""

    parent: RunFolder  # the run that is compressed
    spec: NetworkSpec  # its network, with the storage it has now
    tensors: dict[str, Tensor]  # its dense tensors
    before: NetworkAccount  # its account
    trainer: Trainer  # task, resume, progress
    training: TrainConfig  # training settings that the phases of the recipe change
    out: RunFolder  # the run folder to write


class CompressedNetwork(NamedTuple):
    """Network produced by a method."""

    spec: NetworkSpec  # the network, each layer with its storage
    tensors: dict[str, Tensor]  # its dense tensors
    epochs: int  # epochs of training it took
    stages: list[Path]  # folders of the stages, in order
    method: dict[str, Any]  # the method's entries of compression.json
    layers: Mapping[str, Mapping[str, Any]]  # layer -> the method's entries for this layer


class CompressionResult(NamedTuple):
    """Result of a compression run.

    Attributes:
        before: Account of the network that was compressed.
        after: Account of the compressed network.
        metrics_before: Validation before; empty in all processes but the first.
        metrics_after: Validation after.
        bytes_before: Size of the weights file before.
        bytes_after: Size of the weights file after.
        protected: Layers whose filters had to stay because they feed an output.
        bits: Layer -> bits of one stored weight.
    """

    before: NetworkAccount
    after: NetworkAccount
    metrics_before: dict[str, float]
    metrics_after: dict[str, float]
    bytes_before: int
    bytes_after: int
    protected: tuple[str, ...]
    bits: dict[str, int]

    @property
    def rate(self) -> float:
        """Stored weights before / after; a network pruned before counts as it was stored."""
        return self.before.totals.kept_weights / max(self.after.totals.kept_weights, 1)

    @property
    def mac_rate(self) -> float:
        """Multiply-accumulates of the stored weights before / after."""
        return self.before.totals.kept_macs / max(self.after.totals.kept_macs, 1)


def report_of(result: CompressionResult, made: CompressedNetwork) -> dict[str, Any]:
    """The content of compression.json."""

    def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
        return {name: value if math.isfinite(value) else None for name, value in metrics.items()}

    return {
        **made.method,
        "realised_rate": result.rate,
        "mac_rate": result.mac_rate,
        "totals_before": result.before.totals._asdict(),
        "totals_after": result.after.totals._asdict(),
        "weights_bytes_before": result.bytes_before,
        "weights_bytes_after": result.bytes_after,
        "metrics_before": finite(result.metrics_before),
        "metrics_after": finite(result.metrics_after),
        "protected_layers": list(result.protected),
        "layers": _layer_rows(result, made),
    }


def _layer_rows(result: CompressionResult, made: CompressedNetwork) -> list[dict[str, Any]]:
    """One object per convolution or linear layer."""
    rows = []
    now = {row.name: row for row in result.after.layers}
    for before in result.before.layers:
        if before.weights == 0:
            continue
        after = now.get(before.name)  # None: the layer went with its residual branch
        kept_weights, kept_macs = (after.kept_weights, after.kept_macs) if after else (0, 0)
        rows.append(
            {
                "name": before.name,
                "filters": [before.shape_out[0], after.shape_out[0] if after else 0],
                "channels": [before.shape_in[0], after.shape_in[0] if after else 0],
                "weights": before.kept_weights,
                "kept_weights": kept_weights,
                "realised_rate": before.kept_weights / max(kept_weights, 1),
                "mac_rate": before.kept_macs / max(kept_macs, 1),
                "bits": result.bits.get(before.name, 0),
                "index_bits": after.index_bits if after else 0,
                "protected_filters": before.name in result.protected,
                **made.layers.get(before.name, {}),
            }
        )
    return rows
