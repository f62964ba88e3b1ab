"""The engines of all rollout workers, as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future

import numpy as np

from grpo_agents.cluster.new_weights import NewWeights
from grpo_agents.cluster.pool import Pool, outcome
from grpo_agents.engines import Completion, Deliver, EngineFailure, Request, Sampling
from grpo_agents.engines.weights import Weights


class ClusterEngine:
    """A :class:`~grpo_agents.engines.TokenEngine` of many: a session is always at the same worker.

    Args:
        pool: The workers.
        collective: Whether the learner sends them new weights at once.
    """

    lockstep = False

    def __init__(self, pool: Pool, *, collective: bool):
        self.version = 0
        self._pool = pool
        self._collective = collective
        self._probed = 0
        self.context_length = pool.context_length()

    @property
    def unprobed(self) -> bool:
        """Whether a worker plays, having replaced another, that was not there when :meth:`submit` was called last."""
        return self._pool.arrivals > self._probed

    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Has requests sampled, between the turns of what the workers play."""
        self._probed = self._pool.arrivals

        def hand_on(done: Future[list[Completion]]) -> None:
            error = done.exception()
            if error is not None:
                deliver(error if isinstance(error, EngineFailure) else EngineFailure(str(error)))
                return
            for completion in done.result():
                deliver(completion)

        present = self._pool.present()
        for place, number in enumerate(present):
            own = [request for request in requests if request.session % len(present) == place]
            if own:
                self._pool.ask(number, "complete", own, sampling).add_done_callback(hand_on)

    def release(self, sessions: Iterable[int]) -> None:
        """Nothing is kept of a probe."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probability at temperature 1 of every token of each sequence given those before it, shape (tokens,)."""
        return outcome(self._pool.ask(self._pool.present()[0], "score", [list(ids) for ids in sequences]))

    def update_weights(self, weights: Weights) -> None:
        """Has every worker take over the weights, between two turns; returns when all have."""
        outcome(self._pool.update_weights(NewWeights(weights, collective=self._collective)))
        self.version = weights.version

    def sleep(self) -> None:
        """The workers' accelerators are their own."""

    def wake(self) -> None:
        """See :meth:`sleep`."""

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()
