"""A calculator that is exact, quick and bounded, for policies to call.

>>> calculator("47 * 83"), calculator("10 / 4"), calculator("(1 + 2) / -9"), calculator("2^-3")
('3901', '2.5', '-1/3', '0.125')
"""

from __future__ import annotations

import re
from fractions import Fraction

from grpo_agents.tools import tool

MAX_LENGTH = 500
"""Characters of an expression."""
MAX_DEPTH = 50
"""Parentheses, signs and powers inside one another."""
MAX_BITS = 4096
"""Size of a power and of the result: about 1,200 digits."""

_TOKENS = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+|\*\*|\S")


@tool(timeout=None)
def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression exactly.

    Args:
        expression: Numbers with + - * / ** (or ^) and parentheses, such as (47 + 3.5) * 83.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"the expression has {len(expression)} characters; {MAX_LENGTH} are allowed")
    reader = _Reader(expression)
    value = reader.sum()
    if reader.token:
        raise reader.unexpected()
    return _as_text(value)


class _Reader:
    """Recursive descent, one method a level of precedence. Values are exact: whole numbers until one is divided.

    Attributes:
        token: The token at hand; an empty text at the end.
        depth: How deep the reading is.
    """

    __slots__ = ("_rest", "depth", "token")

    def __init__(self, text: str):
        self._rest = iter(_TOKENS.findall(text))
        self.token = next(self._rest, "")
        self.depth = 0

    def advance(self) -> None:
        self.token = next(self._rest, "")

    def unexpected(self) -> ValueError:
        """What to say of the token at hand."""
        if self.token:
            return ValueError(f"unexpected {self.token!r} in the expression")
        return ValueError("the expression ends where a number is missing")

    def sum(self) -> int | Fraction:
        value = self.product()
        while (sign := self.token) in ("+", "-"):
            self.advance()
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    def product(self) -> int | Fraction:
        value = self.signed()
        while (sign := self.token) in ("*", "/"):
            self.advance()
            if sign == "*":
                value *= self.signed()
            elif divisor := self.signed():
                value = Fraction(value) / divisor
            else:
                raise ValueError("division by zero")
        return value

    def signed(self) -> int | Fraction:
        sign = self.token
        if sign not in ("+", "-"):
            return self.power()
        self.advance()
        self.enter()
        value = self.signed()
        self.depth -= 1
        return -value if sign == "-" else value

    def power(self) -> int | Fraction:
        base = self.atom()
        if self.token not in ("^", "**"):
            return base
        self.advance()
        self.enter()
        exponent = self.signed()  # to the right first: 2^3^2 is 2^9
        self.depth -= 1
        return _power(base, exponent)

    def atom(self) -> int | Fraction:
        token = self.token
        if token.isdecimal() and token.isascii():
            self.advance()
            return int(token)
        if token == "(":
            self.advance()
            self.enter()
            value = self.sum()
            if self.token != ")":
                raise self.unexpected() if self.token else ValueError("a closing parenthesis is missing")
            self.advance()
            self.depth -= 1
            return value
        if "." in token and token != ".":
            self.advance()
            return Fraction(token)
        raise self.unexpected()

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"the expression is nested more than {MAX_DEPTH} deep")


def _power(base: int | Fraction, exponent: int | Fraction) -> int | Fraction:
    if exponent.denominator != 1:
        raise ValueError(f"the exponent {exponent} is no whole number")
    if base == 0 and exponent < 0:
        raise ValueError("division by zero")
    if abs(exponent) > MAX_BITS or abs(exponent) * _bits(base) > MAX_BITS:  # before it is computed
        raise ValueError("the power is too large")
    return Fraction(base) ** int(exponent)


def _bits(value: int | Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _as_text(value: int | Fraction) -> str:
    if _bits(value) > MAX_BITS:
        raise ValueError("the result is too large")
    numerator, denominator = value.numerator, value.denominator
    if denominator == 1:
        return str(numerator)
    twos = (denominator & -denominator).bit_length() - 1
    rest, fives = denominator >> twos, 0
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    if rest != 1:
        return f"{numerator}/{denominator}"
    places = max(twos, fives)
    digits = str(abs(numerator) * 10**places // denominator).rjust(places + 1, "0")
    return f"{'-' if numerator < 0 else ''}{digits[:-places]}.{digits[-places:]}"
