"""Quantization as a projection: every weight of a layer is alpha * m, m from a few levels.

One solver serves binary, ternary, k-bit, power-of-two and measured device levels: magnitudes are
sorted once with prefix sums, so the error of any scale alpha costs O(M log n) and many starts can
be afforded. Alternation (nearest level, then alpha = <v, Q> / <Q, Q>) never raises the error.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluation.hardware.storage import StorageBits, best_irregular_index_bits, index_bits
from pneumonia.compression.sets.constraint import Projection, check_finite, gemm_view
from pneumonia.runtime.errors import PruneError

Floats = npt.NDArray[np.float64]
Zero = Literal["level", "coded", "absent"]

MIN_SCALE = 1e-8  # alpha never collapses to 0
SCALE_BITS = 32  # of the stored alpha
_SWEEPS = 20
_QUANTILES = 16384
_POLISHED = 8  # best starts that are alternated to the end
_FLOAT_BITS = 24  # significant bits of float32
_TABLE_BITS = 12  # significant bits of a level that is not a small whole number


class Levels(NamedTuple):
    """Allowed values before scaling: plus and minus each magnitude, and perhaps zero."""

    magnitudes: tuple[float, ...]  # ascending, positive
    zero: bool  # zero is a level of its own
    n_codes: int  # codes of one stored weight; a reserved zero code counts

    @property
    def bits(self) -> int:
        """Bits of one stored weight."""
        return index_bits(self.n_codes)

    @property
    def values(self) -> tuple[float, ...]:
        """All levels, ascending."""
        negative = tuple(-m for m in reversed(self.magnitudes))
        return negative + ((0.0,) if self.zero else ()) + self.magnitudes


BINARY = Levels((1.0,), False, 2)
TERNARY = Levels((1.0,), True, 3)


def k_bit(bits: int, zero: Zero = "level") -> Levels:
    """Uniform levels of k bits.

    Args:
        bits: 1 .. 12.
        zero: `level`: zero is allowed, 2**(k-1)-1 magnitudes. `coded`: zero is not a level, but
            its code is reserved for pruned weights, as many magnitudes. `absent`: pruned weights
            are not stored, so that all 2**(k-1) magnitudes are there.

    Raises:
        PruneError: No magnitude is left, or more than 12 bits.
    """
    count = 1 << (bits - 1) if bits > 0 else 0
    magnitudes = count if zero == "absent" else count - 1
    if not 1 <= bits <= _TABLE_BITS or magnitudes < 1:
        raise PruneError(
            "Bit width cannot hold a level", expected="2 to 12 bits, or 1 with zero='absent'",
            found=f"{bits} bits, zero={zero!r}",
        )  # fmt: skip
    n_codes = 2 * magnitudes + (zero != "absent")
    return Levels(tuple(float(m) for m in range(1, magnitudes + 1)), zero == "level", n_codes)


def power_of_two(bits: int, zero: bool = True) -> Levels:
    """Levels +-2**j, so that a multiplication is a shift; as many as `bits` can tell apart."""
    count = (1 << (bits - 1)) - (1 if zero else 0)
    if not 1 <= count <= 16:
        raise PruneError("Bit width cannot hold a level", expected="2 to 5 bits", found=repr(bits))
    return Levels(tuple(float(1 << j) for j in range(count)), zero, 2 * count + zero)


def table(magnitudes: Sequence[float]) -> Levels:
    """Levels of a device's own table (the means of its state distributions), without zero.

    Magnitudes are rounded to 12 significant bits, more than a device can hold apart, so that
    products with a scale are exact in float32.
    """
    rounded = tuple(_rounded(m, _TABLE_BITS) for m in magnitudes)
    if not rounded or rounded[0] <= 0 or any(a >= b for a, b in pairwise(rounded)):
        raise PruneError(
            "Device levels are not usable", expected="ascending positive numbers",
            found=repr(list(magnitudes))[:80],
        )  # fmt: skip
    return Levels(rounded, False, 2 * len(rounded))


def _rounded(value: float, bits: int) -> float:
    """The nearest number of that many significant bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * (1 << bits)) / (1 << bits), exponent)


