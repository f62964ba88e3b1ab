import itertools

import numpy as np
import pytest
from scipy import stats

from grpo_agents.engines import Sampling, mix, uniform


def draws(seeds, positions):
    return uniform(np.asarray(seeds, np.uint64), np.asarray(positions, np.uint64))


def test_uniform_is_inside_the_interval_and_uniform():
    values = draws(np.arange(200_000), np.zeros(200_000))
    assert 0 < values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    extreme = draws([0, 2**63 - 1, 2**64 - 1], [0, 2**40, 2**64 - 1])
    assert ((extreme > 0) & (extreme < 1)).all()


@pytest.mark.parametrize("seeds", ["counted", "mixed"])
def test_uniform_is_uncorrelated_across_seeds_and_positions(seeds):
    numbers = np.arange(300) if seeds == "counted" else np.array([mix(5, n) for n in range(300)])
    table = draws(np.repeat(numbers, 400), np.tile(np.arange(400), 300)).reshape(300, 400)
    assert stats.kstest(table.ravel(), "uniform").pvalue > 1e-3
    centred = table - 0.5
    bound = 5 / np.sqrt(centred.size) / 12  # five standard errors of the mean of a product
    for moved in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1], centred[1:, 1:] * centred[:-1, :-1],
                  centred[1:, :-1] * centred[:-1, 1:]):  # fmt: skip
        assert abs(moved.mean()) < bound
    assert len(np.unique(table)) == table.size


def test_uniform_depends_on_nothing_else():
    seeds, positions = np.arange(50), np.arange(50)[::-1]
    whole = draws(seeds, positions)
    assert [draws(seeds[n : n + 1], positions[n : n + 1])[0] for n in range(50)] == whole.tolist()


def test_mix_depends_on_every_argument_and_their_order():
    for count in (1, 2, 3):
        numbers = list(itertools.product(range(6), repeat=count))
        found = {mix(seed, *entry) for seed in (0, 1, 2, 10**9, 2**62) for entry in numbers}
        assert len(found) == 5 * len(numbers)
        assert all(0 <= value < 2**63 for value in found)
    assert mix(3, 4) == mix(3, 4) != mix(4, 3)
    assert mix(3, 4, 5) != mix(3, 5, 4)


def test_mix_spreads_neighbours_over_the_whole_range():
    values = np.array([mix(0, 1, step) / 2**63 for step in range(2000)])
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert abs(((values[1:] - 0.5) * (values[:-1] - 0.5)).mean()) < 5 / np.sqrt(2000) / 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_k": -1}, "top_k is -1"),
    ],
)
def test_sampling_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
