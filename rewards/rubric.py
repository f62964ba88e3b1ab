"""A rubric of yes-or-no criteria, and a judge who answers each for each rollout (arXiv 2509.14234, for free text).

The criteria come from a reference, not from the question: from the one that an anchor synthesises of the rollouts, from
a text that the task holds, or they stand in the task. A rollout is worth the share of them that it meets.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from grpo_agents.engines.chat_model import Answer, ChatModel
from grpo_agents.rewards.component import Component
from grpo_agents.rewards.pseudo_label import check_template, fill
from grpo_agents.rewards.reference import anchor_prompt, end_of, refused, synthesise, taken
from grpo_agents.trajectory import Group, Message

CRITERIA_PROMPT = """Here is a reference response to a task that you are not shown.

{reference}

Write {count} criteria by which another response to the same task can be judged: each a question that is answered with
yes or no, and with yes where the response is as good as the reference in that respect. Each asks for one thing that can
be checked in the response alone; together they cover what matters most. Write them as a numbered list, one a line, and
nothing else."""
"""What the anchor is asked; ``{reference}`` is the reference, ``{count}`` how many criteria there are to be."""

JUDGE_PROMPT = """Here is a response to a task.

{response}

Does it meet this criterion?

{criterion}

Answer with one word: yes or no."""
"""What the judge is asked of each rollout and each criterion."""

AGAIN = "Answer with one word: yes or no."
"""What the judge is told who said neither."""

_ENTRY = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+(\S.*?)\s*$", re.MULTILINE)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class Criterion(NamedTuple):
    """One question to a response, and what a yes is worth; less than 0 for what a response should not do."""

    text: str
    points: float = 1.0


def rubric(
    *,
    count: int = 5,
    reference: str | None = None,
    criteria: str | None = None,
    show_question: bool = False,
    prompt: str | None = None,
    criteria_prompt: str = CRITERIA_PROMPT,
    judge_prompt: str = JUDGE_PROMPT,
    name: str = "rubric",
) -> Component:
    """A component that is the share of criteria which a rollout meets, by the verdict of a judge.

    Where criteria have points, it is the sum of the points that were earned over the sum of those that can be, between
    0 and 1.

    Args:
        count: How many criteria the anchor writes.
        reference: The task's key that holds a reference text; where not set, the anchor synthesises one.
        criteria: The task's key that holds the criteria, texts or dicts of ``criterion`` and ``points``; no anchor is
            asked then.
        show_question: Whether the anchor sees the task when it synthesises.
        prompt: Another template for that; see :func:`grpo_agents.rewards.reference.reference`.
        criteria_prompt: Another template for the criteria, with ``{reference}``.
        judge_prompt: Another template for the judge, with ``{response}`` and ``{criterion}``.
        name: What the component is called.

    Raises:
        ValueError: Less than one criterion, both keys, or a template without its fields.
    """
    if count < 1:
        raise ValueError(f"rubric: count is {count}; at least 1 is needed")
    if reference is not None and criteria is not None:
        raise ValueError(f"rubric: criteria are taken from the task's {criteria!r} or written from its {reference!r}")
    template = anchor_prompt(prompt, show_question=show_question)
    check_template("criteria_prompt", criteria_prompt, "reference")
    check_template("judge_prompt", judge_prompt, "response", "criterion")

    async def given(group: Group, judge: ChatModel) -> list[float | Exception]:
        assert criteria is not None
        wanted = read_criteria(group.task[criteria], f"the task's {criteria!r}")
        return await _score(name, group, "", wanted, judge, judge_prompt, [])

    async def written(group: Group, anchor: ChatModel, judge: ChatModel) -> list[float | Exception]:
        answers: list[Answer] = []
        if reference is not None:
            text = group.task[reference]
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"the task's {reference!r} is {text!r}, and a text is wanted that criteria come from")
        else:
            answers.append(await synthesise(group, anchor, template))
            text = answers[0].text
            if not text or answers[0].finish_reason == "length":
                raise refused(name, group, f"the anchor wrote no whole reference: {end_of(answers[0])}", *answers)
        asked = fill(criteria_prompt, reference=text, count=str(count))
        answers.append(await anchor.complete([{"role": "user", "content": asked}]))
        found = [Criterion(entry) for entry in _ENTRY.findall(answers[-1].text)][:count]
        if len(found) < count:
            reason = f"the anchor wrote {len(found)} of {count} criteria: {end_of(answers[-1])}"
            raise refused(name, group, reason, *answers)
        return await _score(name, group, text, found, judge, judge_prompt, answers)

    function: Callable[..., Awaitable[list[float | Exception]]] = written if criteria is None else given
    return Component(name, function, unit="share met", per="group")


def read_criteria(entries: Any, where: str) -> list[Criterion]:
    """Criteria as a task holds them.

    >>> read_criteria(["Is it short?", {"criterion": "Does it guess?", "points": -2}], "the task")
    [Criterion(text='Is it short?', points=1.0), Criterion(text='Does it guess?', points=-2.0)]

    Args:
        entries: Texts, or dicts of ``criterion`` and ``points``.
        where: What a person calls them.

    Raises:
        ValueError: They are something else, or none can earn anything.
    """
    try:
        found = [
            Criterion(entry) if isinstance(entry, str) else Criterion(entry["criterion"], float(entry["points"]))
            for entry in entries
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{where}: criteria are texts, or dicts of criterion and points ({type(error).__name__}: {error})"
        ) from error
    if wrong := [entry for entry in found if not math.isfinite(entry.points)]:
        raise ValueError(f"{where}: the points of {wrong[0].text!r:.80} are {wrong[0].points}")
    if not any(entry.points > 0 for entry in found):
        raise ValueError(f"{where}: no criterion has points above 0, so that nothing could be earned")
    return found


async def _score(
    name: str,
    group: Group,
    text: str,
    criteria: Sequence[Criterion],
    judge: ChatModel,
    template: str,
    answers: list[Answer],
) -> list[float | Exception]:
    """The rollouts' shares, or why one has none; and a note of all verdicts."""
    pairs = [(trajectory.final, entry) for trajectory in group.trajectories for entry in criteria]
    verdicts = await asyncio.gather(
        *(_meets(response, entry.text, judge, template, answers) for response, entry in pairs), return_exceptions=True
    )
    rows = [verdicts[start : start + len(criteria)] for start in range(0, len(verdicts), len(criteria))]
    group.notes[name] = {
        "text": text,
        "criteria": [{"criterion": entry.text, "points": entry.points} for entry in criteria],
        "rollouts": [trajectory.index for trajectory in group.trajectories],
        "verdicts": [[verdict if isinstance(verdict, bool) else None for verdict in row] for row in rows],
        **taken(*answers),
    }
    return [_share(row, criteria) for row in rows]


