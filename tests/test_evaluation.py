import io
import json
import math
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from grpo_agents import evaluation
from grpo_agents.rewards.component import component, from_environment
from grpo_agents.trajectory import Step, ToolRun, Trajectory

OUTCOME = from_environment("outcome")


@component(direction="min", unit="dollars", worst=None)
def cost(trajectory):
    return trajectory.usage.dollars


def shown(summary):
    """What a person reads of it."""
    output = io.StringIO()
    Console(file=output, width=160).print(summary.as_table())
    return output.getvalue()


def episode(task, outcome=1.0, spent=0.0, tools=(), **fields):
    rewards = {"outcome": outcome, "cost": spent}
    steps = [Step({"role": "assistant", "content": ""}, tools=[ToolRun(*run) for run in tools])]
    return Trajectory(env="e", task={"id": task}, rewards=rewards, steps=steps, **fields)


class TestMeanInterval:
    def test_without_clusters_it_is_the_t_interval(self):
        values = np.random.default_rng(0).normal(size=13)
        interval = evaluation.mean_interval(values, level=0.9)
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
        interval = evaluation.mean_interval(values, [f"task {label}" for label in labels])
        np.testing.assert_allclose([interval.low, interval.high], [values.mean() - half, values.mean() + half])

    def test_equal_clusters_are_the_t_interval_of_their_means(self):
        values = np.random.default_rng(2).normal(size=(6, 8))
        clustered = evaluation.mean_interval(values.ravel(), np.repeat(np.arange(6), 8))
        of_means = evaluation.mean_interval(values.mean(1))
        np.testing.assert_allclose([clustered.low, clustered.high], [of_means.low, of_means.high])

    def test_it_covers_the_truth_where_the_plain_interval_does_not(self):
        rng = np.random.default_rng(3)
        clusters = np.repeat(np.arange(20), 8)
        covered = np.zeros(2)
        for _ in range(400):
            values = rng.normal(size=20)[clusters] + rng.normal(size=160)
            for which, labels in enumerate((clusters, None)):
                interval = evaluation.mean_interval(values, labels)
                covered[which] += interval.low <= 0.0 <= interval.high
        assert 0.91 <= covered[0] / 400 <= 0.98
        assert covered[1] / 400 < 0.8

    def test_what_cannot_be_said_is_nan(self):
        one = evaluation.mean_interval([1.0, 0.0], ["a", "a"])
        assert (one.mean, one.clusters) == (0.5, 1)
        assert math.isnan(one.low)
        assert math.isnan(one.high)
        assert math.isnan(evaluation.mean_interval([]).mean)

    def test_broken_input(self):
        with pytest.raises(ValueError, match="missing values apart"):
            evaluation.mean_interval([1.0, math.nan])
        with pytest.raises(ValueError, match="2 values have 1 clusters"):
            evaluation.mean_interval([1.0, 2.0], ["a"])


class TestPairedDifference:
    def test_against_scipy(self):
        rng = np.random.default_rng(4)
        a = {task: rng.normal(0.4) for task in range(12)}
        b = {task: rng.normal() for task in range(2, 15)}
        shared = range(2, 12)
        expected = scipy.stats.ttest_1samp([a[task] - b[task] for task in shared], 0.0)
        difference = evaluation.paired_difference(a, b)
        bounds = expected.confidence_interval(0.95)
        interval = difference.interval
        np.testing.assert_allclose(
            [interval.mean, interval.low, interval.high, difference.p_value],
            [np.mean([a[task] - b[task] for task in shared]), bounds.low, bounds.high, expected.pvalue],
        )
        assert (interval.count, difference.unpaired) == (10, 5)
        reverse = evaluation.paired_difference(b, a)
        assert reverse.interval.mean == pytest.approx(-interval.mean)
        assert reverse.p_value == pytest.approx(difference.p_value)

    def test_the_better_side_comes_out_above_zero(self):
        assert evaluation.paired_difference({1: 1.0, 2: 0.8}, {1: 0.5, 2: 0.1}).interval.mean == pytest.approx(0.6)

    def test_without_spread_there_is_no_p_value(self):
        assert math.isnan(evaluation.paired_difference({1: 0.3, 2: 0.3}, {1: 0.1, 2: 0.1}).p_value)
        assert math.isnan(evaluation.paired_difference({1: 1.0}, {1: 0.0}).p_value)

    def test_no_shared_task(self):
        with pytest.raises(ValueError, match="share no task"):
            evaluation.paired_difference({1: 1.0}, {2: 1.0})

    def test_by_task_averages_rollouts_and_leaves_missing_ones_out(self):
        rollouts = [episode("a", 1.0), episode("a", 0.0), episode("a", None), episode("b", None)]
        means = evaluation.by_task(rollouts, lambda trajectory: trajectory.rewards["outcome"])
        assert means == {("e", '"a"'): 0.5}


def test_tasks_are_told_apart_by_id_or_content():
    key = evaluation.task_key
    assert key("e", {"id": 1, "x": 1}) == key("e", {"id": 1, "x": 2})
    assert key("e", {"a": 1, "b": 2}) == key("e", {"b": 2, "a": 1})
    assert len({key("e", {"id": 1}), key("f", {"id": 1}), key("e", {"id": "1"}), key("e", {"q": 1})}) == 4


class TestPassAtK:
    @settings(deadline=None)
    @given(n=st.integers(1, 8), data=st.data())
    def test_against_enumeration(self, n, data):
        c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
        draws = list(combinations([place < c for place in range(n)], k))
        assert evaluation.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))

    @pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
    def test_broken_input(self, n, c, k):
        with pytest.raises(ValueError, match=f"pass@{k} of {n} rollouts"):
            evaluation.pass_at_k(n, c, k)


