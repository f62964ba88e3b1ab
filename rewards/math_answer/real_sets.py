"""Sets of real numbers: intervals, points, unions, and inequalities in one variable.

Two sets are the same when they hold the same of all ends of their intervals and of the gaps between those. So each is
asked about every such place, and nothing is solved.

>>> from grpo_agents.rewards.math_answer.grammar import read
>>> same_set(read("0 < x <= 3"), read("(0, 3]"), identical), same_set(read("x != 1"), read("x < 1"), identical)
(True, False)
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from grpo_agents.rewards.math_answer.expression import Expr, Unreadable, free_names, number
from grpo_agents.rewards.math_answer.meaning import is_label, items, meant, replaced
from grpo_agents.rewards.math_answer.numeric import NotNumeric, identical, value

INFINITE = 10**30
"""Stands for infinity among the ends."""

MAX_ENDS = 200
"""Of the intervals of both sets together."""


class NotLinear(ValueError):
    """This inequality is not linear: its solution is not read off here."""


def is_set(answer: Expr) -> bool:
    """Whether this can only be a set: a union, the reals, a half-open interval, an inequality."""
    head, args = answer
    match head:
        case "union" | "intersection" | "difference":
            return True
        case "constant":
            return args[0] in ("R", "empty")
        case "tuple":
            return len(args) == 3 and (args[0] in (("[", ")"), ("(", "]")) or any(map(_is_infinite, args[1:])))
        case "relation":
            return not {"=", "≈"} & set(args[0]) and variable(answer) is not None
    return False


def could_be_set(answer: Expr) -> bool:
    """Whether this may be read as a set beside another one: a pair is an open interval, numbers are points."""
    return is_set(answer) or answer.head == "set" or (answer.head == "tuple" and len(answer.args) == 3)


def variable(relation: Expr) -> Expr | None:
    """What an inequality speaks of: its only variable, or its only term that is no number, such as f(x)."""
    terms = [term for term in relation.args[1] if free_names(term) or is_label(term)]
    if len(terms) == 1 and is_label(terms[0]) and terms[0].args[0] != "abs":
        return terms[0]
    names = free_names(relation)
    return Expr("name", names.pop()) if len(names) == 1 else None


def same_set(left: Expr, right: Expr, same: Callable[[Expr, Expr], bool | None]) -> bool:
    """Whether two sets have the same members.

    Args:
        left: A set.
        right: Another.
        same: Whether two ends are the same.

    Raises:
        NotLinear: One of them is an inequality that is not linear.
        NotNumeric: An end cannot be evaluated.
        Unreadable: One of them is no set.
    """
    ends: list[tuple[Any, Expr]] = []
    problems: list[ValueError] = []
    for answer in (left, right):
        try:
            _collect(answer, ends)
        except ValueError as error:
            problems.append(error)
    if problems:  # the same one in either order
        raise max(problems, key=lambda error: (isinstance(error, Unreadable), str(error)))
    if len(ends) > MAX_ENDS:
        raise Unreadable(f"has more than {MAX_ENDS} ends")
    ends.sort(key=lambda pair: pair[0])
    places: dict[Expr, int] = {}
    distinct: list[tuple[Any, Expr]] = []
    for size, end in ends:
        if not distinct or not _is_same_end(distinct[-1], (size, end), same):
            distinct.append((size, end))
        places[end] = 2 * len(distinct) - 1  # ends have odd places, the gaps between them even ones
    if not all(_is_ordered(answer, places) for answer in (left, right)):
        return False
    belongs = [_membership(answer, places) for answer in (left, right)]
    return all(belongs[0](place) == belongs[1](place) for place in range(2 * len(distinct) + 1))


def _is_infinite(end: Expr) -> bool:
    return (end.args[0] if end.head == "-" else end) == Expr("constant", ("oo",))


def _is_same_end(left: tuple[Any, Expr], right: tuple[Any, Expr], same: Callable[[Expr, Expr], bool | None]) -> bool:
    return left[1] == right[1] or (abs(left[0] - right[0]) <= 0.1 * abs(left[0]) and bool(same(left[1], right[1])))


def _size(end: Expr) -> Any:
    """Where an end lies on the line."""
    found = value(end)
    if found.imag:
        raise Unreadable(f"has an end {end} that is not real")
    return found.real


def _collect(answer: Expr, ends: list[tuple[Any, Expr]]) -> None:
    """Adds all the ends of a set's intervals."""
    head, args = answer
    match head:
        case "union" | "intersection" | "difference":
            for part in args:
                _collect(part, ends)
        case "constant" if args[0] in ("R", "empty"):
            pass
        case "tuple" if len(args) == 3:
            ends += [(_size(end), end) for end in args[1:] if not _is_infinite(end)]
        case "set":
            ends += [(_size(end), end) for end in items(answer)]
        case "relation":
            inside = _without_bars(meant(answer).value)
            if inside.head == "relation":
                ends += [(_size(bound), bound) for _, bound in _bounds(inside)]
            else:
                _collect(inside, ends)
        case _:
            raise Unreadable(f"has {answer} where a set is expected")


