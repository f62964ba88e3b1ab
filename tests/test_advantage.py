import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import advantages_of, group_of, vector_of

from grpo_agents.advantage import AdvantageConfig, assign_advantages, check_needed, score_group, turn_rewards
from grpo_agents.methods.gdpo import Gdpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.rft import Rft
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.trajectory import Group, Step, Trajectory
from grpo_agents.utility import utility

OUTCOME = vector_of(outcome="max")
TRIPLE = vector_of(outcome="max", cost="min", latency="min")
NAMES = TRIPLE.names
MODES = [("weighted_sum", "group"), ("weighted_sum", "batch"), ("weighted_sum", "none"), ("minmax", "group"),
         ("minmax", "batch"), ("minmax", "none"), ("gdpo", "group")]  # fmt: skip


def assign(groups, vector=OUTCOME, maxima=None, *, scale="group", normalise="weighted_sum", **config):
    """Gives every group's advantages, and the figures."""
    method = Gdpo() if normalise == "gdpo" else Grpo(scale=scale)
    normalise = "weighted_sum" if normalise == "gdpo" else normalise
    figures = assign_advantages(groups, vector, AdvantageConfig(normalise=normalise, **config), maxima or {}, method)
    return [advantages_of(group) for group in groups], figures


def z(values, epsilon):
    values = np.asarray(values, np.float64)
    return (values - values.mean()) / (values.std(ddof=1) + epsilon)


# GRPO and its relatives on one number


def test_grpo_hand_value():
    ((first,), _) = assign([group_of([1, 0, 0, 0])])
    assert first == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_dr_grpo_only_centres():
    ((first,), _) = assign([group_of([1, 0, 0, 0])], scale="none")
    assert first == pytest.approx([0.75, -0.25, -0.25, -0.25], abs=1e-15)


def test_batch_scale_divides_all_groups_by_one_deviation():
    first, second = [1.0, 0.0, 0.0, 0.0], [3.0, 1.0]
    (found, _) = assign([group_of(first), group_of(second, number=1)], scale="batch")
    centred = [np.array(first) - 0.25, np.array(second) - 2.0]
    ratios = np.concatenate(found) / np.concatenate(centred)
    assert ratios == pytest.approx([ratios[0]] * 6)  # one factor for all, unlike scale = "group"
    assert 1 / ratios[0] == pytest.approx(np.concatenate(centred).std(ddof=1), rel=1e-5)


@pytest.mark.parametrize(("normalise", "scale"), MODES)
@pytest.mark.parametrize("rows", [[0.1] * 3, [0.7], [1e6] * 5, [1 / 3, 0.1 + 0.7 / 3, 1 / 3]])
def test_equal_rewards_and_a_group_of_one_have_no_gradient(normalise, scale, rows):
    """The last group differs by one bit of rounding: no spread either."""
    if rows[0] == 1 / 3:
        rows[1] = np.nextafter(1 / 3, 1)
    (found, figures) = assign([group_of(rows), group_of([1, 0, 1], number=1)], normalise=normalise, scale=scale)
    assert found[0] == [0.0] * len(rows)
    assert np.abs(found[1]).min() > 0.1
    assert figures == {"groups_tied": 0.5, "left_out": 0.0}


