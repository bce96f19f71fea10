"""The arithmetic of the Winograd transforms, as the template writes it."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from deploy_jetson.kernels.kinds.winograd.choice import WinogradVariant
from deploy_jetson.kernels.kinds.winograd.matrices import Matrix, winograd_matrices
from deploy_jetson.kernels.targets import Target

# The number type of the input transform, by the suffix of the arithmetic.
NUMBER_TYPES = {"real": "real", "i8x2": "int16_t"}


class RowPair(NamedTuple):
    """Two results of points p and -p, which share the sums of even and of odd terms."""

    row: int
    even: str
    odd: str


class PlainRow(NamedTuple):
    """One result row and the C expression of its sum."""

    row: int
    sum: str


def template_context(variants: Sequence[WinogradVariant], target: Target) -> dict[str, Any]:
    """Values of the templates."""
    transforms = sorted({(variant.out_tile, variant.number) for variant in variants})
    products = {(p, v.vectors, v.number) for v in variants for p in v.widths}
    return {
        "variants": variants,
        "products": sorted(products),
        "transforms": [
            (
                m,
                number,
                input_rows(winograd_matrices(m).input, NUMBER_TYPES[number]),
                *output_rows(winograd_matrices(m).output),
                sorted(
                    {
                        (v.formats, v.suffix)
                        for v in variants
                        if (v.out_tile, v.number) == (m, number)
                    }
                ),
            )
            for m, number in transforms
        ],
    }


def input_rows(matrix: Matrix, number: str = "real") -> list[RowPair | PlainRow]:
    """R = B^T d in a C type: rows of p and -p share their even and odd halves."""
    found: list[RowPair | PlainRow] = []
    i = 0
    while i < len(matrix):
        terms = [(factor, f"d[{j} * from]") for j, factor in enumerate(matrix[i])]
        if i + 1 < len(matrix) and _mirrored(matrix[i], matrix[i + 1]):
            found.append(RowPair(i, _sum(terms[0::2], number), _sum(terms[1::2], number)))
            i += 2
        else:
            found.append(PlainRow(i, _sum(terms, number)))
            i += 1
    return found


def output_rows(matrix: Matrix) -> tuple[list[int], list[PlainRow]]:
    """R = A^T d, whose *columns* come in pairs p, -p.

    Returns:
        The first column of every pair, whose sum and difference are named s<i> and d<i>; the rows.
    """
    columns = list(zip(*matrix, strict=True))
    pairs = list(_pairs(columns))
    second = {i + 1 for i in pairs}
    operands = {
        j: (f"s{j}", f"d{j}") if j in pairs else (f"d[{j} * from]",) * 2
        for j in range(len(columns))
        if j not in second
    }
    rows = [
        PlainRow(row, _sum([(factors[j], names[row % 2]) for j, names in operands.items()]))
        for row, factors in enumerate(matrix)
    ]
    return pairs, rows


def _pairs(columns: Sequence[Sequence[Fraction]]) -> Iterator[int]:
    i = 0
    while i + 1 < len(columns):
        if _mirrored(columns[i], columns[i + 1]):
            yield i
            i += 1
        i += 1


def _mirrored(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether b is a with every odd entry negated: the rows of the points p and -p."""
    return all(y == (-x if i % 2 else x) for i, (x, y) in enumerate(zip(a, b, strict=True)))


def _sum(terms: Sequence[tuple[Fraction, str]], number: str = "real") -> str:
    """`c1 * a + c2 * b ...` without multiplications by one."""
    text = ""
    for factor, name in terms:
        if not factor:
            continue
        size = abs(factor)
        factor_text = float(size) if number == "real" else int(size)
        term = name if size == 1 else f"{name} * ({number}){factor_text!r}"
        if not text:
            text = term if factor > 0 else f"-{term}"
        else:
            text += f" {'+' if factor > 0 else '-'} {term}"
    return text or "(vreal){0}"
