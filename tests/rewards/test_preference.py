from collections import Counter

import numpy as np
import pytest

from grpo_agents.rewards.preference import Choices, Simplex, check_weights


def test_choices_are_equally_likely():
    options = [{"outcome": 1.0}, {"outcome": 0.5, "cost": 0.5}, {"cost": 1.0}]
    rng = np.random.default_rng(0)
    counts = Counter(str(Choices(options).draw(rng)) for _ in range(3000))
    assert set(counts) == {str(option) for option in options}
    assert all(abs(count - 1000) < 5 * np.sqrt(3000 * 2 / 9) for count in counts.values())  # 5 standard deviations


def test_a_drawn_choice_is_a_copy():
    choices = Choices([{"outcome": 1.0}])
    choices.draw(np.random.default_rng(0))["outcome"] = 7.0
    assert choices.draw(np.random.default_rng(0)) == {"outcome": 1.0}


def test_simplex_weights_sum_to_one_above_their_floor_in_whole_steps():
    simplex = Simplex(("outcome", "cost", "latency"), floor={"outcome": 0.3, "cost": 0.1}, steps=20)
    rng = np.random.default_rng(1)
    for _ in range(500):
        drawn = simplex.draw(rng)
        assert list(drawn) == ["outcome", "cost", "latency"]
        assert abs(sum(drawn.values()) - 1) < 1e-12
        assert drawn["outcome"] >= 0.3
        assert drawn["cost"] >= 0.1
        assert drawn["latency"] >= 0.0
        assert all(abs(20 * weight - round(20 * weight)) < 1e-9 for weight in drawn.values())


@pytest.mark.parametrize(("floor", "least"), [(0.25, 0.3), (0.04, 0.1), (0.3, 0.3), (0.7, 0.7), (0.0, 0.0)])
def test_no_weight_is_below_a_floor_between_steps(floor, least):
    rng = np.random.default_rng(1)
    drawn = [Simplex(("a", "b"), floor={"a": floor}).draw(rng)["a"] for _ in range(300)]
    assert min(drawn) == least


def test_simplex_is_uniform():
    rng = np.random.default_rng(2)
    counts = Counter(tuple(Simplex(("a", "b", "c"), steps=3).draw(rng).values()) for _ in range(10_000))
    assert len(counts) == 10  # as many ways to share 3 steps among 3
    assert all(abs(count - 1000) < 5 * np.sqrt(900) for count in counts.values())  # 5 standard deviations


def test_simplex_edges():
    rng = np.random.default_rng(3)
    assert Simplex(("a",)).draw(rng) == {"a": 1.0}
    assert Simplex(("a", "b"), floor={"a": 1.0}).draw(rng) == {"a": 1.0, "b": 0.0}


def test_the_same_seed_draws_the_same():
    simplex = Simplex(("a", "b", "c"))
    drawn = [[simplex.draw(rng) for _ in range(5)] for rng in (np.random.default_rng(4), np.random.default_rng(4))]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_bad_weights_are_named(weight):
    with pytest.raises(ValueError, match=r"preference for 'cost' is .*: a weight is a finite number of at least 0"):
        check_weights({"outcome": 1.0, "cost": weight})
    with pytest.raises(ValueError, match="'cost'"):
        Choices([{"cost": weight}])


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"preference\.choices is empty"):
        Choices([])
    with pytest.raises(ValueError, match=r"preference\.floor names 'cots', which is not among outcome, cost"):
        Simplex(("outcome", "cost"), floor={"cots": 0.1})
    with pytest.raises(ValueError, match="sums to more than 1"):
        Simplex(("outcome", "cost"), floor={"outcome": 0.6, "cost": 0.6})
    with pytest.raises(ValueError, match=r"sums to more than 1, in steps of 1/10: 12/10\. Lower it"):
        Simplex(tuple("abcd"), floor={"a": 0.35, "b": 0.35, "c": 0.15, "d": 0.15})
