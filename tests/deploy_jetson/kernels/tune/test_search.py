"""The tuner's search."""

from deploy_jetson.kernels.kinds.columns.choice import ColumnsChoice
from deploy_jetson.kernels.tune.search import search


def test_search_of_a_small_space_is_exhaustive():
    space = [ColumnsChoice(p, 1, 1) for p in range(1, 9)]
    found, seconds = search(space, [0.0] * 8, lambda some: [abs(c.pixels - 6) for c in some])
    assert (found, seconds) == (space[5], 0)


def test_genetic_search_finds_what_the_model_ranks_badly_and_measures_little():
    space = [ColumnsChoice(p, v, r) for p in range(1, 13) for v in range(1, 7) for r in (1, 4, 9)]
    measured = []

    def seconds(some):
        measured.extend(some)
        return [(c.pixels - 7) ** 2 + 3 * (c.vectors - 3) ** 2 + c.rows_per_unit for c in some]

    model = [abs(c.pixels - 10) + abs(c.vectors - 4) for c in space]
    found, best = search(space, model, seconds)
    assert best <= 4
    assert found in space
    assert len(measured) == len(set(measured)) < len(space) / 2
    assert search(space, model, seconds) == (found, best)  # the same seed, the same way
