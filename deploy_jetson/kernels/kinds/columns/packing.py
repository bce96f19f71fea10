"""Panels of filters, their kept columns and the pieces these are cut into."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.plan.tensors import Ints


class FilterPanels(NamedTuple):
    """Panels of filters with their kept columns."""

    columns: Ints  # (sum n,) column numbers j = i * K * K + kh * K + kw, panel after panel
    starts: npt.NDArray[np.int32]  # (panels + 1,) int32 into `columns`
    # (sum n, width) of the matrix's type, one row of filters per kept column
    weights: npt.NDArray[np.generic]


def pack_panels(matrix: npt.NDArray[Any], width: int, order: Ints | None = None) -> FilterPanels:
    """Cut a (O, P) matrix into panels of `width` filters, each with the union of their columns.

    Filters beyond O are zero. A panel without weights has no columns: it yields the bias alone.

    Args:
        matrix: (O, P).
        width: Filters of a panel.
        order: (P,) columns in the order they are to be stored; default: as they are.
    """
    columns, weights, starts = [], [], [0]
    for first in range(0, len(matrix), width):
        panel = matrix[first : first + width]
        live = (panel != 0).any(axis=0)
        kept = np.flatnonzero(live) if order is None else order[live[order]]
        block = np.zeros((len(kept), width), matrix.dtype)
        block[:, : len(panel)] = panel[:, kept].T
        columns.append(kept.astype(np.int64))
        weights.append(block)
        starts.append(starts[-1] + len(kept))
    return FilterPanels(
        np.concatenate(columns), np.array(starts, np.int32), np.concatenate(weights)
    )


class ListPieces(NamedTuple):
    """The lists of panels, cut into pieces."""

    first: npt.NDArray[np.int32]  # (panels + 1,) int32 first piece of every panel
    starts: npt.NDArray[np.int32]  # (pieces + 1,) int32 first column of every piece


def cut_panels(
    panels: FilterPanels, source_of: Ints, sizes: tuple[int, int], budget: int, turn: int = 1
) -> ListPieces:
    """Cut every panel's list where what it touches would exceed the budget.

    Args:
        panels: Columns of one source lie side by side.
        source_of: (P,) plane of the input that a column reads.
        sizes: Bytes of the inputs of one source, and of the weights of one column.
        budget: Bytes of a piece; 0: lists stay whole.
        turn: Columns that stay together, counted from a list's start.
    """
    first, starts = [0], []
    for low, high in zip(panels.starts[:-1].tolist(), panels.starts[1:].tolist(), strict=True):
        starts.append(low)
        sources = source_of[panels.columns[low:high]]
        spent, last = 0, -1
        for at, source in enumerate(sources.tolist() if budget else (), low):
            cost = sizes[1] + (sizes[0] if source != last else 0)
            if spent and spent + cost > budget and (at - low) % turn == 0:
                starts.append(at)
                spent, cost = 0, sum(sizes)
            spent, last = spent + cost, source
        first.append(len(starts))
    starts.append(int(panels.starts[-1]))
    return ListPieces(np.array(first, np.int32), np.array(starts, np.int32))
