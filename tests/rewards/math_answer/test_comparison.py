"""Which answers are the same. Every fact is checked in both orders."""

import pytest

from grpo_agents.rewards.math_answer import Conventions, verify

EQUAL = {
    "numbers": [
        ("1000", "1,000"),
        ("1234567", r"1{,}234{,}567"),
        ("1000", "1000.0"),
        ("-5", "−5"),
        ("0.5", r"\frac{1}{2}"),
        ("0.5", "0,5"),
        ("-1/2", r"\frac{1}{-2}"),
        ("5/4", "1 1/4"),
        ("5/2", r"2\frac{1}{2}"),
        ("-3.25", r"-3\frac14"),
        ("1/3", r"0.\overline{3}"),
        ("7/12", r"0.58\bar{3}"),
        ("1500", r"1.5 \times 10^3"),
        ("2^{100}", "1267650600228229401496703205376"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        ("i^2", "-1"),
        ("|3+4i|", "5"),
        ("2+3i", "3i+2"),
        (r"\log_2 8", "3"),
        (r"\sin 30^\circ", "1/2"),
        (r"\int_0^1 x^2 dx", "1/3"),
        (r"\sum_{n=1}^{\infty} \frac{1}{n^2}", r"\frac{\pi^2}{6}"),
        (r"\lim_{x \to 0} \frac{\sin x}{x}", "1"),
        ("204_5", "204_{5}"),
        ("2500000", "2.5 million"),
    ],
    "expressions": [
        ("x^2+1", "1+x^2"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\frac{x^2-1}{x-1}", "x+1"),
        (r"\log(xy)", r"\log x + \log y"),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
        (r"\vec a + \vec b", r"\vec b + \vec a"),
        (r"2\mathbf{i} - 3\mathbf{j}", r"-3\mathbf{j} + 2\mathbf{i}"),
        (
            r"\begin{cases} 1 & x>0 \\ 0 & x \le 0 \end{cases}",
            r"\begin{cases} 0 & x \le 0 \\ 1 & \text{if } x>0 \end{cases}",
        ),
    ],
    "names": [
        ("3", "x = 3"),
        ("3", "3 = x"),
        ("y = 2x+1", "2x+1"),
        ("y = 2x+1", "2x - y + 1 = 0"),
        ("x^2+y^2 = 4", "4 - x^2 = y^2"),
        (r"\frac{x}{4} + \frac{y}{3} = 1", "3x + 4y = 12"),
        ("x+y < 2", "2 - x > y"),
        ("(x,y) = (3,-7)", "x=3, y=-7"),
        ("(x,y) = (3,-7)", "y=-7, x=3"),
        ("(m,b) = (3,-7)", "m=3, b=-7"),
        ("x=1, y=2", "y=2, x=1"),
        ("x_1=2, x_2=3", "2, 3"),
        ("x=3, y=-7", "3, -7"),
        ("x=1, y=2 or x=3, y=4", "x=3, y=4 or x=1, y=2"),
        ("a < b < c", "c > b > a"),
        ("1 < 2", "1.0 < 2.0"),
    ],
    "several": [
        ("1, 2", "2, 1"),
        ("1, 2", "1 and 2"),
        ("1, 2", r"\{2, 1\}"),
        (r"\pm 3", "3, -3"),
        (r"x = \pm 3", r"x = -3 \text{ or } x = 3"),
        (r"-1 \pm \sqrt2", r"-1 \mp \sqrt2"),
        (r"\{1, 2\}", r"\{2, 1, 1\}"),
        ("(1/2, 3)", "(0.5, 3)"),
        ("(1, 2), (3, 4)", r"\{(3, 4), (1, 2)\}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 2)"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "[[1, 2], [3, 4]]"),
        (r"\frac12 \begin{pmatrix} 2 & 4 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \end{bmatrix}"),
        (
            r"\begin{pmatrix} 1 & 1 \\ 0 & 1 \end{pmatrix} \begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            r"\begin{pmatrix} 3 \\ 2 \end{pmatrix}",
        ),
        (r"-\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(-1, -2)"),
        (
            r"\frac{1}{2} \begin{pmatrix} 1 & 2 \end{pmatrix} + \begin{pmatrix} 1 & 1 \end{pmatrix} / 2",
            r"\begin{pmatrix} 1 & 3/2 \end{pmatrix}",
        ),
        ("1:2", "3:6"),
        ("1:2", "1/2"),
        ("1:2:3", "2:4:6"),
        ("7:30", "7:30 p.m."),
    ],
    "units": [
        ("12", r"12\text{ cm}"),
        ("5 km", "5 kilometers"),
        ("5 ft^2", "5 square feet"),
        (r"5\ \mathrm{m/s^2}", "5 meters per second ^2"),
        (r"\$20", "20.00 dollars"),
        (r"\$-20", r"-\$20.00"),
        ("90", r"90^\circ"),
        ("50%", "0.5"),
        ("50", r"50\%"),
        ("1/3", r"33\frac13\%"),
        ("15 inches", "15 in"),
        ("50 mph", "50 miles per hour"),
        ("50 km/hour", r"50\text{ km}/\text{h}"),
        ("1/3%", "1/300"),
        ("50%", r"50\% \text{ of the students}"),
        ("50% increase", r"0.5"),
        ("60%", r"30\% \cdot 2"),
        ("8 (mod 11)", r"x \equiv 8 \pmod{11}"),
        ("-5 cm", "-5"),
    ],
    "words": [
        (r"\text{Tuesday}", "tuesday"),
        ("B", r"\text{(B)}"),
        ("B", "b"),
        (r"\text{no solution}", "No solution."),
    ],
}


@pytest.mark.parametrize(("gold", "answer"), [pair for pairs in EQUAL.values() for pair in pairs])
def test_equal(gold, answer):
    assert verify(gold, answer).status == "equal"
    assert verify(answer, gold).status == "equal"


DIFFERENT = {
    "numbers": [
        ("42", "43"),
        ("1/4", "1 1/4"),
        ("5/2", "(2)(1/2)"),
        ("11", "1 1"),
        ("12", "1,2"),
        ("5", "5,000"),
        ("10^{-20}", "0"),
        (r"\pi", "22/7"),
        (r"\infty", r"-\infty"),
        ("0", r"\infty - \infty"),
        ("0/0", "0/0 + 1"),
        ("1/0", "2/0"),
        ("5", "0/0"),
        ("204_5", "204_6"),
        ("204_5", "204"),
        ("204_5", "54"),
        ("3+4i", "(3, 4)"),
        ("5", "5 million"),
        ("5", "5 dozen"),
        ("5", "5!"),
    ],
    "expressions": [
        ("x", "y"),
        ("x+1", "x"),
        ("x", "x+10^{-300}"),
        ("-x^2", "(-x)^2"),
        ("a_1", "a_2"),
        (r"\overline{AB}", r"\overline{BC}"),
        (r"\frac{x^2}{2} + C", r"\frac{x^2}{2}"),
        (r"\mathbb{N}", r"\mathbb{Z}"),
    ],
    "names": [
        ("x = 1", "y = 1"),
        ("5", "2x = 5"),
        ("y = 2x+3", "x = 2y+3"),
        ("x^2+y^2 = 25", "x^2+y^2 = 5"),
        ("x < 3", "x > 3"),
        ("x+y < 2", "x+y <= 2"),
        ("x=3, y=-7", "y=3, x=-7"),
        ("x=3, y=-7", "-7, 3"),
        ("x=1, y=2 or x=3, y=4", "x=1, y=4 or x=3, y=2"),
        ("a < b < c", "a < c < b"),
        (r"x = \pm 1", r"y = \pm 1"),
        ("(3, -7)", "y=3, x=-7"),
        ("x < y", "x < y < z"),
        ("5", "x"),
    ],
    "several": [
        ("7", r"\pm 7"),
        ("7", "3, 7"),
        ("(1, 2)", "(2, 1)"),
        ("(1, 2)", r"\{1, 2\}"),
        ("(1, 2)", "x = 1 or x = 2"),
        ("(1, 2, 3)", "(1, 2)"),
        ("(0, 1)", "[0, 1]"),
        (r"\{1, 2, 3\}", r"\{1, 2\}"),
        ("(1, 2), (3, 4)", "(1, 2), (3, 5)"),
        (r"(\pm 1, \pm 2)", "(1, 2), (1, -2), (-1, 2), (-1, -2)"),
        (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}"),
        ("1:2", "2:1"),
        ("1:2:3", "1:2"),
        ("12:00", "1:00"),
        ("7:30 a.m.", "7:30 p.m."),
        ("1:2:3", "6"),
        (r"\begin{cases} 1 & x>0 \\ 0 & x \le 0 \end{cases}", "1"),
    ],
    "units": [
        ("5 cm", "5 kg"),
        ("5 cm", "5 cm^2"),
        ("25", r"5\text{ cm}^2"),
        (r"\$5", "5 cents"),
        (r"\$5", "€5"),
        ("0.5%", "50%"),
        ("50% increase", "50% decrease"),
        (r"60^\circ", r"60\%"),
        (r"60^\circ", r"\frac{\pi}{3}"),
        ("10", "5 cm + 5 kg"),
        (r"8 \pmod{11}", r"8 \pmod{12}"),
    ],
    "words": [
        ("ba", r"\text{ab}"),
        ("dog", "god"),
        (r"\text{red}", r"\text{not red}"),
        (r"\text{even}", "odd"),
        ("A", "5"),
    ],
}


@pytest.mark.parametrize(("gold", "answer"), [pair for pairs in DIFFERENT.values() for pair in pairs])
def test_different(gold, answer):
    assert not verify(gold, answer)
    assert not verify(answer, gold)


@pytest.mark.parametrize(
    ("exactly", "decimal", "equal"),
    [
        ("1/12", "0.0833333333", True),
        ("1/12", "0.0833333", True),
        ("1/12", "0.083333", False),
        ("1/3", "0.33", False),
        ("2/3", "0.666667", True),
        ("2/3", "0.666666", False),
        ("1000000/3", "333333.3", True),
        ("1000000/3", "333333", False),
        (r"\pi", "3.14159", True),
        (r"\pi", "3.14160", False),
        (r"\pi", "3.1416", False),
        (r"\pi \cdot 10^{-12}", "3.14159e-12", True),
        (r"\pi \cdot 10^{-12}", "0.000000", False),
        ("2/3", r"66.6667\%", True),
        ("1", "0.999999", False),
        ("2^{100}", r"1.267651 \times 10^{30}", True),
        (r"(\frac12, \frac{\sqrt3}{2})", "(0.5, 0.866025)", True),
        ("1000000", "1000001", False),
        (r"\frac{f(1)}{f(2)}", "1.00000", False),
    ],
)
def test_a_decimal_is_another_number_where_it_is_that_number_correctly_rounded(exactly, decimal, equal):
    assert bool(verify(exactly, decimal)) == equal
    assert bool(verify(decimal, exactly)) == equal


def test_how_many_digits_are_enough_is_an_option():
    assert verify("1/3", "0.33", Conventions(digits=2))
    assert not verify("1/3", "0.34", Conventions(digits=2))
    assert not verify("1/3", "0.333333", Conventions(digits=7))
    with pytest.raises(ValueError, match="digits must be at least 1, not 0"):
        Conventions(digits=0)
    with pytest.raises(ValueError, match="percent must be one of either, value, number, not 'share'"):
        Conventions(percent="share")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boxes must be one of last, refuse, adjacent"):
        Conventions(boxes="first")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("percent", "as_value", "as_number"), [("either", True, True), ("value", True, False), ("number", False, True)]
)
def test_a_percentage_is_a_value_or_a_number(percent, as_value, as_number):
    conventions = Conventions(percent=percent)
    for one, other in (("50%", "0.5"), ("0.5", "50%")):
        assert bool(verify(one, other, conventions)) == as_value
    for one, other in (("50%", "50"), ("50", "50%")):
        assert bool(verify(one, other, conventions)) == as_number
    assert verify("50%", "50 percent", conventions)


def test_degrees_are_a_unit_or_an_angle():
    radians = Conventions(degrees="radians")
    assert verify(r"90^\circ", r"\frac{\pi}{2}", radians)
    assert not verify(r"90^\circ", "90", radians)
    assert verify(r"90^\circ", "90 degrees", radians)
    assert not verify(r"90^\circ", r"\frac{\pi}{2}")


def test_of_several_boxes_the_last_counts_or_none_or_all_that_stand_together():
    assert verify("2", r"\boxed{1} \boxed{2}")
    assert not verify("1", r"\boxed{1} \boxed{2}")
    refused = verify("2", r"\boxed{1} \boxed{2}", Conventions(boxes="refuse"))
    assert (refused.status, refused.rule) == ("unparsed", "answer")
    assert "2 boxes" in refused.sentence
    assert verify("2", r"\boxed{2}", Conventions(boxes="refuse"))
    assert verify("1, 2", r"$\boxed{1}$ and $\boxed{2}$", Conventions(boxes="adjacent"))
    assert not verify("1, 2", r"\boxed{1} \boxed{2}")


def test_prose_is_searched_only_when_asked():
    assert not verify("42", "The answer is 42.")
    assert verify("42", "The answer is 42.", Conventions(prose=True))
    assert not verify("42", "I do not know.", Conventions(prose=True))


@pytest.mark.parametrize(
    "answer",
    [
        "5 or 6",
        "5 (or 6)",
        r"5 \text{ or } 6",
        "5, 6",
        "5; 6",
        "5/6",
        r"5 \pm 1",
        r"\{4, 5, 6\}",
        r"x \in \{4, 5, 6\}",
        "[4, 6]",
        "4 < x < 6",
        "7 = 8 = 5",
        "5 = 6",
        "x = 5 = y",
        "x = 5, x = 6",
        "x = x",
        "0 = 0",
        r"5 \neq 6",
        "the answer is 5",
        r"\text{The answer is } 5",
        "approximately 5",
        r"\approx 5",
        "Answer: 5",
        "5?",
        "f(5)",
        "5 (maybe 6)",
        r"5\%\%",
        "5x/x if x else 6",
        "eval('5')",
        "5 # comment",
        "5; import os",
        "[5 for _ in '6']",
        "*",
        r"\boxed{5} \boxed{6}",
        r"\phantom{6}5",
    ],
)
def test_no_hedge_is_right(answer):
    assert not verify("5", answer)
    assert not verify(answer, "5")


@pytest.mark.parametrize(
    "answer", ["A or B", "A, B, C, D", "A/B", "A|B", "ABCD", "not A", r"A \lor B", "A B", "B = A = C"]
)
def test_no_several_letters_are_the_right_one(answer):
    for letter in "ABCD":
        assert not verify(letter, answer) or answer == "B = A = C"
