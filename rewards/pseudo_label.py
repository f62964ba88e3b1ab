"""One answer for a group without a gold one, and who agrees with it: what ``reference`` and its baselines share.

Each of them leaves in the group's notes, under its name, what it chose and what everybody said, in one form
(:func:`agreement`), so that they can be compared with each other and with hidden gold answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_agents.rewards.math_answer import extract, verify
from grpo_agents.trajectory import Group, Trajectory

_FIELD = re.compile(r"\{([a-z_]+)\}")


def same_answer(reference: str, answer: str) -> bool:
    """Whether two answers of mathematics are the same; see :func:`grpo_agents.rewards.math_answer.verify`."""
    return bool(verify(reference, answer))


@dataclass(frozen=True)
class Reading:
    """How answers are read and compared.

    Attributes:
        answer: The answer that a text states, or None.
        compare: Whether the answer that is taken for right and another one are the same.
    """

    answer: Callable[[str], str | None] = extract
    compare: Callable[[str, str], bool] = same_answer


@dataclass(frozen=True)
class Label:
    """What a group is to agree with.

    Attributes:
        text: Where the answer stands; of the rollout that was chosen, its last message.
        answer: The answer; None where the policy gave none that could be chosen.
        said: What else is noted about it, plain JSON.
    """

    text: str
    answer: str | None
    said: dict[str, Any]


def fill(template: str, **fields: str) -> str:
    r"""A template with its fields filled in; other braces stay as they are.

    >>> fill(r"{question} Answer in \boxed{}.", question="1 + 1?")
    '1 + 1? Answer in \\boxed{}.'
    """
    return _FIELD.sub(lambda found: fields.get(found[1], found[0]), template)


def check_template(name: str, template: str, *needed: str) -> str:
    """The template itself.

    Raises:
        ValueError: It lacks a field; names it.
    """
    if missing := [field for field in needed if f"{{{field}}}" not in template]:
        raise ValueError(f"{name} has no {{{missing[0]}}}, and what it asks about would not be said")
    return template


def numbered(texts: Sequence[str], word: str = "Response") -> str:
    """Texts one below the other, each under its number."""
    return "\n\n".join(f"### {word} {number}\n{text.strip()}" for number, text in enumerate(texts, 1))


def question_of(group: Group) -> str:
    """What the policy was asked: the messages that its episodes began with."""
    return "\n".join(str(message.get("content") or "") for message in group.trajectories[0].prompt)


def several(group: Group) -> list[Trajectory]:
    """The rollouts of a group.

    Raises:
        ValueError: There is but one, which would agree with itself.
    """
    if len(group.trajectories) < 2:
        raise ValueError(
            "a group of one rollout: rollouts are held against each other, and it is right whatever it says. Use a "
            "rollout.group_size (and eval.rollouts) of at least 2"
        )
    return group.trajectories


def classes(answers: Sequence[str | None], compare: Callable[[str, str], bool]) -> list[int | None]:
    """Which answers are the same: a number for each, counted in the order in which they first appear; None for none.

    >>> classes(["1/2", None, "3", "0.5"], same_answer)
    [0, None, 1, 0]
    """
    found: list[str] = []
    numbers: list[int | None] = []
    for answer in answers:
        place = None
        if answer is not None:
            place = next((at for at, first in enumerate(found) if compare(first, answer)), len(found))
            found += [answer] if place == len(found) else []
        numbers.append(place)
    return numbers


def winner(numbers: Sequence[int | None]) -> tuple[int | None, int, int]:
    """The answer that most give, as :func:`classes` numbers them; of several, the one that was given first.

    >>> winner([0, 1, None, 1, 0])
    (0, 2, 2)

    Returns:
        Its number, None where nobody gives an answer; how many give it; and how many answers as many give.
    """
    votes = Counter(number for number in numbers if number is not None)
    most = max(votes.values(), default=0)
    best = [number for number, count in votes.items() if count == most]
    return min(best, default=None), most, len(best)


def agreement(name: str, group: Group, label: Label, reading: Reading) -> list[float]:
    """1 for each rollout whose answer is the label's, else 0; and a note about it.

    The note has ``answer`` and ``text`` of the label, ``rollouts`` (their numbers) with their ``answers`` and which of
    these are the same (``classes``), ``agrees`` (1 or 0 each), and what is said of the label beside.

    Args:
        name: Of the component.
        group: Its rollouts are compared, and its notes written.
        label: What they are compared with.
        reading: How.
    """
    answers = [reading.answer(trajectory.final) for trajectory in group.trajectories]
    right = label.answer
    agrees = [float(right is not None and answer is not None and reading.compare(right, answer)) for answer in answers]
    group.notes[name] = {
        "answer": label.answer,
        "text": label.text,
        "rollouts": [trajectory.index for trajectory in group.trajectories],
        "answers": answers,
        "classes": classes(answers, reading.compare),
        "agrees": agrees,
        **label.said,
    }
    return agrees
