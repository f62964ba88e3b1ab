"""How rewards become one number: the components, the scale of their costs, and the gate.

A run notes it in each file of trajectories, as plain data: to evaluate them, no code of the run is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_agents.rewards.component import Component, RewardVector


@dataclass(frozen=True, slots=True)
class Scoring:
    """What :func:`grpo_agents.advantage.utility` needs beside a trajectory.

    Attributes:
        vector: The components.
        maxima: The most an episode can cost, by component.
        gate: The component that multiplies the rest.
    """

    vector: RewardVector
    maxima: dict[str, float]
    gate: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON, without the components' functions."""
        components = [{"name": entry.name, "direction": entry.direction, "unit": entry.unit} for entry in self.vector]
        return {"components": components, "maxima": dict(self.maxima), "gate": self.gate}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scoring:
        """The scoring that :meth:`as_dict` wrote; its components have no function, and stand for what is stored."""
        components = [Component(function=None, **entry) for entry in data["components"]]
        return cls(RewardVector(components), data["maxima"], data["gate"])
