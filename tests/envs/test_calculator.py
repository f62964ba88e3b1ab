import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_agents.envs.calculator import calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("47*83", "3901"),
        (" 2 + 3 * 4 ", "14"),
        ("(2 + 3) * 4", "20"),
        ("7 - 2 - 1", "4"),
        ("16 / 4 / 2", "2"),
        ("2 * -3", "-6"),
        ("--3", "3"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("2**3**2", "512"),
        ("2^-3", "0.125"),
        ("0^0", "1"),
        ("1/3", "1/3"),
        ("-2/6", "-1/3"),
        ("10/4", "2.5"),
        ("-1/8", "-0.125"),
        ("0.1 + 0.2", "0.3"),
        (".5 + 5.", "5.5"),
        ("1/3 + 1/3 + 1/3", "1"),
        ("1,234 + 1", "1235"),
        ("4² - 3", "13"),
        ("5! / gcd(12, 18)", "20"),
        ("17 mod 5", "2"),
        (r"\frac{1}{3} + \sqrt{16}", "13/3"),
        ("12345678901234567890 * 98765432109876543210", "1219326311370217952237463801111263526900"),
    ],
)
def test_values(expression, value):
    assert calculator(expression) == value


numbers = st.integers(-(10**12), 10**12)


@given(numbers, numbers, numbers, st.integers(1, 10**6))
def test_agrees_with_exact_arithmetic(a, b, c, d):
    assert Fraction(calculator(f"({a}) * ({b}) - ({c}) / {d}")) == a * b - Fraction(c, d)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "is empty"),
        ("4 +", "ends where a number or a name is expected"),
        ("(1 + 2", "ends where a bracket should close"),
        ("1)", r"holds '\)' where the answer should end"),
        ("4 7", "two numbers side by side"),
        ("1.5.2", "two numbers side by side"),
        (".", "is empty"),
        ("two", "no rational number"),
        ("x + 1", "no rational number"),
        ("sqrt(2)", "no rational number"),
        ("1 = 1", "no rational number"),
        ("__import__('os')", "holds '_'"),
        ("1/0", "division by zero"),
        ("1/(2-2)", "division by zero"),
        ("0^-1", "division by zero"),
        ("9**9**9**9", "too large"),
        ("2^9000", "too large"),
        ("(2^2000)^5", "too large"),
        ("1/2^8090*(3^5000)*(5^1700)", "too large"),
        ("1000!", "too large"),
        ("(" * 60 + "1" + ")" * 60, "nested more than 25 deep"),
        ("1" * 501, "501 characters; 500 are allowed"),
        ("1" * 1_000_000, "500 are allowed"),
    ],
)
def test_errors_are_clear_and_do_not_hang(expression, said):
    started = time.process_time()
    with pytest.raises(ValueError, match=said):
        calculator(expression)
    assert time.process_time() - started < 2


def test_the_longest_products_do_not_hang():
    started = time.process_time()
    with pytest.raises(ValueError, match="too large"):
        calculator("*".join(["8^1000"] * 70))
    assert time.process_time() - started < 2