class _Magnitudes:
    """|v| ascending with prefix sums: the quantization error of any scale in O(M log n)."""

    def __init__(self, ascending: npt.NDArray[np.float32], levels: Levels) -> None:
        self.values = ascending
        self.sums = np.concatenate([[0.0], np.cumsum(self.values, dtype=np.float64)])
        self.total = float(np.square(self.values, dtype=np.float64).sum())
        self.levels = levels
        self.magnitudes = np.array(levels.magnitudes)
        steps = np.concatenate([[0.0], self.magnitudes]) if levels.zero else self.magnitudes
        self.midpoints = (steps[1:] + steps[:-1]) / 2
        self.n_free = 1 if levels.zero else 0
        whole = all(m == int(m) for m in levels.magnitudes)
        top = int(max(levels.magnitudes)) if whole else 1 << _TABLE_BITS
        self.scale_bits = _FLOAT_BITS - (top - 1).bit_length()

    def moments(self, scales: Floats) -> tuple[Floats, Floats]:
        """<|v|, Q> and <Q, Q> of the nearest levels at each scale (S,)."""
        edges = np.searchsorted(
            self.values, (scales[:, None] * self.midpoints).astype(self.values.dtype)
        )
        ends = np.full((len(scales), 1), len(self.values))
        starts = edges if self.n_free else np.concatenate([np.zeros_like(ends), edges], axis=1)
        stops = np.concatenate([edges[:, 1:] if self.n_free else edges, ends], axis=1)
        cross = (self.sums[stops] - self.sums[starts]) @ self.magnitudes
        power = (stops - starts) @ np.square(self.magnitudes)
        return cross, power

    def errors(self, scales: Floats) -> Floats:
        """Squared error at each scale (S,)."""
        cross, power = self.moments(scales)
        return np.asarray(self.total - 2 * scales * cross + np.square(scales) * power)

    def round_to_exact(self, scales: Floats) -> Floats:
        """Scales rounded so that scale * level is exact in float32."""
        return np.array([max(_rounded(s, self.scale_bits), MIN_SCALE) for s in scales.tolist()])

    def candidate_scales(self) -> Floats:
        """Scales to try: the largest weight on each level, published ones, and a scan."""
        largest, top = float(self.values[-1]), self.magnitudes[-1]
        mean = self.sums[-1] / len(self.values)
        scan = np.geomspace(max(mean / top / 2, MIN_SCALE), max(largest, MIN_SCALE), 64)
        known = np.array([2 * mean / top, mean, *(largest / top * np.array([0.5, 0.7, 0.9]))])
        return np.concatenate([largest / self.magnitudes, known, scan])