@pytest.mark.parametrize(("normalise", "scale"), MODES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_order_of_groups_and_of_rollouts_is_irrelevant(normalise, scale, data):
    seed = data.draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    tables = [rng.integers(0, 4, (rng.integers(1, 5), 3)).astype(float) for _ in range(4)]
    weights = [dict(zip(NAMES, rng.dirichlet(np.ones(3)).tolist(), strict=True)) for _ in tables]

    def run(order):
        groups = [group_of(tables[number], preference=weights[number], names=NAMES) for number in order]
        return dict(zip(order, assign(groups, TRIPLE, normalise=normalise, scale=scale)[0], strict=True))

    straight, mixed = run([0, 1, 2, 3]), run([2, 0, 3, 1])
    for number in range(4):
        assert mixed[number] == pytest.approx(straight[number], abs=1e-9)
    group = group_of(tables[0][::-1], preference=weights[0], names=NAMES)
    rest = [group_of(tables[number], preference=weights[number], names=NAMES) for number in (1, 2, 3)]
    assert assign([group, *rest], TRIPLE, normalise=normalise, scale=scale)[0][0] == pytest.approx(
        straight[0][::-1], abs=1e-9
    )


# ToolOrchestra's min-max


def test_minmax_cost_falls_as_cost_rises():
    """The paper's formula: costs 1, 2, 4 give 1, 2/3, 0 (the released code's sign is the other way)."""
    rows = [(1, 1, 0), (1, 2, 0), (1, 4, 0)]
    group = group_of(rows, preference={"outcome": 0.0, "cost": 1.0, "latency": 0.0}, names=NAMES)
    ((found,), _) = assign([group], TRIPLE, normalise="minmax", scale="none", gate="outcome")
    returns = np.array([1, 2 / 3, 0])
    assert found == pytest.approx(returns - returns.mean(), abs=1e-12)


def test_minmax_is_the_papers_formula():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, 2, 7), rng.uniform(0, 9, 7), np.full(7, 2.5)], 1)
    rows[:2, 0] = 1, 0
    weights = np.array([0.3, 0.6, 0.1])
    signed = rows * [1, -1, -1]
    scaled = np.zeros_like(signed)
    for k in range(3):
        low, high = signed[:, k].min(), signed[:, k].max()
        if high > low:  # 0 where max = min: latency
            scaled[:, k] = (signed[:, k] - low) / (high - low)
    returns = np.where(rows[:, 0] == 1, scaled @ weights, 0.0)
    group = group_of(rows, preference=dict(zip(NAMES, weights.tolist(), strict=True)), names=NAMES)
    ((found,), _) = assign([group], TRIPLE, normalise="minmax", gate="outcome")
    assert found == pytest.approx(z(returns, 1e-6), abs=1e-12)


def test_minmax_of_wrong_answers_is_zero_whatever_they_saved():
    rows = [(0, 0, 0), (0, 5, 1), (1, 9, 3)]
    group = group_of(rows, preference={"outcome": 0.1, "cost": 0.8, "latency": 0.1}, names=NAMES)
    ((found,), _) = assign([group], TRIPLE, normalise="minmax", scale="none", gate="outcome")
    returns = np.array([0, 0, 0.1])  # the right one is the dearest and slowest: only its outcome counts
    assert found == pytest.approx(returns - returns.mean(), abs=1e-12)


# GDPO


def test_gdpo_is_the_papers_formula():
    rng = np.random.default_rng(1)
    tables = [rng.normal(size=(5, 3)) * [1, 10, 0.1], rng.normal(size=(4, 3)), np.tile([[1.0, 2.0, 3.0]], (3, 1))]
    tables[1][:, 1] = 4.0  # equal within the group: it says nothing
    weights = [np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.2, 0.2]), np.array([0.1, 0.1, 0.8])]
    expected = []
    for table, weight in zip(tables, weights, strict=True):
        total = np.zeros(len(table))
        for k, sign in enumerate((1, -1, -1)):
            if np.ptp(table[:, k]) > 0:
                total += weight[k] * z(sign * table[:, k], 1e-4)
        expected.append(total)
    pooled = np.concatenate(expected)
    expected = [(total - pooled.mean()) / (pooled.std(ddof=1) + 1e-4) for total in expected]
    groups = [
        group_of(table, preference=dict(zip(NAMES, weight.tolist(), strict=True)), names=NAMES, number=number)
        for number, (table, weight) in enumerate(zip(tables, weights, strict=True))
    ]
    (found, figures) = assign(groups, TRIPLE, normalise="gdpo")
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
    assert found[2] == [0.0, 0.0, 0.0]
    assert figures["groups_tied"] == pytest.approx(1 / 3)


def test_gdpo_does_not_let_scale_drown_a_component():
    """Multiplying a component by 1000 changes nothing (but for ε)."""
    rows = np.array([[1, 1, 5], [0, 2, 1], [1, 3, 2], [1, 7, 7.0]])
    preference = {"outcome": 0.4, "cost": 0.4, "latency": 0.2}
    ((small,), _) = assign([group_of(rows, preference=preference, names=NAMES)], TRIPLE, normalise="gdpo")
    rows[:, 1] *= 1000
    ((large,), _) = assign([group_of(rows, preference=preference, names=NAMES)], TRIPLE, normalise="gdpo")
    assert large == pytest.approx(small, abs=1e-3)


