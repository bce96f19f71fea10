"""Weights for property tests: multiples of 1/8, so that squares sum exactly and ties occur."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def grid(low: int = -16, high: int = 16) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda n: n / 8)


def weights(max_filters: int = 4, max_channels: int = 3, kernel: int = 3):
    shape = st.tuples(
        st.integers(1, max_filters), st.integers(1, max_channels), st.just(kernel), st.just(kernel)
    )
    arrays = shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=grid()))
    return arrays.map(torch.from_numpy)


def matrices(max_rows: int = 4, max_columns: int = 9):
    shape = st.tuples(st.integers(1, max_rows), st.integers(1, max_columns))
    return shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=grid())).map(torch.from_numpy)


def energy(z: torch.Tensor) -> float:
    return float(z.double().square().sum())


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).square().sum())


def assert_sparse_projection(constraint, v: torch.Tensor) -> torch.Tensor:
    """What every sparsity set promises: z = v * mask, idempotent, the argument untouched."""
    before = v.clone()
    z, mask = constraint.project(v)
    assert torch.equal(v, before)
    assert mask.dtype == torch.bool
    assert mask.shape == v.shape == z.shape
    assert torch.equal(z, v * mask)
    assert mask.any(), "never empties a layer"
    assert torch.equal(constraint.project(z).z, z)
    return z
