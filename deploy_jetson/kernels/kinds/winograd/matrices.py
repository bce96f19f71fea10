"""Winograd convolution F(m, 3): the matrices, derived, and the transformed weights.

y = A^T [(G g G^T) * (B^T d B)] A, with the Cook-Toom construction on the points 0, 1, -1, 2, -2,
1/2, -1/2 and infinity. Transposing the linear convolution s = V_n^-1 [(V_3 g) * (V_m h)] gives
A^T = V_m^T, G = V_3, B^T = V_n^-T; rows are scaled so that B^T holds small numbers.
Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = tuple[tuple[Fraction, ...], ...]
POINTS = tuple(
    Fraction(*pair) for pair in ((0, 1), (1, 1), (-1, 1), (2, 1), (-2, 1), (1, 2), (-1, 2))
)
TAPS = 3


class WinogradMatrices(NamedTuple):
    """Exact matrices of F(m, 3), n = m + 2."""

    output: Matrix  # a^T (m, n)
    weight: Matrix  # G (n, 3)
    input: Matrix  # B^T (n, n)


def _vandermonde(points: tuple[Fraction, ...], width: int) -> list[list[Fraction]]:
    """Rows of powers of the points; the last row is the point at infinity."""
    rows = [[point**power for power in range(width)] for point in points]
    return [*rows, [Fraction(int(power == width - 1)) for power in range(width)]]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    n = len(matrix)
    rows = [row + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = next(i for i in range(column, n) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for i in range(n):
            if i != column and rows[i][column]:
                factor = rows[i][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[n:] for row in rows]


def winograd_matrices(out_tile: int) -> WinogradMatrices:
    """Matrices of F(out_tile, 3) for a tile side of 2, 4 or 6 output pixels."""
    n = out_tile + TAPS - 1
    points = POINTS[: n - 1]
    output = _vandermonde(points, out_tile)
    weight = _vandermonde(points, TAPS)
    inverse = _inverse(_vandermonde(points, n))
    transform = [[inverse[j][i] for j in range(n)] for i in range(n)]
    for i, point in enumerate(points):
        scale = Fraction(1)
        for j, other in enumerate(points):
            if j != i:
                scale *= point - other
        transform[i] = [value * scale for value in transform[i]]
        weight[i] = [value / scale for value in weight[i]]
    transposed = tuple(tuple(output[j][i] for j in range(n)) for i in range(out_tile))
    return WinogradMatrices(transposed, tuple(map(tuple, weight)), tuple(map(tuple, transform)))


def transform_weights(weight: npt.NDArray[Any], out_tile: int) -> npt.NDArray[np.float64]:
    """G g G^T of every kernel, computed in float64.

    Args:
        weight: (O, I, 3, 3).
        out_tile: 2, 4 or 6.

    Returns:
        (n * n, O, I), n = out_tile + 2.
    """
    g = np.array([[float(value) for value in row] for row in winograd_matrices(out_tile).weight])
    n_out, n_in = weight.shape[:2]
    half = np.tensordot(weight.astype(np.float64), g, axes=([3], [1]))  # (O, I, 3, n)
    full = np.tensordot(half, g, axes=([2], [1]))  # (O, I, n over x, n over y)
    n = out_tile + TAPS - 1
    return full.transpose(3, 2, 0, 1).reshape(n * n, n_out, n_in)
