"""An engine that says what it was told to: for tests, benchmarks and demonstrations, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from grpo_agents.engines import Completion, Deliver, Request, Sampling
from grpo_agents.engines.weights import Weights

Script = Callable[[int, int], Sequence[int]]
"""(session, turn) → the token ids of that turn, stop token included."""


class ScriptedEngine:
    """Replays given turns.

    Args:
        script: What each session says at each turn.
        context_length: The most tokens a sequence may have.
    """

    lockstep = True

    def __init__(self, script: Script, context_length: int = 1 << 20):
        self.script = script
        self.context_length = context_length
        self.version = 0
        self._turns: dict[int, int] = {}

    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Delivers the scripted turns, each cut at its ``max_tokens``."""
        for request in requests:
            turn = self._turns.get(request.session, 0)
            self._turns[request.session] = turn + 1
            said = list(self.script(request.session, turn))
            ids = said[: request.max_tokens]
            reason = "stop" if len(ids) == len(said) else "length"
            deliver(Completion(request.session, ids, [0.0] * len(ids), reason, self.version))

    def release(self, sessions: Iterable[int]) -> None:
        """Forgets episodes that have ended."""
        for session in sessions:
            self._turns.pop(session, None)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Zeros: what is scripted is certain."""
        return [np.zeros(len(ids), np.float32) for ids in sequences]

    def update_weights(self, weights: Weights) -> None:
        """Has no weights; takes the version."""
        self.version = weights.version

    def sleep(self) -> None:
        """Holds no memory."""

    def wake(self) -> None:
        """Held no memory."""

    def close(self) -> None:
        """Started nothing."""
