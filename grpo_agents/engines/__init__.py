"""Engines turn token ids into token ids.

An episode is a *session*: an engine may keep what it computed for its earlier turns.
Importing this needs numpy alone; each backend is imported by who chooses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from grpo_agents.engines.weights import Weights
from grpo_agents.support import Support


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: Only among the k likeliest; 0 for all.
        top_p: Only among the likeliest that together have this probability; 1 for all.
        stop_ids: Tokens that end a turn; the one that ended it is part of the completion.
        stop: Texts that end a turn as soon as it contains one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 0")

    @property
    def gives_support(self) -> bool:
        """Whether completions say what could have been sampled: where it is bounded, by top-k."""
        return self.top_k > 0 and self.temperature > 0


@dataclass(slots=True)
class Request:
    """One turn to sample.

    Attributes:
        session: Which episode it belongs to.
        ids: The whole prompt, token for token.
        seed: Makes the draw repeatable, whatever else is in the batch.
        max_tokens: At most this many new tokens.
        adapter: False asks an engine that samples with an adapter for what the model says without it.
    """

    session: int
    ids: Sequence[int]
    seed: int
    max_tokens: int
    adapter: bool = True


@dataclass(slots=True)
class Completion:
    """What was sampled for a request.

    Attributes:
        session: The request's.
        ids: The new tokens, the stop token included.
        logprobs: Of each under the distribution it was drawn from (temperature, top-k and top-p applied).
        finish_reason: ``stop`` or ``length``.
        version: Version of the weights that sampled it.
        support: Of each, where :attr:`Sampling.gives_support`; else None.
    """

    session: int
    ids: list[int]
    logprobs: list[float]
    finish_reason: str
    version: int
    support: Support | None = None

    @property
    def tokens(self) -> int:
        """How many they are."""
        return len(self.ids)


class EngineFailure(RuntimeError):
    """An engine that cannot go on; says what it died of and what to do."""


Deliver = Callable[[Completion | EngineFailure], None]
"""Takes a completion as soon as it is there, from any thread; or what the engine failed of."""


class TokenEngine(Protocol):
    """What samples tokens. Requests are handed over in batches; each completion is delivered when it is done."""

    lockstep: bool
    """True where a whole batch is computed together: :meth:`submit` returns when all of it is delivered, and it pays
    to wait until every episode has its next request."""

    context_length: int
    """The most tokens that prompt and completion may have together."""

    @property
    def version(self) -> int:
        """Version of the weights it samples with."""
        ...

    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Hands over requests.

        Raises:
            ValueError: A request that cannot be sampled (:func:`check_requests`); then none of them is.
        """
        ...

    def release(self, sessions: Iterable[int]) -> None:
        """Forgets episodes that have ended; a request of theirs that is under way is not delivered any more."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probability at temperature 1 of every token of each sequence given those before it, shape (tokens,).

        0 for the first.
        """
        ...

    def update_weights(self, weights: Weights) -> None:
        """Takes over the policy's weights, under the names of its checkpoint, and forgets what the old ones computed.

        Wakes an engine that sleeps. Completions are of their version from then on.

        Raises:
            ValueError: Weights of another model, or requests are under way: their tokens would be of two policies.
        """
        ...

    def sleep(self) -> None:
        """Gives accelerator memory back while the learner works."""
        ...

    def wake(self) -> None:
        """Undoes :meth:`sleep` where the weights stay what they were."""
        ...

    def close(self) -> None:
        """Ends what it started: threads, processes."""
        ...


def check_requests(requests: Sequence[Request], context_length: int, under_way: Iterable[int]) -> None:
    """Refuses what no engine can sample.

    Args:
        requests: Handed over now.
        context_length: The engine's.
        under_way: Sessions that have a request there already.

    Raises:
        ValueError: An empty prompt, no tokens to sample, more than the context holds, or a second request of a session
            at once; names the session.
    """
    sessions = set(under_way)
    for request in requests:
        if request.session in sessions:
            raise ValueError(f"session {request.session}: it has a request under way already")
        sessions.add(request.session)
        if not len(request.ids):
            raise ValueError(f"session {request.session}: the prompt is empty")
        if request.max_tokens < 1:
            raise ValueError(f"session {request.session}: max_tokens is {request.max_tokens}; at least 1 is needed")
        if len(request.ids) + request.max_tokens > context_length:
            raise ValueError(
                f"session {request.session}: {len(request.ids)} prompt and {request.max_tokens} new tokens exceed "
                f"the model's context of {context_length}"
            )


def mix(seed: int, *numbers: int) -> int:
    """A 63-bit number that depends on every argument and on their order: the seed of one part of a run."""
    state = seed
    for number in numbers:
        state = state * 0x5851F42D4C957F2D + number + 1
    state = (state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF  # then splitmix64's finish
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (state ^ (state >> 31)) >> 1


def uniform(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number in (0, 1) for each (seed, position), the same whatever the batch around it.

    Args:
        seeds: Shape (rows,), uint64.
        positions: Shape (rows,), uint64.

    Returns:
        Shape (rows,), float64.
    """
    with np.errstate(over="ignore"):
        state = seeds + (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
