"""Storage and run cost of compressed models, and irregular against structured pruning.

Storage is what the weights files hold, indices and levels included. Computing is judged by the
pruning-to-performance ratio (PPR): pruning rate over the speed-up measured at that rate.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from evaluation.hardware.footprint import open_weights
from evaluation.hardware.storage import break_even_ratio
from pneumonia.runtime.model.spec import tensor_shapes
from pneumonia.runtime.storage.tensorfile import read_tensors

Kind = Literal["dense", "structured", "regular", "irregular"]
KINDS: dict[str, Kind] = {
    "dense": "dense",
    "levels": "dense",
    "columns": "structured",
    "shared": "structured",
    "fkw": "regular",
    "darb": "regular",
    "bitmap": "irregular",
    "csr": "irregular",
    "relative": "irregular",
}
SPARSE_SHARE = 0.5  # share of the kept weights in sparse layers that makes a model sparse
NOT_WEIGHTS = (".bias", ".bn_weight", ".bn_bias", ".bn_mean", ".bn_var")
ACCURACY_POINTS = 0.001  # "equal accuracy" of the published comparison: within 0.1 point
PPR_STRUCTURED = 1.0  # a smaller dense matrix product
PPR_IRREGULAR = 2.7  # best reported irregular accelerators; default without a measurement


def pruning_to_performance(rate: float, speedup: float) -> float:
    """PPR: pruning rate over the speed-up measured at that rate; 1 is ideal."""
    return rate / speedup


class NeededRates(NamedTuple):
    """Rates from which an irregular model beats a structured one, at equal accuracy and bits."""

    storage: float  # rate at which it stores less
    compute: float  # rate at which it is faster
    measured: bool  # whether the PPRs of both models were measured


def needed_rates(
    rate_irregular: float,
    rate_structured: float,
    bits: int,
    ppr_irregular: float | None = None,
    ppr_structured: float | None = None,
) -> NeededRates:
    """What an irregular rate has to reach on the same network, bits and pruned layers.

    Args:
        rate_irregular: Weights / kept weights of the irregular model.
        rate_structured: Realised rate of the structured one, after dead paths were removed.
        bits: Bits of one stored weight.
        ppr_irregular: Measured ratio; None = the reported 2.7.
        ppr_structured: Measured ratio; None = 1.
    """
    irregular = PPR_IRREGULAR if ppr_irregular is None else ppr_irregular
    structured = PPR_STRUCTURED if ppr_structured is None else ppr_structured
    return NeededRates(
        storage=rate_structured * break_even_ratio(1.0 / rate_irregular, bits),
        compute=rate_structured * irregular / structured,
        measured=ppr_irregular is not None and ppr_structured is not None,
    )


class ModelCost(NamedTuple):
    """Storage cost of one model."""

    name: str  # name in the report
    kind: Kind  # storage kind of most of its sparse weights, or `dense`
    weights: int  # weights of its network with every layer dense, after dead-path removal
    kept: int  # weights stored
    macs: int  # multiply-accumulates of the stored weights for one image
    bits: float  # mean bits of a stored value
    value_bytes: int  # size of the values alone
    total_bytes: int  # size of values, indices and levels in the weights file
    file_bytes: int  # size of the weights file
    latency_ms: float | None = None  # measured latency of one image, or None
    engine: str = ""  # engine with which the latency was measured

    @property
    def index_bytes(self) -> int:
        """Bytes of indices and levels."""
        return max(self.total_bytes - self.value_bytes, 0)


def read_cost(name: str, folder: str | Path, macs: int) -> ModelCost:
    """The storage of a bundle or a run folder.

    Args:
        name: For the report.
        folder: With spec.json and weights.safetensors, or best/ with them.
        macs: Multiply-accumulates of its kept weights (`footprint.count`).

    Raises:
        ArtefactError: Neither a bundle nor a run, or a damaged one.
    """
    spec, weights_file = open_weights(folder)
    tensors = read_tensors(str(weights_file))
    taken = sum(a.nbytes for key, a in tensors.items() if not key.endswith(NOT_WEIGHTS))
    shapes = tensor_shapes(spec)
    weights = kept = 0
    value_bits = 0
    by_kind: dict[Kind, int] = {}
    for layer in spec.weighted():
        size = math.prod(shapes[layer.name + ".weight"])
        whole = layer.storage.format in ("dense", "levels")
        n_kept = size if whole else layer.storage.n_kept
        weights += size
        kept += n_kept
        value_bits += n_kept * layer.storage.bits
        kind = KINDS[layer.storage.format.removesuffix("-levels")]
        by_kind[kind] = by_kind.get(kind, 0) + n_kept
    return ModelCost(
        name, _kind(by_kind, kept), weights, kept, macs, value_bits / max(kept, 1),
        value_bits // 8, taken, weights_file.stat().st_size,
    )  # fmt: skip


def _kind(by_kind: dict[Kind, int], kept: int) -> Kind:
    """Kind of most weights in sparse layers; `dense` when less than half of all lie in them."""
    sparse = {kind: n for kind, n in by_kind.items() if kind != "dense"}
    if sum(sparse.values()) < SPARSE_SHARE * kept:
        return "dense"
    return max(sparse, key=lambda kind: sparse[kind])


class JudgedPair(NamedTuple):
    """One irregular model against one structured model of the same dense reference."""

    # irregular, structured: the models
    irregular: ModelCost
    structured: ModelCost
    # rate_irregular, rate_structured: weights of the reference over kept weights
    rate_irregular: float
    rate_structured: float
    needed: NeededRates  # rates that the irregular model needs
    smaller: bool  # whether the irregular model stores fewer bytes
    faster: bool | None  # whether its measured latency is shorter; None when not both were timed
    reservations: tuple[str, ...]  # conditions of a fair comparison that are not met, as text


def measured_ppr(reference: ModelCost, model: ModelCost) -> float | None:
    """Rate of the multiply-accumulates over the measured speed-up; None when not measured.

    None as well when the two were timed with different engines.
    """
    if reference.latency_ms is None or model.latency_ms is None:
        return None
    if reference.engine != model.engine or model.macs >= reference.macs:
        return None
    speedup = reference.latency_ms / model.latency_ms
    return pruning_to_performance(reference.macs / model.macs, speedup)


def is_pruned(reference: ModelCost, model: ModelCost) -> bool:
    """Whether a model stores fewer weights than the reference."""
    return model.kept < 0.99 * reference.kept


def judge_pairs(
    reference: ModelCost, models: Sequence[ModelCost], accuracy: dict[str, float]
) -> list[JudgedPair]:
    """Every irregular model against every structured one.

    Args:
        reference: The dense model.
        models: The others; a narrower dense network counts as structured.
        accuracy: Name of the model -> accuracy.
    """
    pruned = [model for model in models if is_pruned(reference, model)]
    found = []
    for irregular in (model for model in pruned if model.kind == "irregular"):
        for structured in (model for model in pruned if model.kind in ("structured", "dense")):
            found.append(_judge(reference, irregular, structured, accuracy))  # noqa: PERF401 - two loops
    return found


def _judge(
    reference: ModelCost, irregular: ModelCost, structured: ModelCost, accuracy: dict[str, float]
) -> JudgedPair:
    rates = reference.kept / irregular.kept, reference.kept / structured.kept
    needed = needed_rates(
        rates[0], rates[1], max(1, round(irregular.bits)),
        measured_ppr(reference, irregular), measured_ppr(reference, structured),
    )  # fmt: skip
    broken = []
    difference = abs(accuracy[irregular.name] - accuracy[structured.name])
    if difference > ACCURACY_POINTS:
        broken.append(f"accuracy differs by {difference:.3f}")
    if round(irregular.bits) != round(structured.bits):
        broken.append(f"bits differ ({irregular.bits:.1f} and {structured.bits:.1f})")
    timed = irregular.latency_ms is not None and structured.latency_ms is not None
    faster = bool(irregular.latency_ms < structured.latency_ms) if timed else None  # type: ignore[operator]
    return JudgedPair(
        irregular,
        structured,
        *rates,
        needed,
        irregular.total_bytes < structured.total_bytes,
        faster,
        tuple(broken),
    )
