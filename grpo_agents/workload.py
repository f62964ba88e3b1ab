"""How many tokens a step computes: what a config's budgets allow at most, or what a run really did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from grpo_agents.learner.batch import Row, make_batch, with_advantage
from grpo_agents.learner.packing import Unit, as_tree, cut, micro_batches

if TYPE_CHECKING:
    from grpo_agents.config import Config
    from grpo_agents.cost import Shape
    from grpo_agents.trajectory import Group, Trajectory


@dataclass(frozen=True, slots=True)
class Work:
    """What a model is to compute.

    Attributes:
        tokens: Positions that go through the layers.
        pairs: Keys attended, summed over these positions.
        heads: Distributions over the vocabulary that the output layer makes.
    """

    tokens: float
    pairs: float
    heads: float

    def times(self, factor: float) -> Work:
        """So many times as much."""
        return Work(*(factor * value for value in (self.tokens, self.pairs, self.heads)))


def triangle(length: int, before: int = 0) -> float:
    """Keys that ``length`` tokens attend to: each itself, those among them that precede it, and all ``before`` them.

    >>> triangle(3), triangle(3, before=10)
    (6.0, 36.0)
    """
    return length * before + length * (length + 1) / 2


@dataclass(frozen=True, slots=True)
class Workload:
    """A step.

    Attributes:
        sampling: Of the engine.
        scoring: Of a forward pass over the batch.
        learning: Of one update: what has a gradient.
        judging: Of a reward model: every episode once, its output layer once each.
        slots: Places of the key-value cache when the episodes end.
        rollouts: Episodes.
        told: Tokens that an episode was told, on average.
        sampled: Those that it sampled.
        turns: Its turns.
        longest: Tokens of the longest row.
        resampled: How many times as much is sampled as is kept.
        measured: Whether it is a run's; else what the budgets allow at most.
    """

    sampling: Work
    scoring: Work
    learning: Work
    judging: Work
    slots: float
    rollouts: int
    told: float
    sampled: float
    turns: float
    longest: int
    resampled: float
    measured: bool

    @property
    def tokens(self) -> float:
        """D: those of all episodes, what they share as often as they have it."""
        return self.rollouts * (self.told + self.sampled)


def budgeted(config: Config, shape: Shape, *, prompt: int, observation: int) -> Workload:
    """The most that a config's budgets allow: every episode takes all its turns and all its tokens.

    Args:
        config: The run's.
        shape: The model's.
        prompt: Tokens of a prompt, which no key bounds.
        observation: Tokens between two turns, which no key bounds.
    """
    rollout, written = config.rollout, config.source_kind in ("demonstrations", "pairs")
    size = {"demonstrations": 1, "pairs": 2}.get(config.source_kind, rollout.group_size)
    return episodes(config, shape, config.train.batch, size, prompt, observation, chosen=written)


def episodes(
    config: Config, shape: Shape, groups: int, size: int, prompt: int, observation: int, *, chosen: bool = False
) -> Workload:
    """So many groups of episodes that take all their turns and tokens; ``chosen``: pairs that are pairs already."""
    rollout = config.rollout
    context = min(shape.context, config.engine.vllm.context_length or shape.context)
    prompt = min(prompt, context - 1)
    turns = min(rollout.max_turns, rollout.max_tokens)
    observed = min(observation * (turns - 1), context - 1 - prompt)
    sampled = min(rollout.max_tokens, rollout.max_turns * rollout.max_turn_tokens, context - prompt - observed)
    length, rollouts = prompt + observed + sampled, groups * size
    rest = observed + sampled - 1  # the last token is drawn, and not fed
    sampling = Work(
        groups * prompt + rollouts * rest,
        groups * triangle(prompt) + rollouts * triangle(rest, prompt),
        groups + rollouts * (sampled - 1),
    )
    learned = 2 if config.method["name"] == "dpo" and not chosen else size  # the best and the worst of a group

    def computed(unit: Unit) -> Work:
        parts = []
        for prompts, rows in packs(groups, learned, prompt, rest, config.learner.max_tokens, unit):
            pairs = prompts * triangle(prompt) + rows * triangle(rest, prompt)
            parts.append(Work(prompts * prompt + rows * rest, pairs, rows * sampled))
        return total(parts)

    return Workload(
        sampling=sampling,
        scoring=computed("token"),
        learning=computed(config.chosen_method.unit),
        judging=Work(rollouts * length, rollouts * triangle(length), rollouts),
        slots=rollouts * (length - 1),
        rollouts=rollouts,
        told=prompt + observed,
        sampled=sampled,
        turns=turns,
        longest=length,
        resampled=1 + config.chosen_method.most_resamples,
        measured=False,
    )


def packs(
    groups: int, size: int, prompt: int, rest: int, max_tokens: int, unit: Unit = "token"
) -> Iterator[tuple[int, int]]:
    """Prompts and rows of each micro-batch, where the rows of a group share their prompt and nothing else.

    Args:
        groups: How many.
        size: Rows of each.
        prompt: Tokens that a group shares.
        rest: Tokens of a row beside them.
        max_tokens: Of a micro-batch; what belongs together and has more is one all the same.
        unit: What belongs together.

    >>> list(packs(groups=2, size=3, prompt=10, rest=5, max_tokens=40)), list(packs(1, 3, 10, 5, max_tokens=20))
    ([(1, 3), (1, 3)], [(1, 1), (1, 2)])
    """
    together = size if unit == "group" else 1
    firsts = np.arange(0, groups * size, together)
    alone = prompt + together * rest
    new = np.where(firsts % size == 0, alone, together * rest)
    for start, stop in cut([alone] * len(firsts), new.tolist(), max_tokens):
        begun = {int(first) // size for first in firsts[start:stop]}
        yield len(begun), (stop - start) * together


def measured(config: Config, steps: Sequence[Sequence[Group]], *, replaced: float = 0.0) -> Workload:
    """The mean of the steps of a run: rows as they shared prefixes, those of advantage 0 left out where they were.

    Args:
        config: The run's.
        steps: The groups of every step.
        replaced: Groups that gave way to others, a step.
    """
    method, budget = config.chosen_method, config.learner.max_tokens
    sampling, scoring, learning, judging, slots, longest = [], [], [], [], 0.0, 0
    together = 1 if config.reward_model is None else config.reward_model.batch
    for groups in steps:
        everyone = [trajectory for group in groups for trajectory in group.trajectories]
        sampling += [sampled_work(group.trajectories) for group in groups]
        judging += [judged_work(group.trajectories, together) for group in groups]
        rows = make_batch(everyone).rows
        longest = max([longest, *(len(row.ids) for row in rows)])
        slots += sum(len(sample.ids) for trajectory in everyone for sample in trajectory.samples[-1:])
        scoring.append(learned_work(rows, budget))
        if method.gradient_only_from_advantages(0.0):
            rows = with_advantage(rows)
        learning.append(learned_work(rows, budget, method.unit))
    trajectories = [trajectory for groups in steps for group in groups for trajectory in group.trajectories]
    sampled = float(np.mean([trajectory.sampled_tokens for trajectory in trajectories]))
    tokens = [sum(len(sample.ids) for sample in trajectory.samples) for trajectory in trajectories]
    groups_a_step = np.mean([len(groups) for groups in steps])
    return Workload(
        sampling=total(sampling).times(1 / len(steps)),
        scoring=total(scoring).times(1 / len(steps)),
        learning=total(learning).times(1 / len(steps)),
        judging=total(judging).times(1 / len(steps)),
        slots=slots / len(steps),
        rollouts=round(len(trajectories) / len(steps)),
        told=float(np.mean(tokens)) - sampled,
        sampled=sampled,
        turns=float(np.mean([len(trajectory.steps) for trajectory in trajectories])),
        longest=longest,
        resampled=1 + replaced / float(groups_a_step),
        measured=True,
    )


def sampled_work(trajectories: Sequence[Trajectory]) -> Work:
    """What an engine computes for a group: a prompt that rollouts share once, a rewritten history anew.

    Places that an engine in lockstep fills, where an episode waits for the slowest, are left out.
    """
    parts, prompts = [], set()
    for trajectory in trajectories:
        for number, sample in enumerate(trajectory.samples):
            drawn = np.flatnonzero(sample.mask)
            if not len(drawn):
                continue
            prompt, fed = int(drawn[0]), int(drawn[-1])  # the last token is drawn, and not fed
            known = prompt if (key := sample.ids[:prompt].tobytes()) in prompts and number == 0 else 0
            prompts.add(key)
            parts.append(Work(fed - known, triangle(fed - known, known), len(drawn) - (known > 0)))
    return total(parts)


def judged_work(trajectories: Sequence[Trajectory], together: int) -> Work:
    """What a reward model computes for a group: those of a batch are as wide as the widest.

    A conversation is taken to be as long as the longest sample of its trajectory: its tokens are the policy's here,
    and a reward model's tokenizer has others.
    """
    lengths = [max((len(sample.ids) for sample in trajectory.samples), default=0) for trajectory in trajectories]
    parts = [lengths[start : start + together] for start in range(0, len(lengths), together)]
    return total([Work(len(part) * max(part), len(part) * triangle(max(part)), len(part)) for part in parts])


def learned_work(rows: Sequence[Row], max_tokens: int, unit: Unit = "token") -> Work:
    """What the learner computes for rows: each different prefix in a micro-batch once, and what follows it once.

    Args:
        rows: The rows.
        max_tokens: Of a micro-batch.
        unit: Of the method whose loss it is.
    """
    parts = []
    for part in micro_batches(rows, max_tokens, unit):
        pack = as_tree(part, torch.device("cpu"))
        pairs = float((pack.arguments["ancestry"].tree.depth + 1).sum())
        parts.append(Work(pack.tokens, pairs, len(pack.targets)))
    return total(parts)


def total(parts: Sequence[Work]) -> Work:
    """The sum."""
    sums = [sum(getattr(part, name) for part in parts) for name in ("tokens", "pairs", "heads")]
    return Work(*map(float, sums))
