import io
import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from grpo_agents import evaluation
from grpo_agents.evaluation.columns import task_key
from grpo_agents.rewards import BUILT_IN
from grpo_agents.rewards.component import component, from_environment
from grpo_agents.trajectory import Step, ToolRun, Trajectory

OUTCOME = from_environment("outcome")
COSTS = [BUILT_IN["cost"], BUILT_IN["latency"]]


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


def test_tasks_are_told_apart_by_id_or_content():
    key = task_key
    assert key("e", {"id": 1, "x": 1}) == key("e", {"id": 1, "x": 2})
    assert key("e", {"a": 1, "b": 2}) == key("e", {"b": 2, "a": 1})
    assert len({key("e", {"id": 1}), key("f", {"id": 1}), key("e", {"id": "1"}), key("e", {"q": 1})}) == 4


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


class TestWhatRolloutsComeTo:
    def test_pass_rates_and_majorities_by_hand(self):
        """Task a: 4, 4, 5, boxed; right is 4. Task b: always wrong. Task c was played once."""
        said = {"a": [(r"\boxed{4}", 1.0), ("4", 1.0), ("5", 0.0), ("6", 0.0)], "b": [("1", 0.0)] * 4, "c": [("", 1.0)]}
        rollouts = [answered(task, text, outcome) for task, texts in said.items() for text, outcome in texts]
        rollouts.append(answered("c", "?", None))  # says nothing of c
        draws = evaluation.evaluate(rollouts).draws
        assert list(draws) == [1, 2, 4]
        assert draws[1].any.mean == pytest.approx((0.5 + 0 + 1) / 3)
        assert draws[2].any.mean == pytest.approx((5 / 6 + 0) / 2)
        assert draws[2].all.mean == pytest.approx((1 / 6 + 0) / 2)
        assert draws[4].majority.mean == pytest.approx((1 + 0) / 2)  # 4 has two votes, the others one
        assert draws[2].majority.mean == pytest.approx(((1 + 4 * 0.5) / 6 + 0) / 2)  # 4 4; four times 4 and another
        assert [drawn.any.count for drawn in draws.values()] == [3, 2, 2]

    def test_one_rollout_each_has_no_such_table(self):
        assert "pass@k" not in shown(evaluation.evaluate([answered("a", "1", 1.0), answered("b", "1", 0.0)]))
        assert "pass@k" in shown(evaluation.evaluate([answered("a", "1", 1.0), answered("a", "1", 0.0, index=1)]))

    def test_the_gate_says_who_passed(self):
        rollouts = [episode("a", 1.0, 1.0), episode("a", 0.0, 0.2)]
        for entry, fine in zip(rollouts, (0.4, 0.6), strict=True):
            entry.rewards["fine"] = fine
        fine = from_environment("fine")
        assert evaluation.evaluate(rollouts, [OUTCOME, fine], gate="fine").passed_by == "fine"
        without = [Trajectory(rewards={"cost": 1.0})]
        assert evaluation.evaluate(without).passed_by is None


def answered(task, text, outcome, index=0):
    steps = [Step({"role": "assistant", "content": text})]
    return Trajectory(env="e", task={"id": task}, rewards={"outcome": outcome}, steps=steps, index=index)


def test_what_an_episode_takes():
    rollouts = [
        episode(task, tools=[("ask", dollars, 2 * dollars)], seconds=dollars) for task, dollars in enumerate(range(101))
    ]
    taken = evaluation.evaluate(rollouts).taken
    for name, factor in {"dollars": 1, "latency": 2, "seconds": 1}.items():
        spread = taken[name]
        found = (spread.interval.mean, spread.median, spread.p90, spread.p99, spread.most)
        assert found == tuple(factor * value for value in (50, 50, 90, 99, 100))
    assert taken["calls"].most == taken["turns"].most == 1
    text = shown(evaluation.evaluate(rollouts))
    assert "latency s of tools" in text
    assert "tokens sampled" not in text  # nobody sampled any


class TestShareOfTheBest:
    expected: ClassVar = {
        "easy": {"guess": {"outcome": 1.0, "cost": 0.0}, "ask": {"outcome": 1.0, "cost": 4.0}},
        "hard": {"guess": {"outcome": 0.1, "cost": 0.0}, "ask": {"outcome": 0.9, "cost": 4.0}},
    }

    def evaluate(self, rollouts):
        scoring = [OUTCOME, cost], {"cost": 8.0}, "outcome"
        best = evaluation.best_of(lambda task: self.expected.get(task["id"], {}), *scoring)
        return evaluation.evaluate(rollouts, *scoring, best)

    def test_by_hand(self):
        """Of an easy task to guess is best, 0.5 + 0.5; of a hard one to ask, 0.9 · (0.5 + 0.5 · 0.5)."""
        half = {"outcome": 0.5, "cost": 0.5}
        rollouts = [episode("easy", 1.0, 4.0, preference=half), episode("hard", 1.0, 4.0, preference=half)]
        share = self.evaluate(rollouts).share_of_best
        assert share is not None
        assert share.mean == pytest.approx((0.75 + 0.75) / (1 + 0.9 * 0.75))
        assert share.clusters == 2

    def test_it_is_of_the_episodes_where_it_is_known(self):
        assert self.evaluate([episode("unheard of")]).share_of_best is None
        both = self.evaluate([episode("unheard of", 0.0), episode("easy", 1.0, 0.0), episode("hard", None)])
        assert both.share_of_best is not None
        assert both.share_of_best.mean == pytest.approx(1.0)

    @pytest.mark.parametrize(("worth", "share"), [([0.0, 0.0], None), ([-1.0, 2.0], None), ([0.0, 2.0], 0.5)])
    def test_there_is_none_of_nothing_or_of_a_loss(self, worth, share):
        expected = {number: {"only": {"outcome": value}} for number, value in enumerate(worth)}
        best = evaluation.best_of(lambda task: expected[task["id"]], [OUTCOME], {}, None)
        found = evaluation.evaluate([episode(0, 0.0), episode(1, 1.0)], [OUTCOME], {}, None, best).share_of_best
        assert (found and found.mean) == share


def test_markdown_says_what_the_table_says():
    rollouts = [episode("a", 1.0, tools=[("ask",)], error="a|b <script>\n*c*", stop_reason="error")]
    text = evaluation.evaluate(rollouts, [OUTCOME, cost]).as_markdown()
    assert r"| a\|b \<script> \*c\* | 1 |" in text
    assert "| outcome ↑ |  | 1 | n/a | 0 |  |" in text
    widths = [{row.replace(r"\|", "").count("|") for row in part.splitlines()[2:]} for part in text.split("\n\n**")]
    assert all(len(width) == 1 for width in widths)
