"""What is to be played: groups by number, so that each is the same wherever and whenever it is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from grpo_agents.trajectory import Group, Task


@dataclass(frozen=True, slots=True)
class Order:
    """A group to be played.

    Attributes:
        task: What its episodes are about.
        seed: Of its batch.
        number: Its place in the batch; with the seed, all of its randomness.
        size: G, its episodes.
        temperature: Another one than the config's (0 for a greedy evaluation).
    """

    task: Task
    seed: int
    number: int
    size: int
    temperature: float | None = None


class Orders(Protocol):
    """Where a rollout takes its groups from, and hands them back to."""

    def take(self) -> Sequence[Order]:
        """What is to begin now; asked again whenever something has happened."""
        ...

    def hand_back(self, order: Order, group: Group) -> None:
        """Takes a group whose episodes have all ended; it is not scored yet."""
        ...

    @property
    def between_turns(self) -> Callable[[], None] | None:
        """What is to be done while nothing is sampled, as a change of weights; no turn begins before it is done."""
        ...


class Batch:
    """Groups that begin together.

    Args:
        orders: Which.
    """

    between_turns = None

    def __init__(self, orders: Sequence[Order]):
        self._orders: Sequence[Order] = orders
        self._groups: dict[int, Group] = {}

    def take(self) -> Sequence[Order]:
        """All of them, once."""
        orders, self._orders = self._orders, ()
        return orders

    def hand_back(self, order: Order, group: Group) -> None:
        """Keeps it."""
        self._groups[order.number] = group

    @property
    def groups(self) -> list[Group]:
        """What was played, in order."""
        return [self._groups[number] for number in sorted(self._groups)]
