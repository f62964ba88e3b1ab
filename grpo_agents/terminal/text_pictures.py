r"""Pictures made of characters, for terminals: a curve as one line, or as a small field of dots.

>>> from math import nan
>>> sparkline([0, 1, 2, 3, 2, 1, 0, nan], 8)
'▁▃▆█▆▃▁ '
>>> print("\n".join(dots([(0, 0.0, nan, nan), (1, 1.0, 0.5, 1.0), (2, 0.0, nan, nan)], 5, 2)))
⢀⡼⣷⡀⠀
⡞⠀⠀⠹⣄

"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

MANY = 512
"""A series keeps no more points than this; of a longer one, the means of neighbours."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column


class Series:
    """Values as they come, in so little room that a run of any length is drawn in no time.

    Args:
        values: Those that have come already.
    """

    def __init__(self, values: Sequence[float] = ()) -> None:
        self.points: list[float] = []
        """Means of so many neighbours each, as had to be put together."""
        self.last: list[float] = []
        """The latest ones, as they are."""
        self._each = 1
        self._waiting: list[float] = []
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        """Takes the next one."""
        self.last = [*self.last[-9:], value]
        self._waiting.append(value)
        if len(self._waiting) == self._each:
            self.points.append(_mean(self._waiting))
            self._waiting = []
        if len(self.points) == MANY:
            self.points = [_mean(self.points[place : place + 2]) for place in range(0, MANY, 2)]
            self._each *= 2


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve as one line: the lowest value is the lowest block. What is not finite is a gap.

    Args:
        values: In order; more of them than the width are put together.
        width: Characters, at the most.
    """
    cells = binned(values, width)
    known = [value for value in cells if math.isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] if math.isfinite(value) else " " for value in cells)


def dots(points: Sequence[tuple[float, float, float, float]], width: int, height: int) -> list[str]:
    """Points as braille dots, joined, each with the bar of its interval; the lines of the picture.

    Args:
        points: Where, how much, and the ends of the interval (NaN for none), (x, y, low, high) each.
        width: Characters; each is two dots wide.
        height: Lines; each is four dots high.
    """
    columns, rows = 2 * width, 4 * height
    (left, right), (low, high) = limits(points)
    cells = [[0] * width for _ in range(height)]

    def draw(column: int, values: Sequence[float]) -> None:
        known = [rows - 1 - _place(value, low, high, rows) for value in values if math.isfinite(value)]
        for row in range(min(known), max(known) + 1) if known else ():
            cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]

    for x, *values in points:
        draw(_place(x, left, right, columns), values)
    for (x, y, *_), (next_x, next_y, *_) in pairwise(points):
        start, stop = _place(x, left, right, columns), _place(next_x, left, right, columns)
        step = (next_y - y) / max(1, stop - start)
        for column in range(start, stop):
            draw(column, [y + step * (column - start), y + step * (column - start + 1)])
    return ["".join(chr(0x2800 + cell) for cell in line) for line in cells]


def _place(value: float, start: float, stop: float, count: int) -> int:
    """Which of so many places between two ends is nearest; the first where the ends are one."""
    return round((value - start) / (stop - start) * (count - 1)) if stop > start else 0


def limits(points: Sequence[tuple[float, float, float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """From where to where points reach: first across, then up; (0, 0) where there are none."""
    across = [point[0] for point in points]
    up = [value for point in points for value in point[1:] if math.isfinite(value)]
    return (min(across, default=0), max(across, default=0)), (min(up, default=0), max(up, default=0))


def binned(values: Sequence[float], width: int) -> list[float]:
    """At most so many values: the means of neighbours."""
    count = len(values)
    if count <= width:
        return list(values)
    ends = [place * count // width for place in range(width + 1)] if width > 0 else []
    return [_mean(values[start:stop]) for start, stop in pairwise(ends)]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