def best_scale(v: Tensor, levels: Levels) -> float:
    """The scale alpha > 0 that makes the nearest levels of `v` closest in squares.

    Exact for binary (alpha = mean |v|) and ternary (argmax over t of c_t**2 / t, c_t the sum of
    the t largest magnitudes); for more levels the best of many starts, each alternated until it
    rests. alpha is rounded so that alpha * level is exact in float32: stored codes reproduce the
    weights bit by bit, and projecting twice changes nothing.

    Args:
        v: Weights of any shape; pruned ones left out by the caller.
        levels: The level set.
    """
    if v.numel() == 0 or not bool((v != 0).any()):
        return MIN_SCALE
    magnitudes = v.detach().abs().reshape(-1)
    if levels.magnitudes == (1.0,) and not levels.zero:
        return max(_rounded(float(magnitudes.double().mean()), _FLOAT_BITS), MIN_SCALE)
    ascending = np.sort(magnitudes.numpy())
    data = _Magnitudes(ascending, levels)
    if levels.magnitudes == (1.0,) and levels.zero:
        return _ternary_scale(data)
    scales = data.round_to_exact(data.candidate_scales())
    # Starts are ranked on evenly spaced quantiles, then polished on all weights.
    coarse = _Magnitudes(ascending[:: max(1, len(ascending) // _QUANTILES)], levels)
    scales = scales[np.argsort(coarse.errors(scales), kind="stable")[:_POLISHED]]
    best_value, best_error = float(scales[0]), float(data.errors(scales[:1])[0])
    for _ in range(_SWEEPS):
        cross, power = data.moments(scales)
        moved = data.round_to_exact(np.divide(cross, power, out=scales.copy(), where=power > 0))
        if np.array_equal(moved, scales):
            break
        scales, errors = moved, data.errors(moved)
        if errors.min() < best_error:
            best_value, best_error = float(moved[errors.argmin()]), float(errors.min())
    return best_value


def _ternary_scale(data: _Magnitudes) -> float:
    """Mean of the t largest magnitudes, t = argmax c_t**2 / t: exact."""
    tails = data.sums[-1] - data.sums[:-1]  # c_t at index n - t
    score = np.square(tails)
    score /= np.arange(len(tails), 0, -1)
    best = int(np.argmax(score))
    return float(data.round_to_exact(np.array([tails[best] / (len(tails) - best)]))[0])


def snap(v: Tensor, levels: Levels, scale: float) -> Tensor:
    """Nearest allowed value at a fixed scale; the sign of zero is +. Exact."""
    steps = torch.tensor((0.0, *levels.magnitudes) if levels.zero else levels.magnitudes)
    table = (steps.double() * scale).to(v.dtype)
    size = table.index_select(0, _buckets(v, steps, scale).reshape(-1)).reshape(v.shape)
    # Adding +0 turns -0 into +0, before the sign is taken and after.
    return torch.copysign(size, v + 0.0).add_(0.0)


def _buckets(v: Tensor, steps: Tensor, scale: float) -> Tensor:
    """Which step each magnitude is nearest to: int32, like `v`."""
    midpoints = (steps[1:] + steps[:-1]) / 2 * scale
    return torch.bucketize(v.abs().contiguous(), midpoints.to(v.dtype), out_int32=True)


class Quantized:
    """Weights on alpha times the levels; pruned places stay zero.

    Args:
        levels: The level set.
        mask: Bool, like the weight: places that are not pruned; None = all.
        scale: Fixed alpha; None = the best one at every projection.
    """

    def __init__(
        self, levels: Levels, mask: Tensor | None = None, scale: float | None = None
    ) -> None:
        if scale is not None and not (scale > 0 and math.isfinite(scale)):
            raise PruneError("Quantization scale is not usable", expected="> 0", found=repr(scale))
        if not isinstance(levels, Levels):
            raise PruneError(
                "Level set is not known",
                expected="pneumonia.TERNARY, pneumonia.BINARY or a Levels",
                found=repr(levels) if isinstance(levels, str | int) else type(levels).__name__,
            )
        if mask is not None and mask.dtype != torch.bool:
            raise PruneError("Mask is not bool", expected="torch.bool", found=str(mask.dtype))
        self.levels = levels
        self.mask = mask
        self.scale = scale

    def scale_of(self, v: Tensor) -> float:
        """The fixed scale, or the best one of the places that are not pruned."""
        if self.mask is not None and self.mask.shape != v.shape:
            raise PruneError(
                "Mask does not fit the weight",
                expected=f"the weight's shape {tuple(v.shape)}",
                found=str(tuple(self.mask.shape)),
            )
        if self.scale is not None:
            return self.scale
        return best_scale(v if self.mask is None else v[self.mask], self.levels)

    def project(self, v: Tensor) -> Projection:
        """Nearest point of the set."""
        check_finite(v)
        z = snap(v, self.levels, self.scale_of(v))
        if self.mask is None:
            return Projection(z, torch.ones_like(v, dtype=torch.bool))
        return Projection(torch.where(self.mask, z, torch.zeros((), dtype=v.dtype)), self.mask)

    def storage_bits(self, z: Tensor) -> StorageBits:
        """A code per weight and one scale; with a mask, places as irregular pruning stores them."""
        if self.mask is None:
            return StorageBits(z.numel() * self.levels.bits + SCALE_BITS, 0)
        support = gemm_view(self.mask).numpy()
        values = int(support.sum()) * self.levels.bits + SCALE_BITS
        if support.all():
            return StorageBits(values, 0)
        return StorageBits(values, best_irregular_index_bits(support, self.levels.bits))
