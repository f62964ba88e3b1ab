import pytest

from grpo_agents.rewards.math_answer import verify

SAME = [
    ("(0, 1]", "0 < x <= 1"),
    ("(0, 1]", "1 >= x > 0"),
    ("(0, 1]", r"x \in (0, 1]"),
    ("(0, 1]", r"\{x \mid 0 < x \le 1\}"),
    ("(0, 1]", r"\{x \in \mathbb{R} : 0 < x \leq 1\}"),
    ("(0, 1)", "0 < x < 1"),
    (r"(-\infty, 3)", "3 > x"),
    (r"(3, \infty)", "t > 3"),
    (r"(3, \infty)", r"3 < x < \infty"),
    ("x > 2", "2x + 1 > 5"),
    ("x > 2", "-x < -2"),
    (r"[\sqrt{2}, 2)", r"\frac{2}{\sqrt2} \le x < 2"),
    (r"[0.5, \infty)", r"[\frac12, \infty)"),
    ("[1, 2] \\cup [2, 3]", "[1, 3]"),
    ("[1, 2] \\cap [2, 3]", r"\{2\}"),
    ("(1, 2] \\cup (2, 3)", "(1, 3)"),
    (r"\mathbb{R} \setminus \{2\}", r"x \neq 2"),
    (r"\mathbb{R} - \{0, 1\}", r"x \ne 0 \text{ and } x \ne 1"),
    (r"\mathbb{R} \setminus [-1, 1]", r"(-\infty, -1) \cup (1, \infty)"),
    (r"(-\infty, -1) U (1, \infty)", "x > 1 or x < -1"),
    (r"\mathbb{R}", r"(-\infty, \infty)"),
    (r"\emptyset", r"\{\}"),
    ("x >= -3 and x < 4", "[-3, 4)"),
    ("|x| < 3", "-3 < x < 3"),
    ("|x - 1| >= 2", r"(-\infty, -1] \cup [3, \infty)"),
    ("1 <= |x| < 2", r"(-2, -1] \cup [1, 2)"),
    ("3 > |2x|", "|x| < 3/2"),
    ("|x| > -1", r"\mathbb{R}"),
    ("|x| < -1", r"\emptyset"),
    ("|x| != 2", r"\mathbb{R} \setminus \{-2, 2\}"),
    (r"x \in (1, 2) \cup \{5\}", r"(1, 2) \cup \{5\}"),
    ("x^2 < 4", "(-2, 2)"),
    ("x^2 >= 2", r"(-\infty, -\sqrt2] \cup [\sqrt2, \infty)"),
    ("(x-1)(x-2) <= 0", "[1, 2]"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_one_set_written_in_two_ways(left, right):
    assert verify(left, right)
    assert verify(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(0, 1]", "(0, 1)"),
        ("(0, 1]", "[0, 1)"),
        ("(0, 1]", r"0 \le x \le 1"),
        (r"(-\infty, 3)", "x <= 3"),
        (r"(-\infty, 3)", "x > 3"),
        ("x < 2", "x < 3"),
        ("(1, 2) \\cup (2, 3)", "(1, 3)"),
        ("[1, 2] \\cup [3, 4]", "[1, 4]"),
        (r"\mathbb{R}", r"x \neq 0"),
        (r"x \neq 2", r"x \neq 3"),
        (r"[0, 2\pi)", "[0, 6.28)"),
        (r"[0, 10^{-30})", "[0, 0]"),
        ("(2, 2)", r"\emptyset"),
        ("(3, 1)", r"\emptyset"),
        ("x^2 < 4", "x < 2"),
        ("|x| < 3", "x < 3"),
        ("|x| > 1", "x > 1"),
        ("[4, 6]", "5"),
        ("4 < x < 6", "5"),
        (r"\mathbb{R}", "5"),
        ("[1, 3]", r"\{1, 2, 3\}"),
    ],
)
def test_different_sets(left, right):
    assert not verify(left, right)
    assert not verify(right, left)


@pytest.mark.parametrize("answer", [r"[i, 2] \cup [3, 4]", r"\{f, g\} \cup [1, 2]", r"(1, 2) \cup 3x"])
def test_no_set_of_real_numbers(answer):
    assert not verify("[1, 2)", answer)