weight = st.floats(0, 1)


@pytest.mark.parametrize("normalise", ["gdpo", "minmax", "weighted_sum"])
@given(
    rows=st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 10), st.floats(0, 3)), min_size=2, max_size=8),
    weights=st.tuples(st.floats(0.1, 1), weight, weight),
)
@settings(max_examples=150, deadline=None)
def test_a_wrong_rollout_never_beats_the_best_right_one(normalise, rows, weights):
    preference = dict(zip(NAMES, weights, strict=True))
    maxima = {"cost": 10.0, "latency": 3.0}
    group = group_of(rows, preference=preference, names=NAMES)
    ((found,), _) = assign([group], TRIPLE, maxima, normalise=normalise, gate="outcome")
    right = [advantage for advantage, row in zip(found, rows, strict=True) if row[0] == 1]
    wrong = [advantage for advantage, row in zip(found, rows, strict=True) if row[0] == 0]
    if right and wrong:
        assert max(wrong) <= max(right)
        assert max(wrong) <= min(right) + 1e-9  # no wrong one beats any right one
    elif wrong:
        assert wrong == [0.0] * len(wrong)  # cheap failures are no better than dear ones


def test_gdpo_without_a_gate_rewards_free_wrong_answers():
    """What the gate is for."""
    group = group_of([(0, 0, 0), (1, 9, 3)], preference={"outcome": 0.2, "cost": 0.6, "latency": 0.2}, names=NAMES)
    assign([group], TRIPLE, normalise="gdpo")
    assert group.trajectories[0].advantage > group.trajectories[1].advantage
    assign([group], TRIPLE, normalise="gdpo", gate="outcome")
    assert group.trajectories[0].advantage < group.trajectories[1].advantage


# Weighted sum on a fixed scale


def test_weighted_sum_with_maxima_centres_the_same_utility():
    rows = [(1, 10.0, 0.3), (1, 0.5, 2.5), (0, 0, 0), (1, 25.0, 3.0)]  # the last costs more than the maximum
    weights = (0.2, 0.7, 0.1)
    returns = np.array([w * (0.2 + 0.7 * max(0, 1 - c / 10) + 0.1 * (1 - t / 3)) for w, c, t in rows])
    group = group_of(rows, preference=dict(zip(NAMES, weights, strict=True)), names=NAMES)
    ((found,), _) = assign([group], TRIPLE, {"cost": 10.0, "latency": 3.0}, gate="outcome")
    assert found == pytest.approx(z(returns, 1e-6), abs=1e-12)


def test_without_a_preference_every_component_weighs_one_and_costs_are_negative():
    ((found,), _) = assign([group_of([(1, 2, 3), (0, 1, 1)], names=NAMES)], TRIPLE, scale="none")
    assert found == pytest.approx([-1, 1])  # 1 − 2 − 3 = −4 and −2


def test_a_component_that_the_preference_leaves_out_weighs_nothing():
    group = group_of([(1, 9, 0), (0, 1, 0)], preference={"outcome": 1.0}, names=NAMES)
    assert assign([group], TRIPLE, scale="none")[0][0] == pytest.approx([0.5, -0.5])


@pytest.mark.parametrize("value", [-1.0, 1.5])
@pytest.mark.parametrize("normalise", ["gdpo", "minmax", "weighted_sum"])
def test_a_gate_that_is_no_share_is_refused_by_learning_and_by_evaluation(normalise, value):
    said = rf"the gate 'outcome' is {value:g} in an episode, and has to lie between 0 .* and 1"
    with pytest.raises(ValueError, match=said):
        utility({"outcome": value}, {}, OUTCOME, {}, "outcome")
    with pytest.raises(ValueError, match=said):
        assign([group_of([1.0, value])], normalise=normalise, gate="outcome")


# Who takes part


