"""Pareto fronts beside what can be counted by hand, and beside brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_agents.evaluation.fronts import front, hypervolume

TWO = {"outcome": "max", "cost": "min"}


def named(rows, names=("a", "b", "c", "d")):
    return [dict(zip(names, row, strict=False)) for row in rows]


def beats(one, other, directions):
    signs = {name: 1 if direction == "max" else -1 for name, direction in directions.items()}
    gains = [sign * (one[name] - other[name]) for name, sign in signs.items()]
    return min(gains) >= 0 and max(gains) > 0


def test_a_front_by_hand():
    points = [
        {"outcome": 0.9, "cost": 5.0},  # dear and good
        {"outcome": 0.9, "cost": 6.0},  # dearer, no better
        {"outcome": 0.2, "cost": 0.0},  # free
        {"outcome": 0.1, "cost": 0.0},
        {"outcome": 0.5, "cost": 2.0},
        {"outcome": 0.5, "cost": 2.0},  # again: equals do not beat each other
    ]
    assert front(points, TWO) == [True, False, True, False, True, True]
    assert front(points, {"outcome": "max"}) == [True, True, False, False, False, False]
    assert front(points, {"cost": "min"}) == [False, False, True, True, False, False]
    assert front(points, {"cost": "max"}) == [False, True, False, False, False, False]


def test_what_is_not_asked_for_does_not_count():
    points = [{"outcome": 1.0, "note": math.nan}, {"outcome": 0.0, "note": 9.0}]
    assert front(points, {"outcome": "max"}) == [True, False]


def test_no_points():
    assert front([], TWO) == []
    assert hypervolume([], TWO, {"outcome": 0.0, "cost": 1.0}) == 0.0


@given(st.integers(1, 4), st.data())
def test_a_front_is_what_nothing_beats(count, data):
    """On a coarse grid there are ties and duplicates."""
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, 3)] * count), max_size=12))
    directions = {name: data.draw(st.sampled_from(("max", "min"))) for name in "abcd"[:count]}
    points = named(rows)
    expected = [not any(beats(other, point, directions) for other in points) for point in points]
    assert front(points, directions) == expected


@given(st.integers(1, 4), st.data())
def test_a_hypervolume_is_the_count_of_the_dominated_cells(count, data):
    """Points on a grid dominate whole cells of side 1."""
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, 4)] * count), max_size=8))
    cells = itertools.product(range(4), repeat=count)
    expected = sum(any(all(cell < value for cell, value in zip(at, row, strict=True)) for row in rows) for at in cells)
    directions = dict.fromkeys("abcd"[:count], "max")
    found = hypervolume(
        [{name: min(4, value) for name, value in row.items()} for row in named(rows)],
        directions,
        dict.fromkeys("abcd", 0.0),
    )
    assert found == pytest.approx(expected)
    mirrored = [{name: -value for name, value in row.items()} for row in named(rows)]
    assert hypervolume(mirrored, dict.fromkeys(directions, "min"), dict.fromkeys("abcd", 0.0)) == pytest.approx(
        expected
    )


def test_a_hypervolume_by_hand():
    points = [{"outcome": 1.0, "cost": 3.0}, {"outcome": 0.5, "cost": 1.0}, {"outcome": 0.9, "cost": 9.0}]
    worst = {"outcome": 0.0, "cost": 4.0}
    assert hypervolume(points, TWO, worst) == pytest.approx(1.0 * 1.0 + 0.5 * 2.0)  # the third is dearer than the worst
    assert hypervolume(points[2:], TWO, worst) == 0.0
    inside = [*points, {"outcome": 0.4, "cost": 1.5}]
    assert hypervolume(inside, TWO, worst) == pytest.approx(hypervolume(points, TWO, worst))


@pytest.mark.parametrize("value", [math.nan, math.inf, None, np.float64("nan")])
def test_what_is_no_number_is_refused_by_name(value):
    points = [{"outcome": 1.0, "cost": 0.0}, {"outcome": 0.5, "cost": value}]
    with pytest.raises(ValueError, match=r"point 1: 'cost' is .*leave such points out"):
        front(points, TWO)
    with pytest.raises(ValueError, match="worst: 'cost' is"):
        hypervolume(points[:1], TWO, points[1])
    with pytest.raises(ValueError, match="point 0: 'latency' is None"):
        front(points, {"latency": "min"})


def test_a_direction_that_is_none_is_refused():
    with pytest.raises(ValueError, match="the direction of 'cost' is 'less': max and min are known"):
        front([], {"cost": "less"})
    with pytest.raises(ValueError, match="name at least one"):
        front([], {})
