"""Where a batch comes from: groups sampled from the current policy, or demonstrations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from grpo_agents.advantage import AdvantageConfig, assign_advantages, utility
from grpo_agents.chat import Chat
from grpo_agents.engines import mix
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rollout import Rollout
from grpo_agents.tasks import Tasks
from grpo_agents.trajectory import Group, Task, Trajectory

Figures = dict[str, float]


class Source(Protocol):
    """Gives the batch of each step; the same one for the same step, so that nothing about it is state."""

    def batch(self, step: int) -> tuple[list[Group], Figures]:
        """The groups to learn from, with advantages, and figures about them."""
        ...


def pick(tasks: Tasks, number: int, seed: int) -> Task:
    """The task that comes up ``number``-th: a finite source is gone through in a new random order each time.

    Args:
        tasks: The source.
        number: Counts from 0.
        seed: Of the order.
    """
    if tasks.count is None:
        return tasks[number]
    round_, place = divmod(number, tasks.count)
    order = np.random.default_rng([seed, round_]).permutation(tasks.count)
    return tasks[int(order[place])]


class PolicySource:
    """Groups sampled from the current policy, scored and with advantages.

    Args:
        rollout: Samples them.
        tasks: Of what.
        vector: The reward vector.
        config: How rewards become advantages.
        maxima: The most an episode can cost, by component.
        size: Groups in a batch.
        seed: The run's.
        progress: Told how many episodes have just ended.
    """

    def __init__(
        self,
        rollout: Rollout,
        tasks: Tasks,
        vector: RewardVector,
        config: AdvantageConfig,
        maxima: dict[str, float],
        size: int,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ):
        self.rollout = rollout
        self.tasks = tasks
        self.vector = vector
        self.config = config
        self.maxima = maxima
        self.size = size
        self.seed = seed
        self.progress = progress

    def batch(self, step: int) -> tuple[list[Group], Figures]:
        """Samples ``size`` groups from the weights that the engine has now."""
        tasks = [pick(self.tasks, step * self.size + index, self.seed) for index in range(self.size)]
        began = time.perf_counter()
        groups = self.rollout.sample(tasks, seed=mix(self.seed, 1, step), progress=self.progress)
        seconds = time.perf_counter() - began
        return groups, self.weigh(groups) | {"seconds/rollout": seconds}

    def weigh(self, groups: Sequence[Group]) -> Figures:
        """Gives every trajectory of a batch its advantage; returns figures about them."""
        figures = assign_advantages(groups, self.vector, self.config, self.maxima)
        return figures | describe(groups, self.vector, self.maxima, self.config.gate)


class DemonstrationSource:
    """Dialogues to imitate, each an episode of advantage 1.

    Args:
        dialogues: Each with ``messages``, and ``tools`` where it has them; see :meth:`Chat.demonstration`.
        chat: Makes tokens of them.
        size: Dialogues in a batch.
        seed: The run's.
    """

    def __init__(self, dialogues: Tasks, chat: Chat, size: int, seed: int):
        self.dialogues = dialogues
        self.chat = chat
        self.size = size
        self.seed = seed

    def batch(self, step: int) -> tuple[list[Group], Figures]:
        """The next ``size`` dialogues.

        Raises:
            ValueError: One without messages, or without an assistant's turn; says which.
        """
        groups = []
        for index in range(self.size):
            number = step * self.size + index
            dialogue = pick(self.dialogues, number, self.seed)
            try:
                conversation = self.chat.demonstration(dialogue["messages"], dialogue.get("tools") or ())
            except (KeyError, ValueError) as error:
                raise ValueError(f"demonstration {number}: {type(error).__name__}: {error}") from error
            trajectory = Trajectory(
                samples=conversation.finished_samples(), advantage=1.0, group=index, prompt=conversation.prompt
            )
            groups.append(Group({}, {}, [trajectory]))
        return groups, {}


def describe(groups: Sequence[Group], vector: RewardVector, maxima: dict[str, float], gate: str | None) -> Figures:
    """The figures of a batch that people look at: rewards, lengths, how episodes ended."""
    everyone = [trajectory for group in groups for trajectory in group.trajectories]
    figures: Figures = {}
    scalars = [
        value
        for trajectory in everyone
        if (value := utility(trajectory.rewards, trajectory.preference, vector, maxima, gate)) is not None
    ]
    if scalars:
        figures["reward"] = float(np.mean(scalars))
    for name in vector.names:
        values = [value for trajectory in everyone if (value := trajectory.rewards.get(name)) is not None]
        if values:
            figures[f"reward/{name}"] = float(np.mean(values))
        missing = len(everyone) - len(values)
        if missing:
            figures[f"missing/{name}"] = float(missing)
    figures["sampled_tokens"] = float(np.mean([trajectory.sampled_tokens for trajectory in everyone]))
    figures["turns"] = float(np.mean([len(trajectory.steps) for trajectory in everyone]))
    for reason in sorted({trajectory.stop_reason for trajectory in everyone} - {"terminated"}):
        figures[f"stopped/{reason}"] = float(np.mean([trajectory.stop_reason == reason for trajectory in everyone]))
    return figures