def _without_bars(answer: Expr) -> Expr:
    """Of an inequality |u| < c what it says of u: -c < u < c; of |u| > c two inequalities."""
    if answer.head != "relation" or not any(map(_is_absolute, answer.args[1])):
        return answer
    signs, terms = answer.args
    parts = []
    for sign, left, right in zip(signs, terms, terms[1:], strict=False):
        if _is_absolute(right) and sign in _TURNED:
            sign, left, right = _TURNED[sign], right, left
        if not _is_absolute(left) or free_names(right) or sign not in ("<", "<=", ">", ">="):
            raise NotLinear
        inside, opposite = left.args[1], Expr("-", (right,))
        if sign in ("<", "<="):
            parts.append(Expr("relation", ((sign, sign), (opposite, inside, right))))
        else:
            beyond = Expr("relation", ((sign,), (inside, right)))
            parts.append(Expr("union", (beyond, Expr("relation", ((_TURNED[sign],), (inside, opposite))))))
    return Expr("intersection", tuple(parts))


def _is_absolute(term: Expr) -> bool:
    return term.head == "call" and term.args[0] == "abs"


def _bounds(relation: Expr) -> list[tuple[str, Expr]]:
    """An inequality, or a chain of them, as comparisons of the variable with numbers."""
    subject = variable(relation)
    if subject is None:
        raise Unreadable("has more than one variable")
    signs, terms = relation.args
    found = []
    for sign, left, right in zip(signs, terms, terms[1:], strict=False):
        if left == subject and not free_names(right):
            found.append((sign, right))
        elif right == subject and not free_names(left):
            found.append((_TURNED[sign], left))
        else:
            found.append(_solved(sign, Expr("+", (left, Expr("-", (right,)))), subject))
    return found


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}


def _solved(sign: str, difference: Expr, subject: Expr) -> tuple[str, Expr]:
    """A linear inequality in one variable, solved for it."""
    if subject.head != "name" or sign not in _TURNED:
        raise NotLinear
    at = [replaced(difference, {subject.args: number(point)}) for point in (0, 1, 3)]
    slope = Expr("+", (at[1], Expr("-", (at[0],))))
    line = Expr("+", (at[0], Expr("*", (number(3), slope))))
    try:
        linear, steep = identical(at[2], line), value(slope)
        probe = Fraction(-17, 13)
        elsewhere = replaced(difference, {subject.args: number(probe)})
        linear = linear and identical(elsewhere, Expr("+", (at[0], Expr("*", (number(probe), slope)))))
    except NotNumeric:
        raise NotLinear from None
    if not linear or not steep or steep.imag:
        raise NotLinear
    bound = Expr("/", (Expr("-", (at[0],)), slope))
    return (sign if steep.real > 0 else _TURNED[sign]), bound


def _is_ordered(answer: Expr, places: dict[Expr, int]) -> bool:
    """Whether every interval starts before its end: (2, 2) and (3, 1) are points, and not the empty set."""
    if answer.head in ("union", "intersection", "difference"):
        return all(_is_ordered(part, places) for part in answer.args)
    if answer.head != "tuple" or any(map(_is_infinite, answer.args[1:])):
        return True
    brackets, *ends = answer.args
    low, high = (places[end] for end in ends)
    return low < high or (low == high and brackets == ("[", "]"))


def _membership(answer: Expr, places: dict[Expr, int]) -> Callable[[int], bool]:
    """Whether the set holds a place: an end (odd) or a whole gap between two ends (even)."""
    head, args = answer
    match head:
        case "union":
            parts = [_membership(part, places) for part in args]
            return lambda place: any(part(place) for part in parts)
        case "intersection":
            parts = [_membership(part, places) for part in args]
            return lambda place: all(part(place) for part in parts)
        case "difference":
            first, second = (_membership(part, places) for part in args)
            return lambda place: first(place) and not second(place)
        case "constant":
            return lambda place: args[0] == "R"
        case "set":
            points = {places[end] for end in items(answer)}
            return lambda place: place in points
        case "tuple":
            (opening, closing), low, high = args
            lowest = -1 if _is_infinite(low) else places[low]
            highest = INFINITE if _is_infinite(high) else places[high]
            return lambda place: (
                lowest < place < highest
                or (place == lowest and opening == "[")
                or (place == highest and closing == "]")
            )
    inside = _without_bars(meant(answer).value)
    if inside.head != "relation":
        return _membership(inside, places)
    bounds = [(sign, places[bound]) for sign, bound in _bounds(inside)]
    return lambda place: all(_HOLDS[sign](place, bound) for sign, bound in bounds)


_HOLDS: dict[str, Callable[[int, int], bool]] = {
    "<": int.__lt__, ">": int.__gt__, "<=": int.__le__, ">=": int.__ge__, "!=": int.__ne__,
}  # fmt: skip
