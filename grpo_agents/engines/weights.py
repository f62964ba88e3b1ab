"""The policy's weights as two see them: the learner, which moves them in place, and an engine that reads them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Weights:
    """Live tensors, and which version of the policy they are.

    An engine that starts again in the middle of a rollout finds its weights here, from any thread: consistent ones,
    with their true version. While the learner works on a batch, that waits until it is done with it: between two
    updates on one batch, weights are of no version. On a GPU, a reader on a stream or in a process of its own
    synchronises with the learner's stream first.

    >>> weights = Weights({"w": [1.0]}, version=4)
    >>> with weights.moving(to=5):
    ...     weights.named["w"][0] = 2.0
    >>> with weights.reading() as (named, version):
    ...     print(named, version)
    {'w': [2.0]} 5

    Args:
        named: The tensors by name.
        version: What they are now.
    """

    def __init__(self, named: Mapping[str, Any], version: int):
        self.named = named
        self.version = version
        self._lock = threading.Lock()

    @contextmanager
    def moving(self, *, to: int) -> Iterator[None]:
        """Keeps readers out while tensors change; they are of version ``to`` afterwards."""
        with self._lock:
            yield
            self.version = to

    @contextmanager
    def reading(self) -> Iterator[tuple[Mapping[str, Any], int]]:
        """The tensors and their version; they stay what they are until it is left, so copy or send them at once."""
        with self._lock:
            yield self.named, self.version