@pytest.mark.parametrize(("normalise", "scale"), MODES)
@pytest.mark.parametrize("why", ["missing", "masked"])
def test_who_is_left_out_changes_nothing_for_the_others(normalise, scale, why):
    rows = [(1.0, 5.0, 1.0), (0.0, 1.0, 2.0), (1.0, 2.0, 0.0)]
    preference = {"outcome": 0.5, "cost": 0.3, "latency": 0.2}
    other = group_of([(1.0, 1.0, 1.0), (0.0, 1.0, 1.0)], preference=preference, names=NAMES, number=1)
    (alone, _) = assign([group_of(rows, preference=preference, names=NAMES), other], TRIPLE,
                        normalise=normalise, scale=scale)  # fmt: skip
    crowded = group_of([rows[0], (0.0, 99.0, 99.0), *rows[1:]], preference=preference, names=NAMES)
    spoiled = crowded.trajectories[1]
    if why == "missing":
        spoiled.rewards["latency"] = None
        spoiled.missing["latency"] = "the judge is down"
    else:
        spoiled.masked = True
    spoiled.advantage = 7.0  # of an earlier life
    (found, figures) = assign([crowded, other], TRIPLE, normalise=normalise, scale=scale)
    assert found[0][1] is None
    assert [found[0][0], *found[0][2:]] == pytest.approx(alone[0], abs=1e-12)
    assert found[1] == pytest.approx(alone[1], abs=1e-12)
    assert figures["left_out"] == 1


@pytest.mark.parametrize(("normalise", "scale"), MODES)
@pytest.mark.parametrize("weights", [{"outcome": 0.5, "latency": 0.5}, {"outcome": 1.0}, {"cost": 0.0}, {}])
@pytest.mark.parametrize("gate", [None, "outcome", "cost"])
def test_learning_leaves_out_what_evaluation_does(normalise, scale, weights, gate):
    """An episode without a cost takes part unless its cost weighs something or gates."""
    group = group_of([(1, 0.5, 2.0), (0, 0.5, 1.0), (1, 1.0, 0.0)], preference=weights, names=NAMES)
    group.trajectories[1].rewards["cost"] = None
    ((found,), figures) = assign([group], TRIPLE, normalise=normalise, scale=scale, gate=gate)
    worths = [utility(entry.rewards, weights, TRIPLE, {}, gate) for entry in group.trajectories]
    assert [advantage is None for advantage in found] == [worth is None for worth in worths]
    assert figures["left_out"] == (not weights or gate == "cost")


@pytest.mark.parametrize(("normalise", "scale"), MODES)
def test_a_group_that_is_left_out_whole(normalise, scale):
    group = group_of([1, 0])
    for trajectory in group.trajectories:
        trajectory.rewards["outcome"] = None
    (found, figures) = assign([group], normalise=normalise, scale=scale)
    assert found == [[None, None]]
    assert figures == {"groups_tied": 1.0, "left_out": 2.0}


def test_what_a_turn_lacks_and_weighs_nothing_spoils_nothing():
    trajectory = Trajectory(steps=[Step(message={}, rewards={"outcome": 1.0, "cost": float("nan")})])
    assert turn_rewards(trajectory, {"outcome": 1.0}, TRIPLE, {}).tolist() == [1.0]


def test_no_groups_at_all():
    assert assign([]) == ([], {"groups_tied": 0.0, "left_out": 0.0})


def test_groups_of_little_spread_are_filtered():
    """ToolOrchestra drops a group whose rewards have a standard deviation below 0.1."""
    narrow, wide = [0.5, 0.5, 0.6], [0.3, 0.5, 0.7]
    assert np.std(narrow, ddof=1) < 0.1 < np.std(wide, ddof=1)
    (found, figures) = assign([group_of(narrow), group_of(wide, number=1)], min_std=0.1)
    assert found[0] == [None, None, None]
    assert found[1] == pytest.approx(z(wide, 1e-6))
    assert figures["groups_tied"] == 0.5
    assert assign([group_of(narrow)])[0][0] != [0, 0, 0]


def test_preferences_scalarise_each_group_by_its_own():
    rows = [(1, 10.0, 0.0), (1, 0.0, 3.0)]
    thrifty = group_of(rows, preference={"outcome": 0.1, "cost": 0.9, "latency": 0.0}, names=NAMES)
    hasty = group_of(rows, preference={"outcome": 0.1, "cost": 0.0, "latency": 0.9}, names=NAMES, number=1)
    assign([thrifty, hasty], TRIPLE, {"cost": 10.0, "latency": 3.0})
    assert advantages_of(thrifty)[1] > 0 > advantages_of(thrifty)[0]
    assert advantages_of(hasty)[0] > 0 > advantages_of(hasty)[1]


