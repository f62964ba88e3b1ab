"""How rewards become one number: the components, the scale of their costs, and the gate.

A run notes it in each file of trajectories, as plain data: to evaluate them, no code of the run is needed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grpo_agents.rewards import BUILT_IN
from grpo_agents.rewards.component import Component, RewardVector


@dataclass(frozen=True, slots=True)
class Scoring:
    """What :func:`grpo_agents.utility.utility` needs beside a trajectory.

    Attributes:
        vector: The components.
        maxima: The most an episode can cost, by component.
        gate: The component that multiplies the rest.
        watched: Components that were computed beside them and are no part of the number.
    """

    vector: RewardVector
    maxima: dict[str, float]
    gate: str | None = None
    watched: tuple[Component, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON, without the components' functions."""
        said = {"components": _described(self.vector), "maxima": dict(self.maxima), "gate": self.gate}
        return {**said, "watched": _described(self.watched)} if self.watched else said

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scoring:
        """The scoring that :meth:`as_dict` wrote; its components have no function, and stand for what is stored."""
        components = [Component(function=None, **entry) for entry in data["components"]]
        watched = tuple(Component(function=None, **entry) for entry in data.get("watched", ()))
        return cls(RewardVector(components), data["maxima"], data["gate"], watched)


def _described(components: Iterable[Component]) -> list[dict[str, str]]:
    return [{"name": entry.name, "direction": entry.direction, "unit": entry.unit} for entry in components]


def check_maxima(maxima: Mapping[str, float], names: Iterable[str]) -> None:
    """Refuses maxima that are no scale, or that are misspelt.

    A name that resembles no component passes: an environment may serve vectors with components of their own.

    Args:
        maxima: The most an episode can cost, by component.
        names: The components there are, beside the built-in ones.

    Raises:
        ValueError: Names the component, and the nearest there is.
    """
    known = [*names, *BUILT_IN]
    for name, maximum in maxima.items():
        if not (isinstance(maximum, int | float) and 0 < maximum < math.inf):
            raise ValueError(f"maxima: {name!r} is {maximum!r}, and the most an episode can cost is a positive number")
        if name not in known and (near := difflib.get_close_matches(name, known, n=1)):
            raise ValueError(f"maxima: {name!r} is no reward component. Did you mean {near[0]!r}?")
