"""Projections against brute force, random feasible points and their own idempotence.

Spans: pneumonia.compression.sets.alternation, pneumonia.compression.sets.columns,
pneumonia.compression.sets.combined, pneumonia.compression.sets.constraint,
pneumonia.compression.sets.units.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from pneumonia.compression.sets.alternation import (
    TiedMatrix,
    alternate,
    choose,
    column_masks,
    random_starts,
)
from pneumonia.compression.sets.columns import ColumnRule
from pneumonia.compression.sets.combined import Combined, TiedFilters, TiedLayer
from pneumonia.compression.sets.constraint import Constraint, gemm_view, keep_count, top_k_mask
from pneumonia.compression.sets.units import Channels, Columns, Filters
from pneumonia.runtime.errors import PruneError


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def subsets(n: int, k: int) -> Iterator[tuple[int, ...]]:
    return itertools.combinations(range(n), min(k, n))


def column_choices(n_groups: int, p: int, rule: ColumnRule) -> Iterator[Tensor]:
    """Every legal bool (n_groups, P), straight from the definition."""
    if rule.budget == "group":
        for choice in itertools.product(subsets(p, rule.n_keep), repeat=n_groups):
            mask = torch.zeros(n_groups, p, dtype=torch.bool)
            for group, columns in enumerate(choice):
                mask[group, list(columns)] = True
            yield mask
        return
    for chosen in subsets(n_groups * p, min(rule.n_keep, p) * n_groups):
        mask = torch.zeros(n_groups * p, dtype=torch.bool)
        mask[list(chosen)] = True
        if mask.reshape(n_groups, p).any(1).all():
            yield mask.reshape(n_groups, p)


def best_energy(matrix: Tensor, rows: int, rule: ColumnRule | None) -> float:
    """Largest energy of any legal support, by trying all of them."""
    squares, best = matrix.double().square(), 0.0
    for kept in subsets(matrix.shape[0], rows):
        part = squares[list(kept)]
        if rule is None:
            best = max(best, float(part.sum()))
            continue
        size = rule.group_size or len(kept)
        panels = [part[i : i + size].sum(0) for i in range(0, len(kept), size)]
        energies = torch.stack(panels)
        best = max(
            best,
            *(float(energies[m].sum()) for m in column_choices(len(panels), matrix.shape[1], rule)),
        )
    return best


SETS: list[tuple[Constraint, int, ColumnRule | None]] = [
    (Filters(2), 2, None),
    (Columns(2), 4, ColumnRule(2)),
    (Columns(2, 2), 4, ColumnRule(2, 2)),
    (Columns(1, 3), 4, ColumnRule(1, 3)),
    (Columns(2, 2, "layer"), 4, ColumnRule(2, 2, "layer")),
    (Columns(1, 1, "layer"), 4, ColumnRule(1, 1, "layer")),
]


@pytest.mark.parametrize(("constraint", "rows", "rule"), SETS)
@pytest.mark.parametrize("seed", range(5))
def test_energy_kept_is_the_best_there_is(
    constraint: Constraint, rows: int, rule: ColumnRule | None, seed: int
) -> None:
    v = gaussian(seed, 4, 5)
    z, mask = constraint.project(v)
    assert torch.equal(z, v * mask)
    assert float(z.double().square().sum()) == pytest.approx(best_energy(v, rows, rule), rel=1e-12)


def test_channels_are_the_best_input_channels() -> None:
    v = gaussian(0, 3, 4, 2, 2)
    z, mask = Channels(2).project(v)
    energies = v.square().sum((0, 2, 3))
    kept = sorted(energies.argsort(descending=True)[:2].tolist())
    assert mask.any(0).flatten(1).any(1).nonzero().flatten().tolist() == kept
    assert torch.equal(z, v * mask)
    assert Channels(2).storage_bits(z).total == 3 * 2 * 4 * 32


def test_combined_finds_nearly_always_the_optimum_of_8_by_12() -> None:
    """Methods 2.2: nine starts are optimal in 92 % of Gaussian draws and keep 99.8 %."""
    rule = ColumnRule(4)
    ratios = []
    for seed in range(60):
        v = gaussian(seed, 8, 12)
        energy = float(Combined(3, 4).project(v).z.double().square().sum())
        exact = max(
            float(v.double().square()[list(rows)].sum(0).topk(rule.n_keep).values.sum())
            for rows in subsets(8, 3)
        )
        assert energy <= exact * (1 + 1e-9)
        ratios.append(energy / exact)
    assert sum(ratio > 1 - 1e-6 for ratio in ratios) >= 0.85 * len(ratios)
    assert sum(ratios) / len(ratios) > 0.995


def energy_of(v: Tensor, mask: Tensor) -> float:
    return float((v.double() * mask).square().sum())


@given(
    st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 9), st.integers(0, 3),
    st.floats(0, 2),
)  # fmt: skip
@example(seed=2, n_filters=3, n_columns=1, group_size=2, spread=0.0)
def test_combined_is_at_least_the_best_marginal_choice(
    seed: int, n_filters: int, n_columns: int, group_size: int, spread: float
) -> None:
    """Rows by full energy with the best columns for them; and the columns first, then the rows."""
    v = gaussian(seed, 7, 9) * torch.exp(spread * gaussian(seed + 1, 7, 1))
    squares = v.double().square()
    kept = energy_of(v, Combined(n_filters, n_columns, group_size).project(v).mask)

    def with_best_columns(rows: Tensor) -> float:
        part = Columns(n_columns, group_size).project(v[rows]).mask
        return energy_of(v[rows], part)

    by_rows = squares.sum(1).topk(n_filters).indices.sort().values
    assert kept >= with_best_columns(by_rows) * (1 - 1e-5)
    columns = squares.sum(0).topk(n_columns).indices
    by_columns = squares[:, columns].sum(1).topk(n_filters).indices.sort().values
    if group_size == 0:
        assert kept >= float(squares[by_columns][:, columns].sum()) * (1 - 1e-5)
        assert kept >= with_best_columns(by_columns) * (1 - 1e-5)


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 12), st.integers(1, 3))
def test_no_sweep_of_the_alternation_loses_energy(
    seed: int, n_filters: int, n_columns: int, n_layers: int
) -> None:
    """One sweep after another from random starts, over tied layers; `alternate` ends as high."""
    layers = [
        TiedMatrix(gaussian(seed + i, 8, 12).square(), torch.arange(8), ColumnRule(n_columns))
        for i in range(n_layers)
    ]
    nothing = torch.zeros(8, dtype=torch.bool)
    units = random_starts(8, n_filters, 5, seed)
    ends, reached = alternate(layers, units, n_filters, nothing)
    before = torch.zeros(5)
    for _ in range(4):
        now = torch.tensor([choose(layers, own).energy for own in units])
        assert bool((now >= before * (1 - 1e-5)).all())
        scores = torch.zeros(5, 8)
        for layer in layers:
            columns = column_masks(layer, units)
            assert columns is not None
            scores += columns @ layer.squares.T
        units = torch.stack([top_k_mask(own, n_filters) for own in scores])
        before = now
    assert bool((reached >= before * (1 - 1e-4)).all())
    for own, energy in zip(ends, reached, strict=True):
        assert choose(layers, own).energy == pytest.approx(float(energy), rel=1e-4)


@pytest.mark.parametrize("budget", ["group", "layer"])
def test_combined_with_group_columns_is_close_to_brute_force(budget: str) -> None:
    rule = ColumnRule(2, 2, budget)  # type: ignore[arg-type]
    ratios = []
    for seed in range(12):
        v = gaussian(seed, 6, 5)
        z, mask = Combined(4, 2, 2, rule.budget).project(v)
        assert torch.equal(z, v * mask)
        ratios.append(float(z.double().square().sum()) / best_energy(v, 4, rule))
        assert ratios[-1] <= 1 + 1e-6
    assert sum(ratios) / len(ratios) > 0.97


def all_sets_but_combined() -> list[st.SearchStrategy[Constraint]]:
    few = st.integers(1, 6)
    return [
        st.builds(Filters, few),
        st.builds(Channels, few),
        st.builds(Columns, few, st.integers(0, 3), st.sampled_from(["group", "layer"])),
    ]


def all_sets() -> st.SearchStrategy[Constraint]:
    few, budget = st.integers(1, 6), st.sampled_from(["group", "layer"])
    combined = st.builds(Combined, few, few, st.integers(0, 3), budget)
    return st.one_of(*all_sets_but_combined(), combined)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 3)), *[draw(st.integers(1, 2))] * 2)
    count = shape[0] * shape[1] * shape[2] * shape[3]
    value = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e-30, 3e38])
    return torch.tensor(draw(st.lists(value, min_size=count, max_size=count))).reshape(shape)


@given(all_sets(), weights())
def test_a_projection_projects_onto_itself_and_never_empties_the_layer(
    constraint: Constraint, v: Tensor
) -> None:
    z, mask = constraint.project(v)
    assert mask.dtype == torch.bool
    assert mask.shape == v.shape
    assert torch.equal(z, torch.where(mask, v, torch.zeros(())))
    again = constraint.project(z)
    assert torch.equal(again.z, z)
    assert mask.any()
    if bool((v != 0).all()):
        assert (z != 0).any()


@given(st.one_of(*all_sets_but_combined()), st.integers(0, 10_000))
def test_no_random_feasible_point_is_nearer(constraint: Constraint, seed: int) -> None:
    """Any support of the set, found by projecting noise, keeps less of v than the projection."""
    v, noise = gaussian(seed, 5, 3, 2, 2), gaussian(seed + 1, 5, 3, 2, 2)
    mask = constraint.project(noise).mask
    assert (v - constraint.project(v).z).norm() <= (v - v * mask).norm() * (1 + 1e-6)


@given(
    st.integers(1, 5),
    st.builds(
        ColumnRule, st.integers(1, 6), st.integers(0, 3), st.sampled_from(["group", "layer"])
    ),
    st.integers(0, 10_000),
)
def test_a_search_from_a_feasible_point_is_never_farther_than_its_support(
    n_filters: int, rule: ColumnRule, seed: int
) -> None:
    """The combined projection is a search; ADMM gives it the previous Z to start from."""
    v, noise = gaussian(seed, 5, 3, 2, 2), gaussian(seed + 1, 5, 3, 2, 2)
    tied = TiedFilters(
        [TiedLayer("w", torch.arange(5), rule)], n_filters, torch.zeros(5, dtype=torch.bool)
    )
    near = tied.project({"w": noise})["w"]
    z = tied.project({"w": v}, near={"w": near.z})["w"].z
    assert (v - z).norm() <= (v - v * near.mask).norm() * (1 + 1e-6)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (Filters(2), [[1, 1, 1], [1, 1, 1], [0, 0, 0]]),
        (Columns(2), [[1, 1, 0]] * 3),
        (Columns(1, 2), [[1, 0, 0]] * 3),
        (Columns(1, 2, "layer"), [[1, 0, 0]] * 3),
        (Combined(2, 1), [[1, 0, 0], [1, 0, 0], [0, 0, 0]]),
        (Combined(2, 2, 1), [[1, 1, 0], [1, 1, 0], [0, 0, 0]]),
    ],
)
@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_equal_scores_keep_the_lower_index(
    constraint: Constraint, expected: list[list[int]], value: float
) -> None:
    mask = constraint.project(torch.full((3, 3), value)).mask
    assert mask.int().tolist() == expected


def test_scale_does_not_change_the_choice() -> None:
    for constraint in (Filters(2), Columns(3), Combined(2, 3), Combined(3, 2, 2)):
        v = gaussian(3, 5, 7)
        expected = constraint.project(v).mask
        assert torch.equal(constraint.project(v * 1e-30).mask, expected)
        assert torch.equal(constraint.project(v * 1e30).mask, expected)


def test_storage_bits_follow_the_formula() -> None:
    v = gaussian(0, 8, 2, 3, 3)  # P = 18: 5 bits a column number
    assert Filters(3).storage_bits(Filters(3).project(v).z) == (3 * 18 * 32, 0)
    columns = Columns(2)
    assert columns.storage_bits(columns.project(v).z) == (8 * 2 * 32, 2 * 5)
    wide = Columns(6)  # the bitmap of 18 bits is cheaper than 6 * 5
    assert wide.storage_bits(wide.project(v).z) == (8 * 6 * 32, 18)
    grouped = Columns(2, 3)  # groups of 3, 3 and 2 filters
    assert grouped.storage_bits(grouped.project(v).z) == (8 * 2 * 32, 3 * 2 * 5)
    combined = Combined(5, 3, 4)
    assert combined.storage_bits(combined.project(v).z) == (5 * 3 * 32, 2 * 3 * 5)


def test_tied_filters_add_their_energies() -> None:
    """Unit 1 wins by the sum although it is best in neither layer."""
    a = torch.tensor([[3.0], [2.0], [0.0]])
    b = torch.tensor([[0.0], [2.0], [2.8]])  # sums of squares: 9, 8, 7.84
    identity = torch.arange(3)
    tied = TiedFilters(
        [TiedLayer("a", identity), TiedLayer("b", identity)], 2, torch.zeros(3, dtype=torch.bool)
    )
    masks = {name: p.mask.flatten().tolist() for name, p in tied.project({"a": a, "b": b}).items()}
    assert masks == {"a": [True, True, False], "b": [True, True, False]}


def test_protected_units_stay_and_partial_layers_keep_a_filter() -> None:
    protected = torch.tensor([False, False, True, False])
    layers = [TiedLayer("a", torch.arange(4)), TiedLayer("b", torch.tensor([0, 1]))]
    v = {"a": torch.tensor([[1.0], [2.0], [0.1], [9.0]]), "b": torch.tensor([[0.2], [0.1]])}
    masks = TiedFilters(layers, 1, protected).project(v)
    assert masks["a"].mask.flatten().tolist()[2]
    assert masks["b"].mask.any()


@given(st.integers(0, 10_000), st.integers(0, 2), st.integers(1, 5), st.integers(1, 4))
def test_tied_columns_are_as_good_as_independent_layers_allow(
    seed: int, group_size: int, n_units: int, n_columns: int
) -> None:
    """Two tied layers keep the same units, each the best columns for them, idempotently."""
    rule = ColumnRule(n_columns, group_size)
    layers = [TiedLayer(name, torch.arange(6), rule) for name in "ab"]
    tied = TiedFilters(layers, n_units, torch.zeros(6, dtype=torch.bool))
    v = {"a": gaussian(seed, 6, 3, 1, 1), "b": gaussian(seed + 1, 6, 2, 2, 2)}
    first = tied.project(v)
    rows = {name: gemm_view(p.mask).any(1) for name, p in first.items()}
    assert torch.equal(rows["a"], rows["b"])
    assert int(rows["a"].sum()) == n_units
    second = tied.project({name: p.z for name, p in first.items()})
    for name, p in first.items():
        assert torch.equal(second[name].z, p.z)
        kept = gemm_view(v[name])[rows[name]]
        expected = Columns(n_columns, group_size).project(kept).z
        assert torch.allclose(gemm_view(p.z)[rows[name]], expected)


def test_keep_count_is_an_explicit_integer() -> None:
    assert keep_count(100, 36) == 3
    assert keep_count(10, 1000) == 1
    assert keep_count(64, 4, multiple=8) == 16
    assert keep_count(64, 100, multiple=8) == 8
    assert keep_count(4, 2, multiple=8) == 4
    assert keep_count(7, 1) == 7


@pytest.mark.parametrize("bad", [0, -1])
def test_a_budget_that_empties_the_layer_is_refused(bad: int) -> None:
    with pytest.raises(PruneError, match="empties the layer"):
        Filters(bad)
    with pytest.raises(PruneError, match="empties the layer"):
        Combined(2, bad)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    v = torch.ones(3, 3)
    v[1, 1] = value
    for constraint in (Filters(1), Channels(1), Columns(1), Combined(1, 1)):
        with pytest.raises(PruneError, match="not finite"):
            constraint.project(v)
