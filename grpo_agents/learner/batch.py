"""From trajectories to what the learner computes on: rows of tokens, and whole episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo_agents.methods import Episode, Method
from grpo_agents.support import Support
from grpo_agents.trajectory import Trajectory


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
        turn: Which turn of the trajectory each is of, (trained,).
        advantages: Â of each, (trained,).
        length: |o| of the whole trajectory.
        trajectory: Which of the batch's trajectories it is of.
        sample: Which of its samples it is.
        group: Which of the batch's groups that is of.
        values: What the critic expected before each at the start of the batch, (trained,); None without a critic.
        returns: What it should have expected, (trained,); None without a critic.
        support: What could have been sampled in place of each, (trained,); None where nothing was cut.
        name: Of its trajectory, in messages.
    """

    ids: np.ndarray
    trained: np.ndarray
    sampler: np.ndarray
    old: np.ndarray
    reference: np.ndarray | None
    turn_position: np.ndarray
    version: np.ndarray
    turn: np.ndarray
    advantages: np.ndarray
    length: int
    trajectory: int
    sample: int
    group: int
    values: np.ndarray | None = None
    returns: np.ndarray | None = None
    support: Support | None = None
    name: str = ""


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
        ValueError: A sampled token outside its support, or turns without token ids; names the trajectory.
    """
    rows: list[Row] = []
    taking_part = 0
    groups: dict[int, int] = {}
    for trajectory in trajectories:
        if trajectory.advantage is None:
            continue
        if not trajectory.trainable:
            raise ValueError(
                f"trajectory {trajectory.id}: it has no token ids, so that nothing can be trained on it. "
                "A hosted model gives none: sample with another engine.backend."
            )
        learned = [_learned(trajectory, number) for number in range(len(trajectory.samples))]
        length = sum(map(len, learned))
        if length == 0:
            continue
        group = groups.setdefault(trajectory.group, len(groups))
        for number, trained in enumerate(learned):
            if len(trained):
                rows.append(_row(trajectory, number, trained, length, taking_part, group))
        taking_part += 1
    return Batch(rows, sum(len(row.trained) for row in rows), taking_part)


def _learned(trajectory: Trajectory, number: int) -> np.ndarray:
    """Where in a sample the tokens are that are learned from: its own, without turns that are left out, (trained,)."""
    mask = trajectory.samples[number].mask
    dropped = [step.span for step in trajectory.steps if step.sample == number and step.advantage is None]
    if dropped:
        mask = mask.copy()
        for start, stop in dropped:
            mask[start:stop] = False
    return np.flatnonzero(mask)


def _row(trajectory: Trajectory, number: int, trained: np.ndarray, length: int, place: int, group: int) -> Row:
    sample = trajectory.samples[number]
    version, turn = np.zeros((2, len(sample.ids)), np.int64)
    advantages = np.full(len(sample.ids), trajectory.advantage)
    for index, step in enumerate(trajectory.steps):
        if step.sample == number:
            span = slice(*step.span)
            version[span], turn[span] = step.version, index
            advantages[span] += step.advantage or 0.0
    logprobs = sample.logprobs[trained]
    support = None if sample.support is None else sample.support.at(trained)
    if support is not None and not support.holds(sample.ids[trained]).all():
        raise ValueError(f"trajectory {trajectory.id}: a sampled token is not in the support that is recorded with it")
    begins = np.concatenate([[True], np.diff(trained) > 1])
    index = np.arange(len(trained))
    return Row(
        ids=sample.ids[: trained[-1] + 1],
        trained=trained,
        sampler=logprobs,
        old=logprobs,
        reference=None,
        turn_position=index - np.maximum.accumulate(np.where(begins, index, 0)),
        version=version[trained],
        turn=turn[trained],
        advantages=advantages[trained],
        length=length,
        trajectory=place,
        sample=number,
        group=group,
        support=support,
        name=trajectory.id,
    )


def check_ids(rows: Sequence[Row], vocabulary: int) -> None:
    """Refuses token ids that a model does not have.

    Args:
        rows: What is to be computed.
        vocabulary: How many tokens the model has.

    Raises:
        ValueError: There is one; names the trajectory and the id.
    """
    for row in rows:
        ids = row.ids if row.support is None else np.concatenate([row.ids, row.support.ids])
        if (wrong := ids[(ids < 0) | (ids >= vocabulary)]).size:
            raise ValueError(
                f"trajectory {row.name}: it has the token {wrong[0]}, and the model's vocabulary is of {vocabulary}. "
                "Learn from trajectories that were sampled with this model's tokenizer (source.path, model.path)."
            )


def with_advantage(rows: Sequence[Row]) -> list[Row]:
    """The rows of trajectories of which some token has an advantage; whole ones: a sequence ratio needs every row."""
    moved = {row.trajectory for row in rows if np.any(row.advantages)}
    return [row for row in rows if row.trajectory in moved]


def assign_credit(batch: Batch, method: Method) -> None:
    """Lets a method change Â of single tokens: :meth:`~grpo_agents.methods.Method.credit` of the batch's episodes.

    Rows of a trajectory become one episode, in the order in which they were sampled.
    """
    together: dict[int, list[Row]] = {}
    for row in batch.rows:
        together.setdefault(row.trajectory, []).append(row)
    episodes = [
        Episode(
            advantages=np.concatenate([row.advantages for row in rows]),
            turn=np.concatenate([row.turn for row in rows]),
            old=np.concatenate([row.old for row in rows]),
            reference=_joined([row.reference for row in rows]),
            values=_joined([row.values for row in rows]),
            group=rows[0].group,
        )
        for rows in together.values()
    ]
    method.credit(episodes)
    for episode, rows in zip(episodes, together.values(), strict=True):
        cuts = np.cumsum([len(row.trained) for row in rows])[:-1]
        for row, advantages in zip(rows, np.split(episode.advantages, cuts), strict=True):
            row.advantages = advantages
        if episode.returns is not None:
            for row, returns in zip(rows, np.split(episode.returns, cuts), strict=True):
                row.returns = returns


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if len(known) == len(arrays) else None
