"""Which worker plays which group, and how far sampling may run ahead of learning. Pure: no clocks, no Ray.

A group stays with one worker to its end, so that its episodes' turns, and the rollouts of one prompt, find the prefixes
that the engine has computed. Groups begin in the order of their steps, at the worker with the least to do.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Worker = TypeVar("Worker", bound=Hashable)
Group = TypeVar("Group", bound=Hashable)


def horizon(version: int, staleness: int, steps: int) -> range:
    """The batches that may be under way while the weights are of a version.

    So many groups have been admitted then, at most: (staleness + version + 1) · batch (AReaL, arXiv 2505.24298,
    equation 3). As each step learns from the batch of its number, whatever sampled it is at most ``staleness`` steps
    old; and as batches are taken in order, and not as they come, short episodes are not preferred.

    >>> list(horizon(4, 2, steps=100)), list(horizon(4, 0, steps=100)), list(horizon(98, 2, steps=100))
    ([4, 5, 6], [4], [98, 99])
    """
    return range(version, max(version + 1, min(version + staleness + 1, steps)))


class Scheduler(Generic[Worker, Group]):
    """Deals groups to workers, each of which plays some at once; what waits here is bounded by who admits it.

    Args:
        at_once: Groups that a worker plays at once.
    """

    def __init__(self, at_once: int):
        self.at_once = at_once
        self._waiting: list[tuple[int, int, Group]] = []  # a heap: step, arrival, group
        self._arrivals = 0
        self._playing: dict[Worker, dict[Group, tuple[int, int]]] = {}
        self._retired: set[Worker] = set()

    @property
    def waiting(self) -> int:
        """How many groups no worker has."""
        return len(self._waiting)

    def knows(self, worker: Worker) -> bool:
        """Whether a worker is there."""
        return worker in self._playing

    def load(self, worker: Worker) -> int:
        """How many groups a worker is playing; 0 for one that is gone."""
        return len(self._playing.get(worker, ()))

    def add(self, step: int, group: Group) -> None:
        """Admits a group; those of earlier steps begin first."""
        heapq.heappush(self._waiting, (step, self._arrivals, group))
        self._arrivals += 1

    def join(self, worker: Worker) -> None:
        """A worker is there."""
        self._playing[worker] = {}

    def retire(self, worker: Worker) -> None:
        """A worker is to get no more groups."""
        self._retired.add(worker)

    def leave(self, worker: Worker) -> list[Group]:
        """A worker is gone: what it was playing waits again, in its old place. Gives those groups."""
        lost = self._playing.pop(worker, {})
        self._retired.discard(worker)
        for group, place in lost.items():
            heapq.heappush(self._waiting, (*place, group))
        return list(lost)

    def assign(self) -> Iterator[tuple[Worker, Group]]:
        """Deals what waits, as far as workers have room."""
        while self._waiting:
            able = [worker for worker in self._playing if worker not in self._retired]
            worker = min(able, key=self.load, default=None)
            if worker is None or self.load(worker) >= self.at_once:
                return
            step, arrival, group = heapq.heappop(self._waiting)
            self._playing[worker][group] = (step, arrival)
            yield worker, group

    def done(self, worker: Worker, group: Group) -> None:
        """A worker has played a group."""
        del self._playing[worker][group]
