import pytest

from grpo_agents.rewards.math_answer import LENIENT, STRICT, extract
from grpo_agents.rewards.math_answer.extraction import adjacent_boxes, boxed


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"So \boxed{42}.", "42"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{x \} y}", r"x \} y"),
        (r"a { b \boxed{3}", "3"),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"\boxed{\boxed{7}}", r"\boxed{7}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"\boxed{}", None),
        (r"\boxed{1", None),
        (r"\boxed", None),
        (r"\unboxed{5}", None),
        ("The answer is 42", None),
        ("42", None),
        ("", None),
        ("\x00\udcff", None),
    ],
)
def test_strictly_the_last_balanced_box(response, answer):
    assert extract(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1\n#### 2 \nand so on", "2"),
        ("7", None),
        ("####", None),
        ("####\n7", "7"),
        (r"#### 7 \boxed{8}", "8"),
    ],
)
def test_a_marker(response, answer):
    assert extract(response, "####") == answer


def test_a_marker_that_was_not_asked_for_is_prose():
    assert extract("#### 7") is None


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The final answer is $\\frac{3}{4}$. I hope it is correct.", "$\\frac{3}{4}$"),
        ("The answer is 12.5.", "12.5"),
        ("The answer is: **17**", "**17**"),
        ("First 3, then 4, so 7 apples", "7"),
        ("So $x = 5$ holds.", "$x = 5$"),
        ("It is **Paris**", "Paris"),
        ("I do not know", None),
        (r"The answer is 3, so \boxed{4}", "4"),
        ("La réponse est 8.", "8"),
        ("答案是 9。", "9"),
        ("the answer is -3", "-3"),
        ("it costs $5", "$5"),
    ],
)
def test_leniently_what_a_sentence_gives_as_its_answer(response, answer):
    assert extract(response, modes=LENIENT) == answer


def test_the_lenient_modes_can_be_named_one_by_one():
    assert LENIENT[:2] == STRICT
    assert extract("the answer is 3; there were 4", modes=("phrase",)) == "3"
    assert extract("the answer is 3; there were 4", modes=("last",)) == "4"


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="response must be a str, not NoneType"):
        extract(None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="unknown mode 'first'"):
        extract("", modes=["first"])  # pyright: ignore[reportArgumentType]


def test_all_boxes_and_those_that_stand_together():
    text = r"\boxed{1} is wrong, much more likely than all that is $\boxed{2}$, $\boxed{3}$ and \boxed{4}."
    assert boxed(text) == ["1", "2", "3", "4"]
    assert adjacent_boxes(text) == ["2", "3", "4"]
    assert adjacent_boxes("none") == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{" * 140_000,
        "{" * 1_000_000 + r"\boxed{1",
        r"\boxed{1}" * 100_000,
        "\\" * 1_000_000,
        "####" * 250_000,
        "answer is " * 100_000,
        "$" * 1_000_001,
        "1," * 500_000,
        "\\(" * 500_000,
        "**" * 500_000,
    ],
    ids=["boxes", "braces", "answers", "backslashes", "markers", "phrases", "dollars", "numbers", "math", "bold"],
)
def test_a_megabyte_is_searched_in_time(response):
    extract(response, "####", modes=LENIENT)
