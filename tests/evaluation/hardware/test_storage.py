"""Storage formulas by hand (the byte formats are held to them in tests/runtime)."""

import numpy as np
import pytest

from evaluation.hardware.storage import (
    best_irregular_index_bits,
    bitmap_bits,
    break_even_ratio,
    csr_bits,
    darb_bits,
    index_bits,
)


def test_index_bits():
    assert [index_bits(n) for n in (0, 1, 2, 3, 4, 5, 256, 257)] == [0, 0, 1, 2, 2, 3, 8, 9]


def test_formulas_by_hand():
    assert csr_bits((4, 100), 10, 8) == (80, 10 * 7 + 5 * 4)
    assert bitmap_bits((4, 100), 10, 8) == (80, 400)
    assert darb_bits(16, [2, 4], 8) == ((4 + 1) * 8, 4 * 2 + 1 * 4 + 2 * 3)


def test_the_cheapest_index_is_taken():
    support = np.zeros((4, 100), dtype=bool)
    support[0, :10] = True  # ten neighbours: relative with one bit each
    assert best_irregular_index_bits(support, 8) == 10


@pytest.mark.parametrize(("bits", "low", "high"), [(8, 1.7, 1.8), (4, 2.3, 2.6), (2, 3.5, 4.2)])
def test_break_even_is_in_the_published_range(bits, low, high):
    found = [break_even_ratio(density, bits) for density in (0.1, 0.05)]
    assert low - 0.05 <= min(found)
    assert max(found) <= high + 0.05
