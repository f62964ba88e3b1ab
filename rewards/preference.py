"""What a user weighs: preferences over reward components, and how one is drawn for each task.

>>> import numpy as np
>>> Choices([{"outcome": 1.0}]).draw(np.random.default_rng(0))
{'outcome': 1.0}
>>> drawn = Simplex(("outcome", "cost", "latency"), floor={"outcome": 0.1}).draw(np.random.default_rng(0))
>>> round(sum(drawn.values()), 9), drawn["outcome"] >= 0.1
(1.0, True)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

ROUNDING = 1e-9
"""So little above a whole step is that step: 0.3 is 3 of 10."""


class Preferences(Protocol):
    """A distribution over preferences."""

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """One user's weights by component name, each at least 0."""
        ...


@dataclass(frozen=True)
class Choices:
    """One of a few preferences, each as likely as the others. A single one is a fixed preference."""

    options: Sequence[Mapping[str, float]]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("preference.choices is empty: give at least one preference")
        for option in self.options:
            check_weights(option)

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """One of them."""
        return dict(self.options[int(rng.integers(len(self.options)))])


@dataclass(frozen=True)
class Simplex:
    """Weights that sum to 1, uniform over the simplex above a floor, in whole steps (so that they read well).

    Attributes:
        components: What is weighed.
        floor: The least weight, by component; 0 where it is not named.
        steps: Weights are multiples of 1/steps.
    """

    components: Sequence[str]
    floor: Mapping[str, float] = field(default_factory=dict)
    steps: int = 10

    def __post_init__(self) -> None:
        check_weights(self.floor)
        unknown = [name for name in self.floor if name not in self.components]
        if unknown:
            raise ValueError(f"preference.floor names {unknown[0]!r}, which is not among {', '.join(self.components)}")
        if sum(least := self._floors()) > self.steps:
            raise ValueError(
                f"preference.floor sums to more than 1, in steps of 1/{self.steps}: {sum(least)}/{self.steps}. Lower it"
            )

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """One point of the simplex."""
        floor = self._floors()
        free = self.steps - sum(floor)
        bars = np.sort(rng.choice(free + len(floor) - 1, size=len(floor) - 1, replace=False))
        parts = np.diff(np.concatenate([[-1], bars, [free + len(floor) - 1]])) - 1
        return {
            name: (low + int(part)) / self.steps for name, low, part in zip(self.components, floor, parts, strict=True)
        }

    def _floors(self) -> list[int]:
        """The least whole steps that are not below the floor, but for rounding, by component."""
        return [math.ceil(self.floor.get(name, 0.0) * self.steps - ROUNDING) for name in self.components]


def check_weights(preference: Mapping[str, float]) -> None:
    """Refuses weights that are negative or no numbers.

    Raises:
        ValueError: Names the component.
    """
    for name, weight in preference.items():
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"preference for {name!r} is {weight}: a weight is a finite number of at least 0")
