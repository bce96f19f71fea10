"""The order and the padding of a layer's filters."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from deploy_jetson.kernels.plan.layer_problem import Weights
from deploy_jetson.kernels.plan.tensors import Ints

Number = TypeVar("Number", bound=np.generic)


def pad_filters(values: npt.NDArray[Number], width: int) -> npt.NDArray[Number]:
    """Zero-pad the first axis to a multiple of `width`."""
    short = -len(values) % width
    return np.concatenate([values, np.zeros((short, *values.shape[1:]), values.dtype)])


def filter_order(matrix: Weights) -> Ints:
    """Filters with equal supports side by side, empty ones last; else as they were.

    Returns:
        (O,) the old index of every new position.
    """
    supports: dict[bytes, int] = {}
    keys = []
    for index, row in enumerate(matrix != 0):
        first = supports.setdefault(row.tobytes(), index)
        keys.append((not row.any(), first, index))
    return np.array([key[2] for key in sorted(keys)], np.int64)
