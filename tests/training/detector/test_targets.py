import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.runtime.model.layers import Detect
from pneumonia.training.detector.targets import AnchorMatches, assign, match_anchors

FINE = Detect("fine", ("x",), ((16.0, 16.0), (64.0, 64.0)), 1, 8)
COARSE = Detect("coarse", ("y",), ((32.0, 80.0),), 1, 16)


def box(image: int, cx: float, cy: float, w: float, h: float) -> list[float]:
    return [image, 0, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def places(found: AnchorMatches) -> set[tuple[int, ...]]:
    rows = torch.stack([found.image, found.anchor, found.row, found.column, found.target], 1)
    listed = [tuple(row) for row in rows.tolist()]
    assert len(set(listed)) == len(listed)
    return set(listed)


def test_cell_and_its_two_nearest_neighbours_by_hand():
    # centre (21, 26) / 8 = (2.625, 3.25): cell column 2, row 3; nearer to column 3 and to row 2.
    # 16 x 20 differs from 16 x 16 by 1.25, from 64 x 64 by 4 (too much), from 32 x 80 by 4.
    targets = torch.tensor([box(1, 21, 26, 16, 20)])
    fine, coarse = assign(targets, [FINE, COARSE], [(8, 8), (4, 4)], 4.0)
    assert places(fine) == {(1, 0, 3, 2, 0), (1, 0, 3, 3, 0), (1, 0, 2, 2, 0)}
    assert places(coarse) == set()


def test_darknet_coding_uses_only_the_own_cell():
    targets = torch.tensor([box(0, 21, 26, 16, 20)])
    head = FINE._replace(box_coding="darknet")
    assert places(assign(targets, [head], [(8, 8)], 4.0)[0]) == {(0, 0, 3, 2, 0)}


def test_neighbours_outside_the_map_are_left_out():
    # (2, 62) / 8 = (0.25, 7.75): the nearer neighbours are column -1 and row 8
    targets = torch.tensor([box(0, 2, 62, 16, 16)])
    assert places(assign(targets, [FINE], [(8, 8)], 4.0)[0]) == {(0, 0, 7, 0, 0)}


def test_centre_on_the_far_edge_stays_in_the_map():
    targets = torch.tensor([box(0, 64, 64, 16, 16)])
    found = places(assign(targets, [FINE], [(8, 8)], 4.0)[0])
    assert found == {(0, 0, 7, 7, 0)}


def test_box_that_fits_no_anchor_gets_the_nearest():
    # ratios: 16x16 -> 18.75, 64x64 -> 12.8, 32x80 -> 16
    fits = match_anchors(torch.tensor([[300.0, 5.0]]), [FINE, COARSE], 4.0)
    assert [part.tolist() for part in fits] == [[[False, True]], [[False]]]


def test_no_target_gives_no_match():
    found = assign(torch.zeros(0, 6), [FINE, COARSE], [(8, 8), (4, 4)], 4.0)
    assert [len(part.image) for part in found] == [0, 0]


coordinate = st.floats(0, 64, width=32)
length = st.floats(2, 64, width=32)


@given(st.lists(st.tuples(st.integers(0, 3), coordinate, coordinate, length, length), max_size=6))
def test_every_box_is_matched_within_reach(rows):
    targets = torch.tensor([box(*row) for row in rows]).reshape(-1, 6)
    found = assign(targets, [FINE, COARSE], [(8, 8), (4, 4)], 4.0)
    assert {int(t) for part in found for t in part.target} == set(range(len(rows)))
    for part, head, grid in zip(found, [FINE, COARSE], [8, 4], strict=True):
        assert ((part.row >= 0) & (part.row < grid)).all()
        assert ((part.column >= 0) & (part.column < grid)).all()
        chosen = targets[part.target]
        assert torch.equal(part.image, chosen[:, 0].long())
        centre = (chosen[:, 2:4] + chosen[:, 4:6]) / 2 / head.stride
        offset = centre - torch.stack([part.column, part.row], 1)
        # what 2 * sigmoid - 0.5 can express
        assert ((offset >= -0.5) & (offset <= 1.5)).all()


@pytest.mark.parametrize("ratio", [1.5, 2.0, 4.0])
def test_wider_ratio_never_matches_less(ratio):
    sizes = torch.tensor([[10.0, 30.0], [60.0, 50.0], [20.0, 20.0]])
    narrow = match_anchors(sizes, [FINE, COARSE], ratio)
    wide = match_anchors(sizes, [FINE, COARSE], ratio + 0.5)
    assert all((w | ~n).all() for n, w in zip(narrow, wide, strict=True))
