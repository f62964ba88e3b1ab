"""The index of a page: what the list and the filter know of all trajectories before a conversation is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_agents.report.contents import to_json
from grpo_agents.report.facts import Facts
from grpo_agents.trajectory import Trajectory

LETTERS = 600
"""Letters of a task that the list shows and the filter searches."""

KINDS = 200
"""Different errors that the filter can tell apart; the rest are one."""

OTHERS = "another error"


@dataclass(slots=True)
class Names:
    """Texts, each with a number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def of(self, text: str) -> int:
        """The number of a text; a new one where it was not seen before."""
        return self.numbers.setdefault(text, len(self.numbers))


@dataclass(slots=True)
class Index:
    """What is known of all trajectories on the page before any block is opened: what the list and the filter need.

    ``groups`` and ``rollouts`` are tables by column; ``rollouts["group"]`` is a row of ``groups``.
    """

    batches: list[tuple[str, int, str]] = field(default_factory=list)
    components: Names = field(default_factory=Names)
    stops: Names = field(default_factory=Names)
    tools: Names = field(default_factory=Names)
    errors: Names = field(default_factory=Names)
    groups: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in ("batch", "number", "text", "block", "place")}
    )
    rollouts: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: [] for name in ("group", "index", "values", "stop", "tools", "errors", "tokens", "turns")
        }
    )

    def add_group(
        self, batch: int, trajectories: Sequence[Trajectory], facts: Sequence[Facts], at: tuple[int, int]
    ) -> None:
        """Takes a group of the batch of that number, which is packed at a block and a place."""
        number = len(self.groups["batch"])
        row = (batch, trajectories[0].group, describe(trajectories[0]), *at)
        for column, value in zip(self.groups.values(), row, strict=True):
            column.append(value)
        for trajectory, known in zip(trajectories, facts, strict=True):
            numbered = {self.components.of(name): value for name, value in known.values.items()}
            values = [numbered.get(place) for place in range(len(self.components.numbers))]
            tools = [self.tools.of(name) for name in known.tools]
            errors = sorted({self._error(text) for text in known.errors})
            stop = self.stops.of(known.stop_reason)
            row = (number, trajectory.index, values, stop, tools, errors, known.tokens, known.turns)
            for column, value in zip(self.rollouts.values(), row, strict=True):
                column.append(value)

    def _error(self, text: str) -> int:
        known = self.errors.numbers
        return self.errors.of(text if text in known or len(known) < KINDS else OTHERS)

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        names = {name: list(getattr(self, name).numbers) for name in ("components", "stops", "tools", "errors")}
        return {"batches": self.batches, **names, "groups": self.groups, "rollouts": self.rollouts}


def describe(trajectory: Trajectory) -> str:
    """A task in the words that the policy was given, or where there are none as JSON; its beginning."""
    said = [message.get("content") for message in trajectory.prompt if message.get("role") == "user"]
    name = trajectory.task.get("id")
    text = next((text for text in reversed(said) if isinstance(text, str) and text.strip()), "")
    text = text or to_json(trajectory.task)
    named = f"{text} [{name}]" if name is not None and str(name) not in text else text
    return " ".join(named[:LETTERS].split())
