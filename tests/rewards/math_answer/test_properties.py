"""Laws that hold for all answers: values and forms come from Fraction, decimal and sympy, never from our own code."""

import json
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

import pytest
import sympy
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from grpo_agents.rewards.math_answer import LENIENT, Verdict, extract, verify

quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
fuzz = settings(parent=quick, max_examples=200)

wholes = st.integers(-999, 999)
fractions = st.builds(Fraction, wholes, st.integers(1, 99))


def latex(value):
    """A fraction as MATH writes it."""
    sign = "-" * (value < 0)
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


@st.composite
def expressions(draw, depth=3):
    """A rational expression in LaTeX, and its value."""
    if not depth or draw(st.booleans()):
        value = draw(fractions)
        return draw(st.sampled_from([f"({value})", f"({latex(value)})", f"\\left({value}\\right)"])), value
    (left, a), (right, b) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    match draw(st.sampled_from("+-*/^")):
        case "+":
            return f"({left}+{right})", a + b
        case "-":
            return f"({left} - {right})", a - b
        case "*":
            return draw(st.sampled_from([f"{left} \\cdot {right}", f"{left}{right}", f"{left}\\times{right}"])), a * b
        case "/" if b:
            return f"\\frac{{{left}}}{{{right}}}", a / b
        case "^" if a:
            power = draw(st.integers(-3, 3))
            return f"({left})^{{{power}}}", a**power
    return left, a


@quick
@given(expressions())
def test_an_expression_is_its_value_and_no_other(expression):
    text, value = expression
    assert verify(latex(value), text)
    assert verify(text, str(value))
    assert not verify(text, str(value + 1))
    assert not verify(latex(value + Fraction(1, 10**9)), text)


@quick
@given(fractions, st.integers(1, 50))
def test_a_fraction_in_other_words(value, factor):
    expanded = f"\\dfrac{{{value.numerator * factor}}}{{{value.denominator * factor}}}"
    assert verify(latex(value), expanded)
    whole, rest = divmod(abs(value), 1)
    if whole and rest:
        assert verify(str(value), f"{'-' * (value < 0)}{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}")
        assert verify(str(value), f"{'-' * (value < 0)}{whole} {rest}")
    assert bool(verify(str(value), str(-value))) == (value == 0)
    if abs(value) != 1 and value:
        assert not verify(str(value), str(1 / value))


@quick
@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4), st.integers(1, 12))
def test_a_decimal_rounded_to_enough_digits_is_the_number(value, digits):
    context = Context(prec=digits, rounding=ROUND_HALF_UP)
    rounded = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    assume(value)
    text = f"{rounded:f}"
    written = sum(map(str.isdigit, text.lstrip("-0.")))  # a quotient that ends early has fewer
    is_same = Fraction(text) == value or ("." in text and written >= 6)
    assert bool(verify(str(value), text)) == is_same
    assert bool(verify(text, str(value))) == is_same
    if "." in text and Fraction(text) != value:
        place = Decimal(1).scaleb(int(rounded.as_tuple().exponent))
        for wrong in (rounded + place, rounded - place):
            if abs(Fraction(wrong) - value) > Fraction(place) / 2:
                assert not verify(str(value), f"{wrong:f}")


@quick
@given(st.integers(0, 999_999), st.integers(1, 6), st.integers(0, 99))
def test_a_repeating_decimal_is_its_geometric_series(period, length, before):
    assume(period < 10**length)
    value = before + Fraction(period, 10**length - 1)
    assert verify(str(value), f"{before}.\\overline{{{period:0{length}}}}")


@quick
@given(st.integers(0, 10**6), st.integers(2, 10), st.integers(2, 10))
def test_a_base_counts(number, base, other):
    def digits(value, base):
        return (digits(value // base, base) if value >= base else "") + str(value % base)

    written = f"{digits(number, base)}_{{{base}}}"
    assert verify(written, f"{digits(number, base)}_{base}" if base < 10 else written)
    assert bool(verify(written, f"{digits(number, other)}_{{{other}}}")) == (base == other)


X, Y = sympy.symbols("x y")
polynomials = st.builds(
    lambda roots, scale: scale * sympy.prod([a * X + b * Y + c for a, b, c in roots]),
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-2, 2), st.integers(-9, 9)).filter(any), min_size=1, max_size=4),
    st.sampled_from([sympy.Integer(1), sympy.Rational(2, 3), sympy.sqrt(2), sympy.Integer(-4)]),
)


