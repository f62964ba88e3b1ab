r"""What an answer says: the value at the end of its equations, the name it gives to it, the values of its signs.

>>> from grpo_agents.rewards.math_answer.grammar import read
>>> meaning = meant(read("x = 2 + 3 = 5"))
>>> str(meaning.label), str(meaning.value)
('x', '5')
>>> [str(item) for item in items(read(r"1 \pm \sqrt{2}"))]
['1 + sqrt(2)', '1 - sqrt(2)']
"""

from __future__ import annotations

from typing import Any, NamedTuple

from grpo_agents.rewards.math_answer.exact import exact
from grpo_agents.rewards.math_answer.expression import Expr, Unreadable, free_names, number
from grpo_agents.rewards.math_answer.numeric import NotNumeric, identical

_EVALUATED = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth log ln exp sqrt root floor ceil gcd lcm"
    " max min det arg Re Im deg sgn factorial binom".split()
)


_NAMING = frozenset("sin cos tan cot sec csc gcd lcm max min abs".split())
"""Functions whose values have names such as sin A."""


class Meaning(NamedTuple):
    """A value and the name that the answer gives to it, if any."""

    label: Expr | None
    value: Expr


def meant(answer: Expr) -> Meaning:
    """The value of a chain of equations, and what it is called there; anything else as it is.

    Raises:
        Unreadable: The chain is false, such as 7 = 8.
    """
    if answer.head != "relation":
        return Meaning(None, answer)
    signs, terms = answer.args
    if signs == ("in",) and is_label(terms[0]):
        return Meaning(*terms)
    if not set(signs) <= {"=", "≈"}:
        return Meaning(None, answer)
    if "≈" in signs:
        at = signs.index("≈")
        if at == 0 and is_label(terms[0]):  # x ≈ 11 gives x; in x = 1/3 ≈ 0.3 the 0.3 is only an aid
            at = len(signs)
        terms = terms[: at + 1]
    label = None
    while len(terms) > 1 and is_label(terms[0]):
        label, *terms = terms
    if label is None and len(terms) == 2 and is_label(terms[1]) and not free_names(terms[0]):
        *terms, label = terms
    if len(terms) == 2 and label is None and free_names(answer) and not _same(*terms):
        return Meaning(None, Expr("relation", (("=",), tuple(terms))))
    for term in terms[:-1]:
        if not _same(term, terms[-1]):
            raise Unreadable(f"says that {term} = {terms[-1]}, which is not so")
    return Meaning(label, terms[-1])


def _same(left: Expr, right: Expr) -> bool:
    left, right = map(_without_unit, (left, right))
    if left == right:
        return True
    if (first := exact(left)) is not None and (second := exact(right)) is not None:
        return first == second
    try:
        return identical(left, right)
    except NotNumeric:
        return not (free_names(left) | free_names(right)) and _is_unevaluated(left)


def _without_unit(term: Expr) -> Expr:
    """The number alone: of 5 cm the 5, of 50 % the half."""
    if term.head != "unit":
        return term
    value, unit = term.args
    return Expr("/", (value, number(100))) if unit == "%" else value


def _is_unevaluated(term: Expr) -> bool:
    """A limit or an integral: what it equals is said behind it, and is compared with the gold answer alone."""
    return term.head in ("lim", "int", "sum", "prod")


def is_label(term: Expr) -> bool:
    """Whether this can be what a value is called: x, f(x), AB, |AB|, NO/BO, (p, q), words. 2x and x + y cannot."""
    head, args = term
    match head:
        case "name" | "text":
            return True
        case "constant":
            return args[0] in ("e", "i")
        case "call":
            return all(map(is_label, args[1:])) if args[0] in _NAMING else args[0] not in _EVALUATED
        case "*" | "/" | "ratio":
            return all(map(is_label, args))
        case "tuple":
            return all(map(is_label, args[1:]))
    return False


def items(collection: Expr) -> list[Expr]:
    """The members of a list or a set, with both values of each ±; of anything else the thing itself."""
    members = collection.args if collection.head in ("list", "set") else (collection,)
    return [value for member in members for value in _both_signs(member)]


def has_two_values(expression: Any) -> bool:
    """Whether there is a ± in it."""
    if isinstance(expression, Expr):
        return expression.head in "±∓" or has_two_values(expression.args)
    return type(expression) is tuple and any(map(has_two_values, expression))


def _both_signs(expression: Expr) -> list[Expr]:
    if not has_two_values(expression):
        return [expression]
    return [_with_sign(expression, upper=True), _with_sign(expression, upper=False)]


def _with_sign(expression: Any, *, upper: bool) -> Any:
    if not isinstance(expression, Expr):
        if type(expression) is tuple:
            return tuple(_with_sign(part, upper=upper) for part in expression)
        return expression
    if expression.head not in "±∓":
        return Expr(expression.head, _with_sign(expression.args, upper=upper))
    left, right = (_with_sign(part, upper=upper) for part in expression.args)
    signed = right if upper == (expression.head == "±") else Expr("-", (right,))
    return signed if left is None else Expr("+", (left, signed))


def replaced(expression: Any, values: dict[tuple[str, ...], Expr]) -> Any:
    """The expression with values in the place of its variables."""
    if isinstance(expression, Expr):
        if expression.head == "name":
            return values.get(expression.args, expression)
        return Expr(expression.head, replaced(expression.args, values))
    return tuple(replaced(part, values) for part in expression) if type(expression) is tuple else expression
