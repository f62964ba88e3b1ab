"""The member at the desk, as a script: says the wishes, answers what it is asked, and leaves when all is done.

It understands little: which of a few things a question is about, and that the agent says to be done. What it was told
to say only when asked, it says only then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from grpo_agents.trajectory import Task

PATIENCE = 3
"""Messages in a row that bring the member nothing to answer, after which it leaves."""

ABOUT = {
    "card": r"\bcard\b|\bmember(ship)? (number|id)\b",
    "name": r"\bname\b|\bwho (are you|am i)\b",
    "born": r"\bborn\b|\bbirth|\bdob\b",
    "lend": r"\b(lend|borrow|check ?out)\b",
    "return": r"\breturn(ing)?\b|\b(bring|give) (it |that |one )?back\b",
    "renew": r"\brenew(al|ing)?\b|\bextend\b|\blonger\b",
    "format": r"\bformat\b|\bedition\b|\bwhich (copy|one)\b|\bhardback\b|\bpaperback\b|\blarge print\b",
    "email": r"\be-?mail\b",
    "pay": r"\bpay(ment)?\b|\bfines?\b",
    "hold": r"\bholds?\b|\breserve\b|\bwaiting list\b|\bqueue\b|\bwait for\b",
}
"""What a question can be about, and how that is noticed."""

UNKNOWN = {
    "card": "I do not have my card with me.",
    "name": "I would rather not say.",
    "born": "I would rather not say.",
    "lend": "I do not want to borrow anything.",
    "return": "I am not returning anything.",
    "renew": "I do not want to renew anything.",
    "format": "Any copy will do.",
    "email": "My e-mail address is the one that you have.",
    "pay": "I do not want to pay anything today.",
    "hold": "No hold for me, thank you.",
}
"""What is said to a question about what the member was told nothing of."""

_ASKS = re.compile(r"\?|\bplease (tell|give|provide|confirm|say|state)\b|\blet me know\b|\bi (will )?need\b")
_DONE = re.compile(r"\banything else\b|\bdone\b|\bgood ?bye\b|\bbye\b|\ball set\b|\btaken care of\b")
_CONFIRM = re.compile(
    r"\b(shall|should|may) i\b|\bdo you want\b|\bwould you like\b|\b(right|correct|okay|ok)\b|\bconfirm\b"
)
_WELCOME = re.compile(r"\bhelp\b|\bdo for you\b|\bwould you like to do\b")
_YES = ("Yes, please.", "Yes.", "Yes, that is right.")
_BYE = ("No, that is all. Goodbye.", "That is all, thank you. Goodbye.")
_WAITS = ("All right.", "I see.", "Thank you.")


@dataclass(frozen=True, slots=True)
class Said:
    """What a user says, and whether it then leaves."""

    text: str
    leaves: bool = False


class User(Protocol):
    """Who an agent talks to, for one episode."""

    def opening(self) -> str:
        """The first message."""
        ...

    def reply(self, text: str) -> Said:
        """The answer to a message of the agent's."""
        ...


def asked_about(text: str) -> list[str]:
    """What the questions in a text are about, of the keys of :data:`ABOUT`.

    >>> asked_about("Your loan is done. Could you tell me your date of birth, and your name?")
    ['name', 'born']
    >>> asked_about("I looked at your card.")
    []
    """
    asked = " ".join(sentence for sentence in _sentences(text) if _ASKS.search(sentence))
    return [about for about, pattern in ABOUT.items() if re.search(pattern, asked)]


class ScriptedUser:
    """Plays the member of a task.

    Args:
        task: Its ``user`` and ``wishes`` are read.
        rng: Chooses among ways to say the same.
    """

    def __init__(self, task: Task, rng: np.random.Generator):
        self._told: list[dict[str, Any]] = [task["user"], *(wish for wish in task["wishes"] if not wish["later"])]
        self._later = [wish for wish in task["wishes"] if wish["later"]]
        self._rng = rng
        self._patience = PATIENCE

    def opening(self) -> str:
        """Who it is, and its wishes."""
        return " ".join(part["says"] for part in self._told)

    def reply(self, text: str) -> Said:
        """Answers questions that it knows; else takes the agent to be done, or says yes; else has less patience."""
        text = text.casefold()
        if about := asked_about(text):
            self._patience = PATIENCE
            return Said(" ".join(answer for topic in about for answer in self._answers(topic)))
        if _DONE.search(text):
            return self._next_wish()
        asks = _ASKS.search(text) is not None
        if asks and _CONFIRM.search(text) and not _WELCOME.search(text):
            self._patience = PATIENCE
            return Said(self._one_of(_YES))
        self._patience -= 1
        if not self._patience:
            return Said("I have to go now. Goodbye.", leaves=True)
        return Said(" ".join(part["says"] for part in self._told[1:]) if asks else self._one_of(_WAITS))

    def _answers(self, topic: str) -> list[str]:
        known = [part[kind][topic] for part in self._told for kind in ("details", "answers") if topic in part[kind]]
        return known or [UNKNOWN[topic]]

    def _next_wish(self) -> Said:
        if not self._later:
            return Said(self._one_of(_BYE), leaves=True)
        wish = self._later.pop(0)
        self._told.append(wish)
        return Said(f"One more thing. {wish['says']}")

    def _one_of(self, ways: tuple[str, ...]) -> str:
        return ways[int(self._rng.integers(len(ways)))]


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|\n+", text.casefold())
