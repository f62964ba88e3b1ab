"""The numbers behind the charts, beside what can be counted by hand."""

import math

import numpy as np
import pytest
from made import SCORING, rollout

from grpo_agents.report.facts import REWARD, Facts, facts_of
from grpo_agents.report.figures import BINS, POINTS, as_data, ends, histograms, panels, pareto


def fact(task="a", preference=None, values=None, **fields):
    given = {"phase": "eval", "step": 0, "dollars": 0.0, "latency": 0.0, "tokens": 3, "turns": 1}
    given |= {"stop_reason": "terminated", "errors": (), "tools": ()}
    return Facts(task=task, preference=preference or {}, values=values or {}, **{**given, **fields})


def test_training_and_evaluation_of_one_thing_share_a_chart():
    rows = [
        {"step": 0, "eval/reward": 0.2, "eval/reward_low": 0.1, "eval/reward_high": 0.3, "eval/cost": 3.0},
        {"step": 1, "reward": 0.5, "reward/cost": 2.0, "loss": 1.0, "kl": None, "note": "x"},
        {"step": 0, "reward": 0.4, "reward/cost": 4.0, "entropy": 0.7, "kl": float("nan"), "lr": 1e-3},
    ]
    found = {panel.key: panel for panel in panels(rows)}
    assert list(found) == ["reward", "reward/cost", "entropy", "lr", "loss"]
    reward, cost = found["reward"], found["reward/cost"]
    assert [(one.name, one.steps, one.values) for one in reward.series] == [
        ("training", [0, 1], [0.4, 0.5]),
        ("evaluation", [0], [0.2]),
    ]
    assert (reward.series[1].low, reward.series[1].high, reward.series[0].low) == ([0.1], [0.3], [])
    assert (cost.title, [one.values for one in cost.series]) == ("cost", [[4.0, 2.0], [3.0]])
    assert [key for key, panel in found.items() if not panel.main] == ["lr", "loss"]


def test_a_long_curve_is_shown_by_means():
    rows = [{"step": step, "loss": float(step % 2)} for step in range(3 * POINTS)]
    ((curve,),) = (panel.series for panel in panels(rows))
    assert curve.stretch == 3
    assert curve.steps[:2] == [1, 4]
    assert curve.values[:2] == pytest.approx([1 / 3, 2 / 3], rel=1e-5)
    assert len(curve.values) == POINTS


def test_no_metrics_are_no_curves():
    assert panels([]) == []
    assert panels([{"step": 0, "reward": None}]) == []


def test_shares_of_a_histogram():
    sets = {
        "before": [fact(values={"outcome": value}) for value in (0.0, 0.0, 1.0, None)],
        "after": [fact(values={"outcome": 1.0})] * 2,
    }
    (found,) = histograms(sets, SCORING)
    assert (found.labels, found.edges) == ([0.0, 1.0], [])
    assert found.shares == {"before": [0.5, 0.25], "after": [0.0, 1.0]}  # a missing one is in no bar
    assert found.missing == {"before": 1, "after": 0}
    assert found.means == {"before": pytest.approx(1 / 3, rel=1e-5), "after": 1.0}


@pytest.mark.parametrize(
    "values", [np.linspace(0, 1, 100), np.arange(100.0), np.arange(14.0), [1e-9 * n for n in range(30)]]
)
def test_bars_of_many_values_hold_all_of_them(values):
    (found,) = histograms({"all": [fact(values={"x": float(value)}) for value in values]}, None)
    assert len(found.edges) == len(found.shares["all"]) + 1 <= BINS + 2
    assert sum(found.shares["all"]) == pytest.approx(1, abs=1e-4)


def test_what_tools_cost_is_counted_where_no_component_does():
    paid = [fact(values={"outcome": 1.0}, dollars=dollars) for dollars in (0.0, 2.0)]
    assert [one.name for one in histograms({"all": paid}, None)] == ["outcome", "cost"]
    assert [one.name for one in histograms({"all": [fact(values={"cost": 1.0}, dollars=n) for n in (1, 2)]}, None)] == [
        "cost"
    ]