@settings(parent=quick, max_examples=60)
@given(polynomials, wholes.filter(bool))
def test_polynomials_as_sympy_expands_and_factors_them(polynomial, constant):
    expanded = sympy.expand(polynomial)
    factored = sympy.factor(polynomial)
    assert verify(sympy.latex(factored), sympy.latex(expanded))
    assert verify(sympy.latex(expanded), sympy.latex(sympy.collect(expanded, X)))
    assert not verify(sympy.latex(expanded), sympy.latex(expanded + sympy.Rational(constant, 1000)))
    assert not verify(sympy.latex(factored), sympy.latex(sympy.expand(2 * polynomial)))


REWRITTEN = [
    sympy.sin(2 * X),
    sympy.cos(X) ** 4,
    sympy.tan(X) + sympy.cot(X),
    (X**3 - Y**3) / (X - Y),
    1 / (1 + 1 / X),
    sympy.exp(X + Y),
    sympy.sqrt(X**2 + 2 * X + 1) ** 2,
    sympy.binomial(5, 2) * X,
    sympy.cosh(X) ** 2,
    sympy.Abs(X) * 2,
]


@pytest.mark.parametrize("expression", REWRITTEN, ids=str)
def test_functions_as_sympy_rewrites_them(expression):
    forms = [form(expression) for form in (sympy.simplify, sympy.expand, sympy.together, sympy.expand_trig)]
    forms += [expression.rewrite(sympy.exp)]
    for form in forms:
        assert verify(sympy.latex(expression), sympy.latex(form)), form
        assert not verify(sympy.latex(expression), sympy.latex(form + sympy.Rational(1, 10**6))), form


