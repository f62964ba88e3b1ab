from fractions import Fraction

import pytest

from grpo_agents.rewards.math_answer.exact import NotRational, exact, rational
from grpo_agents.rewards.math_answer.grammar import read
from grpo_agents.rewards.math_answer.spelling import clean


def value(text):
    return exact(read(clean(text)))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2^10 - 4!/3", 1016),
        ("0^0", 1),
        ("0.1 + 0.2", Fraction(3, 10)),
        (r"\frac{1}{2} - \frac{1}{3}", Fraction(1, 6)),
        ("(-2)^{-3}", Fraction(-1, 8)),
        (r"\sqrt{\frac{49}{64}}", Fraction(7, 8)),
        (r"\sqrt[3]{-27}", -3),
        (r"8^{\frac{2}{3}}", 4),
        ("(-1)^{10^9}", 1),
        (r"\binom{10}{3}", 120),
        (r"\lfloor -3.5 \rfloor + \lceil -3.5 \rceil", -7),
        ("|-3|", 3),
        (r"\gcd(12, 18) + \operatorname{lcm}(4, 6)", 18),
        (r"\max(1, 7, 3) - \min(2, 5)", 5),
        (r"17 \bmod 5", 2),
        ("(-7) mod 5", 3),
        (r"2^{1000000000000} \bmod 7", 2),
        (r"\sum_{k=1}^{10} k^2", 385),
        (r"\prod_{k=1}^{5} k", 120),
        (r"\sum_{i=1}^{3} \sum_{j=1}^{i} j", 10),
        (r"\sum_{k=5}^{4} k", 0),
        (r"\begin{vmatrix} 0 & 2 & 1 \\ 3 & 4 & 0 \\ 1 & 1 & 1 \end{vmatrix}", -7),
        (r"\begin{vmatrix} 1 & 2 \\ 2 & 4 \end{vmatrix}", 0),
        (r"0.\overline{142857}", Fraction(1, 7)),
        (r"0.\overline{9}", 1),
    ],
)
def test_rational_values(text, number):
    assert value(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "x",
        r"\pi",
        r"\sqrt{2}",
        r"\sqrt{-4}",
        r"\sqrt[0]{2}",
        r"\sqrt[100]{2}",
        "0^{-1}",
        "1/0",
        "5 mod 0",
        "501!",
        "(-1)!",
        "0.5!",
        r"\binom{3}{5}",
        r"\gcd(1/2, 3)",
        "9^{9^9}",
        "2^{10000}",
        "(1+10^{-2000})^2",
        r"\sum_{k=1}^{10000} k",
        r"\sum_{k=1}^{x} k",
        r"\sum_{a=1}^{400} \sum_{b=1}^{400} \sum_{c=1}^{400} a",
        r"\sum_{k=1}^{400} (k^{9^{2000}} \bmod 7^{2500})",
        "+".join(f"1/{n}^{{2000}}" for n in range(2, 9)),
        r"\sum_{k=1/2}^{3} k",
        r"\prod_{k=1}^{499} 10^{1000}",
        r"\begin{vmatrix} 1 & 2 \end{vmatrix}",
        r"\infty",
        "1, 2",
    ],
)
def test_what_is_irrational_undefined_or_too_much_has_no_exact_value(text):
    assert value(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1/(2-2)", "has a division by zero"),
        ("0^{-1}", "has a division by zero"),
        ("2^{10000}", "has a number that is too large"),
        (r"\pi", "is no rational number"),
    ],
)
def test_why_there_is_no_value(text, why):
    with pytest.raises(NotRational, match=why):
        rational(read(text))


def test_variables_may_be_given_a_value():
    assert exact(read("x^2 + y"), {("x", ""): Fraction(3), ("y", ""): Fraction(1, 2)}) == Fraction(19, 2)
