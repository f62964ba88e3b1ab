r"""Whether an answer to a question of mathematics is the right one.

The text is read, never evaluated: exact numbers by hand, all else by sympy's LaTeX grammar, and only after its length,
nesting, digits and exponents were found small enough for what follows.

>>> extract(r"So it is \boxed{\frac{1}{2}}.")
'\\frac{1}{2}'
>>> verify("1/2", "0.5")
Verdict(status='equal', rule='exact', reason='')
>>> bool(verify("1/2", "0.51"))
False
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Literal

from grpo_agents.rewards.component import component
from grpo_agents.trajectory import Trajectory

MAX_LENGTH = 300  # characters
MAX_SYMBOLIC = 120  # characters for sympy's grammar, which takes milliseconds for each
MAX_DEPTH = 10  # brackets inside one another
MAX_ELEMENTS = 20  # of a list, a tuple or a set
MAX_DIGITS = 12  # of a number in a symbolic answer; a plain number may have as many as fit
MAX_FUNCTIONS = 6  # sines, logarithms …: sympy evaluates a logarithm in a logarithm twice, and so on
MAX_EXPONENT = 10_000  # product of all numbers in the exponents of a symbolic answer
MAX_OPERATIONS = 40  # of a difference that is simplified
MAX_DEGREE = 12  # of its powers, together

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"[+-]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)")
_RATIO = re.compile(
    rf"([+-]?)(?:([0-9]*)\\frac\{{(-?{_DIGITS})\}}\{{(-?{_DIGITS})\}}|(?:([0-9]+) )?({_DIGITS})/({_DIGITS}))"
)
_WORDS = re.compile(r"\\text\{([^{}]+)\}|([A-Za-z][A-Za-z .'-]+[A-Za-z])")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_EXPONENT = re.compile(r"\^(?:\{((?:[^{}^.]|\{[^{}^.]*\})*)\}|([0-9]+|[A-Za-z]|\\pi\b))(?!\^)")
_ROOT = re.compile(r"\\sqrt(?:\[[2-9]\])?\{")
_RELATION = re.compile(r"[=<>]|\\[lg]eq?\b")
_GAP = re.compile("[0-9] [0-9]")
_ALLOWED = re.compile(r"[0-9A-Za-z+\-*/^_(){}\[\]|.=<>\\ ]*")
_FUNCTIONS = "log ln sin cos tan cot sec csc arcsin arccos arctan"
_LETTERS = "pi infty alpha beta gamma delta theta lambda mu phi omega"
_COMMANDS = frozenset(f"frac sqrt cdot times div leq geq le ge {_FUNCTIONS} {_LETTERS}".split())
_SYMBOLS = str.maketrans(
    {"−": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "½": r"\frac12", "°": ""}
)
_SPELLINGS = [
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*([0-9])\s*([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s*([0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[!,;:]|\\ |\\q?quad\b|~|\\?\$|\\(?:left|right)(?=[()\[\]|\\])|\^\{?\\circ\}?"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"(?<=[0-9]) (?=[0-9]{3}(?:\D|$))"), ""),  # 1 000
    (re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])"), r"\1{}"),  # keeps \pi r apart
    (re.compile(r"(?<![0-9])\s+|\s+(?![0-9])"), ""),  # two numbers are never run together
    (re.compile(r"\{\}"), " "),
    (re.compile(r"^[A-Za-z](?:\([A-Za-z]\))?=(?=[^=]+$)"), ""),  # x = 5
    (re.compile(r"(?<=[0-9}])\\(?:text|mathrm|mbox)\{[^{}]*\}(?:\^[0-9])?$"), ""),  # a unit
    (re.compile(r"^\\(?:text|textbf|mathrm|mathbf)\{\(?([A-Za-z])\)?\}$"), r"\1"),  # one of A, B, C, D
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an answer compares with the gold answer. True only where they are equal.

    Attributes:
        status: ``equal``, ``different``, or ``unparsed`` where one of them could not be read or is over the limits.
        rule: What decided: ``text``, ``exact``, ``elements``, ``structure``, ``numeric`` or ``simplify``; where one is
            unparsed, which: ``gold`` or ``answer``.
        reason: Why it could not be read.
    """

    status: Literal["equal", "different", "unparsed"]
    rule: str
    reason: str = ""

    def __bool__(self) -> bool:
        return self.status == "equal"


class _Unreadable(ValueError):
    """This text is no answer that we can read, for that reason."""


