"""Curves made of characters."""

import math

import pytest

from grpo_agents.terminal.text_pictures import MANY, Series, binned, dots, limits, sparkline

NAN = math.nan


def lit(lines):
    """Where dots are lit, as (column, row) with row 0 at the top."""
    bits = {
        0x01: (0, 0),
        0x02: (0, 1),
        0x04: (0, 2),
        0x40: (0, 3),
        0x08: (1, 0),
        0x10: (1, 1),
        0x20: (1, 2),
        0x80: (1, 3),
    }
    return {
        (2 * across + column, 4 * down + row)
        for down, line in enumerate(lines)
        for across, character in enumerate(line)
        for bit, (column, row) in bits.items()
        if (ord(character) - 0x2800) & bit
    }


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([1, 2], 5, "▁█"),
        ([2, 1, 2, 1, 8, 8], 3, "▁▁█"),
        ([3, 3, 3], 3, "▁▁▁"),
        ([NAN, 1, math.inf, 2], 4, " ▁ █"),
        ([NAN], 4, ""),
        ([], 4, ""),
        ([1, 2, 3], 0, ""),
    ],
)
def test_a_sparkline_goes_from_the_lowest_to_the_highest_block(values, width, drawn):
    assert sparkline(values, width) == drawn


def test_bins_keep_the_mean_and_the_order():
    values = [float(number) for number in range(96)]
    bins = binned(values, 12)
    assert bins == [3.5 + 8 * place for place in range(12)]
    assert binned([NAN, 4.0, NAN, NAN], 2)[0] == 4.0
    assert len(binned(values, 7)) == 7


def test_a_line_joins_its_points_without_a_gap():
    seen = lit(dots([(0, 0.0, NAN, NAN), (10, 1.0, NAN, NAN)], 8, 3))
    assert {column for column, _ in seen} == set(range(16))
    assert {row for _, row in seen} == set(range(12))
    assert (0, 11) in seen
    assert (15, 0) in seen


def test_an_interval_is_a_bar_from_end_to_end():
    seen = lit(dots([(5, 0.5, 0.0, 1.0)], 4, 2))
    assert seen == {(0, row) for row in range(8)}


def test_what_is_not_finite_is_a_gap():
    assert lit(dots([(0, NAN, NAN, NAN), (1, 1.0, NAN, NAN), (2, NAN, NAN, NAN)], 3, 1)) == {(2, 3)}
    assert dots([], 3, 2) == ["⠀⠀⠀"] * 2
    assert limits([(0, NAN, NAN, NAN)]) == ((0, 0), (0, 0))


def test_a_series_of_any_length_stays_small_and_keeps_its_shape():
    series = Series()
    count = 40 * MANY + 3
    for number in range(count):
        series.add(float(number))
    assert len(series.points) < MANY
    assert series.points == sorted(series.points)
    assert sum(series.points) / len(series.points) == pytest.approx(count / 2, rel=0.01)
    assert series.last == [float(number) for number in range(count - 10, count)]
