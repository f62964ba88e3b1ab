import pytest

from grpo_agents.rewards.math_answer.expression import Unreadable
from grpo_agents.rewards.math_answer.grammar import read
from grpo_agents.rewards.math_answer.meaning import has_two_values, items, meant


@pytest.mark.parametrize(
    ("text", "label", "value"),
    [
        ("5", None, "5"),
        ("x = 5", "x", "5"),
        ("5 = x", "x", "5"),
        ("x = 2 + 3 = 5", "x", "5"),
        ("x = y = 5", "y", "5"),
        ("f(x) = x^2", "f(x)", "x^2"),
        ("f^{-1}(x) = 2x", "f^-1(x)", "2*x"),
        ("|AB| = 5", "abs(A*B)", "5"),
        (r"\sin A = 1/2", "sin(A)", "1/2"),
        ("(x, y) = (1, 2)", "(x, y)", "(1, 2)"),
        (r"x \in \{1, 2\}", "x", "{1, 2}"),
        (r"\text{Area} = 12", "area", "12"),
        (r"x \approx 11", "x", "11"),
        (r"x = 1/3 \approx 0.3", "x", "1/3"),
        (r"1/2 = 50\%", None, "50 %"),
        ("x = 2 + 3 = 5 cm", "x", "5 cm"),
        ("2x + 3 = 7", None, "2*x + 3 = 7"),
        ("x < 3", None, "x < 3"),
        (r"S = \sum_{k=1}^{2} k = 3", "S", "3"),
    ],
)
def test_an_equation_says_what_is_meant(text, label, value):
    meaning = meant(read(text))
    assert (meaning.label and str(meaning.label), str(meaning.value)) == (label, value)


@pytest.mark.parametrize(
    "text", ["7 = 8", "7 = 8 = 42", "x = 4 = 5", "x = 5 = y", "2x = x = 5", r"1/2 = 5\%", "x + x = 3x = 6"]
)
def test_a_chain_that_is_false_says_nothing(text):
    with pytest.raises(Unreadable, match="which is not so"):
        meant(read(text))


def test_a_sign_of_two_values_is_two_answers():
    assert [str(item) for item in items(read(r"1 \pm \sqrt{2}"))] == ["1 + sqrt(2)", "1 - sqrt(2)"]
    assert [str(item) for item in items(read(r"\mp 3"))] == ["-3", "3"]
    assert [str(item) for item in items(read(r"(\pm 1, \mp 2)"))] == ["(1, -2)", "(-1, 2)"]
    assert has_two_values(read(r"\frac{1 \pm x}{2}"))
    assert not has_two_values(read("1 + x"))
