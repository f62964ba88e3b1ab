"""An engine that says what it was told to: for tests, benchmarks and demonstrations, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from grpo_agents.engines import Completion, Request, Sampling

Script = Callable[[int, int], Sequence[int]]
"""(session, turn) → the token ids of that turn, stop token included."""


class ScriptedEngine:
    """Replays given turns.

    Args:
        script: What each session says at each turn.
        context_length: The most tokens a sequence may have.
    """

    def __init__(self, script: Script, context_length: int = 1 << 20):
        self.script = script
        self.context_length = context_length
        self.version = 0
        self._turns: dict[int, int] = {}
        self._submitted: list[Request] = []

    def submit(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Hands over requests."""
        self._submitted += requests

    def collect(self) -> list[Completion]:
        """The scripted turns of all requests, each cut at its ``max_tokens``."""
        done = []
        for request in self._submitted:
            turn = self._turns.get(request.session, 0)
            self._turns[request.session] = turn + 1
            said = list(self.script(request.session, turn))
            ids = said[: request.max_tokens]
            ended = len(ids) == len(said)
            done.append(Completion(request.session, ids, [0.0] * len(ids), "stop" if ended else "length", self.version))
        self._submitted = []
        return done

    def release(self, sessions: Iterable[int]) -> None:
        """Forgets episodes that have ended."""
        for session in sessions:
            self._turns.pop(session, None)

    def score(self, sequences: Sequence[Sequence[int]], temperature: float = 1.0) -> list[np.ndarray]:
        """Zeros: what is scripted is certain."""
        return [np.zeros(len(ids), np.float32) for ids in sequences]

    def update_weights(self, weights: Iterable[tuple[str, Any]], version: int) -> None:
        """Has no weights; takes the version."""
        self.version = version

    def sleep(self) -> None:
        """Holds no memory."""

    def wake(self) -> None:
        """Held no memory."""
