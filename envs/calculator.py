r"""A calculator that is exact, quick and bounded, for policies to call.

>>> calculator("47 * 83"), calculator("10 / 4"), calculator("(1 + 2) / -9"), calculator("2^-3")
('3901', '2.5', '-1/3', '0.125')
>>> calculator("5! - gcd(12, 18)"), calculator(r"\frac{1}{3} + \sqrt{16}")
('114', '13/3')
"""

from __future__ import annotations

import operator
import re
from fractions import Fraction

from grpo_agents.rewards.math_answer.exact import NotRational, rational
from grpo_agents.rewards.math_answer.expression import Unreadable
from grpo_agents.rewards.math_answer.grammar import read
from grpo_agents.rewards.math_answer.spelling import clean, comma_readings
from grpo_agents.tools import tool

MAX_LENGTH = 500
"""Characters of an expression."""

_TWO_NUMBERS = re.compile(r"\s*(-?[0-9]{1,15})\s*([-+*])\s*([0-9]{1,15})\s*")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@tool(timeout=None)
def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression exactly.

    Args:
        expression: Numbers with + - * / ** (or ^) and parentheses, such as (47 + 3.5) * 83.
    """
    if simple := _TWO_NUMBERS.fullmatch(expression):  # most of what is asked, in a tenth of the time
        left, sign, right = simple.groups()
        return str(_OPERATIONS[sign](int(left), int(right)))
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"the expression has {len(expression)} characters; {MAX_LENGTH} are allowed")
    try:
        value = rational(read(comma_readings(clean(expression))[-1]))
    except (Unreadable, NotRational) as error:
        raise ValueError(f"the expression {error}") from None
    return _as_text(value)


def _as_text(value: Fraction) -> str:
    """A whole number, a decimal where that is exact, a fraction otherwise."""
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
