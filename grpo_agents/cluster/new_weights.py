"""How workers come to new weights: all at once from the learner, or each from Ray's object store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import ray

from grpo_agents.background import in_background
from grpo_agents.cluster.remote_tensors import RemoteTensors
from grpo_agents.engines.weights import Weights


class NewWeights:
    """The weights of an update, for the workers that are there now and those that come before the next one.

    Args:
        weights: Live ones, which do not move while this is made and given to those that are there.
        collective: Whether the learner sends them to many at once.
    """

    def __init__(self, weights: Weights, *, collective: bool):
        self._weights = weights
        self._collective = collective and isinstance(weights.named, RemoteTensors)
        self._stored = None if self._collective else self._store()

    def hand_over(self, actors: Sequence[Any]) -> list[Any]:
        """Gives them to actors that are there: what answers for each of them when it has them."""
        if self._stored is not None:
            reference, version = self._stored
            return [actor.update_weights.remote(reference, version) for actor in actors]
        assert isinstance(self._weights.named, RemoteTensors)
        return self._weights.named.learner.send_weights(actors, self._weights.version) if actors else []

    def stored(self) -> Future[tuple[Any, int]]:
        """A reference to them for one that comes later, and their version; waits while the learner moves them."""
        return in_background(lambda: self._stored or self._store())

    def _store(self) -> tuple[Any, int]:
        with self._weights.reading() as (named, version):
            if isinstance(named, RemoteTensors):
                return named.reference, version
            return ray.put({name: tensor.detach().float().cpu().numpy() for name, tensor in named.items()}), version
