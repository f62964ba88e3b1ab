"""Where a batch comes from: sampled now, sampled before learning began, stored by another run, or written by people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from grpo_agents import store
from grpo_agents.advantage import AdvantageConfig, assign_advantages, has_spread
from grpo_agents.chat import Chat
from grpo_agents.cluster.scheduler import horizon
from grpo_agents.curriculum import Curriculum, Draw
from grpo_agents.engines import mix
from grpo_agents.methods import Method
from grpo_agents.rescoring import files_of_other_preference
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rollout import Sampler
from grpo_agents.scoring import Scoring
from grpo_agents.tasks import Tasks, index_of
from grpo_agents.trajectory import Group, Message, Task, Trajectory
from grpo_agents.utility import utilities_of

Figures = dict[str, float]

Batch = tuple[list[Group], Figures]
"""The groups to learn from, with advantages, and figures about them."""

WRITTEN = ("demonstrations", "pairs")
"""Kinds of sources that nobody sampled."""


class Source(Protocol):
    """Gives the batch of each step: the same one for the same step, if a curriculum has the same counts."""

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        ...


def pick(tasks: Tasks, number: int, seed: int) -> Task:
    """The task that comes up ``number``-th; see :func:`place_of`."""
    return tasks[place_of(number, tasks.count, seed)]


def place_of(number: int, count: int | None, seed: int) -> int:
    """Which entry of a source comes up ``number``-th: a finite one is gone through in a new random order each time.

    Args:
        number: Counts from 0.
        count: How many entries there are; None for one without end, which is taken as it comes.
        seed: Of the order.
    """
    return number if count is None else index_of(count, number, seed)


@dataclass(frozen=True)
class Weighing:
    """How the groups of a batch get their advantages.

    Attributes:
        vector: The reward vector.
        config: How rewards become returns.
        maxima: The most an episode can cost, by component.
        method: What becomes of returns.
        watched: Names of components that are described, and no part of returns.
    """

    vector: RewardVector
    config: AdvantageConfig
    maxima: dict[str, float]
    method: Method
    watched: tuple[str, ...] = ()

    def __call__(self, groups: Sequence[Group]) -> Figures:
        """Gives every trajectory of a batch its advantage; returns figures about them."""
        figures = assign_advantages(groups, self.vector, self.config, self.maxima, self.method)
        return figures | describe(groups, self.vector, self.maxima, self.config.gate, self.watched)

    def has_spread(self, group: Group) -> bool:
        """Whether something is to be learned from a group, compared with itself alone."""
        return has_spread(group, self.vector, self.config, self.maxima, self.method)


class PolicySource:
    """Groups sampled from the current policy, scored and with advantages.

    Args:
        rollout: Samples them.
        curriculum: Chooses the tasks.
        weigh: Gives them advantages.
        size: Groups in a batch.
        seed: The run's.
        resample: How often, at most, groups without any spread give way to new ones.
        ahead: Batches that are begun before their step, as far as the run is long: their weights may be so many steps
            old when they are learned from, and never older.
        steps: How long the run is.
        progress: Told how many episodes have just ended.
        watch: Gives more figures about the groups of a batch.
    """

    def __init__(
        self,
        rollout: Sampler,
        curriculum: Curriculum,
        weigh: Weighing,
        size: int,
        seed: int,
        *,
        resample: int = 0,
        ahead: int = 0,
        steps: int = 0,
        progress: Callable[[int], None] | None = None,
        watch: Callable[[Sequence[Group]], Figures] = lambda _: {},
    ):
        self.rollout = rollout
        self.curriculum = curriculum
        self.weigh = weigh
        self.size = size
        self.seed = seed
        self.resample = resample
        self.ahead = ahead
        self.steps = steps
        self.progress = progress
        self.watch = watch
        self._begun: dict[int, tuple[Draw, Callable[[], list[Group]]]] = {}

    def batch(self, step: int) -> Batch:
        """Samples ``size`` groups from the weights that the engine has now, or waits for those that were begun."""
        began = time.perf_counter()
        for coming in horizon(step, self.ahead, self.steps):
            if coming not in self._begun:
                draw = Draw(coming)
                self._begun[coming] = (draw, self._begin(draw, self.size, mix(self.seed, 1, coming)))
        draw, wait = self._begun.pop(step)
        groups = wait()
        played = list(groups)
        for attempt in range(1, 1 + self.resample):
            kept = [group for group in groups if self.weigh.has_spread(group)]
            if len(kept) == self.size:
                break
            others = self._begin(draw, self.size - len(kept), mix(self.seed, 1, step, attempt))()
            groups, played = kept + others, played + others
        for number, group in enumerate(groups):
            for trajectory in group.trajectories:
                trajectory.group = number
        seconds = time.perf_counter() - began
        figures = self.weigh(groups) | self.curriculum.observe(draw, played) | self.watch(groups)
        figures |= {"seconds/rollout": seconds}
        return groups, figures | ({"groups_replaced": float(len(played) - len(groups))} if self.resample else {})

    def _begin(self, draw: Draw, count: int, seed: int) -> Callable[[], list[Group]]:
        tasks = self.curriculum.take(draw, count)
        return self.rollout.begin(tasks, step=draw.step, seed=seed, progress=self.progress)


class StoredSource:
    """Groups of trajectories that are stored, gone through in a new random order each time.

    Those of an evaluation are left out: a run's folder holds them beside the others, and they are there to be held out.

    Args:
        paths: File or folder of trajectories, or several.
        weigh: Gives them advantages.
        size: Groups in a batch.
        seed: The run's.
        rescore: Computes their rewards again; None takes those that are stored.
        other_preference: Whether their preferences may be others than the policy was shown.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A file that cannot be read, no group to learn from, a trajectory that lacks a reward of the vector,
            or preferences that the policy was not shown.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[Path],
        weigh: Weighing,
        size: int,
        seed: int,
        *,
        rescore: Callable[[list[Group]], None] | None = None,
        other_preference: bool = False,
    ):
        self.weigh = weigh
        self.size = size
        self.seed = seed
        self.groups = store.read_groups(paths, without_phase="eval")
        if not self.groups:
            raise ValueError(f"source.path: {paths} holds no trajectories but those of evaluations. Name others")
        if not other_preference and (files := files_of_other_preference(paths)):
            raise ValueError(
                f"source.path: the preferences in {files[0]} are not those that its policy was shown (rescore "
                "--preference), and learning from them teaches it not to read its own. Take the file that was "
                "rescored, or set source.other_preference = true"
            )
        if rescore is not None:
            rescore(self.groups)
        for group in self.groups:
            for trajectory in group.trajectories:
                if lacking := [name for name in weigh.vector.names if name not in trajectory.rewards]:
                    raise ValueError(
                        f"source.path: trajectory {trajectory.id} has no reward {lacking[0]!r}, only "
                        f"{', '.join(trajectory.rewards) or 'none'}. Set source.rescore = true to compute the vector "
                        "again, or rewards.vector to what there is"
                    )
                if infinite := [name for name, value in trajectory.rewards.items() if not np.isfinite(value or 0.0)]:
                    raise ValueError(
                        f"source.path: trajectory {trajectory.id} has {trajectory.rewards[infinite[0]]} as reward "
                        f"{infinite[0]!r}. Set source.rescore = true, or take it out of the file"
                    )

    def batch(self, step: int) -> Batch:
        """The next ``size`` groups."""
        chosen = []
        for number in range(self.size):
            group = self.groups[place_of(step * self.size + number, len(self.groups), self.seed)]
            # copies, as a group may come up twice: at the end of a round and at the beginning of the next one
            chosen.append(replace(group, trajectories=[replace(each, group=number) for each in group.trajectories]))
        return chosen, self.weigh(chosen)