def test_a_point_a_preference_and_the_fronts():
    dear, cheap, slow = {"outcome": 1.0}, {"cost": 1.0}, {"latency": 1.0}
    episodes = [
        *(fact(task, dear, {"outcome": 1.0}, dollars=4.0, latency=1.0) for task in "ab"),
        fact("a", cheap, {"outcome": 0.0}, dollars=0.0, latency=2.0),
        fact("b", cheap, {"outcome": 1.0}, dollars=1.0, latency=2.0),
        fact("a", slow, {"outcome": 0.5}, dollars=5.0, latency=0.5),
        fact("b", slow, {"outcome": None}, dollars=9.0, latency=9.0),  # not known: counts nowhere
    ]
    found = pareto(episodes, None)
    points = {point.label: point for point in found.points}
    assert points["cost 1"].values == {"outcome": 0.5, "cost": 0.5, "latency": 2.0}
    assert points["latency 1"].episodes == 1
    assert points["latency 1"].low["outcome"] is None  # one task says nothing of others
    fronts = {
        key: {label for label, point in points.items() if point.on_front[key]}
        for key in ("", "outcome|cost", "outcome|latency")
    }
    assert fronts == {
        "": {"outcome 1", "cost 1", "latency 1"},
        "outcome|cost": {"outcome 1", "cost 1"},
        "outcome|latency": {"outcome 1", "latency 1"},
    }


def test_an_interval_of_a_point_is_clustered_by_task():
    """Two tasks whose rollouts all agree are two observations: the t-interval of 0 and 1 with one degree of freedom."""
    episodes = [
        fact(task, {}, {"outcome": value}, dollars=1.0) for task, value in (("a", 0.0), ("b", 1.0)) for _ in range(9)
    ]
    (point,) = pareto(episodes, None).points
    half = 12.7062047 * 0.5  # t of 0.975, times the standard error
    assert (point.low["outcome"], point.high["outcome"]) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


def test_many_preferences_are_put_together():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet((1, 1), 200)
    episodes = [fact(n, {"outcome": a, "cost": b}, {"outcome": 1.0}, dollars=1.0) for n, (a, b) in enumerate(weights)]
    found = pareto(episodes, None)
    assert found.rounded
    assert {point.label for point in found.points} == {f"outcome {n / 4:g} · cost {1 - n / 4:g}" for n in range(5)}
    assert sum(point.episodes for point in found.points) == 200


@pytest.mark.parametrize(
    ("episodes", "why"),
    [
        ([], "no component says"),
        ([fact(values={"style": 1.0})], "no component says"),
        ([fact(values={"outcome": 1.0})], "cost anything"),
    ],
)
def test_no_front_says_why(episodes, why):
    assert why in pareto(episodes, None).why_not


def test_ends_and_errors():
    found = ends(
        [
            fact(phase="train", step=10, stop_reason="turns", errors=("calculator: no",)),
            fact(phase="train", step=9),
            fact(phase="eval", step=10, stop_reason="error", errors=("down", "calculator: no")),
            fact(phase="rollout", step=-1),
        ]
    )
    assert found.batches == ["eval 10", "rollout", "train 9", "train 10"]
    assert found.reasons[0] == "terminated"
    assert dict(zip(found.reasons, found.counts[0], strict=True)) == {"terminated": 0, "turns": 0, "error": 1}
    assert found.errors == [("calculator: no", 2), ("down", 1)]


def test_facts_of_a_trajectory():
    rng = np.random.default_rng(0)
    one = rollout(rng, 0, 2, error="no such number", rewards={"outcome": 1.0, "cost": 3.0})
    known = facts_of(one, "train", 3, SCORING)
    assert known.values == {REWARD: pytest.approx(0.9 * 1 + 0.1 * (1 - 3 / 10)), "outcome": 1.0, "cost": 3.0}
    assert (known.dollars, known.tokens, known.turns, known.tools) == (3.0, 24, 2, ("calculator",))
    assert known.errors == ("calculator: no such number",)
    one.rewards["cost"] = math.nan
    one.error = "e" * 999
    broken = facts_of(one, "train", 3, None)
    assert broken.values == {"outcome": 1.0, "cost": None}
    assert len(broken.errors[0]) < 300


def test_names_never_become_keys():
    found = as_data(panels([{"step": 0, "reward/__proto__": 1.0}])[0])
    assert (found["title"], found["series"][0]["values"]) == ("__proto__", [1.0])
    (distribution,) = histograms({"constructor": [fact(values={"__proto__": 1.0})]}, None)
    assert as_data(distribution)["shares"] == [["constructor", [1.0]]]
