"""A rollout on a cluster: the same groups as in one process, played by the workers that have room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from grpo_agents.cluster.pool import Pool, outcome
from grpo_agents.cluster.worker import Venue
from grpo_agents.rollout import Order, Rollout
from grpo_agents.trajectory import Group, Task

NOW = -1
"""The step of what somebody waits for already: before that of any batch."""


class ClusterRollout:
    """See :class:`~grpo_agents.rollout.sampler.Sampler`.

    Args:
        pool: The workers.
        venue: What is played for.
        own: The same in this process; plays nothing, but judges texts.
    """

    def __init__(self, pool: Pool, venue: Venue, own: Rollout):
        self._pool = pool
        self._venue: Venue = venue
        self._own = own

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
        size = group_size or self._own.config.group_size
        return self._play(NOW, tasks, seed, size, temperature, progress)()

    def begin(
        self, tasks: Sequence[Task], *, step: int, seed: int, progress: Callable[[int], None] | None = None
    ) -> Callable[[], list[Group]]:
        """Has groups sampled; what it returns waits for them."""
        return self._play(step, tasks, seed, self._own.config.group_size, None, progress)

    def judge(self, task: Task, text: str) -> dict[str, float]:
        """What the environment says of a text as the first message of an episode; empty where that does not end it."""
        return self._own.judge(task, text)

    def close(self) -> None:
        """Closes what judges texts; the workers end with the run."""
        self._own.close()

    def _play(
        self,
        step: int,
        tasks: Sequence[Task],
        seed: int,
        size: int,
        temperature: float | None,
        progress: Callable[[int], None] | None,
    ) -> Callable[[], list[Group]]:
        orders = [Order(task, seed, number, size, temperature) for number, task in enumerate(tasks)]
        promised = self._pool.play(step, self._venue, orders)

        def ended(done: Future[Group]) -> None:
            if progress is not None and done.exception() is None:
                progress(size)

        for one in promised:
            one.add_done_callback(ended)
        return lambda: [outcome(one) for one in promised]
