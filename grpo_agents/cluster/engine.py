"""The engines of all rollout workers, as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future

import numpy as np

from grpo_agents.cluster.new_weights import NewWeights
from grpo_agents.cluster.pool import Pool
from grpo_agents.engines import Completion, Deliver, EngineFailure, Request, Sampling
from grpo_agents.engines.weights import Weights


class ClusterEngine:
    """A :class:`~grpo_agents.engines.TokenEngine` of many: a session is always at the same worker.

    Args:
        pool: The workers.
        count: How many they are.
        collective: Whether the learner sends them new weights at once.
    """

    lockstep = False

    def __init__(self, pool: Pool, count: int, *, collective: bool):
        self.version = 0
        self._pool = pool
        self._count = count
        self._collective = collective
        self.context_length = pool.context_length()

    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Has requests sampled, between the turns of what the workers play."""

        def hand_on(done: Future[list[Completion]]) -> None:
            error = done.exception()
            if error is not None:
                deliver(error if isinstance(error, EngineFailure) else EngineFailure(str(error)))
                return
            for completion in done.result():
                deliver(completion)

        for number in range(self._count):
            own = [request for request in requests if request.session % self._count == number]
            if own:
                self._pool.ask(number, "complete", own, sampling).add_done_callback(hand_on)

    def release(self, sessions: Iterable[int]) -> None:
        """Nothing is kept of a probe."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probability at temperature 1 of every token of each sequence given those before it, shape (tokens,)."""
        return self._pool.ask(0, "score", [list(ids) for ids in sequences]).result()

    def update_weights(self, weights: Weights) -> None:
        """Has every worker take over the weights, between two turns; returns when all have."""
        self._pool.update_weights(NewWeights(weights, collective=self._collective)).result()
        self.version = weights.version

    def sleep(self) -> None:
        """The workers' accelerators are their own."""

    def wake(self) -> None:
        """See :meth:`sleep`."""

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()
