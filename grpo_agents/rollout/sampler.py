"""What samples groups: a rollout in this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from grpo_agents.trajectory import Group, Task


class Sampler(Protocol):
    """Samples groups of episodes; see :class:`~grpo_agents.rollout.rollout.Rollout`."""

    def sample(
        self,
        tasks: Sequence[Task],
        *,
        seed: int,
        group_size: int | None = None,
        temperature: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Group]:
        """Plays ``group_size`` episodes of every task and scores them."""
        ...

    def begin(
        self, tasks: Sequence[Task], *, step: int, seed: int, progress: Callable[[int], None] | None = None
    ) -> Callable[[], list[Group]]:
        """Has groups of a step sampled without waiting for them, where it can; what it returns waits for them."""
        ...

    def judge(self, task: Task, text: str) -> dict[str, float]:
        """What the environment says of a text as the first message of an episode; empty where that does not end it."""
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...
