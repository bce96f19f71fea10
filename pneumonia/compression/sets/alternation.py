"""The combined projection: choose filters R and columns C that maximise the energy in R x C.

Choosing R and C together is combinatorial. For fixed filters the best columns are the largest
column energies within those filters, for fixed columns the best filters likewise, so the two are
maximised in turn from many starts; the energy never falls. All starts advance together: one sweep
costs two thin matrix products over the squared weights, whatever the number of starts.

Filters of several layers may be tied (YOLOv3's shortcuts add their outputs): a *unit* is one set
of tied filters, kept or removed as a whole, and each layer has its own columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.sets.columns import (
    ColumnRule,
    choose_columns,
    dense_mask,
    group_energies,
    group_of_row,
)
from pneumonia.compression.sets.constraint import top_k_mask

MAX_SWEEPS = 12
REFINED_ELEMENTS = 2**20  # layers of fewer weights are refined from several starts


class TiedMatrix(NamedTuple):
    """One layer of a tied set."""

    squares: Tensor  # squared GEMM matrix, float32 (O, P), scaled to at most 1
    unit_of_filter: Tensor  # unit each filter belongs to, int64 (O,)
    rule: ColumnRule | None  # how many columns are kept; None keeps all


class UnitChoice(NamedTuple):
    """Kept units and columns."""

    units: Tensor  # bool (n_units,)
    # per layer bool (n_groups, P) for the groups of its kept filters, or None
    columns: list[Tensor | None]
    energy: float  # sum of the kept squares


def random_starts(n_units: int, n_keep: int, count: int, seed: int) -> Tensor:
    """`count` random choices of n_keep units: bool (count, n_units), the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(count, n_units, generator=generator).argsort(1)
    return torch.zeros(count, n_units, dtype=torch.bool).scatter_(1, order[:, :n_keep], True)


def unit_scores(layer: TiedMatrix, row_scores: Tensor, n_units: int) -> Tensor:
    """Add each filter's score to its unit's: (starts, O) to (starts, n_units)."""
    scores = row_scores.new_zeros(row_scores.shape[0], n_units)
    return scores.index_add_(1, layer.unit_of_filter, row_scores)


def column_masks(layer: TiedMatrix, units: Tensor) -> Tensor | None:
    """Best columns for each start, all kept filters sharing them: float (starts, P)."""
    if layer.rule is None:
        return None
    rows = units[:, layer.unit_of_filter].float()
    energies = rows @ layer.squares
    n_keep = min(layer.rule.n_keep, energies.shape[1])
    best = energies.topk(n_keep, dim=1, sorted=False).indices
    return torch.zeros_like(energies).scatter_(1, best, 1.0)


def _sweep(
    layers: Sequence[TiedMatrix], units: Tensor, n_keep: int, protected: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Best columns of all starts, then the units best for those columns.

    Returns:
        New units (starts, n_units), their energies and the energies of the units given.
    """
    scores = torch.zeros(units.shape)
    for layer in layers:
        columns = column_masks(layer, units)
        if columns is None:
            rows = layer.squares.sum(1).expand(units.shape[0], -1)
        else:
            rows = columns @ layer.squares.T
        scores += unit_scores(layer, rows, units.shape[1])
    best = scores.masked_fill(protected, torch.inf).topk(n_keep, dim=1, sorted=False).indices
    kept = torch.zeros_like(units).scatter_(1, best, True)
    return kept, (scores * kept).sum(1), (scores * units).sum(1)


def alternate(
    layers: Sequence[TiedMatrix], starts: Tensor, n_keep: int, protected: Tensor
) -> tuple[Tensor, Tensor]:
    """Alternate every start to a fixed point, as if each layer had one column group.

    Args:
        layers: The tied layers.
        starts: Kept units of each start, bool (starts, n_units), all protected ones among them.
        n_keep: Units kept.
        protected: Units that are always kept, bool (n_units,).

    Returns:
        Kept units (starts, n_units) and energies (starts,), which are at least the starts' own.
    """
    units = starts.clone()
    energies = torch.zeros(starts.shape[0])
    active = torch.arange(starts.shape[0])
    for _ in range(MAX_SWEEPS):
        kept, gained, own = _sweep(layers, units[active], n_keep, protected)
        # Only a strict gain moves a start, so equal energies cannot make it wander.
        better = gained > own * (1 + 1e-6)
        energies[active] = torch.where(better, gained, own)
        active = active[better]
        units[active] = kept[better]
        if active.numel() == 0:
            break
    return units, energies


def choose(layers: Sequence[TiedMatrix], units: Tensor) -> UnitChoice:
    """The exact best columns of every layer for given units."""
    columns: list[Tensor | None] = []
    energy = 0.0
    for layer in layers:
        rows = kept_rows(layer, units)
        if layer.rule is None:
            columns.append(None)
            energy += float(layer.squares[rows].sum())
            continue
        energies = group_energies(layer.squares, rows, layer.rule.group_size)
        chosen = choose_columns(energies, layer.rule)
        columns.append(chosen)
        energy += float(energies[chosen].sum())
    return UnitChoice(units, columns, energy)


def kept_rows(layer: TiedMatrix, units: Tensor) -> Tensor:
    """Ascending indices of the layer's filters whose unit is kept."""
    return units[layer.unit_of_filter].nonzero().squeeze(1)


def refine_groups(
    layers: Sequence[TiedMatrix], best: UnitChoice, n_keep: int, protected: Tensor
) -> UnitChoice:
    """Alternate with every group's own columns, from one choice.

    A filter's score is its energy in the columns of the group it would fall into. Regrouping can
    undo a gain, so a step is taken only if the true energy rises.
    """
    for _ in range(MAX_SWEEPS):
        scores = torch.zeros(1, best.units.numel())
        for layer, columns in zip(layers, best.columns, strict=True):
            rows = _grouped_row_scores(layer, columns, kept_rows(layer, best.units))
            scores += unit_scores(layer, rows.unsqueeze(0), best.units.numel())
        candidate = choose(layers, top_k_mask(scores[0].masked_fill(protected, torch.inf), n_keep))
        if candidate.energy <= best.energy * (1 + 1e-6):
            break
        best = candidate
    return best


def _grouped_row_scores(layer: TiedMatrix, columns: Tensor | None, rows: Tensor) -> Tensor:
    if columns is None or layer.rule is None:
        return layer.squares.sum(1)
    before = torch.searchsorted(rows, torch.arange(layer.squares.shape[0]))
    group = group_of_row(rows.numel(), layer.rule.group_size)[before.clamp(max=rows.numel() - 1)]
    scores = layer.squares @ columns.to(layer.squares.dtype).T  # (O, n_groups)
    return scores.gather(1, group.unsqueeze(1)).squeeze(1)


def choice_masks(layers: Sequence[TiedMatrix], choice: UnitChoice) -> list[Tensor]:
    """Bool (O, P) masks of a choice, one per layer."""
    masks = []
    for layer, columns in zip(layers, choice.columns, strict=True):
        rows = kept_rows(layer, choice.units)
        n_filters, n_columns = layer.squares.shape
        if columns is None or layer.rule is None:
            mask = torch.zeros(n_filters, n_columns, dtype=torch.bool)
            mask[rows] = True
        else:
            mask = dense_mask(columns, rows, n_filters, layer.rule.group_size)
        masks.append(mask)
    return masks