class FrozenSource:
    """Groups sampled from the first weights, all of them before learning begins; then gone through as stored ones.

    Args:
        policy: Samples them.
        batches: How many times.
        folder: Where they are stored.
        scoring: Noted with them.
    """

    def __init__(self, policy: PolicySource, batches: int, folder: Path, scoring: Scoring):
        self.policy = policy
        self.files = [folder / f"frozen-{number:06d}.parquet" for number in range(batches)]
        self.scoring = scoring

    @property
    def lacking(self) -> list[int]:
        """Which batches are not there yet."""
        return [number for number, file in enumerate(self.files) if not file.exists()]

    def fill(self) -> Iterator[int]:
        """Samples and stores what is lacking, batch by batch, and says which; the engine has the first weights."""
        for number in self.lacking:
            groups, _ = self.policy.batch(number)
            store.write(self.files[number], groups, step=0, phase="frozen", scoring=self.scoring)
            yield number

    @cached_property
    def stored(self) -> StoredSource:
        """What was sampled."""
        return StoredSource(self.files, self.policy.weigh, self.policy.size, self.policy.seed)

    def batch(self, step: int) -> Batch:
        """The next groups."""
        return self.stored.batch(step)


@dataclass(frozen=True)
class DemonstrationSource:
    """Dialogues to imitate, each an episode of advantage 1.

    Attributes:
        dialogues: Each with ``messages``, and ``tools`` where it has them; see :meth:`Chat.demonstration`.
        chat: Makes tokens of them.
        size: Dialogues in a batch.
        seed: The run's.
    """

    dialogues: Tasks
    chat: Chat
    size: int
    seed: int

    def batch(self, step: int) -> Batch:
        """The next ``size`` dialogues.

        Raises:
            ValueError: One without messages, or without an assistant's turn; says which, counted from 0.
        """
        groups = []
        for index in range(self.size):
            place = place_of(step * self.size + index, self.dialogues.count, self.seed)
            dialogue = self.dialogues[place]
            try:
                trajectory = _written(self.chat, (), dialogue["messages"], dialogue.get("tools") or ())
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"demonstration {place}: {_reason(error)}") from error
            trajectory.advantage, trajectory.group = 1.0, index
            groups.append(Group({}, {}, [trajectory]))
        return groups, {}


