"""What Compute as Teacher is compared with: other ways to one answer for a group without a gold one (arXiv 2509.14234).

Majority vote, the rollout of lowest perplexity, the one that the anchor says is best, and simply the first. Each takes
the answer of one of the rollouts; where that states none, nobody agrees with it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from grpo_agents.engines.chat_model import ChatModel
from grpo_agents.rewards.component import Component
from grpo_agents.rewards.math_answer import extract
from grpo_agents.rewards.pseudo_label import (
    Label,
    Reading,
    agreement,
    check_template,
    classes,
    fill,
    numbered,
    question_of,
    same_answer,
    several,
    winner,
)
from grpo_agents.rewards.reference import end_of, refused, taken
from grpo_agents.trajectory import Group, Trajectory

BEST_PROMPT = r"""The task:
{question}

Here are {count} responses to it.

{rollouts}

Which one is most likely right? End with its number in \boxed{}."""
"""What the anchor is asked by ``self_judged``."""

_NUMBER = re.compile(r"\d+")


def majority(
    *, answer: Callable[[str], str | None] = extract, compare: Callable[[str, str], bool] = same_answer
) -> Component:
    """The answer that most rollouts give. Of several that as many give, the one that was given first.

    Args:
        answer: Reads the answer off a text.
        compare: Whether two answers are the same.
    """
    reading = Reading(answer, compare)

    def agrees(group: Group) -> list[float]:
        numbers = classes([answer(trajectory.final) for trajectory in several(group)], compare)
        number, votes, tied = winner(numbers)
        return _chosen("majority", group, numbers.index(number), reading, {"votes": votes, "tied": tied})

    return Component("majority", agrees, unit="agrees", per="group")


def perplexity(
    *, answer: Callable[[str], str | None] = extract, compare: Callable[[str, str], bool] = same_answer
) -> Component:
    """The answer of the rollout of lowest perplexity: the highest mean log-probability of its sampled tokens.

    Args:
        answer: Reads the answer off a text.
        compare: Whether two answers are the same.
    """
    reading = Reading(answer, compare)

    def agrees(group: Group) -> list[float]:
        means = [_mean_logprob(trajectory) for trajectory in several(group)]
        best = int(np.argmax(means))
        if means[best] == -np.inf:
            raise ValueError("no rollout has log-probabilities, as a hosted model gives none")
        return _chosen("perplexity", group, best, reading, {"perplexity": float(np.exp(-means[best]))})

    return Component("perplexity", agrees, unit="agrees", per="group")


def self_judged(
    *,
    answer: Callable[[str], str | None] = extract,
    compare: Callable[[str, str], bool] = same_answer,
    prompt: str = BEST_PROMPT,
) -> Component:
    """The answer of the rollout that the anchor, shown the task and all of them, says is best.

    Args:
        answer: Reads the answer off a text.
        compare: Whether two answers are the same.
        prompt: What the anchor is asked, with ``{rollouts}``; ``{count}`` and ``{question}`` as you like.

    Raises:
        ValueError: A prompt without ``{rollouts}``.
    """
    reading = Reading(answer, compare)
    check_template("the prompt of self_judged", prompt, "rollouts")

    async def agrees(group: Group, anchor: ChatModel) -> list[float]:
        texts = [trajectory.final for trajectory in several(group)]
        fields = {"rollouts": numbered(texts), "count": str(len(texts)), "question": question_of(group)}
        said = await anchor.complete([{"role": "user", "content": fill(prompt, **fields)}])
        number = _NUMBER.fullmatch((extract(said.text) or "").strip())
        if number is None or not 1 <= int(number[0]) <= len(texts):
            reason = f"the anchor named none of {len(texts)} responses: {end_of(said)}"
            raise refused("self_judged", group, reason, said)
        return await asyncio.to_thread(_chosen, "self_judged", group, int(number[0]) - 1, reading, taken(said))

    return Component("self_judged", agrees, unit="agrees", per="group")


def first(
    *, answer: Callable[[str], str | None] = extract, compare: Callable[[str, str], bool] = same_answer
) -> Component:
    """The answer of a single rollout, the first.

    Args:
        answer: Reads the answer off a text.
        compare: Whether two answers are the same.
    """
    reading = Reading(answer, compare)
    return Component("first", lambda group: _chosen("first", group, 0, reading, {}), unit="agrees", per="group")


def _chosen(name: str, group: Group, place: int, reading: Reading, said: dict[str, Any]) -> list[float]:
    """Who agrees with the rollout at a place."""
    chosen = several(group)[place]
    label = Label(chosen.final, reading.answer(chosen.final), {"rollout": chosen.index, **said})
    return agreement(name, group, label, reading)


def _mean_logprob(trajectory: Trajectory) -> float:
    """Of the sampled tokens, under the distribution that they were drawn from; −∞ where there are none."""
    values = [sample.logprobs[sample.mask] for sample in trajectory.samples]
    sampled = np.concatenate(values) if values else np.zeros(0)
    return float(np.mean(sampled, dtype=np.float64)) if len(sampled) else -np.inf
