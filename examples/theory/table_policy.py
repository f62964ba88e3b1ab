"""A policy that is a table of logits, small enough that what it is expected to earn can be computed exactly.

It learns by the toolkit's own code: advantages, the batch, credit and the method's loss. Only the log-probabilities
come from a table instead of a language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.learner.batch import Batch, assign_credit, make_batch
from grpo_agents.methods import Method, Tokens
from grpo_agents.rewards.component import RewardVector
from grpo_agents.trajectory import Group, Sample, Step, Trajectory


class TablePolicy:
    """π(action | state) = softmax of the state's row of logits.

    Args:
        logits: At the start, (rows, actions).
        row_of: Which row each state reads, (states,); its own where not given.
        offset: What is added to a state's logits and never learned, (states, actions).
        lr: Of Adam.
    """

    def __init__(
        self,
        logits: np.ndarray,
        *,
        row_of: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        lr: float = 0.05,
    ):
        self.logits = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        self.row_of = torch.arange(len(logits)) if row_of is None else torch.from_numpy(row_of)
        self.offset = torch.zeros(()) if offset is None else torch.from_numpy(offset)
        self.optimizer = torch.optim.Adam([self.logits], lr=lr)
        self.actions = logits.shape[1]

    def log_table(self) -> torch.Tensor:
        """Log π of every action in every state, (states, actions)."""
        return torch.log_softmax(self.logits[self.row_of] + self.offset, -1)

    def table(self) -> np.ndarray:
        """Every probability, (states, actions)."""
        return self.log_table().detach().exp().numpy()

    def learn(
        self,
        groups: Sequence[Group],
        method: Method,
        vector: RewardVector,
        config: AdvantageConfig,
        *,
        maxima: dict[str, float] | None = None,
        reference: np.ndarray | None = None,
    ) -> float:
        """One update on scored groups.

        Args:
            groups: The batch.
            method: What to learn.
            vector: The rewards.
            config: How they become returns.
            maxima: The most an episode can cost, by component.
            reference: Probabilities of π_ref, (states, actions), for methods that read them.

        Returns:
            The share of groups in which nothing is better than anything else.
        """
        for number, group in enumerate(groups):
            for index, trajectory in enumerate(group.trajectories):
                trajectory.group, trajectory.index = number, index
        figures = assign_advantages(groups, vector, config, maxima or {}, method)
        batch = make_batch([trajectory for group in groups for trajectory in group.trajectories])
        if batch.rows:
            for row in batch.rows:
                if reference is not None:
                    row.reference = np.log(reference.flatten()[row.ids[row.trained]])
            assign_credit(batch, method)
            loss = method.loss(self.tokens(batch))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return figures["groups_tied"]

    def tokens(self, batch: Batch) -> Tokens:
        """What a method's loss reads of a batch, in float64."""
        rows, table = batch.rows, self.log_table()
        counts = [len(row.trained) for row in rows]
        ids = torch.from_numpy(np.concatenate([row.ids[row.trained] for row in rows])).long()

        def joined(name: str) -> torch.Tensor:
            return torch.from_numpy(np.concatenate([getattr(row, name) for row in rows])).double()

        def repeated(name: str) -> torch.Tensor:
            return torch.from_numpy(np.repeat([getattr(row, name) for row in rows], counts))

        return Tokens(
            logprobs=table.flatten()[ids],
            sampler=joined("sampler"),
            old=joined("old"),
            reference=joined("reference") if rows[0].reference is not None else None,
            entropy=-(table.exp() * table).sum(-1)[ids // self.actions],
            advantages=joined("advantages"),
            lengths=repeated("length").double(),
            turn_position=joined("turn_position").long(),
            trajectory=repeated("trajectory"),
            group=repeated("group"),
            batch_tokens=batch.tokens,
            batch_trajectories=batch.trajectories,
        )


def episode(table: np.ndarray, states: ArrayLike, actions: ArrayLike, rewards: dict[str, float]) -> Trajectory:
    """An episode as the learner takes it.

    A token's id is state · actions + action: its place in the table.

    Args:
        table: Probabilities under the policy that sampled it, (states, actions).
        states: Where it was, (tokens,).
        actions: What it did there, (tokens,).
        rewards: What that earned, by component.
    """
    ids = np.asarray(states) * table.shape[1] + np.asarray(actions)
    count = len(ids)
    logprobs = np.log(table.flatten()[ids]).astype(np.float32)
    return Trajectory(
        steps=[Step(message={"role": "assistant", "content": ""}, span=(0, count))],
        samples=[Sample(ids.astype(np.int32), np.ones(count, bool), logprobs)],
        rewards={**rewards},
    )


def draw(rng: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    """One index a row, by its probabilities: (rows, actions) to (rows,)."""
    below = probabilities.cumsum(-1)[:, :-1]
    return (rng.random((len(below), 1)) > below).sum(-1)
