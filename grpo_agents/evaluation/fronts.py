"""Pareto fronts: which points no other one beats in everything, and how much of the space they dominate.

>>> points = [{"outcome": 0.9, "cost": 4.0}, {"outcome": 0.5, "cost": 1.0}, {"outcome": 0.5, "cost": 2.0}]
>>> front(points, {"outcome": "max", "cost": "min"})
[True, True, False]
>>> hypervolume(points, {"outcome": "max", "cost": "min"}, {"outcome": 0.0, "cost": 5.0})
2.4
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import moocore
import numpy as np

Point = Mapping[str, float | None]
"""A value by component; more components than are asked for do no harm."""


def front(points: Sequence[Point], directions: Mapping[str, str]) -> list[bool]:
    """Says of each point whether it is on the front: whether no other is as good in everything and better in something.

    Equal points do not beat each other: of duplicates all are on the front, or none.

    Args:
        points: The points.
        directions: The components that count: ``max`` where more is better, ``min`` where less is.

    Returns:
        One truth value a point, in their order.

    Raises:
        ValueError: A direction that is neither, no component at all, or a value that is missing or no finite number;
            names the point and the component.
    """
    values = _values(points, directions)
    return [] if not len(values) else moocore.is_nondominated(values, keep_weakly=True).tolist()


def hypervolume(points: Sequence[Point], directions: Mapping[str, str], worst: Mapping[str, float]) -> float:
    """The volume that is dominated by some point and dominates ``worst`` (Zitzler and Thiele 1999).

    In the product of the components' units; 0 where no point is better than ``worst`` in everything.

    Args:
        points: The points.
        directions: As for :func:`front`.
        worst: The reference point: a value of each component that is no better than any to be counted.

    Raises:
        ValueError: As :func:`front`, also of ``worst``.
    """
    values, (reference,) = _values(points, directions), _values([worst], directions, "worst")
    return float(moocore.hypervolume(values, ref=reference)) if len(values) else 0.0


def _values(points: Sequence[Point], directions: Mapping[str, str], called: str = "point") -> np.ndarray:
    """The components that count, each to be minimised, (points, components)."""
    if not directions:
        raise ValueError("a front of no components: name at least one, with its direction, max or min")
    for name, direction in directions.items():
        if direction not in ("max", "min"):
            raise ValueError(f"the direction of {name!r} is {direction!r}: max and min are known")
    for place, point in enumerate(points):
        for name in directions:
            value = point.get(name)
            if value is None or not math.isfinite(value):
                which = called if called == "worst" else f"{called} {place}"
                raise ValueError(
                    f"{which}: {name!r} is {value!r}, and a finite number is wanted: leave such points out"
                )
    signs = np.array([-1.0 if direction == "max" else 1.0 for direction in directions.values()])
    rows = [[point[name] for name in directions] for point in points]
    return np.array(rows, np.float64).reshape(-1, len(directions)) * signs