def test_a_gate_that_is_no_component_is_named():
    with pytest.raises(ValueError, match=r"advantage\.gate is 'outcom'.*outcome, cost, latency"):
        assign([group_of([(1, 1, 1)], names=NAMES)], TRIPLE, gate="outcom")


def test_settings_are_checked():
    with pytest.raises(ValidationError):
        AdvantageConfig(normalise="zscore")
    with pytest.raises(ValidationError):
        AdvantageConfig(min_std=-1)


def test_a_partial_outcome_gates_in_part():
    vector = RewardVector([Component("outcome", None), Component("style", None)])
    group = Group({}, {}, [Trajectory(rewards={"outcome": 0.5, "style": 1.0}),
                           Trajectory(rewards={"outcome": 1.0, "style": 0.0})])  # fmt: skip
    assert assign([group], vector, scale="none", gate="outcome")[0][0] == pytest.approx([-0.125, 0.125])


def test_what_a_turn_earned_by_hand():
    """Σ weight · value, a cost as −its share of the maximum; what the vector does not name counts nothing."""
    steps = [Step({}, rewards={"outcome": 0.5, "cost": 3.0, "other": 9.0}), Step({}, rewards={"outcome": -2.0})]
    vector, preference = vector_of(outcome="max", cost="min"), {"outcome": 0.25, "cost": 2.0}
    found = turn_rewards(Trajectory(steps=steps), preference, vector, {"cost": 4.0})
    assert found.tolist() == [0.25 * 0.5 - 2.0 * 3.0 / 4.0, 0.25 * -2.0]


def test_a_reward_that_is_missing_is_no_number_to_a_method():
    group = group_of([[1.0], [0.0]])
    group.trajectories[1].rewards["style"] = 0.5
    vector = vector_of(outcome="max", style="max")
    scores = score_group(group.trajectories, {"outcome": 1.0}, vector, AdvantageConfig(), {})
    np.testing.assert_equal(scores.values, {"outcome": np.array([1.0, 0.0]), "style": np.array([np.nan, 0.5])})


def test_what_a_method_reads_has_to_be_among_the_rewards():
    check_needed(Rft(correct="cost"), TRIPLE)
    check_needed(Grpo(), OUTCOME)  # reads none by name
    said = r"^method 'rft' reads the reward 'cost', which is not among the components: outcome\. Add it to "
    with pytest.raises(ValueError, match=said):
        check_needed(Rft(correct="cost"), OUTCOME)


class TestDrop:
    """ToolOrchestra's filters of turns and rollouts; that of groups is min_std."""

    def rollout(self, outcome, *turns, **fields):
        steps = [
            Step({"role": "assistant", "content": "", **({"tool_calls": [call]} if call else {"content": text})})
            for text, call in turns
        ]
        return Trajectory(steps=steps, rewards={"outcome": outcome}, **fields)

    def assign(self, rollouts, **settings):
        vector = RewardVector(["outcome"])
        figures = assign_advantages([Group({}, {}, rollouts)], vector, AdvantageConfig(**settings), {}, Grpo())
        return [entry.advantage for entry in rollouts], figures

    def rollouts(self):
        unreadable = {"function": {"name": "", "arguments": {}}, "invalid": "no JSON", "text": "{"}
        return [
            self.rollout(1.0, ("", unreadable), ("42", None)),
            self.rollout(0.0, ("41", None)),
            self.rollout(0.0, ("", None)),
            self.rollout(0.0, ("43", None), stop_reason="tokens"),
        ]

    def test_everything_takes_part_unless_asked_for(self):
        rollouts = self.rollouts()
        advantages, figures = self.assign(rollouts)
        assert advantages == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
        assert [step.advantage for entry in rollouts for step in entry.steps] == [0.0] * 5
        assert figures["left_out"] == 0

    def test_rollouts_without_an_answer_are_not_compared_with(self):
        advantages, figures = self.assign(self.rollouts(), drop=["unanswered"])
        assert advantages[:2] == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-5)  # of two alone: (1 − ½) / √½
        assert advantages[2:] == [None, None]
        assert figures["left_out"] == 2

    def test_turns_whose_call_cannot_be_read_are_left_out_alone(self):
        rollouts = self.rollouts()
        advantages, _ = self.assign(rollouts, drop=["unreadable"])
        assert advantages == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
        assert [step.advantage for step in rollouts[0].steps] == [None, 0.0]