def extract(response: str, marker: str | None = None) -> str | None:
    r"""The answer that a response states, or None.

    Args:
        response: What was written.
        marker: What an answer may also follow, such as ``####``; without it only ``\boxed{}`` counts.

    Returns:
        The inside of the last balanced ``\boxed{}``, else the rest of the line after the last marker.
    """
    if (first := response.find("\\boxed")) >= 0:
        open_braces: list[tuple[int, bool]] = []
        last: tuple[int, int] = (-1, -1)
        for found in _BRACE.finditer(response, first):
            text = found.group()
            if text[-1] == "{" and text != "\\{":
                open_braces.append((found.end(), text != "{"))
            elif text == "}" and open_braces:
                start, boxed = open_braces.pop()
                if boxed and start > last[0]:
                    last = (start, found.start())
        if last[0] >= 0:
            return response[last[0] : last[1]].strip() or None
    if marker and marker in response:
        line = response.rpartition(marker)[2].strip().partition("\n")[0]
        return line.strip() or None
    return None


def verify(gold: str, answer: str) -> Verdict:
    """Compares an answer with the gold answer.

    Args:
        gold: The right answer, bare.
        answer: The answer to judge, bare.
    """
    for name, text in (("gold", gold), ("answer", answer)):
        if len(text) > MAX_LENGTH:
            return Verdict("unparsed", name, f"it has {len(text)} characters; {MAX_LENGTH} are allowed")
    return _compare(_normalise(gold), _normalise(answer))


def score_answer(gold: str, answer: str | None) -> float:
    """1 for a right answer; 0 for a wrong one, a missing one and one that nobody can read.

    Raises:
        ValueError: The gold answer cannot be read, so there is nothing to judge by.
    """
    verdict = verify(gold, answer or "")
    if verdict.status == "unparsed" and verdict.rule == "gold":
        raise ValueError(f"the gold answer {gold!r:.200} cannot be read: {verdict.reason}")
    return float(bool(verdict))


@component
def math_answer(trajectory: Trajectory, marker: str | None = None) -> float:
    r"""Whether the last message's answer, in ``\boxed{}`` or after the marker, equals the task's ``answer``."""
    return score_answer(str(trajectory.task["answer"]), extract(trajectory.final, marker))


def _normalise(text: str) -> str:
    """The same answer in fewer spellings."""
    text = text.strip()
    if _DECIMAL.fullmatch(text):
        return text
    text = text.translate(_SYMBOLS)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text.rstrip(".")


def _number(text: str) -> Fraction | None:
    """The exact value of an integer, a decimal, a percentage, a fraction or a mixed number; None for anything else."""
    if text.endswith("%"):
        return None if (value := _number(text[:-1])) is None else value / 100
    if _DECIMAL.fullmatch(text):
        return Fraction(text.replace(",", "").rstrip("."))
    if found := _RATIO.fullmatch(text):
        sign, *parts = found.groups()
        *whole, above, below = (int(part.replace(",", "")) for part in parts if part)
        if below:
            value = sum(whole) + Fraction(above, below)
            return -value if sign == "-" else value
    return None


def _elements(text: str) -> tuple[str, list[str]]:
    """The brackets around a sequence, and what stands between the commas inside; no brackets where it is none."""
    text = text.replace("\\{", "{").replace("\\}", "}")
    depths = list(accumulate((character in "([{") - (character in ")]}") for character in text))
    if max(depths, default=0) > MAX_DEPTH:
        raise _Unreadable(f"it is nested more than {MAX_DEPTH} deep")
    level = int(depths[-1:] == [0] and all(depths[:-1]))  # 1 where the first bracket closes at the end
    marks = [at for at, depth in enumerate(depths) if depth == level and text[at] in ",;"]
    if len(marks) >= MAX_ELEMENTS:
        raise _Unreadable(f"it lists more than {MAX_ELEMENTS} things")
    brackets = text[0] + text[-1] if marks and level else ""
    edges = [level - 1, *marks, len(text) - level]
    return brackets, [text[start + 1 : end] for start, end in pairwise(edges)] if marks else [text]