async def _meets(response: str, criterion: str, judge: ChatModel, template: str, answers: list[Answer]) -> bool:
    """Whether a judge says yes; who says neither yes nor no is asked once more.

    Raises:
        ValueError: The judge said neither again.
    """
    if not response.strip():
        return False  # there is nothing to be judged
    messages: list[Message] = [{"role": "user", "content": fill(template, response=response, criterion=criterion)}]
    said = await judge.complete(messages)
    answers.append(said)
    verdict = _verdict(said.text)
    if verdict is None:
        messages += [{"role": "assistant", "content": said.text}, {"role": "user", "content": AGAIN}]
        said = await judge.complete(messages)
        answers.append(said)
        verdict = _verdict(said.text)
    if verdict is None:
        raise ValueError(f"the judge said neither yes nor no of {criterion!r:.80}, twice: {said.text[-100:]!r}")
    return verdict


def _verdict(text: str) -> bool | None:
    """Yes or no, where a text says one of them and not the other; None else."""
    words = {word.lower() for word in _VERDICT.findall(text)}
    return "yes" in words if len(words) == 1 else None


def _share(verdicts: Sequence[bool | BaseException], criteria: Sequence[Criterion]) -> float | Exception:
    earned = 0.0
    for verdict, criterion in zip(verdicts, criteria, strict=True):
        if isinstance(verdict, Exception):
            return verdict
        if isinstance(verdict, BaseException):  # it was called off: nothing has been judged
            raise verdict
        earned += criterion.points if verdict else 0.0
    return min(1.0, max(0.0, earned / sum(entry.points for entry in criteria if entry.points > 0)))
