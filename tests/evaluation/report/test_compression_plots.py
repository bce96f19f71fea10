"""The Pareto front against its definition; figures of little or no data."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluation.report import compression_plots as plots


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats_in_both(pairs):
    points = [plots.ParetoPoint(str(i), "x", *map(float, p), 0.0, 0.0) for i, p in enumerate(pairs)]
    front = plots.pareto_front(points)
    beaten = [
        p for p in points
        if any(q.rate >= p.rate and q.value >= p.value and q[2:4] != p[2:4] for q in points)
    ]  # fmt: skip
    assert {p[2:4] for p in front} == {p[2:4] for p in points if p not in beaten}
    assert [p.rate for p in front] == sorted({p.rate for p in front})


def test_pictures_are_pictures_even_of_little():
    points = [plots.ParetoPoint("a", "dense", 1.0, 0.5, 0.4, 0.6),
              plots.ParetoPoint("b", "irregular", 9.0, 0.4, np.nan, np.nan)]  # fmt: skip
    pictures = [
        plots.plot_pareto(points, "score"),
        plots.plot_layer_rates({"a": 2.0}, {"a": 2.1, "b": 1.0}),
        plots.plot_residuals([1], {"primal": [0.0]}),
        plots.plot_weights({"a": np.zeros(4, np.float32)}, {}),
        plots.plot_arrays({"a": np.array([0.5, np.nan]), "b": np.zeros(0)}, "share"),
    ]
    assert all(png.startswith(b"\x89PNG") for png in pictures)
    assert len(set(pictures)) == len(pictures)
