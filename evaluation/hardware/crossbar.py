"""Area and power of a memristor crossbar accelerator, and which arrays a network uses.

Signed weights live on a positive and a negative array; a b-bit weight has b-1 magnitude bits in
slices of 4-bit cells. Constants are ISAAC-like defaults (32 nm) that are not calibrated:
only ratios between two mappings are meaningful, and reports show `calibrated`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.hardware.storage import Mask


class CrossbarModel(NamedTuple):
    """Geometry and constants; areas in mm2, powers in mW."""

    word_lines: int = 128  # inputs of an array (rows)
    bit_lines: int = 64  # outputs of an array (columns)
    cell_bits: int = 4  # bits of one cell
    dac_bits: int = 1  # bits a word line is driven with at a time
    # array_area, array_power: of one full array
    array_area: float = 2.5e-5
    array_power: float = 0.3
    # adc_area, adc_power: of one 8-bit converter, shared by the bit lines of an array
    adc_area: float = 0.0012
    adc_power: float = 2.0
    # dac_area, dac_power: of one word line's driver
    dac_area: float = 1.7e-7
    dac_power: float = 3.9e-3
    # hold_area, hold_power: of one bit line's sample and hold
    hold_area: float = 3.9e-8
    hold_power: float = 1e-5
    # add_area, add_power: of one shift-and-add unit, one per array
    add_area: float = 6e-5
    add_power: float = 0.05
    # buffer_area, buffer_power: of the buffers, per array
    buffer_area: float = 0.0
    buffer_power: float = 0.0
    calibrated: bool = False  # whether the constants were measured or simulated for a device


class CrossbarCost(NamedTuple):
    """Cost of a mapping."""

    arrays: int  # arrays of word_lines x bit_lines cells, both polarities and all slices
    adc_bits: int  # resolution that the converters need, bits
    area_mm2: float  # of everything
    power_mw: float  # of everything, all arrays busy
    calibrated: bool  # whether the constants were measured or simulated for a device


def slices(bits: int, model: CrossbarModel) -> int:
    """Number of cells for one polarity of a b-bit signed weight."""
    return max(1, -(-(bits - 1) // model.cell_bits))


def tiles_used(support: Mask, model: CrossbarModel) -> npt.NDArray[np.bool_]:
    """Which tiles (arrays) of a layer contain a non-zero weight.

    Empty filters and, in each group of filters, empty columns are removed before the matrix
    is cut into arrays (word lines are wired by a routing table).

    Args:
        support: Kept places of the GEMM matrix, bool (O, P).

    Returns:
        Bool (groups of filters, arrays along the columns): True = an array is used.
    """
    rows = support[np.flatnonzero(support.any(axis=1))]
    n_groups = -(-rows.shape[0] // model.bit_lines)
    wide = max(1, -(-support.shape[1] // model.word_lines))
    used = np.zeros((n_groups, wide), dtype=np.bool_)
    for group in range(n_groups):
        columns = np.any(rows[group * model.bit_lines : (group + 1) * model.bit_lines], axis=0)
        used[group, : -(-int(columns.sum()) // model.word_lines)] = True
    return used


def tile_fill(support: Mask, model: CrossbarModel) -> npt.NDArray[np.float64]:
    """Share of the cells of each array that hold a weight, empty filters and columns left out.

    Args:
        support: Kept places of the GEMM matrix, bool (O, P).

    Returns:
        float64 (n,): array after array of each group of filters; 0 .. 1.
    """
    rows = support[np.flatnonzero(support.any(axis=1))]
    cells = model.word_lines * model.bit_lines
    shares = []
    for first in range(0, rows.shape[0], model.bit_lines):
        group = rows[first : first + model.bit_lines]
        group = group[:, np.flatnonzero(group.any(axis=0))]
        shares += [
            float(np.count_nonzero(group[:, start : start + model.word_lines])) / cells
            for start in range(0, group.shape[1], model.word_lines)
        ]
    return np.array(shares, dtype=np.float64)


def arrays_of(
    layers: Mapping[str, Mask], bits: Mapping[str, int], model: CrossbarModel
) -> dict[str, int]:
    """Layer -> number of arrays: 2 polarities x slices x used tiles."""
    return {
        name: 2 * slices(bits[name], model) * int(tiles_used(support, model).sum())
        for name, support in layers.items()
    }


def cost(n_arrays: int, model: CrossbarModel) -> CrossbarCost:
    """Area and power of a number of arrays with their converters and adders."""
    area = (
        model.array_area + model.adc_area + model.add_area + model.buffer_area
        + model.word_lines * model.dac_area + model.bit_lines * model.hold_area
    )  # fmt: skip
    power = (
        model.array_power + model.adc_power + model.add_power + model.buffer_power
        + model.word_lines * model.dac_power + model.bit_lines * model.hold_power
    )  # fmt: skip
    adc_bits = math.ceil(math.log2(model.word_lines)) + model.cell_bits + model.dac_bits - 1
    return CrossbarCost(n_arrays, adc_bits, n_arrays * area, n_arrays * power, model.calibrated)


def area_reduction(dense_arrays: int, pruned_arrays: int) -> float:
    """Share of the area saved; about 1 - 1/(2 * rate) from 9-bit dense to 5-bit pruned."""
    return 1.0 - pruned_arrays / dense_arrays