def _compare(wanted: str, given: str) -> Verdict:
    def verdict(same: bool, rule: str) -> Verdict:
        return Verdict("equal" if same else "different", rule)

    if wanted and wanted == given:
        return Verdict("equal", "text")
    left, right = _number(wanted), _number(given)
    if left is not None and right is not None:
        scale = {(True, False): 100, (False, True): Fraction(1, 100)}.get((wanted[-1] == "%", given[-1] == "%"), 1)
        return verdict(right in (left, left * scale), "exact")  # people write 50% for 1/2 and for 50
    side = "gold"
    try:
        brackets, parts = _elements(wanted)
        words = _WORDS.fullmatch(wanted)
        symbols = None if len(parts) > 1 or words else _read(wanted)
        side = "answer"
        other_brackets, other_parts = _elements(given)
        if len(parts) > 1 or len(other_parts) > 1:
            if brackets != other_brackets or len(parts) != len(other_parts):
                return verdict(False, "elements")
            verdicts = [_compare(*pair) for pair in zip(parts, other_parts, strict=True)]
            unparsed = (one for one in verdicts if one.status == "unparsed")
            return next(unparsed, verdict(all(verdicts), "elements"))
        if words or _WORDS.fullmatch(given):
            return verdict(_WORDS.sub(r"\1\2", wanted).lower() == _WORDS.sub(r"\1\2", given).lower(), "text")
        return verdict(*_same_symbols(symbols, _read(given)))
    except _Unreadable as error:
        return Verdict("unparsed", side, str(error))


@lru_cache(maxsize=1024)
def _read(text: str) -> Any:
    """Lets sympy's grammar read what is small enough to be worked with."""
    import sympy
    from sympy.parsing.latex import LaTeXParsingError, parse_latex

    if (number := _number(text)) is not None:
        return sympy.Rational(number.numerator, number.denominator)
    if len(text) > MAX_SYMBOLIC:
        raise _Unreadable(f"it has {len(text)} characters; {MAX_SYMBOLIC} are allowed in an expression")
    commands = _COMMAND.findall(text)
    if sum(name in _FUNCTIONS.split() for name in commands) > MAX_FUNCTIONS:
        raise _Unreadable(f"it has more than {MAX_FUNCTIONS} functions")
    unknown = set(commands) - _COMMANDS
    plain = _ALLOWED.fullmatch(text) and not _GAP.search(text) and text.count("|") <= 2
    if unknown or not plain or len(_RELATION.findall(text)) > 1:
        raise _Unreadable(f"it holds what is not read here: {', '.join(sorted(unknown)) or text:.80}")
    if any(len(digits) > MAX_DIGITS for digits in re.findall("[0-9]+", text)):
        raise _Unreadable(f"a number has more than {MAX_DIGITS} digits")
    exponents = _EXPONENT.findall(text)
    numbers = re.findall("[0-9]+", " ".join(map("".join, exponents)))
    plain = len(exponents) == text.count("^") and len(_ROOT.findall(text)) == text.count("\\sqrt")
    if not plain or math.prod(max(1, int(number)) for number in numbers) > MAX_EXPONENT:
        raise _Unreadable("its exponents or roots are too large, or not plain")
    constants = {sympy.Symbol("e"): sympy.E, sympy.Symbol("i"): sympy.I, sympy.Symbol("pi"): sympy.pi}
    try:
        found: Any = parse_latex(text, strict=True)
        parsed: Any = sympy.nsimplify(found.subs(constants).doit(), rational=True)
    except (LaTeXParsingError, sympy.SympifyError, TypeError, RecursionError) as error:
        raise _Unreadable(f"{text!r:.80} is no LaTeX that sympy reads") from error
    if parsed.has(sympy.nan, sympy.zoo):
        raise _Unreadable(f"{text!r:.80} has no value")
    return parsed


def _same_symbols(wanted: Any, given: Any) -> tuple[bool, str]:
    """By structure; then refuted by numbers; then proved by simplifying the difference, where that is small work."""
    import sympy

    if wanted == given:
        return True, "structure"
    if not all(isinstance(value, sympy.Expr) and not value.has(sympy.oo) for value in (wanted, given)):
        return False, "structure"  # nothing to subtract
    difference = wanted - given
    symbols = sorted(difference.free_symbols, key=str)
    point: dict[Any, Any] = {symbol: sympy.Rational(7 + 2 * at, 5 + 3 * at) for at, symbol in enumerate(symbols)}
    values = [expression.evalf(20, subs=point, maxn=60) for expression in (difference, wanted)]
    if all(value.is_number and value.is_finite for value in values) and abs(values[0]) > 1e-9 * abs(values[1]):
        return False, "numeric"
    degree = sum(abs(power.exp) for power in difference.atoms(sympy.Pow) if power.exp.is_Integer)
    largest = max((abs(number) for number in difference.atoms(sympy.Integer)), default=0)
    if degree > MAX_DEGREE or largest > 10**MAX_DIGITS or len(symbols) > 4 or difference.count_ops() > MAX_OPERATIONS:
        return False, "structure"
    return sympy.simplify(difference) == 0, "simplify"
