import subprocess
import sys
import time

import pytest

from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.math_answer import extract, math_answer, score_answer, verify
from grpo_agents.trajectory import Group, Step, Trajectory


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"So \boxed{42}.", "42"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"a { b \boxed{3}", "3"),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"\boxed {7}", "7"),
        (r"\boxed{}", None),
        (r"\boxed{1", None),
        ("The answer is 42", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_last_balanced_box(response, answer):
    assert extract(response) == answer


def test_a_marker():
    assert extract("3 + 4 = 7\n#### 7", "####") == "7"
    assert extract("#### 1\n#### 2 \nand so on", "####") == "2"
    assert extract("#### 7") is None
    assert extract("7", "####") is None
    assert extract("####", "####") is None
    assert extract(r"#### 7 \boxed{8}", "####") == "8"


EQUAL = [
    ("1000", "1,000", "exact"),
    ("1000", "1000.0", "exact"),
    ("-5", "−5", "text"),
    ("0.5", r"\frac{1}{2}", "exact"),
    ("1/2", "2/4", "exact"),
    ("-1/2", r"-\frac12", "exact"),
    ("5/4", "1 1/4", "exact"),
    ("5/2", r"2\frac{1}{2}", "exact"),
    ("50%", "0.5", "exact"),
    ("50", r"50\%", "exact"),
    ("3", "x = 3", "text"),
    ("12", r"12\text{ cm}", "text"),
    ("90", r"90^\circ", "text"),
    (r"\text{Tuesday}", "tuesday", "text"),
    ("B", r"\text{(B)}", "text"),
    (r"\pi r^2", r"\pi  r^{2}", "structure"),
    ("x^2+1", "1+x^2", "structure"),
    (r"\sqrt{8}", r"2\sqrt{2}", "structure"),
    ("(x+1)^2", "x^2+2x+1", "simplify"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", "structure"),
    (r"\sin^{2}(x)", r"1-\cos^{2}(x)", "simplify"),
    ("(1, 2)", "(1,2)", "text"),
    ("(1/2, 3)", "(0.5, 3)", "elements"),
    (r"(0,\infty)", r"\left(0,\infty\right)", "text"),
]


@pytest.mark.parametrize(("gold", "answer", "rule"), EQUAL)
def test_equal(gold, answer, rule):
    verdict = verify(gold, answer)
    assert (verdict.status, verdict.rule) == ("equal", rule)
    assert verdict
    assert verify(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "43"),
        ("1/3", "0.333333333333"),
        ("1/4", "1 1/4"),
        ("11", "1 1"),
        ("0.5%", "50%"),
        ("7", r"\pm 7"),
        ("7", "3, 7"),
        ("7", "1, 2, 3, 4, 5, 6, 7"),
        ("(1,2)", "(2,1)"),
        ("(0,1)", "[0,1]"),
        ("(1,2),(3,4)", "(1,2),(3,5)"),
        ("x", "y"),
        ("x+1", "x"),
        ("ba", r"\text{ab}"),
        ("dog", "god"),
        (r"\pi", "3.14159"),
        ("10^{-20}", "0"),
        ("x<3", "x>3"),
        ("0", r"\infty-\infty"),
        ("x", "x+10^{-300}"),
        ("42", "7=8=42"),
    ],
)
def test_not_equal(gold, answer):
    assert not verify(gold, answer)
    assert not verify(answer, gold)


HOSTILE = {
    "tower": "9**9**9**9",
    "latex tower": "9^{9^{9^9}}",
    "bare tower": "9^9^9^9",
    "power": "2^{10000000000}",
    "nested powers": "(((9^{99})^{99})^{99})^{99}",
    "small divisor": r"2^{1/0.00000001}",
    "root index": r"\sqrt[\frac{1}{999999999999}]{7}",
    "factorial": "1000000000!",
    "factorials": "((((9!)!)!)!)!",
    "deep": "(" * 5_000 + "1" + ")" * 5_000,
    "deep and short": "(" * 140 + "1" + ")" * 140,
    "roots": r"\sqrt{" * 40 + "2" + "}" * 40,
    "digits": "9" * 5_000,
    "bars": "|" * 250,
    "signs": "-" * 290 + "x",
    "megabyte": "x+" * 500_000 + "1",
    "megabyte of digits": "1" * 1_000_000,
    "expansion": "(x+y+z+w)^{201}",
    "product": r"\prod_{n=1}^{100000000} n",
    "code": "__import__('os').system('touch pwned')",
    "attributes": "().__class__.__mro__",
    "logarithms": r"\ln(\ln(999999999999^{9999}+1))",
    "functions": r"\log_{2}" * 14 + "x",
    "nested logarithms": r"\log_{2}" * 6 + "x",
    "nested sines": r"\sin " * 6 + "x",
    "nested tangents": r"\tan(" * 6 + "x" + ")" * 6,
    "sums": "x+" * 59 + "1",
    "quotients": "x/" * 59 + "y",
    "long product": "(x+1)" * 59,
    "list": ",".join("abcdefghijklmnopqrstuvwxyz" * 5),
}


@pytest.fixture(scope="module")
def warm():
    verify("x", "y")  # sympy and its grammar are loaded once


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("gold", ["1", "x^2+1", "(1,2)"])
def test_hostile_answers_are_never_right_and_quick(gold, answer):
    started = time.process_time()
    assert not verify(gold, answer)
    assert score_answer(gold, answer) == 0.0
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "response",
    [r"\boxed{" * 140_000, "{" * 1_000_000 + r"\boxed{1", r"\boxed{1}" * 100_000, "\\" * 1_000_000, "####" * 250_000],
    ids=["boxes", "braces", "answers", "backslashes", "markers"],
)
def test_a_megabyte_is_searched_quickly(response):
    started = time.process_time()
    assert extract(response, "####") in (None, "1")
    assert time.process_time() - started < 1.0


def test_unparsed_says_which_and_why():
    verdict = verify("1", r"\unknown{2}")
    assert (verdict.status, verdict.rule) == ("unparsed", "answer")
    assert "unknown" in verdict.reason
    assert verify(r"\unknown{2}", "1").rule == "gold"
    assert verify("1", "").status == "unparsed"
    assert "1000 characters; 300" in verify("1", "1" * 1000).reason
    assert not verify(r"\unknown{2}", "1")


def reward(final, answer):
    trajectory = Trajectory(task={"answer": answer}, steps=[Step({"role": "assistant", "content": final})])
    RewardVector([math_answer]).score([Group({}, {}, [trajectory])])
    return trajectory.rewards["math_answer"], trajectory.missing.get("math_answer")


def test_the_component():
    assert reward(r"\boxed{0.5}", "1/2") == (1.0, None)
    assert reward(r"\boxed{0.6}", "1/2") == (0.0, None)
    assert reward("0.5", "1/2") == (0.0, None)
    assert reward(r"\boxed{9^{9^{9^9}}}", "1/2") == (0.0, None)
    assert reward(r"\boxed{7}", 7) == (1.0, None)


@pytest.mark.parametrize("final", [r"\boxed{1}", "no answer", r"\boxed{\broken}"])
def test_a_gold_answer_nobody_can_read_is_missing_whatever_was_said(final):
    value, reason = reward(final, r"\unknown{2}")
    assert value is None
    assert "cannot be read" in reason


def test_importing_it_loads_neither_sympy_nor_torch():
    code = (
        "import sys; from grpo_agents.rewards.math_answer import verify; assert verify('1/2', '0.5');"
        "print(sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'sympy'" not in loaded
    assert "'torch'" not in loaded
