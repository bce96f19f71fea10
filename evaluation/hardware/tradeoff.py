"""Storage and run cost of compressed models, and irregular against structured pruning.

Storage is what the weights files hold, indices and levels included. Computing is judged by the
pruning-to-performance ratio (PPR): pruning rate over the speed-up measured at that rate.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from evaluation.hardware import ppr
from pneumonia.runtime.errors import ArtefactError
from pneumonia.runtime.model.spec import NetworkSpec, tensor_shapes
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
SHARE = 0.5  # of the kept weights that must lie in layers of a kind to call the model so
NOT_WEIGHTS = (".bias", ".bn_weight", ".bn_bias", ".bn_mean", ".bn_var")
ACCURACY_POINTS = 0.001  # "equal accuracy" of the published comparison: within 0.1 point


class ModelCost(NamedTuple):
    """Storage cost of one model.

    Attributes:
        name: As in the report.
        kind: Where most of its kept weights lie.
        weights: Of its network with every layer dense, dead paths already gone.
        kept: Weights stored.
        macs: Multiply-accumulates of the stored weights for one image.
        bits: Mean bits of a stored value.
        value_bytes: Of the values alone.
        total_bytes: Values, indices and levels, as the file holds them.
        file_bytes: The whole weights file.
        latency_ms: Measured, or None.
        engine: What the latency was measured with.
    """

    name: str
    kind: Kind
    weights: int
    kept: int
    macs: int
    bits: float
    value_bytes: int
    total_bytes: int
    file_bytes: int
    latency_ms: float | None = None
    engine: str = ""

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
    path = Path(folder)
    place = path if (path / "spec.json").is_file() else path / "best"
    try:
        spec = NetworkSpec.from_json((place / "spec.json").read_text(encoding="utf-8"))
        file_bytes = os.path.getsize(place / "weights.safetensors")
    except (OSError, UnicodeDecodeError):
        raise ArtefactError(
            "Neither a bundle nor a run", expected="spec.json and weights.safetensors",
            where=str(path),
        ) from None  # fmt: skip
    tensors = read_tensors(str(place / "weights.safetensors"))
    taken = sum(a.nbytes for key, a in tensors.items() if not key.endswith(NOT_WEIGHTS))
    shapes = tensor_shapes(spec)
    weights = kept = 0
    value_bits = 0
    by_kind: dict[Kind, int] = {}
    for layer in spec.weighted():
        size = 1
        for extent in shapes[layer.name + ".weight"]:
            size *= extent
        whole = layer.storage.format in ("dense", "levels")
        n_kept = size if whole else layer.storage.n_kept
        weights += size
        kept += n_kept
        value_bits += n_kept * layer.storage.bits
        kind = KINDS[layer.storage.format.removesuffix("-levels")]
        by_kind[kind] = by_kind.get(kind, 0) + n_kept
    return ModelCost(
        name, _kind(by_kind, kept), weights, kept, macs, value_bits / max(kept, 1),
        value_bits // 8, taken, file_bytes,
    )  # fmt: skip


def _kind(by_kind: dict[Kind, int], kept: int) -> Kind:
    """The kind of most kept weights; a pruned network with dense layers alone is structured."""
    sparse = {kind: n for kind, n in by_kind.items() if kind != "dense"}
    if sum(sparse.values()) < SHARE * kept:
        return "dense"
    return max(sparse, key=lambda kind: sparse[kind])


class JudgedPair(NamedTuple):
    """One irregular model against one structured model of the same dense reference.

    Attributes:
        irregular, structured: The models.
        rate_irregular, rate_structured: Weights of the reference over kept weights.
        comparison: Rates needed, and whether they are reached.
        smaller: The irregular model's stored bytes are fewer, as measured.
        faster: Its measured time is shorter; None when not both were timed.
        reservations: Rules of a fair comparison that are broken.
    """

    irregular: ModelCost
    structured: ModelCost
    rate_irregular: float
    rate_structured: float
    comparison: ppr.IrregularVersusStructured
    smaller: bool
    faster: bool | None
    reservations: tuple[str, ...]


def measured_ppr(reference: ModelCost, model: ModelCost) -> float | None:
    """Rate of the multiply-accumulates over the measured speed-up; None when not measured.

    The speed-up is only that of pruning if both were timed with the same engine.
    """
    if reference.latency_ms is None or model.latency_ms is None:
        return None
    if reference.engine != model.engine or model.macs >= reference.macs:
        return None
    speedup = reference.latency_ms / model.latency_ms
    return ppr.pruning_to_performance(reference.macs / model.macs, speedup)


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
        accuracy: Model -> the accuracy that should be equal.
    """
    pruned = [model for model in models if is_pruned(reference, model)]
    found = []
    for loose in (model for model in pruned if model.kind == "irregular"):
        for firm in (model for model in pruned if model.kind in ("structured", "dense")):
            found.append(_judge(reference, loose, firm, accuracy))  # noqa: PERF401 - two loops
    return found


def _judge(
    reference: ModelCost, loose: ModelCost, firm: ModelCost, accuracy: dict[str, float]
) -> JudgedPair:
    rates = reference.kept / loose.kept, reference.kept / firm.kept
    comparison = ppr.compare(
        rates[0], rates[1], max(1, round(loose.bits)),
        measured_ppr(reference, loose), measured_ppr(reference, firm),
    )  # fmt: skip
    broken = []
    difference = abs(accuracy[loose.name] - accuracy[firm.name])
    if difference > ACCURACY_POINTS:
        broken.append(f"accuracy differs by {difference:.3f}")
    if round(loose.bits) != round(firm.bits):
        broken.append(f"bits differ ({loose.bits:.1f} and {firm.bits:.1f})")
    timed = loose.latency_ms is not None and firm.latency_ms is not None
    faster = bool(loose.latency_ms < firm.latency_ms) if timed else None  # type: ignore[operator]
    return JudgedPair(
        loose, firm, *rates, comparison, loose.total_bytes < firm.total_bytes, faster, tuple(broken)
    )
