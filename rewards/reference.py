"""Compute as Teacher (arXiv 2509.14234): a frozen anchor reads a group's rollouts and writes the reference for them.

The anchor sees the rollouts and not the question (by default: the paper found no use in showing it), compares and mends
what they say, and ends with one answer. A rollout is worth 1 where its answer is that one. No gold answer is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from grpo_agents.engines.chat_model import Answer, ChatModel
from grpo_agents.rewards.component import Component
from grpo_agents.rewards.math_answer import extract
from grpo_agents.rewards.pseudo_label import (
    Label,
    Reading,
    agreement,
    check_template,
    fill,
    numbered,
    question_of,
    same_answer,
    several,
)
from grpo_agents.trajectory import Group

PROMPT = r"""Below are {count} responses to one and the same task, which you are not shown. Some of them may be
wrong, and so may most of them.

{rollouts}

Write the one response that you think is best. Compare their steps rather than count their answers: keep what is right,
mend what is wrong, and fill in what is missing. Do not write about the responses. If the task has a final answer, put
it in \boxed{}."""
"""What the anchor is asked; ``{rollouts}`` are the rollouts' last messages, ``{count}`` how many they are."""

WITH_QUESTION = "The task:\n{question}\n\n" + PROMPT.replace(", which you are not shown", "")
"""The same with the task."""


def reference(
    *,
    answer: Callable[[str], str | None] = extract,
    compare: Callable[[str, str], bool] = same_answer,
    show_question: bool = False,
    prompt: str | None = None,
    name: str = "reference",
) -> Component:
    r"""A component that is 1 where a rollout's answer is that of the reference which the anchor synthesised, else 0.

    Args:
        answer: Reads the answer off a text; ``\boxed{}`` where not set.
        compare: Whether the reference's answer and a rollout's are the same; as mathematics where not set.
        show_question: Whether the anchor sees the task.
        prompt: Another template, with ``{rollouts}``; ``{count}`` and ``{question}`` as you like.
        name: What the component is called.

    Raises:
        ValueError: A prompt without its fields.
    """
    template = anchor_prompt(prompt, show_question=show_question)
    reading = Reading(answer, compare)

    async def agrees(group: Group, anchor: ChatModel) -> list[float]:
        said = await synthesise(group, anchor, template)
        stated = answer(said.text)
        if stated is None:
            raise refused(name, group, f"the anchor's reference states no answer: {end_of(said)}", said)
        label = Label(said.text, stated, taken(said))
        return await asyncio.to_thread(agreement, name, group, label, reading)

    return Component(name, agrees, unit="agrees", per="group")


def anchor_prompt(prompt: str | None, *, show_question: bool) -> str:
    """The template that the anchor is asked by.

    Raises:
        ValueError: One without its fields.
    """
    template = prompt if prompt is not None else WITH_QUESTION if show_question else PROMPT
    return check_template("the anchor's prompt", template, "rollouts", *(["question"] if show_question else []))


async def synthesise(group: Group, anchor: ChatModel, template: str) -> Answer:
    """What the anchor writes, having read the rollouts.

    Raises:
        ValueError: A single rollout, of which there is nothing to be synthesised.
    """
    texts = [trajectory.final for trajectory in several(group)]
    fields = {"rollouts": numbered(texts), "count": str(len(texts)), "question": question_of(group)}
    return await anchor.complete([{"role": "user", "content": fill(template, **fields)}])


def taken(*answers: Answer) -> dict[str, Any]:
    """How many tokens were read and written for answers; one that was remembered counts as it did at first.

    None where nobody counted those of one of them.
    """

    def total(counts: list[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    return {
        "calls": len(answers),
        "read": total([answer.read for answer in answers]),
        "written": total([answer.written for answer in answers]),
    }


def refused(name: str, group: Group, reason: str, *answers: Answer) -> ValueError:
    """What to raise of answers that are no judgement; what they were and took is noted all the same."""
    group.notes[name] = {"text": answers[-1].text, "refused": reason, **taken(*answers)}
    return ValueError(reason)


def end_of(said: Answer) -> str:
    """The end of a text, and whether it was cut off there."""
    cut = " (cut off at max_tokens of the model)" if said.finish_reason == "length" else ""
    return f"…{said.text[-200:]!r}{cut}"