class TestEvaluate:
    def test_missing_values_are_counted_and_never_averaged(self):
        rollouts = [
            episode("a", 1.0),
            episode("b", None, missing={"outcome": "the judge is down"}),
            episode("b", 0.0),
            Trajectory(env="e", task={"id": "c"}, rewards={"cost": 3.0}),
        ]
        summary = evaluation.evaluate(iter(rollouts))
        outcome = summary.components["outcome"]
        assert (outcome.interval.mean, outcome.interval.count, outcome.missing) == (0.5, 2, 2)
        assert outcome.reasons == {"the judge is down": 1, "not computed": 1}
        assert summary.components["cost"].interval.mean == 0.75
        assert summary.reward is None
        assert (summary.trajectories, summary.tasks) == (4, 3)

    def test_the_scalar_reward_is_gated_savings(self):
        """U = correct · (w_outcome + w_cost · max(0, 1 − cost/maximum)), by hand for three episodes."""
        preference = {"outcome": 0.6, "cost": 0.4}
        rollouts = [
            episode(task, outcome, spent, preference=preference)
            for task, outcome, spent in (("a", 1.0, 1.0), ("b", 0.0, 0.0), ("c", 1.0, 9.0), ("d", None, 1.0))
        ]
        summary = evaluation.evaluate(rollouts, [OUTCOME, cost], {"cost": 4.0}, "outcome")
        reward = summary.reward
        assert reward is not None
        assert reward.interval.mean == pytest.approx((0.6 + 0.4 * 0.75 + 0.0 + 0.6) / 3)
        assert (reward.interval.count, reward.missing) == (3, 1)
        assert (summary.components["cost"].direction, summary.components["cost"].unit) == ("min", "dollars")

    def test_intervals_are_clustered_by_task(self):
        values = np.random.default_rng(5).normal(size=(5, 4))
        rollouts = [episode(task, value) for task, row in enumerate(values) for value in row]
        interval = evaluation.evaluate(rollouts).components["outcome"].interval
        low, high = scipy.stats.t.interval(0.95, 4, loc=values.mean(), scale=scipy.stats.sem(values.mean(1)))
        np.testing.assert_allclose([interval.low, interval.high], [low, high])

    def test_how_they_ended_and_what_they_called(self):
        schema = [{"type": "function", "function": {"name": name}} for name in ("ask", "idle")]
        thrifty, keen = {"outcome": 0.2, "cost": 0.8}, {"outcome": 0.9, "cost": 0.1}
        rollouts = [
            episode("a", preference=keen, tools=[("ask",), ("ask", 0.0, 0.0, "failed"), ("add",)]),
            episode("a", preference=keen, tools=[("ask",), ("sub",)]),
            episode("a", preference=thrifty, tools=[("add",), ("unreadable",)]),
            episode("a", tools=[], stop_reason="deadline", error="60 s"),
        ]
        for rollout in rollouts:
            rollout.tools = schema
        summary = evaluation.evaluate(rollouts)
        assert summary.stop_reasons == {"terminated": 3, "deadline": 1}
        assert summary.errors == {"60 s": 1}
        assert summary.tool_calls == {"ask": 0.75, "idle": 0.0, "unknown": 0.75, "unreadable": 0.25}
        assert summary.tool_errors == {"ask": pytest.approx(1 / 3), "unknown": 0.0, "unreadable": 0.0}
        assert summary.tool_calls_by_preference == {
            "cost": {"ask": 0.0, "idle": 0.0, "unknown": 1.0, "unreadable": 1.0},
            "no preference": {"ask": 0.0, "idle": 0.0, "unknown": 0.0, "unreadable": 0.0},
            "outcome": {"ask": 1.5, "idle": 0.0, "unknown": 1.0, "unreadable": 0.0},
        }

    def test_turns_without_token_ids_count_and_are_shown(self):
        hosted = Trajectory(steps=[Step({}, tokens=30), Step({}, tokens=12)], rewards={"outcome": 1.0})
        summary = evaluation.evaluate([hosted, Trajectory()])
        assert (summary.sampled_tokens, summary.untrainable) == (21, 1)
        assert "1 turns and 21 tokens an episode; 1 without token ids, not trainable" in " ".join(
            shown(summary).split()
        )
        assert "trainable" not in shown(evaluation.evaluate([Trajectory(rewards={"outcome": 1.0})]))

    def test_broken_input(self):
        with pytest.raises(ValueError, match="no trajectories"):
            evaluation.evaluate([])
        with pytest.raises(ValueError, match="gate 'success' is not among the components: outcome"):
            evaluation.evaluate([episode("a")], [OUTCOME], gate="success")

    def test_it_is_shown_as_json_and_table(self):
        rollouts = [
            episode("a", 1.0, tools=[("ask",)], error="[/red] a|b\nc", stop_reason="error"),
            episode("a", None, missing={"outcome": "down"}),
        ]
        rollouts += [episode("a", error=f"error {number}") for number in range(10)]
        summary = evaluation.evaluate(rollouts, [OUTCOME, cost], {"cost": 1.0})
        plain = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
        assert plain["components"]["outcome"]["interval"] == {
            "mean": 1.0,
            "low": None,
            "high": None,
            "count": 11,
            "clusters": 1,
        }
        assert len(plain["errors"]) == 11
        for expected in ("12 episodes of 1 tasks", "outcome ↑", "down (1)", "cost ↓", "n/a", "[/red] a|b", "6 others"):
            assert expected in shown(summary)


def test_it_loads_neither_torch_nor_an_engine():
    code = (
        "import sys, grpo_agents.evaluation; print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
