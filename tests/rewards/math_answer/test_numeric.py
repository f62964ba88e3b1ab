import math
from fractions import Fraction

import pytest

from grpo_agents.rewards.math_answer.grammar import read
from grpo_agents.rewards.math_answer.numeric import NotNumeric, TooLarge, identical, is_close, points, value
from grpo_agents.rewards.math_answer.spelling import clean


def same(left, right):
    return identical(read(clean(left)), read(clean(right)))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"\sin 1", math.sin(1)),
        (r"\csc 1", 1 / math.sin(1)),
        (r"\arctan 2", math.atan(2)),
        (r"\ln 5", math.log(5)),
        (r"\log_2 5", math.log2(5)),
        (r"\cosh 1", math.cosh(1)),
        (r"\tanh 1", math.tanh(1)),
        (r"e^{\pi}", math.exp(math.pi)),
        (r"\sqrt[3]{-2}", -(2 ** (1 / 3))),
        (r"\cos 60^\circ", 0.5),
        (r"\max(\pi, e)", math.pi),
        (r"\lfloor \pi \rfloor", 3),
        (r"\lceil -\pi \rceil", -3),
        (r"\operatorname{sgn}(-\pi)", -1),
        (r"\binom{5}{2}", 10),
        ("7.5 mod 2", 1.5),
        (r"\sum_{k=1}^{20} \sqrt{k}", sum(map(math.sqrt, range(1, 21)))),
        (r"\sum_{i=1}^{3} \sqrt{i}", 1 + math.sqrt(2) + math.sqrt(3)),
        (r"\sqrt{2\%}", math.sqrt(0.02)),
        (r"\begin{vmatrix} \pi & 1 \\ 1 & \pi \end{vmatrix}", math.pi**2 - 1),
    ],
)
def test_values(text, number):
    assert float(value(read(clean(text))).real) == pytest.approx(number, rel=1e-14)


IDENTITIES = [
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
    (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1"),
    (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}"),
    (r"\arctan 2+\arctan 3", r"\frac{3\pi}{4}"),
    (r"4\arctan\frac15-\arctan\frac1{239}", r"\frac{\pi}{4}"),
    (r"e^{i\pi}", "-1"),
    (r"\sin^2 x+\cos^2 x", "1"),
    (r"\sin 3x", r"3\sin x-4\sin^3 x"),
    (r"\cosh^2 x-\sinh^2 x", "1"),
    (r"\frac{x^3-1}{x-1}", "x^2+x+1"),
    (r"\sqrt{x^2}", "|x|"),
    (r"2^{n+1}-2^n", "2^n"),
    (r"\frac{n!}{(n-2)!}", "n(n-1)"),
    (r"(-1)^{n+2}", "(-1)^n"),
    ("f(x+x)", "f(2x)"),
    (r"\lfloor \log_2 8 \rfloor", "3"),
]


@pytest.mark.parametrize(("left", "right"), IDENTITIES)
def test_identities_hold(left, right):
    assert same(left, right)
    assert same(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"e^{\pi\sqrt{163}}", "640320^3+744"),
        (r"\sqrt{2}+\sqrt{3}", r"\pi"),
        (r"\frac{355}{113}", r"\pi"),
        (r"7+10^{-200}\pi", "7"),
        ("7+e^{-1000}", "7"),
        (r"8-\tanh(1000)", "7"),
        (r"8-\cos(10^{-300})", "7"),
        (r"\arctan(10^{300})", r"\frac{\pi}{2}"),
        (r"\lfloor\tanh(1000)\rfloor", "1"),
        (r"10^{100}\pi+1", r"10^{100}\pi"),
        (r"\sqrt{x^2}", "x"),
        (r"\arcsin(\sin x)", "x"),
        ("(-1)^n", "-1"),
        ("(-1)^n", "(-1)^{n+1}"),
        ("(-1)^{m+n}", "(-1)^m"),
        ("f(x)", "f(2x)"),
        ("f(x)", "g(x)"),
        ("x", "y"),
    ],
)
def test_near_identities_do_not_hold(left, right):
    assert not same(left, right)
    assert not same(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("f(1)", r"\sin(2)+104"),
        ("f(1)", "f(2)"),
        (r"\frac{f(1)}{g(1)}", "1"),
        ("f(x)", "x"),
        ("x(x-1)(x+1)(x-3)", "0"),
    ],
)
def test_what_nobody_defined_is_no_number(left, right):
    assert not same(left, right)


def test_no_polynomial_can_vanish_where_expressions_are_compared():
    """Its roots would have to be known before the expression is written."""
    fixed = [point["x", ""] for point in points([("x", "")])]
    roots = "".join(f"(x-({root}))" for root in fixed)
    assert not same(f"5+{roots}", "5")


@pytest.mark.parametrize(
    "text",
    ["1/0", r"\infty", r"\ln 0", r"\lim_{x \to 0} x", r"\int_0^1 x dx", "x", "5 cm", r"\lfloor i \rfloor", "f(1)"],
)
def test_what_has_no_number(text):
    with pytest.raises(NotNumeric):
        value(read(clean(text)))


@pytest.mark.parametrize(
    "text", ["9^{9^9}", "e^{e^{e^e}}", r"\pi \cdot 10^{-3000}", r"\sum_{k=1}^{1000} \sqrt{k}", "x^{10^9}", "(10^6)!"]
)
def test_what_is_too_large(text):
    with pytest.raises(TooLarge):
        same(text, "x")


def test_closeness_is_absolute_and_includes_its_limit():
    assert is_close(read("1/4"), read("1/2"), Fraction(1, 4))
    assert not is_close(read("1/4"), read("1/2"), Fraction(1, 5))
