"""Exact values of what is rational, in bounded work.

>>> from grpo_agents.rewards.math_answer.grammar import read
>>> exact(read("2^10 - 4! / 3")), exact(read("sqrt(2)")) is None
(Fraction(1016, 1), True)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from grpo_agents.rewards.math_answer.expression import Expr

MAX_BITS = 8_192
"""Size of any number on the way, about 2,500 digits."""
MAX_TERMS = 500
"""Of a sum or a product."""
MAX_WORK = 50_000
"""Of one evaluation: operations, each as many times as its result has words of 64 bits."""
MAX_FACTORIAL = 500
MAX_DETERMINANT = 8
"""Rows."""

_TOO_LARGE = "has a number that is too large, or is too much work"
_BY_ZERO = "has a division by zero"

Values = Mapping[tuple[str, ...], Fraction]


class NotRational(ValueError):
    """This has no rational value that bounded work can reach; the message says why, as the end of "it …"."""

    def __init__(self, why: str = "is no rational number"):
        super().__init__(why)


def exact(expression: Expr, names: Values | None = None) -> Fraction | None:
    """The value of an expression, where it is a rational number that bounded work can reach.

    Args:
        expression: What to evaluate.
        names: Values of its variables.
    """
    try:
        return rational(expression, names)
    except NotRational:
        return None


def rational(expression: Expr, names: Values | None = None) -> Fraction:
    """As :func:`exact`, but with a reason where there is no value.

    Raises:
        NotRational: Says why.
    """
    return _Evaluation(names or {}).value(expression)


class _Evaluation:
    """One evaluation, with values of variables, and how much work it has been."""

    def __init__(self, names: Values):
        self.names = names
        self.work = 0

    def value(self, expression: Expr) -> Fraction:
        return self.bounded(self.operation(expression))

    def bounded(self, value: Fraction) -> Fraction:
        """A number on the way, as long as it is not too large and there were not too many."""
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        self.work += 1 + bits // 64
        if bits > MAX_BITS or self.work > MAX_WORK:
            raise NotRational(_TOO_LARGE)
        return value

    def operation(self, expression: Expr) -> Fraction:
        head, args = expression
        match head:
            case "number":
                return args[0]
            case "name" | "constant":
                if args in self.names:
                    return self.names[args]
                raise NotRational
            case "-":
                return -self.value(args[0])
            case "+":
                total = Fraction(0)
                for term in args:
                    total = self.bounded(total + self.value(term))
                return total
            case "*":
                total = Fraction(1)
                for factor in args:
                    total = self.bounded(total * self.value(factor))
                return total
            case "/":
                below = self.value(args[1])
                if not below:
                    raise NotRational(_BY_ZERO)
                return self.value(args[0]) / below
            case "^":
                return _power(self.value(args[0]), self.value(args[1]))
            case "mod":
                return self.remainder(args[0], self.value(args[1]))
            case "call":
                return self.call(args[0], args[1:])
            case "sum" | "prod":
                return self.series(head, args)
        raise NotRational

    def remainder(self, left: Expr, modulus: Fraction) -> Fraction:
        if not modulus:
            raise NotRational(_BY_ZERO)
        if left.head == "^":  # 2^(10^12) mod 7 is little work
            base, exponent = (self.value(part) for part in left.args)
            if base.denominator == exponent.denominator == modulus.denominator == 1 and exponent >= 0 and modulus > 0:
                if exponent.numerator.bit_length() * modulus.numerator.bit_length() > 4 * MAX_BITS:
                    raise NotRational(_TOO_LARGE)
                return Fraction(pow(int(base), int(exponent), int(modulus)))
        return self.value(left) % modulus

    def call(self, function: str, args: tuple[Expr, ...]) -> Fraction:
        if function == "det":
            return _determinant([[self.value(entry) for entry in row] for row in _rows(args[0])])
        values = [self.value(part) for part in args]
        value = values[0]
        match function:
            case "sqrt":
                return _root(value, 2)
            case "root" if values[1].denominator == 1 and 2 <= values[1] <= 64:
                degree = int(values[1])
                return -_root(-value, degree) if value < 0 and degree % 2 else _root(value, degree)
            case "abs":
                return abs(value)
            case "floor":
                return Fraction(math.floor(value))
            case "ceil":
                return Fraction(math.ceil(value))
            case "max":
                return max(values)
            case "min":
                return min(values)
        if any(value.denominator != 1 for value in values):
            raise NotRational
        whole = [int(value) for value in values]
        match function:
            case "factorial" | "binom" if whole[0] > MAX_FACTORIAL:
                raise NotRational(_TOO_LARGE)
            case "factorial" if whole[0] >= 0:
                return Fraction(math.factorial(whole[0]))
            case "binom" if 0 <= whole[1] <= whole[0]:
                return Fraction(math.comb(*whole))
            case "gcd":
                return Fraction(math.gcd(*whole))
            case "lcm":
                return Fraction(math.lcm(*whole))
        raise NotRational

    def series(self, which: str, args: tuple[Expr, ...]) -> Fraction:
        body, index, start, end = args
        first, last = self.value(start), self.value(end)
        if first.denominator != 1 or last.denominator != 1 or last - first >= MAX_TERMS:
            raise NotRational
        total = Fraction(which == "prod")
        outer = self.names
        for step in range(int(first), int(last) + 1):
            self.names = {**outer, index.args: Fraction(step)}
            term = self.value(body)
            total = self.bounded(total + term if which == "sum" else total * term)
        self.names = outer
        return total


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise NotRational(_BY_ZERO)
    if exponent.denominator != 1:
        root = _root(base, exponent.denominator)
        return _power(root, Fraction(exponent.numerator))
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * (size - 1) > MAX_BITS or (size > 1 and abs(exponent) > MAX_BITS):
        raise NotRational(_TOO_LARGE)
    return base ** int(exponent) if abs(base) != 1 else base if exponent % 2 else Fraction(1)


def _root(value: Fraction, degree: int) -> Fraction:
    """The positive root, where it is rational."""
    if value < 0 or degree > 64:
        raise NotRational
    parts = []
    for part in (value.numerator, value.denominator):
        root = math.isqrt(part) if degree == 2 else round(part ** (1 / degree)) if part < 2**50 else 0
        if root**degree != part:
            raise NotRational
        parts.append(root)
    return Fraction(*parts)


def _rows(matrix: Expr) -> tuple[tuple[Expr, ...], ...]:
    if matrix.head != "matrix" or not len(matrix.args) == len(matrix.args[0]) <= MAX_DETERMINANT:
        raise NotRational
    return matrix.args


def _determinant(rows: list[list[Fraction]]) -> Fraction:
    value = Fraction(1)
    for at in range(len(rows)):
        pivot = next((row for row in range(at, len(rows)) if rows[row][at]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != at:
            rows[at], rows[pivot] = rows[pivot], rows[at]
            value = -value
        value *= rows[at][at]
        for row in rows[at + 1 :]:
            factor = row[at] / rows[at][at]
            row[at:] = [entry - factor * above for entry, above in zip(row[at:], rows[at][at:], strict=True)]
    return value
