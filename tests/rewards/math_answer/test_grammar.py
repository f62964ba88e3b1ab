"""What is read, and what is refused. The trees are shown as people write them."""

import pytest

from grpo_agents.rewards.math_answer.expression import Unreadable
from grpo_agents.rewards.math_answer.grammar import read
from grpo_agents.rewards.math_answer.spelling import clean, comma_readings
from grpo_agents.rewards.math_answer.tokens import tokens
from grpo_agents.rewards.math_answer.units import canonical


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2xy", "2*x*y"),
        (r"2\pi r", "2*pi*r"),
        ("1/2x", "(1/2)*x"),
        ("-x^2", "-x^2"),
        ("2^3^2", "2^(3^2)"),
        ("--5", "5"),
        ("3 - -4", "3 + 4"),
        (r"\frac12", "1/2"),
        (r"\frac1{23}", "1/23"),
        (r"{1 \over 2}", "1/2"),
        (r"2\frac13", "7/3"),
        ("2 1/3", "7/3"),
        ("2(1/3)", "2*(1/3)"),
        ("(2)(3)", "2*3"),
        (r"\sqrt[3]{x}", "root(x, 3)"),
        (r"\sqrt2x", "sqrt(2)*x"),
        ("sqrt(2)", "sqrt(2)"),
        (r"\sin^2 x", "sin(x)^2"),
        (r"\sin 2x", "sin(2*x)"),
        (r"\sin^{-1} x", "arcsin(x)"),
        (r"\cot^{-1} x", "arccot(x)"),
        (r"\log_2 8", "log(8, 2)"),
        (r"\lg x", "log(x, 10)"),
        (r"\operatorname{cis} x", "e^(i*x)"),
        ("|-5|", "abs(-5)"),
        ("|a||b|", "abs(a)*abs(b)"),
        (r"\lfloor -1.5 \rfloor", "floor(-3/2)"),
        ("5!", "factorial(5)"),
        (r"{5 \choose 2}", "binom(5, 2)"),
        ("f'(x)", "f'(x)"),
        ("f^{-1}(x)", "f^-1(x)"),
        ("x_{10}", "x_10"),
        ("204_5", "204_5"),
        ("0.1\\overline{6}", "1/6"),
        (r"0.1\bar6", "1/6"),
        ("1.5e3", "1500"),
        ("1.5 x 10^3", "1500"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "[1, 2; 3, 4]"),
        (r"\begin{cases} 1 & \text{if } x > 0 \\ 0 & \text{otherwise} \end{cases}", "1 if x > 0; 0 if otherwise"),
        (r"\{x \mid x > 3\}", "x > 3"),
        (r"\mathbb{R} - \{2\}", "R difference {2}"),
        ("(1,2) U [3,4)", "(1, 2) union [3, 4)"),
        ("x<1 or x>2", "(x < 1) union (x > 2)"),
        (r"17 \bmod 5", "17 mod 5"),
        (r"8 \pmod{11}", "8 mod 11"),
        ("7:30 p.m.", "(7 : 30) pm"),
        ("60°C", "60 °C"),
        (r"\$1.25 million", "1250000 $"),
        ("3 dozen eggs", "36 egg"),
        (r"5\ \mathrm{m/s^2}", "5 m / s^2"),
        (r"\text{5 cm}", "5 cm"),
        (r"\underline{5}", "5"),
        (r"\sum_{k=1}^{10} k", "sum(k, k, 1, 10)"),
        (r"\int_0^1 x\,dx", "int(x, x, 0, 1)"),
        (r"\lim_{x \to 0} x", "lim(x, x, 0)"),
        ("no solution", "no solution"),
        (r"\text{(B)}", "B"),
    ],
)
def test_it_reads(text, written):
    assert str(read(clean(text))) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "}",
        "(1",
        "1)",
        "(1, 2}",
        "[1)",
        "()",
        "|1",
        "1 2",
        "1 +",
        "* 1",
        "x = ",
        r"\frac{1}",
        r"\frac.5",
        r"\unknown{2}",
        r"\begin{pmatrix} 1 & 2 \\ 3 \end{pmatrix}",
        r"\begin{pmatrix} 1 \end{bmatrix}",
        r"\begin{itemize} 1 \end{itemize}",
        r"\begin{cases} 1 \\ 2 \end{cases}",
        r"\int x",
        r"\sum k",
        r"\sum_{k}^{3} k",
        r"\lim_{x} x",
        "204_{99}",
        "9_8",
        r"0.\overline{x}",
        "1.2.3",
        "x + the answer",
        "the answer is 5",
        "5 squared",
        "5 hundredths",
        r"5\%\%",
        r"\$5\%",
        "5 because of what was said further above on this page",
        "5''",
        "import os; os.system('x')",
        "__import__('os')",
        "<script>",
        "5 # 6",
        "\x00",
        "𝟓 ≋ 𝟔",
    ],
)
def test_it_refuses(text):
    with pytest.raises(Unreadable, match=r"^(has|holds|is|ends|mixes|opens|does|lists)"):
        read(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1" * 1_001, "more than 1,000 digits"),
        ("x" * 2_001, "2,000 are allowed"),
        ("(" * 30 + "1" + ")" * 30, "more than 25 deep"),
        ("5" + "!" * 200, "more than 100 operations"),
        ("x" + "/x" * 200, "more than 100 operations"),
        (r"\$" * 500 + "5", "more than 25 deep"),
        ("1," * 300 + "1", "more than 200"),
        (r"\begin{pmatrix}" + r"1\\" * 300 + r"1\end{pmatrix}", "more than 200"),
        ("", "is empty"),
    ],
)
def test_what_is_too_much_is_refused_with_the_limit(text, why):
    with pytest.raises(Unreadable, match=why):
        read(text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("$5$", "5"),
        (r"\$5", r"\$5"),
        ("$5", r"\$5"),
        ("**5**", "5"),
        (r"\(5\).", "5"),
        (r"\[ \dfrac12 \]", r"\frac12"),
        ("−5", "-5"),
        ("½", r"\frac{1}{2}"),
        (r"1{,}234", "1234"),
        (r"1\,234", "1234"),
        ("1 234 567", "1234567"),
        ("12 34", "12 34"),
        (r"x \left( y \right)", "x ( y )"),
        ("5<|im_end|>", "5"),
    ],
)
def test_many_spellings_become_one(text, cleaned):
    assert clean(text) == cleaned


def test_commas_are_thousands_decimals_or_between_things():
    assert comma_readings("1,234") == ["1,234", "1234"]
    assert comma_readings("1,5") == ["1,5", "1.5"]
    assert comma_readings("1,2,3") == ["1,2,3"]
    assert comma_readings("1, 2") == ["1, 2"]
    assert comma_readings("(1,5)") == ["(1,5)"]
    assert comma_readings("12,34,567") == ["12,34,567"]


def test_words_stay_whole_and_variables_come_apart():
    assert [token.text for token in tokens("abc sinx xyz Paris cm")] == [*"abc", "sin", *"xxyz", "Paris", "cm"]


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        (["meters", "per", "second"], "m / s"),
        (["m/s"], "m / s"),
        (["square", "feet"], "ft^2"),
        (["ft", "^2"], "ft^2"),
        (["Dollars"], "$"),
        (["miles", "per", "hour"], "mi / h"),
        (["mph"], "mi / h"),
        (["apples"], "apple"),
    ],
)
def test_units_have_one_spelling(words, unit):
    assert canonical(words) == unit
