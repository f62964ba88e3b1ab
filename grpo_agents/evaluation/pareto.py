"""Accuracy against cost against latency: which preferences, models or runs no other one beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_agents.evaluation.fronts import front, hypervolume
from grpo_agents.evaluation.statistics import Interval
from grpo_agents.evaluation.summary import Summary
from grpo_agents.evaluation.tables import NOT_KNOWN, Shown, Table, with_interval
from grpo_agents.rewards.component import Component
from grpo_agents.utility import on_fixed_scale


@dataclass(frozen=True, slots=True)
class Point:
    """One preference, model or run.

    Attributes:
        episodes: How many.
        values: The mean of each component that counts.
        on_front: Whether no other point is as good in all of them and better in one.
        share_of_best: Its reward as a share of the best that could be expected; None where that is not known.
    """

    episodes: int
    values: dict[str, Interval]
    on_front: bool
    share_of_best: Interval | None


@dataclass(frozen=True, slots=True)
class Pareto(Shown):
    """A sweep.

    Attributes:
        by: What the points differ in.
        points: By what they are called.
        directions: Of the components that count: ``max`` or ``min``.
        hypervolume: The share of what there is that some point beats: of the box from 0 and each maximum to 1 and no
            cost at all.
        left_out: Points that lack a component.
    """

    by: str
    points: dict[str, Point]
    directions: dict[str, str]
    hypervolume: float
    left_out: list[str]

    def tables(self) -> list[Table]:
        """What there is to say."""
        arrows = [f"{name} {'↑' if direction == 'max' else '↓'}" for name, direction in self.directions.items()]
        rows = [
            [
                label,
                str(point.episodes),
                *map(with_interval, point.values.values()),
                "✓" if point.on_front else "",
                NOT_KNOWN if point.share_of_best is None else with_interval(point.share_of_best),
            ]
            for label, point in self.points.items()
        ]
        title = f"{sum(point.on_front for point in self.points.values())} of {len(self.points)} on the Pareto front, "
        title += f"hypervolume {self.hypervolume:.3f}"
        if self.left_out:
            title += f"; without {', '.join(self.left_out)}, which lack a component"
        return [Table(title, [self.by, "episodes", *arrows, "on the front", "share of the best"], rows)]


def sweep(
    by: str,
    parts: Mapping[str, Summary],
    axes: Sequence[str],
    vector: Sequence[Component],
    maxima: Mapping[str, float],
) -> Pareto:
    """The points of a sweep and their front.

    Args:
        by: What the points differ in.
        parts: The evaluation of each point.
        axes: Components that count.
        vector: Says which way they count.
        maxima: The most an episode can cost, by component: where the scale of a cost ends. The most of any point where
            nobody declared it.

    Raises:
        ValueError: A component that the vector does not name, or that no point has.
    """
    known = {entry.name: entry for entry in vector}
    for name in axes:
        if name not in known:
            raise ValueError(f"{name!r} is no reward component; there are: {', '.join(known) or 'none'}")
    found = {label: _means(summary, axes) for label, summary in parts.items()}
    complete = {label: values for label, values in found.items() if values is not None}
    if not complete:
        raise ValueError(f"no episodes have all of {', '.join(axes)}: name components that are stored")
    worst = {name: maxima.get(name) or max(values[name].mean for values in complete.values()) or 1.0 for name in axes}
    means = [{name: interval.mean for name, interval in values.items()} for values in complete.values()]
    fixed = [{name: float(on_fixed_scale(point[name], known[name], worst[name])) for name in axes} for point in means]
    directions = {name: str(known[name].direction) for name in axes}
    kept = front(means, directions)
    points = {
        label: Point(parts[label].trajectories, values, best, parts[label].share_of_best)
        for (label, values), best in zip(complete.items(), kept, strict=True)
    }
    volume = hypervolume(fixed, dict.fromkeys(axes, "max"), dict.fromkeys(axes, 0.0))
    return Pareto(by, points, directions, volume, [label for label in parts if label not in complete])


def _means(summary: Summary, axes: Sequence[str]) -> dict[str, Interval] | None:
    """The mean of each component; None where one has none."""
    found = {name: summary.components[name].interval for name in axes if name in summary.components}
    whole = len(found) == len(axes) and not any(math.isnan(interval.mean) for interval in found.values())
    return found if whole else None
