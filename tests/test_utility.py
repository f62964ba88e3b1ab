import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import vector_of

from grpo_agents.utility import utility

OUTCOME = vector_of(outcome="max")
TRIPLE = vector_of(outcome="max", cost="min", latency="min")
NAMES = TRIPLE.names

weight = st.floats(0, 1)


@given(
    correct=st.sampled_from([0.0, 1.0]),
    cost=st.floats(0, 10),
    latency=st.floats(0, 3),
    weights=st.tuples(weight, weight, weight),
)
@settings(max_examples=60, deadline=None)
def test_utility_is_the_issues_formula(correct, cost, latency, weights):
    preference = dict(zip(NAMES, weights, strict=True))
    found = utility({"outcome": correct, "cost": cost, "latency": latency}, preference, TRIPLE,
                    {"cost": 10.0, "latency": 3.0}, "outcome")  # fmt: skip
    expected = correct * (weights[0] + weights[1] * (1 - cost / 10) + weights[2] * (1 - latency / 3))
    assert found == pytest.approx(expected, abs=1e-12)


def test_utility_is_missing_where_a_weighed_component_is():
    rewards = {"outcome": 1.0, "cost": None, "latency": 1.0}
    assert utility(rewards, {"outcome": 0.5, "cost": 0.5}, TRIPLE, {}) is None
    assert utility(rewards, {"outcome": 0.5, "latency": 0.5}, TRIPLE, {}) == pytest.approx(0.5 - 0.5)
    assert utility({**rewards, "outcome": None}, {"latency": 1.0}, TRIPLE, {}, "outcome") is None


def test_a_gate_may_be_off_by_rounding():
    assert utility({"outcome": 1 + 1e-12}, {"outcome": 1.0}, OUTCOME, {}, "outcome") == pytest.approx(1.0)
