"""Cost of a network inside SOT-MRAM sub-arrays that compute bit-serially.

The default constants are placeholders in arbitrary units, marked by `calibrated` = False, which
every report has to show. Independent of the constants, area is proportional to sum r*c*b_w, energy
and time to sum r*c*b_w*b_a.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class SotMramModel(NamedTuple):
    """Geometry and constants; e_* per event in one unit of energy, t_* in ns, a_* per cell."""

    # rows, columns: cells of a sub-array (S_r, S_c)
    rows: int = 256
    columns: int = 256
    # e_and, e_popcount, e_shift_add: of one AND per cell, one pop-count, one shift-and-add
    e_and: float = 1.0
    e_popcount: float = 5.0
    e_shift_add: float = 5.0
    e_write: float = 100.0  # of writing one cell
    e_buffer: float = 0.0  # of moving one bit of activation
    # t_cycle_ns, t_write_ns: of one row-parallel operation, of one write
    t_cycle_ns: float = 1.0
    t_write_ns: float = 5.0
    lanes: int = 1  # row-parallel operations executed at once
    banks: int = 1  # cells written at once
    # a_cell, a_periphery, a_buffer: area of a cell, of a sub-array's periphery, of buffers
    a_cell: float = 1.0
    a_periphery: float = 0.0
    a_buffer: float = 0.0
    p_standby: float = 0.0  # power of the periphery, in energy units per ns
    capacity_bits: int = 0  # cells available; 0 = unlimited
    calibrated: bool = False  # whether the constants were measured or simulated for a device


class LayerLoad(NamedTuple):
    """Size of one layer: kept filters, kept columns, output positions, bits per value."""

    name: str
    filters: int
    columns: int
    positions: int
    weight_bits: int
    activation_bits: int


class LayerCost(NamedTuple):
    """Cost of one layer for one image."""

    name: str  # the layer
    sub_arrays: int  # sub-arrays its weights occupy
    operations: int  # row-parallel AND + pop-count operations
    energy: float  # in the model's unit
    time_ns: float  # computing, without reloading


class SotMramCost(NamedTuple):
    """Cost of a network for one image."""

    layers: tuple[LayerCost, ...]  # by layer
    cells: int  # weight bits stored
    area: float  # in the model's unit
    energy: float  # including standby and, beyond the capacity, reloading
    latency_ns: float  # one image alone
    images_per_s: float  # pipelined by layers when everything is resident, else one after the other
    load_ns: float  # writing all weights once
    reload_bits: int  # weight bits written for every image, because they do not fit
    calibrated: bool  # whether the constants were measured or simulated for a device


def layer_cost(load: LayerLoad, model: SotMramModel) -> LayerCost:
    """Cost of one layer; all values are 0 for a layer without kept filters or columns."""
    if load.filters == 0 or load.columns == 0:
        return LayerCost(load.name, 0, 0, 0.0, 0.0)
    slabs = math.ceil(load.columns / model.rows)
    sub_arrays = slabs * math.ceil(load.filters * load.weight_bits / model.columns)
    operations = load.activation_bits * load.weight_bits * load.positions * slabs * load.filters
    each = model.e_and * model.rows + model.e_popcount + model.e_shift_add
    moved = load.positions * load.columns * load.activation_bits
    return LayerCost(
        load.name,
        sub_arrays,
        operations,
        operations * each + moved * model.e_buffer,
        operations / model.lanes * model.t_cycle_ns,
    )


def network_cost(loads: Sequence[LayerLoad], model: SotMramModel | None = None) -> SotMramCost:
    """Cost of a network; weights beyond the capacity are written again for every image."""
    model = model or SotMramModel()
    layers = tuple(layer_cost(load, model) for load in loads)
    cells = sum(load.filters * load.columns * load.weight_bits for load in loads)
    reload_bits = max(0, cells - model.capacity_bits) if model.capacity_bits else 0
    reload_ns = reload_bits / model.banks * model.t_write_ns
    compute_ns = sum(layer.time_ns for layer in layers)
    latency = compute_ns + reload_ns
    slowest = max((layer.time_ns for layer in layers), default=0.0)
    period = latency if reload_bits else slowest
    sub_arrays = sum(layer.sub_arrays for layer in layers)
    return SotMramCost(
        layers=layers,
        cells=cells,
        area=sub_arrays * (model.rows * model.columns * model.a_cell + model.a_periphery)
        + model.a_buffer,
        energy=sum(layer.energy for layer in layers)
        + reload_bits * model.e_write
        + model.p_standby * latency,
        latency_ns=latency,
        images_per_s=1e9 / period if period else math.inf,
        load_ns=cells / model.banks * model.t_write_ns,
        reload_bits=reload_bits,
        calibrated=model.calibrated,
    )
