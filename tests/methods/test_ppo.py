from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from ragged import episode as turns_of
from tiny import part_of, ragged_tokens, sampled, vector_of

from grpo_agents.advantage import AdvantageConfig, score_group
from grpo_agents.learner.batch import assign_credit, make_batch
from grpo_agents.methods import Episode, coefficients
from grpo_agents.methods.ppo import Ppo, generalised_advantages

LENGTHS = (3, 1, 5, 2, 4, 3)


def reference(tokens, *, low, high, weight, value_clip, aggregation):
    """Clipped surrogate and clipped value loss in plain Python: the loss, d/d log π and d/d V."""
    logp, old, advantages, values, before, returns = (
        getattr(tokens, name).detach().double().numpy()
        for name in ("logprobs", "old", "advantages", "values", "old_values", "returns")
    )
    loss, by_logprob, by_value = 0.0, np.zeros(len(logp)), np.zeros(len(logp))
    shares = np.repeat([1 / (n * len(LENGTHS)) if aggregation == "sequence" else 1 / sum(LENGTHS) for n in LENGTHS],
                       LENGTHS)  # fmt: skip
    for t, share in enumerate(shares):
        rho, a = np.exp(logp[t] - old[t]), advantages[t]
        bounded = min(max(rho, 1 - low), 1 + high) * a
        loss -= share * min(rho * a, bounded)
        by_logprob[t] = -share * rho * a if rho * a <= bounded else 0.0
        near = min(max(values[t], before[t] - value_clip), before[t] + value_clip)
        free, held = (values[t] - returns[t]) ** 2, (near - returns[t]) ** 2
        loss += share * weight * max(free, held) / 2
        moves = free >= held  # where the clipped error is the larger one, V is beyond the clip, and has no gradient
        by_value[t] = share * weight * (values[t] - returns[t]) if moves else 0.0
    return loss, by_logprob, by_value


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
@pytest.mark.parametrize("value_clip", [0.2, 1.0, 100.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_are_the_formulas(aggregation, value_clip, dtype, tolerance, seed):
    tokens = ragged_tokens(LENGTHS, seed=seed, values=True, dtype=dtype)
    method = Ppo(clip_high=0.28, value_clip=value_clip, value_weight=0.7, aggregation=aggregation)
    loss = method.loss(tokens)
    loss.backward()
    expected = reference(tokens, low=0.2, high=0.28, weight=0.7, value_clip=value_clip, aggregation=aggregation)
    assert loss.item() == pytest.approx(expected[0], rel=tolerance)
    assert tokens.logprobs.grad.numpy() == pytest.approx(expected[1], rel=tolerance, abs=1e-15)
    assert tokens.values.grad.numpy() == pytest.approx(expected[2], rel=tolerance, abs=1e-15)


def test_the_coefficient_on_policy_is_the_advantage():
    tokens = ragged_tokens(values=True)
    tokens = replace(tokens, old=tokens.logprobs.detach())
    found = coefficients(Ppo(), tokens) * tokens.lengths * tokens.batch_trajectories
    torch.testing.assert_close(found, tokens.advantages, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("value", "target", "error", "moves"),
    [  # V_old is 0, the clip 0.2
        (0.1, 1.0, 0.81 / 2, True),  # within
        (0.5, 1.0, 0.64 / 2, False),  # above, towards the return: far enough on one batch
        (0.5, -1.0, 2.25 / 2, True),  # above, away from it: called back
        (-0.5, -1.0, 0.64 / 2, False),  # below, towards it
        (-0.5, 1.0, 2.25 / 2, True),  # below, away
    ],
)
def test_the_value_loss_is_clipped_on_each_side(value, target, error, moves):
    one = torch.ones(1, dtype=torch.float64)
    tokens = replace(ragged_tokens((1,), values=True), values=(value * one).requires_grad_(True),
                     old_values=0 * one, returns=target * one)  # fmt: skip
    found = Ppo(value_clip=0.2).value_errors(tokens)
    assert found.item() == pytest.approx(error)
    (gradient,) = torch.autograd.grad(found.sum(), tokens.values)
    assert gradient.item() == pytest.approx(value - target if moves else 0.0)


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("decay", [1.0, 0.95, 0.0])
def test_gae_is_the_double_sum(discount, decay):
    rng = np.random.default_rng(0)
    for count in (1, 2, 9):
        rewards, values = rng.normal(size=(2, count))
        after = [*values[1:], 0.0]
        errors = [rewards[t] + discount * after[t] - values[t] for t in range(count)]
        expected = [
            sum((discount * decay) ** ahead * errors[t + ahead] for ahead in range(count - t)) for t in range(count)
        ]
        assert generalised_advantages(rewards, values, discount, decay) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def episode(turn, reward, seed=0, **fields):
    rng = np.random.default_rng(seed)
    old, ref, values = rng.normal(-2, 1, (3, len(turn)))
    return Episode(np.broadcast_to(reward, len(turn)).astype(float), np.array(turn), old, ref, values, **fields)


def test_the_return_comes_with_the_last_token_and_the_kl_with_each():
    """r_t = −β log(π/π_ref), and R at the end; by hand with γ = λ = 1: Â_t = Σ_{s ≥ t} r_s − V_t."""
    one = episode([0, 0, 1, 1, 1], 2.0)
    rewards = -0.3 * (one.old - one.reference) + np.array([0, 0, 0, 0, 2.0])
    expected = [rewards[t:].sum() - one.values[t] for t in range(5)]
    Ppo(kl_weight=0.3, gae=1.0).credit([one])
    assert one.advantages == pytest.approx(expected)
    assert one.returns == pytest.approx([rewards[t:].sum() for t in range(5)])


def test_what_was_cut_short_has_earned_what_it_scored_and_nothing_to_come():
    """A budget is a part of the task: what the critic would still hope for after the last token does not count."""
    trajectories = [sampled(np.random.default_rng(0), 97, 3, [(2, 1), (3, 0)], stop_reason=reason, advantage=0.25)
                    for reason in ("terminated", "turns", "tokens")]  # fmt: skip
    batch = make_batch(trajectories)
    for row in batch.rows:
        row.values = np.full(5, 7.0)
    assign_credit(batch, Ppo(gae=1.0))
    for row in batch.rows:
        assert row.returns.tolist() == [0.25] * 5


def test_the_kl_may_be_another_estimate_or_in_the_loss():
    one, apart = episode([0, 0, 0], 1.0), episode([0, 0, 0], 1.0)
    log_ratio = one.old - one.reference
    rewards = -0.3 * (np.exp(-log_ratio) + log_ratio - 1) + np.array([0, 0, 1.0])
    Ppo(kl_weight=0.3, kl="k3", gae=1.0).credit([one])
    assert one.returns == pytest.approx([rewards[t:].sum() for t in range(3)])
    method = Ppo(kl_weight=0.3, kl="k3", kl_in="loss", gae=1.0)
    method.credit([apart])
    assert apart.returns == pytest.approx([1.0] * 3)
    tokens = ragged_tokens(values=True)
    tokens = replace(tokens, old=tokens.logprobs.detach())
    found = coefficients(method, tokens) * tokens.lengths * tokens.batch_trajectories
    expected = tokens.advantages + 0.3 * ((tokens.reference - tokens.logprobs).exp() - 1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)


def test_with_process_supervision_every_turn_has_its_reward_on_its_last_token():
    one = episode([0, 0, 1, 2, 2], [0.5, 0.5, -1.0, 3.0, 3.0])
    rewards = np.array([0, 0.5, -1.0, 0, 3.0])
    expected = generalised_advantages(rewards, one.values, 0.9, 0.8)
    Ppo(supervision="process", discount=0.9, gae=0.8).credit([one])
    assert one.advantages == pytest.approx(expected)


def test_what_rewards_alone_give_is_the_reward():
    rollouts = [turns_of(np.random.default_rng(0), rewards) for rewards in ([0.5, 1.0], [0, 0], [0, -1.0])]
    scores = score_group(rollouts, {}, vector_of(outcome="max"), AdvantageConfig(), {})
    assert Ppo().advantages([scores])[0].tolist() == [1.5, 0.0, -1.0]
    assert Ppo().turn_advantages([scores]) is None
    process = Ppo(supervision="process")
    assert process.advantages([scores])[0].tolist() == [0.0] * 3
    assert [turns.tolist() for turns in process.turn_advantages([scores])[0]] == [[0.5, 1.0], [0, 0], [0, -1.0]]


@pytest.mark.parametrize(
    ("dropped", "expected"), [((1,), [-0.5, 0, 3]), ((1, 2), [2.5, 0, 0]), ((0,), [0, -1, 3]), ((0, 1, 2), [0, 0, 0])]
)
def test_the_reward_of_a_turn_that_is_not_learned_from_is_on_the_one_before_it(dropped, expected):
    rollout = turns_of(np.random.default_rng(0), [0.5, -1.0, 3.0])
    for turn in dropped:
        rollout.steps[turn].advantage = None
    scores = score_group([rollout], {}, vector_of(outcome="max"), AdvantageConfig(), {})
    assert Ppo(supervision="process").turn_advantages([scores])[0][0].tolist() == expected


@pytest.mark.parametrize(
    ("rewards", "outcome", "process"),
    [
        ([[1.0, 0], [0, 1.0]], [False], [True]),  # the critic of turns learns when it came
        ([[1.0, 0], [0, 1.0, 1.0]], [True], [True]),
        ([[1.0], [1.0]], [False], [False]),
        ([[0.1, 0.2]] * 3, [False], [False]),
        ([[1.0]], [False], [False]),
    ],
)
def test_rewards_that_are_all_alike_teach_nothing(rewards, outcome, process):
    rollouts = [turns_of(np.random.default_rng(0), turns) for turns in rewards]
    scores = score_group(rollouts, {}, vector_of(outcome="max"), AdvantageConfig(), {})
    assert Ppo().spread([scores]) == outcome
    assert Ppo(supervision="process").spread([scores]) == process


def test_rollouts_are_compared_over_the_batch():
    groups = [
        score_group([turns_of(np.random.default_rng(0), [reward])], {}, vector_of(outcome="max"), AdvantageConfig(), {})
        for reward in (1.0, 0.0)
    ]
    assert Ppo().spread(groups) == [True, True]


def test_whitened_advantages_leave_the_returns_as_they_are():
    plain, white = ([episode([0] * n, float(n), seed=n) for n in (2, 5, 3)] for _ in range(2))
    Ppo().credit(plain)
    Ppo(whiten=True).credit(white)
    pooled = np.concatenate([one.advantages for one in plain])
    expected = (pooled - pooled.mean()) / pooled.std(ddof=1)
    assert np.concatenate([one.advantages for one in white]) == pytest.approx(expected, rel=1e-5)
    for one, other in zip(plain, white, strict=True):
        assert one.returns.tolist() == other.returns.tolist()


def test_parts_sum_to_the_whole_however_they_are_cut():
    tokens, method = ragged_tokens(LENGTHS, values=True), Ppo(kl_in="loss", kl="k3", kl_weight=0.1, entropy_bonus=0.1)
    whole = method.loss(tokens)
    for cuts in ([0, 4, 18], list(range(19))):
        parts = [method.loss(part_of(tokens, slice(start, stop))) for start, stop in pairwise(cuts)]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=1e-14)


def test_what_it_asks_for():
    assert (Ppo().critic, Ppo(value_model="separate").critic) == ("head", "model")
    assert not Ppo().needs_reference
    assert Ppo(kl_weight=0.1).needs_reference
    assert not Ppo().normalises_by_group
    assert not Ppo().gradient_only_from_advantages(0.0)  # a critic learns where Â is 0, too
    assert set(Ppo().figures(ragged_tokens(values=True))) == {"clipped", "value", "value_error"}
