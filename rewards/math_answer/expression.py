"""What an answer says, as a tree: small, hashable, and built by the grammar alone.

>>> half = Expr("/", (number(1), number(2)))
>>> str(Expr("+", (name("x"), half)))
'x + 1/2'
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple


class Unreadable(ValueError):
    """This text is no answer that can be read, or over the limits; the message says why, as the end of "it …"."""


class Expr(NamedTuple):
    """A node of the tree.

    ===================  ============================================================================================
    head                 args
    ===================  ============================================================================================
    number               value (Fraction), unit in the last place of a decimal (Fraction) or None where exact
    based                value (Fraction), base
    name                 letters, subscript as written (or "")
    constant             pi, e, i, oo, …
    text                 words in lower case
    ``+ * / ^ -``        the operands; ``-`` has one
    ``±``                left or None, right; ``∓`` likewise
    call                 function's name, its arguments
    unit                 value, the unit's name
    mod                  number, modulus
    relation             operators, the terms between them
    list set             items
    tuple                both brackets, items
    ratio union          terms; so have intersection and difference
    matrix               rows, each a tuple of entries
    cases                (value, condition) pairs
    sum prod int lim     body, name, lower, upper (of a limit: body, name, where to, None)
    ===================  ============================================================================================
    """

    head: str
    args: tuple[Any, ...]

    def __str__(self) -> str:
        return _written(self)


def number(value: int | Fraction, place: Fraction | None = None) -> Expr:
    """A number; a decimal says with ``place`` what its last digit stands for."""
    return Expr("number", (Fraction(value), place))


def name(letters: str, subscript: str = "") -> Expr:
    """A variable, or anything else that a letter stands for."""
    return Expr("name", (letters, subscript))


def constant(which: str) -> Expr:
    """One of ``pi``, ``e``, ``i``, ``oo`` (infinity), ``R`` (the reals), ``empty`` (the empty set), ``…``."""
    return Expr("constant", (which,))


def negative(value: Expr) -> Expr:
    """The negative; of a number the number."""
    return number(-value.args[0], value.args[1]) if value.head == "number" else Expr("-", (value,))


def measured(value: Expr, unit: str) -> Expr:
    """A value with its unit; of a percentage and the words behind it both together are the unit.

    Raises:
        Unreadable: It is a percentage of something else than a number.
    """
    if value.head == "unit" and "%" in (unit, value.args[1]):
        if unit[:1].isalpha():
            return Expr("unit", (value.args[0], f"% {unit}"))
        raise Unreadable("has two units")
    return Expr("unit", (value, unit))


def times(left: Expr, right: Expr) -> Expr:
    """A product; of a decimal and a power of ten the decimal that it is, 1.23 × 10^4."""
    if right.head == "^" and left.head == "number" and left.args[1] is not None and right.args[0] == number(10):
        power = right.args[1]
        if power.head == "number" and power.args[0].denominator == 1 and abs(power.args[0]) < 1_000:
            scale = Fraction(10) ** int(power.args[0])
            return number(left.args[0] * scale, left.args[1] * scale)
    return Expr("*", (*(left.args if left.head == "*" else (left,)), right))


def members(inside: Expr) -> tuple[Expr, ...]:
    """What a list, a set or a tuple holds; of anything else the thing itself."""
    if inside.head in ("list", "set"):
        return inside.args
    return inside.args[1:] if inside.head == "tuple" else (inside,)


def is_higher(expression: Expr, most: int) -> bool:
    """Whether a tree has more levels than this; without recursion."""
    parts: list[tuple[Any, int]] = [(expression, 0)]
    while parts:
        part, level = parts.pop()
        if isinstance(part, Expr):
            if level == most:
                return True
            parts += [(inner, level + 1) for inner in part.args]
        elif type(part) is tuple:
            parts += [(inner, level) for inner in part]
    return False


def free_names(expression: Any) -> set[tuple[str, str]]:
    """The variables of an expression, without those that a sum, an integral or a limit binds."""
    if not isinstance(expression, Expr):
        parts = expression if type(expression) is tuple else ()
        return set().union(*map(free_names, parts))
    if expression.head == "name":
        return {expression.args}
    if expression.head in ("sum", "prod", "int", "lim"):
        body, bound, *limits = expression.args
        return (free_names(body) - {bound.args}) | free_names(tuple(limits))
    return free_names(expression.args)


_LEVEL = {"relation": 1, "union": 2, "ratio": 3, "+": 4, "±": 4, "∓": 4, "-": 5, "*": 5, "/": 5, "mod": 5, "^": 7}


def _written(expression: Any, level: int = 0) -> str:
    """The tree as people write it, with only the brackets that are needed."""
    if not isinstance(expression, Expr):
        return str(expression)
    head, args = expression
    own = _LEVEL.get(head, 9)

    def inner(part: Any, least: int = own) -> str:
        return _written(part, least)

    match head:
        case "number":
            text = str(args[0])
            own = 9 if text.isdigit() else 5
        case "based":
            text = f"{_digits(int(args[0]), args[1])}_{args[1]}"
        case "name":
            text = f"{args[0]}_{args[1]}" if args[1] else args[0]
        case "+":
            text = " + ".join(map(inner, args)).replace("+ -", "- ")
        case "*":
            text = "*".join(inner(part, own + 1) for part in args)
        case "/" | "^":
            text = f"{inner(args[0], own + (head == '^'))}{head}{inner(args[1], own + 1)}"
        case "-":
            text = f"-{inner(args[0], own + 1)}"
        case "±" | "∓":
            text = f"{inner(args[0]) + ' ' if args[0] else ''}{head} {inner(args[1], own + 1)}"
        case "mod":
            text = f"{inner(args[0])} mod {inner(args[1], own + 1)}"
        case "call":
            text = f"{args[0]}({', '.join(map(_written, args[1:]))})"
        case "unit":
            text = f"{inner(args[0], 5)} {args[1]}"
        case "relation":
            text = inner(args[1][0], 2) + "".join(
                f" {sign} {inner(term, 2)}" for sign, term in zip(args[0], args[1][1:], strict=True)
            )
        case "ratio":
            text = " : ".join(inner(term, 4) for term in args)
        case "union" | "intersection" | "difference":
            text = f" {head} ".join(inner(term, 4) for term in args)
        case "list":
            text, own = ", ".join(map(_written, args)), 0
        case "set":
            text = "{" + ", ".join(map(_written, args)) + "}"
        case "tuple":
            text = args[0][0] + ", ".join(map(_written, args[1:])) + args[0][1]
        case "matrix":
            text = "[" + "; ".join(", ".join(map(_written, row)) for row in args) + "]"
        case "cases":
            text = "; ".join(f"{_written(value)} if {_written(when)}" for value, when in args)
        case "sum" | "prod" | "int" | "lim":
            text = f"{head}({', '.join(_written(part) for part in args if part is not None)})"
        case _:
            text = str(args[0])
    return f"({text})" if own < level else text


def _digits(value: int, base: int) -> str:
    digits = ""
    while True:
        value, digit = divmod(value, base)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
        if not value:
            return digits