@dataclass(frozen=True)
class PairSource:
    """Pairs of a chosen and a rejected continuation, as advantages 1 and −1.

    Attributes:
        pairs: Each with ``prompt`` (messages, or the text of a user), ``chosen`` and ``rejected`` (messages that
            follow it, or the text of the assistant), and ``tools`` where it has them.
        chat: Makes tokens of them.
        size: Pairs in a batch.
        seed: The run's.
    """

    pairs: Tasks
    chat: Chat
    size: int
    seed: int

    def batch(self, step: int) -> Batch:
        """The next ``size`` pairs.

        Raises:
            ValueError: One that lacks a part, or with nothing of the assistant's in it; says which, counted from 0.
        """
        groups = []
        for index in range(self.size):
            place = place_of(step * self.size + index, self.pairs.count, self.seed)
            pair = self.pairs[place]
            group = Group({}, {}, [])
            for rank, (name, advantage) in enumerate((("chosen", 1.0), ("rejected", -1.0))):
                try:
                    prompt, said = as_messages(pair["prompt"], "user"), as_messages(pair[name], "assistant")
                    trajectory = _written(self.chat, prompt, said, pair.get("tools") or ())
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"pair {place}, {name}: {_reason(error)}") from error
                trajectory.advantage, trajectory.group, trajectory.index = advantage, index, rank
                group.trajectories.append(trajectory)
            groups.append(group)
        return groups, {}


def as_messages(said: str | Sequence[Message], role: str) -> Sequence[Message]:
    """Messages, or a text as one message of that role."""
    return [{"role": role, "content": said}] if isinstance(said, str) else said


def _reason(error: Exception) -> str:
    """What is wrong with something written, as its message."""
    return f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"


def _written(
    chat: Chat, prompt: Sequence[Message], messages: Sequence[Message], tools: Sequence[dict[str, object]]
) -> Trajectory:
    """A trajectory of what people wrote, of which the assistant's turns after the prompt are trained."""
    conversation = chat.demonstration([*prompt, *messages], tools)
    trajectory = Trajectory(samples=conversation.finished_samples(), prompt=conversation.prompt)
    given = sum(message["role"] == "assistant" for message in prompt[1:])
    for turn in conversation.turns[:given]:
        trajectory.samples[turn.sample].mask[turn.start : turn.stop] = False
    if not trajectory.sampled_tokens:
        raise ValueError("no token of it is trained: it needs an assistant message after the prompt")
    return trajectory


def describe(
    groups: Sequence[Group],
    vector: RewardVector,
    maxima: dict[str, float],
    gate: str | None,
    watched: Sequence[str] = (),
) -> Figures:
    """The figures of a batch that people look at: rewards, lengths, how episodes ended."""
    everyone = [trajectory for group in groups for trajectory in group.trajectories]
    figures: Figures = {}
    scalars = utilities_of(everyone, vector, maxima, gate)
    if not np.isnan(scalars).all():
        figures["reward"] = float(np.nanmean(scalars))
    for name in (*vector.names, *watched):
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