@quick
@given(st.lists(fractions, min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_order_counts_in_tuples_and_not_in_sets(values, random):
    shuffled = random.sample(values, len(values))
    inside, other = ", ".join(map(latex, values)), ", ".join(map(str, shuffled))
    assert bool(verify(f"({inside})", f"({other})")) == (values == shuffled)
    assert verify(f"\\{{{inside}\\}}", f"\\{{{other}\\}}")
    assert verify(inside, " and ".join(map(str, shuffled)))
    assert not verify(f"\\{{{inside}\\}}", f"\\{{{', '.join(map(str, shuffled[1:]))}\\}}")
    assert not verify(f"\\{{{inside}\\}}", f"\\{{{other}, 1000\\}}")
    assert not verify(inside, str(values[0]))


brackets = st.sampled_from(["()", "(]", "[)", "[]"])


@quick
@given(wholes, wholes, brackets, brackets)
def test_the_ends_of_an_interval_count(low, high, one, other):
    assume(low < high)
    first, second = (f"{pair[0]}{low}, {high}{pair[1]}" for pair in (one, other))
    assert bool(verify(first, second)) == (one == other)
    signs = [r"<" if bracket in "()" else r"\le" for bracket in one]
    assert verify(f"{low} {signs[0]} x {signs[1]} {high}", first)


@quick
@given(
    wholes, st.sampled_from(["cm", "kg", "dollars", r"\%", "hours", "apples"]), st.sampled_from(["cm", "kg", "hours"])
)
def test_units_count_where_both_are_given(value, unit, other):
    assert verify(f"{value}", f"{value} {unit}")
    assert bool(verify(f"{value} {unit}", f"{value} {other}")) == (unit == other)
    assert not verify(f"{value} {unit}", f"{value + 1} {unit}")


@quick
@given(expressions(1), st.sampled_from(["x", "y", "f(x)", r"\theta", "AB"]))
def test_a_name_changes_nothing_and_a_false_chain_says_nothing(expression, name):
    text, value = expression
    assert verify(str(value), f"{name} = {text}")
    assert verify(str(value), f"{name} = {text} = {value}")
    assert not verify(str(value), f"{name} = {value + 1} = {value}")
    assert not verify(str(value), f"{value + 1} = {value}")


@quick
@given(st.lists(wholes, min_size=2, max_size=4, unique=True))
def test_no_hedge_among_several_is_right(values):
    for joined in (", ".join, " or ".join, r" \text{ or } ".join, "; ".join, " = ".join):
        answer = joined(map(str, values))
        for value in values:
            assert not verify(str(value), answer)


PIECES = r"""\frac \sqrt { } ( ) [ ] ^ _ + - * / = < > \le , ; : 1 2 0 0.5 x y n i e \pi \infty \sin \log \text{a}
\text{cm} \% \$ ! ' \cup \cap \setminus \{ \} \mathbb{R} \pm \mp \in or and \begin{pmatrix} \end{pmatrix} & \\
\begin{cases} \end{cases} \sum_{k=1}^{3} \int_0^1 dx \lim_{x\to0} ^\circ \overline{3} \bar _5 \binom \max \lfloor
\rfloor | mod \pmod f( \cdot \times \boxed{ \ldots \neq \approx U million \over \choose abs sqrt \cis \tanh \left
\right""".split()
VALID = [
    r"\frac{\sqrt{3}}{2}+\frac{1}{2}i",
    r"(-\infty,-1)\cup[2,\infty)",
    r"\{x \mid x^2-5x+6 \le 0\}",
    r"x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}",
    r"\begin{pmatrix} 1 & -2 \\ \frac{1}{2} & \pi \end{pmatrix}",
    r"f^{-1}(x)=\ln|x-1|+C",
    r"12\frac{1}{2}\% \text{ of } \$1,250.50",
    r"\sum_{k=1}^{n} \binom{n}{k} 2^k = 3^n - 1",
    r"7:30 \text{ p.m.}",
    r"204_5, 0.1\overline{6}, 1.5 \times 10^{-3}",
    r"\sin^2 \theta + \cos^{-1}(x) \equiv 8 \pmod{11}",
    r"\begin{cases} x & \text{if } x>0 \\ -x & \text{otherwise} \end{cases}",
    r"\boxed{\text{no solution}}",
]


@st.composite
def mutated(draw):
    """A valid answer in which characters were deleted, inserted or doubled."""
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        until = min(len(text), at + draw(st.integers(1, 6)))
        inserted = draw(st.sampled_from(["", text[at:until] * 2, *PIECES]))
        text = text[:at] + inserted + text[until:]
    return text


soups = st.lists(st.sampled_from(PIECES), max_size=14).flatmap(
    lambda pieces: st.sampled_from(["".join(pieces), " ".join(pieces)])
)
answers = st.one_of(
    soups, mutated(), st.text(max_size=60), st.binary(max_size=60).map(lambda data: data.decode("latin-1"))
)


@pytest.mark.timeout(120)
@fuzz
@given(answers, answers)
@example("5" + "!" * 1_900, "x" + "/x" * 900)
@example(r"\sum_{a=1}^{400} \sum_{b=1}^{400} \sum_{c=1}^{400} a", "1")
def test_whatever_is_given_there_is_one_verdict(gold, answer):
    for one, other in ((gold, answer), (gold, gold + " ")):
        verdict, turned = verify(one, other), verify(other, one)
        assert isinstance(verdict, Verdict)
        assert bool(verdict) == bool(turned)
        assert verdict.status == turned.status
        assert (verdict.status == "equal") == bool(verdict)
        assert verdict.sentence.endswith(".")
        json.dumps([verdict.gold, verdict.answer])
    extract(answer, "#", modes=LENIENT)


@fuzz
@given(answers)
def test_what_is_equal_to_one_number_is_to_no_other(answer):
    """Nothing that can be written collects more than one reward among these."""
    golds = ["0", "1", "-1", "2", r"\frac12", "x", r"\pi", "(1,2)", r"\{1,3\}", "[0,1)", "A", "yes", "x+1", "i"]
    right = [gold for gold in golds if verify(gold, answer)]
    assert len(right) <= 1
