"""Which columns of a GEMM matrix a set of filters keeps, shared by groups of filters.

The rows a layer keeps are cut into consecutive groups of `group_size` filters (the last may be
smaller, 0 means one group); the filters of a group share one list of columns, which is what the
sparse kernels run: one list of offsets per panel of filters.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pneumonia.compression.sets.constraint import (
    check_choice,
    check_integer,
    check_n_keep,
    top_k_mask,
)

Budget = Literal["group", "layer"]


class ColumnRule(NamedTuple):
    """How many columns are kept."""

    n_keep: int  # columns kept in each group
    group_size: int = 0  # filters that share one list of columns; 0 = all filters of the layer
    # `group`: every group keeps n_keep columns. `layer`: the layer keeps n_keep * n_groups pairs
    # (group, column), wherever they are worth most, and every group keeps at least one
    budget: Budget = "group"


def check_rule(rule: ColumnRule) -> None:
    """Refuse a rule that no layer can follow."""
    check_n_keep(rule.n_keep, "columns")
    check_integer(rule.group_size, "Group of filters", 0)
    check_choice(rule.budget, Budget, "Budget of the columns")


def group_count(n_rows: int, group_size: int) -> int:
    """Groups that n_rows filters make."""
    return 1 if group_size == 0 else -(-n_rows // group_size)


def group_of_row(n_rows: int, group_size: int) -> Tensor:
    """Group of the first, second, ... kept filter: int64 (n_rows,)."""
    if group_size == 0:
        return torch.zeros(n_rows, dtype=torch.int64)
    return torch.arange(n_rows) // group_size


def group_energies(squares: Tensor, rows: Tensor, group_size: int) -> Tensor:
    """Energy of every (group, column) pair.

    Args:
        squares: Squared GEMM matrix (O, P).
        rows: Ascending indices of the kept filters (n,).
        group_size: Filters per group.

    Returns:
        (n_groups, P), in the type of `squares`.
    """
    if group_size == 0 or group_size >= rows.numel():
        selected = torch.zeros(squares.shape[0], dtype=squares.dtype)
        selected[rows] = 1
        return (selected @ squares).unsqueeze(0)
    kept = squares if rows.numel() == squares.shape[0] else squares[rows]
    whole = rows.numel() // group_size * group_size
    energies = kept[:whole].reshape(-1, group_size, squares.shape[1]).sum(1)
    if whole < rows.numel():
        energies = torch.cat([energies, kept[whole:].sum(0, keepdim=True)])
    return energies


def choose_columns(energies: Tensor, rule: ColumnRule) -> Tensor:
    """The best columns of each group: bool (n_groups, P), lower indices first among equals.

    Exact for both budgets: with `layer`, the best column of each group and then the best of all
    others is the optimum under "at least one each" (the pairs form a matroid).
    """
    n_groups, n_columns = energies.shape
    n_keep = min(rule.n_keep, n_columns)
    if rule.budget == "group" or n_groups == 1:
        order = torch.sort(energies, dim=1, descending=True, stable=True).indices
        return torch.zeros(energies.shape, dtype=torch.bool).scatter_(1, order[:, :n_keep], True)
    lifted = energies.clone()
    best = energies.argmax(dim=1)  # the first of equal maxima
    lifted[torch.arange(n_groups), best] = torch.inf
    return top_k_mask(lifted.reshape(-1), n_keep * n_groups).reshape(energies.shape)


def dense_mask(columns: Tensor, rows: Tensor, n_filters: int, group_size: int) -> Tensor:
    """The bool (O, P) mask of column choices (n_groups, P) for the kept filters."""
    mask = torch.zeros(n_filters, columns.shape[1], dtype=torch.bool)
    mask[rows] = columns[group_of_row(rows.numel(), group_size)]
    return mask


def follows_rule(support: Tensor, rows: Tensor, rule: ColumnRule) -> bool:
    """Whether a support (O, P) whose filters outside `rows` are empty fits the rule as it is."""
    used = group_energies(support.float(), rows, rule.group_size) > 0
    n_keep = min(rule.n_keep, support.shape[1])
    if rule.budget == "group":
        return bool((used.sum(1) <= n_keep).all())
    return int(used.sum(1).clamp(min=1).sum()) <= n_keep * used.shape[0]
