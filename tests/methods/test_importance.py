"""TIS, MIS and the off-policy sequence mask: weights against a sampler that is not π_old."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ragged import assert_follows, clipped, make_tokens, off_policy, select, sums

from grpo_agents.methods import coefficients, make_method
from grpo_agents.methods.cispo import Cispo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.importance import on_policy_mask, truncated, weights


def weight_of(x, level):
    log_weight = x.old - x.sampler
    return np.exp(log_weight if level == "token" else sums(log_weight, x.whose))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (0.5, 2.0), (0.0, 0.5), (0.9, 1.1)])
@pytest.mark.parametrize("name", ["tis", "mis"])
def test_weights_multiply_the_clipped_surrogate_and_leave_the_kl_alone(name, level, low, high):
    seen = []

    def formula(x):
        weight = weight_of(x, level)
        seen.extend(weight)
        weight = np.clip(weight, low, high) if name == "tis" else weight * ((weight >= low) & (weight <= high))
        value, slope = clipped(x.rho, x.a, 0.2, 0.28)
        u = np.exp(x.ref - x.logp)
        return weight * value - 0.3 * (u - np.log(u) - 1), weight * slope + 0.3 * (u - 1)

    method = Grpo(**{name: high}, importance_low=low, importance_level=level, clip_high=0.28, kl_weight=0.3,
                  aggregation="token")  # fmt: skip
    assert_follows(method, formula)
    assert min(seen) < 0.3
    assert max(seen) > 3


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_multiply_what_cispo_maximises(level):
    def formula(x):
        weight = np.clip(weight_of(x, level), 0.0, 2.0) * np.minimum(x.rho, 5.0) * x.a
        return weight * x.logp, weight

    assert_follows(Cispo(tis=2.0, importance_level=level), formula)


def test_the_weights_by_hand():
    old = torch.tensor([0.5, 0.5, 0.2, 0.9, 0.3], dtype=torch.float64).log()
    sampler = torch.tensor([0.5, 0.25, 0.8, 0.001, 0.1], dtype=torch.float64).log()
    tokens = replace(make_tokens((5,)), old=old, sampler=sampler)
    assert truncated(weights(tokens, "token"), 0.0, 2.5).tolist() == pytest.approx([1.0, 2.0, 0.25, 2.5, 2.5])
    figures = Grpo(tis=2.5).figures(tokens)
    assert figures["tis/weight"].tolist() == pytest.approx([1.0, 2.0, 0.25, 2.5, 2.5])
    assert figures["tis/cut"].tolist() == [0, 0, 0, 1, 1]
    assert Grpo(mis=2.5, importance_low=0.5).figures(tokens)["mis/weight"].tolist() == pytest.approx([1, 2, 0, 0, 0])
    assert set(Grpo().figures(tokens)) == {"clipped"}
    assert weights(replace(tokens, old=old.requires_grad_(True)), "token").requires_grad is False


def test_where_engine_and_learner_agree_nothing_changes():
    tokens = off_policy(make_tokens(), 0.0)
    plain = Grpo(kl_weight=0.1)
    for settings in ({"tis": 2.0}, {"mis": 2.0}, {"tis": 2.0, "importance_level": "sequence"}):
        method = Grpo(kl_weight=0.1, **settings)
        assert method.loss(tokens).item() == plain.loss(tokens).item()
        assert torch.equal(coefficients(method, tokens), coefficients(plain, tokens))
        apart = off_policy(tokens, 0.5)
        assert not torch.equal(coefficients(method, apart), coefficients(plain, apart))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_are_unbiased_where_nothing_is_cut(level):
    """Σ q · w · ∇ = Σ π_old · ∇ over every sequence of two tokens: samples of q count as those of π_old."""
    rng = np.random.default_rng(0)
    first, second = (torch.tensor(np.log(rng.dirichlet(np.ones(4)))) for _ in range(2))  # log π_old, log q of a token
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))  # (sequences, 2)
    old, sampler = first[pairs].flatten(), second[pairs].flatten()
    tokens = replace(make_tokens((2,) * 16), old=old, sampler=sampler)
    found = weights(tokens, level).reshape(16, 2)
    old, sampler = old.exp().reshape(16, 2), sampler.exp().reshape(16, 2)
    if level == "sequence":
        old, sampler = (policy.prod(1, keepdim=True).expand(16, 2) for policy in (old, sampler))
    torch.testing.assert_close(sampler * found, old, rtol=1e-12, atol=0)


@pytest.mark.parametrize("largest", [0.0, 0.5])
@pytest.mark.parametrize("kl", ["k3", "unbiased"])
def test_the_off_policy_mask_drops_rollouts_from_the_surrogate_and_not_from_the_kl(largest, kl):
    dropped = []

    def formula(x):
        drift = sums(x.sampler - x.logp, x.whose) / x.length
        kept = (x.a >= 0) | (drift <= largest)
        dropped.append(1 - kept.mean())
        value, slope = clipped(x.rho, x.a, 0.2, 0.2)
        log_ratio = x.logp - x.ref
        k3 = np.exp(-log_ratio) + log_ratio - 1
        estimate, push = (k3, 1 - np.exp(-log_ratio)) if kl == "k3" else (x.rho * k3, x.rho * log_ratio)
        return kept * value - 0.3 * estimate, kept * slope - 0.3 * push

    assert_follows(Grpo(off_policy_mask=largest, kl_weight=0.3, kl=kl), formula)
    assert 0 < np.mean(dropped) < 0.6


def test_the_off_policy_mask_compares_with_the_engine_and_not_with_the_start_of_the_batch():
    """Two rollouts with Â < 0: π moved far from π_old in the first, from the sampler in the second."""
    tokens = make_tokens((2, 2), spread=0.0)
    shift = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    logprobs = tokens.old - shift
    tokens = replace(tokens, logprobs=logprobs, sampler=logprobs + 1 - shift, advantages=-torch.ones_like(shift))
    method = Grpo(off_policy_mask=0.5, clip_low=0.9)
    assert (coefficients(method, tokens) != 0).tolist() == [True, True, False, False]
    assert method.figures(tokens)["off_policy"].tolist() == [0, 0, 1, 1]
    liked = replace(tokens, advantages=-tokens.advantages)
    assert (coefficients(method, liked) != 0).all()


def test_of_a_trajectory_of_mixed_signs_the_off_policy_mask_drops_what_is_pushed_down():
    """Both drifted alike, by one token: where Â is 0 or more they stay, and the mean is over every token of theirs."""
    tokens = make_tokens((4, 4), spread=0.0)
    drift = torch.tensor([2.4, 0.0, 0.0, 0.0] * 2, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    tokens = replace(tokens, sampler=tokens.old + drift, advantages=signs)
    kept = torch.tensor([1, 0, 0, 1, 1, 1, 1, 0])
    assert on_policy_mask(tokens, 0.5).tolist() == kept.tolist()
    assert torch.equal(coefficients(Grpo(off_policy_mask=0.5), tokens), coefficients(Grpo(), tokens) * kept)
    assert on_policy_mask(tokens, 0.7).tolist() == [1] * 8


def test_the_mean_of_the_drift_is_over_the_rollout_and_not_over_its_worst_token():
    tokens = make_tokens((4,), spread=0.0)
    tokens = replace(
        tokens, sampler=tokens.old + torch.tensor([1.9, 0.0, 0.0, 0.0]), advantages=-torch.ones(4).double()
    )
    assert (coefficients(Grpo(off_policy_mask=0.5), tokens) != 0).all()
    assert (coefficients(Grpo(off_policy_mask=0.45), tokens) == 0).all()


@pytest.mark.parametrize(
    "settings", [{"tis": 9.0, "importance_level": "sequence"}, {"off_policy_mask": 0.3}, {"name": "gspo"}]
)
def test_what_looks_at_whole_trajectories_is_computed_on_whole_ones(settings):
    method, tokens = make_method(settings), make_tokens((2, 3), spread=1e-4)
    tokens.advantages = -torch.ones(5, dtype=torch.float64)
    tokens.sampler = tokens.old + torch.tensor([0.1, 0.2, 1.0, 0.1, 0.2])  # only whole, the second drifted by over 0.3
    assert method.unit == "trajectory"
    whole = coefficients(method, tokens)
    part = coefficients(method, select(tokens, torch.arange(2, 5)))
    torch.testing.assert_close(part, whole[2:], rtol=1e-12, atol=0)
    assert not torch.allclose(coefficients(method, select(tokens, torch.arange(3, 5))), whole[3:], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tis": 2.0, "mis": 2.0}, "tis and mis exclude each other: cut weights, or drop"),
        ({"importance_low": 0.5}, "importance_low = 0.5 is the lower bound .* neither is set"),
        ({"importance_low": 3.0, "tis": 2.0}, "importance_low = 3 .* above the upper one, 2"),
        ({"tis": 0.0}, r"method\.tis: .*greater than 0"),
    ],
)
def test_contradictory_bounds_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        make_method(settings)
