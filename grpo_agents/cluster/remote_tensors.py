"""The policy's weights where the learner's processes have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

if TYPE_CHECKING:
    from grpo_agents.cluster.learner import RemoteLearner


class RemoteTensors(Mapping[str, Any]):
    """Arrays by name, fetched only by who reads them: those of the moment when it is asked first.

    Args:
        learner: Has them.
    """

    def __init__(self, learner: RemoteLearner):
        self.learner = learner

    @cached_property
    def reference(self) -> Any:
        """To all of them, in Ray's object store."""
        return self.learner.stored_weights()

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
