"""Verdicts on answers."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([r"\frac12", "0.5"], 0, "equal"),
        (["-5", "-5.0"], 0, "equal"),
        (["(1, 2)", "(2, 1)"], 1, "The answer (2, 1) is not (1, 2)"),
        (["3", r"\frac{1}{"], 1, "cannot be read"),
        (["50", r"50\%", "--percent", "value"], 1, "different"),
        (["1/3", "0.33", "--digits", "2"], 0, "rounded"),
        (["15", r"5 \cdot 3 is \boxed{15}.", "--response"], 0, "equal"),
        (["15", "it is 15\n#### 15", "--response", "--marker", "####"], 0, "equal"),
        (["15", "it is 15", "--response"], 1, r"no answer: the response has no \boxed{}"),
    ],
)
def test_verify_shows_a_verdict_and_exits_with_it(run, arguments, code, said):
    result = run("verify", *arguments)
    assert (result.exit_code, said in result.stdout) == (code, True), result.output
