"""What a verdict says, and the conventions under which it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["equal", "different", "unparsed", "undecided"]
Percent = Literal["either", "value", "number"]
Degrees = Literal["unit", "radians"]
Boxes = Literal["last", "refuse", "adjacent"]


@dataclass(frozen=True, slots=True)
class Conventions:
    r"""Where people differ about what is the same answer. The defaults are what most graders do.

    Attributes:
        digits: Significant digits from which a correctly rounded decimal stands for the exact value: 0.333333 is 1/3,
            0.33333 is not.
        percent: 50 % is 1/2 (``value``), or 50 (``number``), or ``either``.
        degrees: 90° is 90 (``unit``), or half of pi (``radians``). Inside a sine it always is the angle.
        boxes: Of several ``\boxed{}`` the ``last`` counts; or ``refuse`` such an answer; or boxes with nothing but
            commas, "and" or a few words between them are one list (``adjacent``).
        prose: Whether an answer that is not readable as such may be looked for inside its sentence, by
            :data:`~grpo_agents.rewards.math_answer.LENIENT`. Not for rewards: it lets a policy hedge.
    """

    digits: int = 6
    percent: Percent = "either"
    degrees: Degrees = "unit"
    boxes: Boxes = "last"
    prose: bool = False

    def __post_init__(self) -> None:
        if self.digits < 1:
            raise ValueError(f"digits must be at least 1, not {self.digits}")
        for name, choices in (("percent", Percent), ("degrees", Degrees), ("boxes", Boxes)):
            if (given := getattr(self, name)) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, not {given!r}")


COMMON = Conventions()
"""The conventions that hold where none are given."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an answer compares with the gold answer. True only where they are equal.

    Attributes:
        status: ``equal``; ``different``; ``unparsed`` where one of them cannot be read or is over the limits;
            ``undecided`` where both can be read and neither was shown.
        rule: What decided, such as ``number``, ``rounded``, ``text`` or ``numeric``; where one is unparsed, which:
            ``gold`` or ``answer``.
        gold: The gold answer as it was understood; empty where it was not.
        answer: The answer as it was understood; empty where it was not.
        problem: Why one cannot be read.
    """

    status: Status
    rule: str
    gold: str = ""
    answer: str = ""
    problem: str = ""

    def __bool__(self) -> bool:
        return self.status == "equal"

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        gold, answer, why = self.gold[:100], self.answer[:100], _WHY.get(self.rule, "")
        match self.status:
            case "unparsed":
                return f"The {'gold ' * (self.rule == 'gold')}answer cannot be read: it {self.problem}."
            case "undecided":
                return f"Nothing shows if {answer} is {gold}{why}."
            case "different":
                return f"The answer {answer} is not {gold}{why}."
        if self.rule == "text":
            return f"Both are {gold}."
        return f"The answer {answer} is {gold}{', correctly rounded' * (self.rule == 'rounded')}."


_WHY = {
    "elements": ": they differ in their elements",
    "length": ": they do not have as many elements",
    "unit": ": their units differ",
    "ends": ": their ends differ",
    "kind": ": they are different kinds of things",
    "label": ": they speak of different quantities",
    "base": ": their digits or bases differ",
    "limits": ": the numbers are over the limits",
}
