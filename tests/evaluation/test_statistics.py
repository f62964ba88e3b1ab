"""Intervals, tests and rates, against independent values and by simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_agents.evaluation import statistics

EXPERIMENTS = 2000


class TestMeanInterval:
    def test_without_clusters_it_is_the_t_interval(self):
        values = np.random.default_rng(0).normal(size=13)
        interval = statistics.mean_interval(values, level=0.9)
        low, high = scipy.stats.t.interval(0.9, 12, loc=values.mean(), scale=scipy.stats.sem(values))
        np.testing.assert_allclose([interval.mean, interval.low, interval.high], [values.mean(), low, high])
        assert (interval.count, interval.clusters) == (13, 13)

    def test_clusters_from_the_sandwich_definition(self):
        """(X'X)⁻¹ (Σ_g X_g' e_g e_g' X_g) (X'X)⁻¹ · G/(G−1) for the regression on a constant, as matrices."""
        rng = np.random.default_rng(1)
        sizes = [1, 4, 2, 7, 3]
        labels = np.repeat(np.arange(5), sizes)
        values = rng.normal(size=5)[labels] + rng.normal(size=17)
        x = np.ones((17, 1))
        bread = np.linalg.inv(x.T @ x)
        residuals = values - values.mean()
        meat = sum(
            x[labels == g].T @ np.outer(residuals[labels == g], residuals[labels == g]) @ x[labels == g]
            for g in range(5)
        )
        error = math.sqrt((5 / 4 * bread @ meat @ bread).item())
        half = scipy.stats.t.ppf(0.975, 4) * error
        interval = statistics.mean_interval(values, [f"task {label}" for label in labels])
        np.testing.assert_allclose([interval.low, interval.high], [values.mean() - half, values.mean() + half])

    def test_equal_clusters_are_the_t_interval_of_their_means(self):
        values = np.random.default_rng(2).normal(size=(6, 8))
        clustered = statistics.mean_interval(values.ravel(), np.repeat(np.arange(6), 8))
        of_means = statistics.mean_interval(values.mean(1))
        np.testing.assert_allclose([clustered.low, clustered.high], [of_means.low, of_means.high])

    def test_what_cannot_be_said_is_nan(self):
        one = statistics.mean_interval([1.0, 0.0], ["a", "a"])
        assert (one.mean, one.clusters) == (0.5, 1)
        assert math.isnan(one.low)
        assert math.isnan(one.high)
        assert math.isnan(statistics.mean_interval([]).mean)

    def test_broken_input(self):
        with pytest.raises(ValueError, match="missing values apart"):
            statistics.mean_interval([1.0, math.nan])
        with pytest.raises(ValueError, match="2 values have 1 clusters"):
            statistics.mean_interval([1.0, 2.0], ["a"])


class TestPairedDifference:
    def test_against_scipy(self):
        rng = np.random.default_rng(4)
        a = {task: rng.normal(0.4) for task in range(12)}
        b = {task: rng.normal() for task in range(2, 15)}
        shared = range(2, 12)
        expected = scipy.stats.ttest_1samp([a[task] - b[task] for task in shared], 0.0)
        difference = statistics.paired_difference(a, b)
        bounds = expected.confidence_interval(0.95)
        interval = difference.interval
        np.testing.assert_allclose(
            [interval.mean, interval.low, interval.high, difference.p_value],
            [np.mean([a[task] - b[task] for task in shared]), bounds.low, bounds.high, expected.pvalue],
        )
        assert (interval.count, difference.unpaired) == (10, 5)
        reverse = statistics.paired_difference(b, a)
        assert reverse.interval.mean == pytest.approx(-interval.mean)
        assert reverse.p_value == pytest.approx(difference.p_value)

    def test_the_better_side_comes_out_above_zero(self):
        assert statistics.paired_difference({1: 1.0, 2: 0.8}, {1: 0.5, 2: 0.1}).interval.mean == pytest.approx(0.6)

    def test_without_spread_there_is_no_p_value(self):
        assert math.isnan(statistics.paired_difference({1: 0.3, 2: 0.3}, {1: 0.1, 2: 0.1}).p_value)
        assert math.isnan(statistics.paired_difference({1: 1.0}, {1: 0.0}).p_value)

    def test_no_shared_task(self):
        with pytest.raises(ValueError, match="share no task"):
            statistics.paired_difference({1: 1.0}, {2: 1.0})


class TestPassAtK:
    @settings(deadline=None)
    @given(n=st.integers(1, 8), data=st.data())
    def test_against_enumeration(self, n, data):
        c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
        draws = list(combinations([place < c for place in range(n)], k))
        assert statistics.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))

    @pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
    def test_broken_input(self, n, c, k):
        with pytest.raises(ValueError, match=f"pass@{k} of {n} rollouts"):
            statistics.pass_at_k(n, c, k)


class TestPassHatK:
    @settings(deadline=None)
    @given(n=st.integers(1, 8), data=st.data())
    def test_against_enumeration(self, n, data):
        c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
        draws = list(combinations([place < c for place in range(n)], k))
        assert statistics.pass_hat_k(n, c, k) == pytest.approx(sum(map(all, draws)) / len(draws))

    def test_broken_input(self):
        with pytest.raises(ValueError, match=r"pass\^3 of 2 rollouts"):
            statistics.pass_hat_k(2, 1, 3)


class TestMajority:
    @settings(deadline=None)
    @given(answers=st.lists(st.integers(0, 3), min_size=1, max_size=8), data=st.data())
    def test_against_enumeration(self, answers, data):
        """Every way to take k of the rollouts; of answers with as many votes each is as likely to be chosen."""
        k = data.draw(st.integers(1, len(answers)))
        right = [data.draw(st.booleans()) for _ in answers]  # one answer may be judged both ways
        expected = []
        for drawn in combinations(range(len(answers)), k):
            votes = np.bincount([answers[at] for at in drawn])
            chosen = np.flatnonzero(votes == votes.max())
            shares = [np.mean([right[at] for at, answer in enumerate(answers) if answer == one]) for one in chosen]
            expected.append(np.mean(shares))
        counts = [
            (answers.count(one), sum(right[at] for at, answer in enumerate(answers) if answer == one))
            for one in set(answers)
        ]
        assert statistics.majority_at_k(counts, k) == pytest.approx(np.mean(expected))

    def test_by_hand(self):
        """Of a, a, b the pairs are aa, ab, ab: a wins one, and half of the others."""
        assert statistics.majority_at_k([(2, 2), (1, 0)], 2) == pytest.approx((1 + 0.5 + 0.5) / 3)

    def test_of_many_rollouts(self):
        assert statistics.majority_at_k([(40, 40), (30, 0), (30, 0)] + [(1, 0)] * 28, 64) > 0.75

    def test_broken_input(self):
        with pytest.raises(ValueError, match="majority@3 of 2 rollouts"):
            statistics.majority_at_k([(2, 1)], 3)


class TestSimulated:
    """What 95 % means: of 2,000 experiments 93 to 97 % of the intervals hold the truth."""

    def cover(self, draw, truth):
        found = [draw(np.random.default_rng(seed)) for seed in range(EXPERIMENTS)]
        return np.mean([interval.low <= truth <= interval.high for interval in found])

    def test_normal_rewards_of_clustered_tasks(self):
        clusters = np.repeat(np.arange(20), 8)

        def rewards(rng):
            return rng.normal(size=20)[clusters] + rng.normal(size=160)

        covered = self.cover(lambda rng: statistics.mean_interval(rewards(rng), clusters), 0.0)
        assert 0.93 <= covered <= 0.97
        assert self.cover(lambda rng: statistics.mean_interval(rewards(rng)), 0.0) < 0.8  # as if independent

    def test_pass_rates_of_tasks_of_different_size(self):
        """Tasks that are passed with a probability of their own, Beta(1, 2), played 1 to 12 times each."""
        sizes = np.arange(60) % 12 + 1
        clusters = np.repeat(np.arange(60), sizes)

        def interval(rng):
            passed = rng.random(len(clusters)) < rng.beta(1, 2, 60)[clusters]
            return statistics.mean_interval(passed.astype(float), clusters)

        assert 0.93 <= self.cover(interval, 1 / 3) <= 0.97

    def test_pass_at_k(self):
        """1 − E[(1 − p)^4] for p ~ Beta(1, 2): E[(1 − p)^4] = B(1, 6) / B(1, 2) = 2/6."""

        def interval(rng):
            passed = (rng.random((80, 8)) < rng.beta(1, 2, 80)[:, None]).sum(1)
            return statistics.mean_interval([statistics.pass_at_k(8, int(c), 4) for c in passed])

        assert 0.93 <= self.cover(interval, 1 - 2 / 6) <= 0.97

    def test_paired_differences(self):
        def interval(rng):
            task = rng.normal(size=30)
            a, b = task + rng.normal(0.4, 1, 30), task + rng.normal(0, 1, 30)
            return statistics.paired_difference(dict(enumerate(a)), dict(enumerate(b))).interval

        assert 0.93 <= self.cover(interval, 0.4) <= 0.97

    def test_a_share(self):
        clusters = np.repeat(np.arange(50), 4)

        def interval(rng):
            best = rng.uniform(0.5, 1.5, 200)
            return statistics.ratio_interval(best * (0.8 + 0.1 * rng.normal(size=50)[clusters]), best, clusters)

        assert 0.93 <= self.cover(interval, 0.8) <= 0.97

    def test_the_smallest_detectable_difference_is_found_in_four_of_five(self):
        """With the true spread known: differences of standard deviation 1 in 25 tasks."""
        detectable = statistics._noncentrality(24, 0.95) / math.sqrt(25)
        rng = np.random.default_rng(0)
        drawn = rng.normal(detectable, 1, (EXPERIMENTS, 25))
        found = np.mean(scipy.stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05)
        assert 0.77 <= found <= 0.83

    def test_the_smallest_detectable_difference_scales_with_the_error(self):
        differences = dict(enumerate(np.random.default_rng(1).normal(0, 2, 25)))
        found = statistics.paired_difference(differences, dict.fromkeys(differences, 0.0))
        error = scipy.stats.sem(list(differences.values()))
        assert found.detectable == pytest.approx(statistics._noncentrality(24, 0.95) * error)
        assert math.isnan(statistics.paired_difference({1: 0.3, 2: 0.3}, {1: 0.1, 2: 0.1}).detectable)
