"""The engines of all rollout workers, as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import numpy as np
import ray

from grpo_agents.cluster.pool import Pool
from grpo_agents.engines import Completion, Deliver, EngineFailure, Request, Sampling
from grpo_agents.engines.weights import Weights


class StoredTensors(Mapping[str, Any]):
    """Tensors by name in Ray's object store, fetched only by who reads them.

    Args:
        reference: To arrays by name.
    """

    def __init__(self, reference: Any):
        self.reference = reference

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return ray.get(self.reference)

    def __getitem__(self, name: str) -> Any:
        """One of them."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """How many they are."""
        return len(self._arrays)


class ClusterEngine:
    """A :class:`~grpo_agents.engines.TokenEngine` of many: a session is always at the same worker.

    Args:
        pool: The workers.
        count: How many they are.
    """

    lockstep = False

    def __init__(self, pool: Pool, count: int):
        self.version = 0
        self._pool = pool
        self._count = count
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
        with weights.reading() as (named, version):
            stored = named.reference if isinstance(named, StoredTensors) else ray.put(_arrays(named))
            self._pool.update_weights(stored, version).result()
            self.version = version

    def sleep(self) -> None:
        """The workers' accelerators are their own."""

    def wake(self) -> None:
        """See :meth:`sleep`."""

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()


def _arrays(named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors as Ray's object store shares them."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in named.items()}
