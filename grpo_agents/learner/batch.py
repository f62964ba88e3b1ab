"""From trajectories to what the learner computes on: rows of tokens, and micro-batches of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from grpo_agents.trajectory import Sample, Trajectory


@dataclass(slots=True)
class Row:
    """One sample as the learner sees it.

    Attributes:
        ids: Token ids up to the last trained one, (tokens,).
        trained: Where the trained tokens stand in it, (trained,), each at least 1.
        sampler: Their log-probabilities when they were sampled, (trained,).
        old: The same under π_old, (trained,).
        reference: The same under π_ref, (trained,); None where it is not needed.
        turn_position: How many trained tokens of the same turn come before each, (trained,).
        version: Version of the weights that sampled each, (trained,); 0 where no turn says so.
        advantage: Â of the trajectory.
        length: |o| of the whole trajectory.
    """

    ids: np.ndarray
    trained: np.ndarray
    sampler: np.ndarray
    old: np.ndarray
    reference: np.ndarray | None
    turn_position: np.ndarray
    version: np.ndarray
    advantage: float
    length: int


@dataclass(slots=True)
class Batch:
    """Rows, and what the global batch's normalisers count.

    Attributes:
        rows: Every sample with a trained token whose trajectory takes part.
        tokens: Their trained tokens.
        trajectories: Their trajectories.
    """

    rows: list[Row]
    tokens: int
    trajectories: int


def make_batch(trajectories: Sequence[Trajectory]) -> Batch:
    """Makes the global batch of all trajectories that carry a gradient (whose advantage is not None).

    Raises:
        ValueError: A log-probability is not finite; names the trajectory.
    """
    rows: list[Row] = []
    taking_part = 0
    for trajectory in trajectories:
        length = trajectory.sampled_tokens
        if trajectory.advantage is None or length == 0:
            continue
        taking_part += 1
        for number, sample in enumerate(trajectory.samples):
            trained = np.flatnonzero(sample.mask)
            if len(trained):
                if not np.isfinite(sample.logprobs[trained]).all():
                    raise ValueError(
                        f"trajectory {trajectory.id}: the engine gave a log-probability that is not finite"
                    )
                version = np.zeros(len(sample.ids), np.int64)
                for step in trajectory.steps:
                    if step.sample == number:
                        version[slice(*step.span)] = step.version
                rows.append(_row(sample, trained, version[trained], trajectory.advantage, length))
    return Batch(rows, sum(len(row.trained) for row in rows), taking_part)


def _row(sample: Sample, trained: np.ndarray, version: np.ndarray, advantage: float, length: int) -> Row:
    logprobs = sample.logprobs[trained]
    begins = np.concatenate([[True], np.diff(trained) > 1])
    index = np.arange(len(trained))
    turn_position = index - np.maximum.accumulate(np.where(begins, index, 0))
    ids = sample.ids[: trained[-1] + 1]
    return Row(ids, trained, logprobs, logprobs, None, turn_position, version, advantage, length)


def micro_batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, each micro-batch of at most ``max_tokens`` tokens, padding included.

    Raises:
        ValueError: A row longer than the budget; says how long.
    """
    ordered = sorted(rows, key=lambda row: -len(row.ids))
    start = 0
    while start < len(ordered):
        longest = len(ordered[start].ids)
        if longest > max_tokens:
            raise ValueError(
                f"a trajectory of {longest} tokens does not fit learner.max_tokens = {max_tokens}. "
                "Raise it, or lower rollout.max_tokens."
            )
        count = max_tokens // longest
        yield ordered[start : start + count]
        start += count
