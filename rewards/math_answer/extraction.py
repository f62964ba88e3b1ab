r"""The final answer of a response.

>>> extract(r"So it is \boxed{\frac{1}{2}}.")
'\\frac{1}{2}'
>>> extract("He pays 5 * 3 = 15.\n#### 15", marker="####")
'15'
>>> extract("I think that the answer is 12.") is None
True
>>> extract("I think that the answer is 12.", modes=LENIENT)
'12'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from grpo_agents.rewards.math_answer.expression import Unreadable
from grpo_agents.rewards.math_answer.grammar import read
from grpo_agents.rewards.math_answer.spelling import clean, comma_readings

Mode = Literal["boxed", "marker", "phrase", "last"]

STRICT: tuple[Mode, ...] = ("boxed", "marker")
"""For rewards: the last ``\\boxed{}``, else what follows the last marker."""

LENIENT: tuple[Mode, ...] = ("boxed", "marker", "phrase", "last")
"""For reading what models wrote that were not told how: also what follows "the answer is", else the last thing in
``$…$`` or in bold and the last number, whichever comes later. A policy that is rewarded so learns to hedge."""

MAX_RESPONSE = 200_000
"""Characters from a response's end that the lenient modes look at."""
MAX_ANSWER = 2_000
"""Characters of an answer that they find."""
MAX_GAP = 20
"""Characters between two boxes that belong together, without markup."""

_BRACE = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_OPENING = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{$")
_GAP = re.compile(r".*\b(?:and|or)\b.*|[^A-Za-z]*", re.DOTALL)
_MARKUP = re.compile(r"\\(?:text|quad|textbf|mathrm)|\\[()\[\],; ]|[{}$]")
_PHRASE = re.compile(
    r"(?:final answer|answer|result|solution|réponse|respuesta|antwort|答案|答)\**\s*"
    r"(?:is|are|:|=|est|es|ist|：|是)+\**:?\s*",
    re.IGNORECASE,
)
_MATH = r"\$\$[^$]+\$\$|\$[^$]+\$|\\\[(?:(?!\\[\[\]]).)+\\\]|\\\((?:(?!\\[()]).)+\\\)"
_NUMBER = (
    r"(?<![A-Za-z0-9_.,/^{}\\])(?:[-+](?=[\d.$€£]))?[$€£]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+)?(?:\s?\\?%)?(?![\d^])"
    r"|(?:(?<![\w)])-)?\\[dt]?frac\{-?\d+\}\{\d+\}"
)
_NUMBERS = re.compile(_NUMBER)
_DELIMITED = re.compile(_MATH, re.DOTALL)
_LAST = re.compile(rf"{_MATH}|\*\*[^*\n]+\*\*|{_NUMBER}", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[^\d])\.(?=\s|$)|(?<=\d)\.(?=\s+[^\d]|$)|[\n。]|<\|")


def extract(response: str, marker: str | None = None, *, modes: Sequence[Mode] = STRICT) -> str | None:
    r"""The answer that a response states, or None.

    Args:
        response: What was written.
        marker: What an answer may also follow, such as ``####``.
        modes: Where to look, in this order: :data:`STRICT` (the default) or :data:`LENIENT`.

    Returns:
        The inside of the last balanced ``\boxed{}``, else the rest of the line after the last marker, and so on; of
        what the lenient modes find, the first that reads as an answer.

    Raises:
        ValueError: The response is no text, or a mode is unknown.
    """
    if not isinstance(response, str):
        raise ValueError(f"response must be a str, not {type(response).__name__}")
    if unknown := set(modes) - set(LENIENT):
        raise ValueError(f"unknown mode {sorted(unknown)[0]!r} of extraction. There are: {', '.join(LENIENT)}")
    for mode in modes:
        match mode:
            case "boxed":
                found = iter(boxed(response)[-1:])
            case "marker":
                found = _after(response, marker)
            case _:
                found = filter(_is_answer, _LOOK[mode](response[-MAX_RESPONSE:]))
        if answer := next(found, "").strip():
            return answer
    return None


def boxed(response: str) -> list[str]:
    r"""The inside of every ``\boxed{}`` that is closed and in no other, in their order."""
    return [response[start:end] for start, end in _boxes(response)]


def adjacent_boxes(response: str) -> list[str]:
    """The last box and those before it that only commas, "and" or a few words part from the next."""
    boxes = _boxes(response)
    together = boxes[-1:]
    for start, end in reversed(boxes[:-1]):
        gap = response[end + 1 : together[0][0]]
        gap = " ".join(_MARKUP.sub(" ", _OPENING.sub("", gap[:200])).split())
        if len(gap) > MAX_GAP or not _GAP.fullmatch(gap):
            break
        together.insert(0, (start, end))
    return [response[start:end] for start, end in together]


def _boxes(response: str) -> list[tuple[int, int]]:
    """Where the insides of the boxes start and end; one that stands in another is a part of it."""
    first = response.find("box")
    if first < 0:
        return []
    found: list[tuple[int, int]] = []
    open_braces: list[tuple[int, bool]] = []
    for brace in _BRACE.finditer(response, max(0, first - 3)):
        text = brace.group()
        if text[-1] == "{" and text != "\\{":
            open_braces.append((brace.end(), text != "{"))
        elif text == "}" and open_braces:
            start, is_box = open_braces.pop()
            if is_box:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, brace.start()))
    return found


def _after(response: str, marker: str | None) -> Iterator[str]:
    if marker and marker in response:
        yield response.rpartition(marker)[2].strip().partition("\n")[0]


def _phrases(text: str) -> Iterator[str]:
    """What follows the last "answer is", up to the end of its sentence, or what is given first in there."""
    for found in reversed(list(_PHRASE.finditer(text))[-3:]):
        rest = text[found.end() : found.end() + MAX_ANSWER]
        if math := _DELIMITED.match(rest):
            yield math.group()
        sentence = _SENTENCE.split(rest, maxsplit=1)[0]
        yield sentence
        if first := _NUMBERS.search(sentence):
            yield first.group()


def _last(text: str) -> Iterator[str]:
    """The last things in math delimiters or bold and the last numbers, the latest first."""
    for found in reversed([found.group() for found in _LAST.finditer(text)][-3:]):
        yield found[:MAX_ANSWER].strip("*")
        yield from reversed(_NUMBERS.findall(found)[-1:])


_LOOK: dict[str, Callable[[str], Iterator[str]]] = {"phrase": _phrases, "last": _last}


def _is_answer(text: str) -> bool:
    """Whether this reads as an answer, and not as a sentence."""
    for reading in comma_readings(clean(text)):
        try:
            found = read(reading)
        except Unreadable:
            continue
        return found.head != "text" or len(found.args[0].split()) <= 3
    return False
