"""What only sympy decides, asked in this process; elsewhere it runs in a worker."""

import pytest

from grpo_agents.rewards.math_answer.grammar import read
from grpo_agents.rewards.math_answer.spelling import clean
from grpo_agents.rewards.math_answer.symbolic import decide
from grpo_agents.rewards.math_answer.verification import _plain


def decided(left, right):
    return decide({side: _plain(read(clean(text))) for side, text in (("left", left), ("right", right))})


STEP = r"\begin{cases} 1 & x>0 \\ 0 & x \le 0 \end{cases}"


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (r"\int_0^1 x^2 dx", "1/3", True),
        (r"\int_0^1 x^2 dx", "0.333333", False),
        (r"\int 2x dx", "x^2", True),
        (r"\lim_{x \to 0} \frac{\sin x}{x}", "1", True),
        (r"\lim_{x \to \infty} (1+1/x)^x", "e", True),
        (r"\lim_{x \to 0} \frac{1}{x}", r"\infty", None),
        (r"\sum_{n=1}^{\infty} \frac{1}{n^2}", r"\frac{\pi^2}{6}", True),
        (r"\sum_{i=1}^{n} i", r"\frac{n(n+1)}{2}", True),
        (r"\sum_{i=1}^{n} i", r"\frac{n(n-1)}{2}", False),
        (r"\prod_{k=1}^{n} k", "n!", True),
        ("x^2 < 4", "(-2, 2)", True),
        ("x^2 < 4", "[-2, 2]", False),
        ("x^2 > 4", r"(-\infty, -2) \cup (2, \infty)", True),
        ("x^2 > 4", r"\mathbb{R} \setminus [-2, 2]", True),
        (r"x \in (1, 3) \cap [2, 4]", "[2, 3)", True),
        (r"x^2 != 1", r"\mathbb{R} \setminus \{-1, 1\}", True),
        ("1 < 2", r"\mathbb{R}", True),
        ("1 > 2", r"\emptyset", True),
        (STEP, r"\begin{cases} 0 & x \le 0 \\ 1 & x>0 \end{cases}", True),
        (r"\begin{cases} 1 & x>0 \\ 0 & \text{otherwise} \end{cases}", STEP, True),
        (STEP, r"\begin{cases} 1 & x>0 \\ 2 & x \le 0 \end{cases}", False),
        (r"7 \bmod 4", "3", True),
        (r"\sin 30^\circ", r"50\%", True),
        ("0/0", "0/0", None),
        ("1/0", "2/0", None),
        ("f(x)", "f(x)", True),
    ],
)
def test_it_decides(left, right, same):
    assert decided(left, right) is same
    assert decided(right, left) is same


@pytest.mark.parametrize("left", ["5 cm", r"\text{yes}", r"\mathbb{R} + 1", "204_5", "1, 2"])
def test_what_is_no_number_is_refused(left):
    with pytest.raises((ValueError, KeyError)):
        decided(left, "1")
