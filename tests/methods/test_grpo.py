from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from grpo_agents.methods import Tokens, coefficients
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.importance import truncated, weights


def make_tokens(lengths=(3, 1, 5, 2), *, seed=0, spread=1.0, progress=0.0, centred=False):
    """Ragged trajectories of random log-probabilities, in float64."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    old = rng.normal(-2, 1, count)
    advantages = rng.normal(size=len(lengths))
    if centred:
        advantages -= advantages.mean()

    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=torch.float64)

    return Tokens(
        logprobs=tensor(old + spread * rng.normal(size=count)).requires_grad_(True),
        sampler=tensor(old + 0.01),
        old=tensor(old),
        reference=tensor(old + 0.7 * spread * rng.normal(size=count)),
        entropy=tensor(rng.uniform(0, 3, count)).requires_grad_(True),
        advantages=tensor(np.repeat(advantages, lengths)),
        lengths=tensor(np.repeat(lengths, lengths)),
        turn_position=torch.tensor([place for length in lengths for place in range(length)]),
        trajectory=torch.tensor(np.repeat(np.arange(len(lengths)), lengths)),
        group=torch.tensor(np.repeat(np.arange(len(lengths)) // 2, lengths)),
        batch_tokens=count,
        batch_trajectories=len(lengths),
        progress=progress,
    )


def reference(tokens, lengths, *, low, high, beta, kl, aggregation, max_length=None):
    """The objective of SCIENCE.md (2, 3), token by token: the loss and d loss / d log π."""
    logp, old, ref = (values.detach().numpy() for values in (tokens.logprobs, tokens.old, tokens.reference))
    advantages = tokens.advantages.numpy()
    loss, gradient, at = 0.0, np.zeros(len(logp)), 0
    for length in lengths:
        share = {"sequence": 1 / (length * len(lengths)), "token": 1 / sum(lengths)}.get(aggregation)
        share = share if share is not None else 1 / (len(lengths) * max_length)
        for t in range(at, at + length):
            rho, a = np.exp(logp[t] - old[t]), advantages[t]
            clipped = min(max(rho, 1 - low), 1 + high)
            surrogate = min(rho * a, clipped * a)
            slope = rho * a if rho * a <= clipped * a else 0.0  # d surrogate / d log π: 0 where the clip holds
            u = np.exp(ref[t] - logp[t])
            k3, k3_slope = u - np.log(u) - 1, 1 - u
            if kl == "unbiased":
                k3, k3_slope = rho * k3, rho * k3 + rho * (1 - u)
            loss += share * (-surrogate + beta * k3)
            gradient[t] = share * (-slope + beta * k3_slope)
        at += length
    return loss, gradient


@pytest.mark.parametrize("kl", ["k3", "unbiased"])
@pytest.mark.parametrize("beta", [0.0, 0.04, 1.5])
@pytest.mark.parametrize(("aggregation", "max_length"), [("token", None), ("sequence", None), ("constant", 7)])
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_loss_and_gradient_are_the_formulas(kl, beta, aggregation, max_length, spread):
    lengths = (3, 1, 5, 2)
    tokens = make_tokens(lengths, spread=spread)
    ratio = (tokens.logprobs - tokens.old).exp()
    assert spread < 1 or (ratio.max() > 2 and ratio.min() < 0.5)
    method = Grpo(clip_low=0.2, clip_high=0.28, kl_weight=beta, kl=kl, aggregation=aggregation, max_length=max_length)
    loss = method.loss(tokens)
    loss.backward()
    expected, gradient = reference(
        tokens, lengths, low=0.2, high=0.28, beta=beta, kl=kl, aggregation=aggregation, max_length=max_length
    )
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert tokens.logprobs.grad.numpy() == pytest.approx(gradient, rel=1e-9, abs=1e-15)


def off_policy(tokens, spread, seed=5):
    """The same tokens, sampled by another policy than π_old."""
    noise = np.random.default_rng(seed).normal(0, spread, len(tokens.old))
    return replace(tokens, sampler=tokens.old + torch.tensor(noise))


@pytest.mark.parametrize("cap", [0.5, 2.0, 100.0])
@pytest.mark.parametrize("spread", [0.05, 1.0, 3.0])
def test_truncated_importance_sampling_weighs_the_clipped_surrogate(cap, spread):
    """SCIENCE.md 3, TIS at token level, token by token; the KL term is left as it is."""
    lengths = (3, 1, 5, 2)
    tokens = off_policy(make_tokens(lengths), spread)
    logp, old, sampler, advantages = (
        values.detach().numpy() for values in (tokens.logprobs, tokens.old, tokens.sampler, tokens.advantages)
    )
    weights = [min(np.exp(old[t]) / np.exp(sampler[t]), cap) for t in range(11)]
    assert spread < 3 or (max(np.exp(old - sampler)) > 50 and min(weights) < 0.05)
    kl_loss, kl_gradient = reference(replace(tokens, advantages=torch.zeros(11)), lengths, low=0.2, high=0.28,
                                     beta=0.3, kl="k3", aggregation="token")  # fmt: skip
    loss, gradient = kl_loss, np.array(kl_gradient)
    for t in range(11):
        rho, a = np.exp(logp[t] - old[t]), advantages[t]
        bounded = min(max(rho, 0.8), 1.28)
        loss -= weights[t] * min(rho * a, bounded * a) / 11
        gradient[t] -= weights[t] * (rho * a if rho * a <= bounded * a else 0.0) / 11
    method = Grpo(tis=cap, clip_high=0.28, kl_weight=0.3, aggregation="token")
    assert method.loss(tokens).item() == pytest.approx(loss, rel=1e-9)
    assert coefficients(method, tokens).numpy() == pytest.approx(-gradient, rel=1e-9, abs=1e-15)


def test_the_weights_of_tis_by_hand():
    old = torch.tensor([0.5, 0.5, 0.2, 0.9, 0.3], dtype=torch.float64).log()
    sampler = torch.tensor([0.5, 0.25, 0.8, 0.001, 0.1], dtype=torch.float64).log()
    tokens = replace(make_tokens((5,)), old=old, sampler=sampler)
    assert truncated(weights(tokens, "token"), 0.0, 2.5).tolist() == pytest.approx([1.0, 2.0, 0.25, 2.5, 2.5])
    figures = Grpo(tis=2.5).figures(tokens)
    assert figures["tis/weight"].tolist() == pytest.approx([1.0, 2.0, 0.25, 2.5, 2.5])
    assert figures["tis/cut"].tolist() == [0, 0, 0, 1, 1]
    assert set(Grpo().figures(tokens)) == {"clipped"}
    assert weights(replace(tokens, old=old.requires_grad_(True)), "token").requires_grad is False


def test_where_engine_and_learner_agree_tis_changes_nothing():
    tokens = off_policy(make_tokens(), 0.0)
    with_, without = Grpo(tis=2.0, kl_weight=0.1), Grpo(kl_weight=0.1)
    assert with_.loss(tokens).item() == without.loss(tokens).item()
    assert torch.equal(coefficients(with_, tokens), coefficients(without, tokens))
    apart = off_policy(tokens, 0.5)
    assert not torch.equal(coefficients(with_, apart), coefficients(without, apart))


def test_tis_is_unbiased_where_nothing_is_cut():
    """Σ q · w · ∇ = Σ π_old · ∇ over a whole vocabulary: samples of q count as those of π_old."""
    rng = np.random.default_rng(0)
    old, sampler = (torch.tensor(np.log(rng.dirichlet(np.ones(9)))) for _ in range(2))
    tokens = replace(make_tokens((9,)), old=old, sampler=sampler)
    torch.testing.assert_close(sampler.exp() * weights(tokens, "token"), old.exp(), rtol=1e-12, atol=0)


def test_the_loss_at_the_start_is_zero_and_its_gradient_is_not():
    """π = π_old = π_ref, sequence aggregation, centred advantages: SCIENCE.md 2."""
    tokens = make_tokens(centred=True)
    at_start = replace(tokens, old=tokens.logprobs.detach(), reference=tokens.logprobs.detach())
    loss = Grpo(kl_weight=0.04).loss(at_start)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert tokens.logprobs.grad.abs().max() > 0.01
    assert abs(Grpo(aggregation="token").loss(at_start).item()) > 0.01  # ragged lengths: another value


def test_the_coefficient_is_the_papers():
    """On-policy: Â + β (π_ref/π − 1), sequence-normalised (SCIENCE.md 1)."""
    tokens = make_tokens()
    on_policy = replace(tokens, old=tokens.logprobs.detach())
    found = coefficients(Grpo(kl_weight=0.3), on_policy) * tokens.lengths * tokens.batch_trajectories
    expected = tokens.advantages + 0.3 * ((tokens.reference - tokens.logprobs).exp() - 1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert tokens.logprobs.grad is None  # asking leaves no trace


def test_the_coefficient_of_the_unbiased_kl():
    """ρ · log(π/π_ref), off-policy too (SCIENCE.md 2)."""
    tokens = make_tokens()
    tokens = replace(tokens, advantages=torch.zeros_like(tokens.advantages))
    method = Grpo(kl_weight=1.0, kl="unbiased", aggregation="token")
    ratio = (tokens.logprobs - tokens.old).exp()
    expected = -ratio * (tokens.logprobs - tokens.reference) / tokens.batch_tokens
    torch.testing.assert_close(coefficients(method, tokens), expected.detach(), rtol=1e-12, atol=1e-12)


def test_the_unbiased_kl_has_the_gradient_of_the_kl():
    """E_old[∇(ρ k3)] = ∇KL(π‖π_ref), summed over a whole vocabulary; and k3 on-policy has that of KL(π_ref‖π)."""
    rng = np.random.default_rng(3)
    old, reference_ = (torch.log_softmax(torch.tensor(rng.normal(size=6)), -1) for _ in range(2))
    logits = torch.tensor(rng.normal(size=6), requires_grad=True)

    def weighed(method, weights, logprobs, old):
        """E over tokens: every token of the vocabulary, as often as its probability says."""
        total = torch.zeros((), dtype=torch.float64)
        for token in range(6):
            one = make_tokens((1,))
            one = replace(one, logprobs=logprobs[token : token + 1], old=old[token : token + 1],
                          reference=reference_[token : token + 1],
                          advantages=torch.zeros(1, dtype=torch.float64))  # fmt: skip
            total = total + weights[token] * method.loss(one)
        return torch.autograd.grad(total, logits)[0]

    logprobs = torch.log_softmax(logits, -1)
    forward_kl = (logprobs.exp() * (logprobs - reference_)).sum()
    (expected,) = torch.autograd.grad(forward_kl, logits, retain_graph=True)
    found = weighed(Grpo(kl_weight=1.0, kl="unbiased"), old.exp(), logprobs, old)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    logprobs = torch.log_softmax(logits, -1)
    backward_kl = (reference_.exp() * (reference_ - logprobs)).sum()
    (expected,) = torch.autograd.grad(backward_kl, logits, retain_graph=True)
    found = weighed(Grpo(kl_weight=1.0), logprobs.detach().exp(), logprobs, logprobs.detach())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_clip_stops_the_gradient_on_one_side_only():
    """Ratios well outside the clip, of either sign of the advantage."""
    cases = [(2.0, 1.0, True), (0.5, 1.0, False), (2.0, -1.0, False), (0.5, -1.0, True), (1.27, 1.0, False)]
    tokens = make_tokens((1,) * len(cases))
    logprobs = tokens.old + torch.tensor([np.log(ratio) for ratio, _, _ in cases])
    tokens = replace(tokens, logprobs=logprobs, advantages=torch.tensor([a for _, a, _ in cases], dtype=torch.float64))
    found = coefficients(Grpo(clip_low=0.2, clip_high=0.28, aggregation="token"), tokens).numpy() * len(cases)
    for value, (ratio, advantage, clipped) in zip(found, cases, strict=True):
        assert value == 0.0 if clipped else value == pytest.approx(ratio * advantage)


@pytest.mark.parametrize(
    "method",
    [
        Grpo(kl_weight=0.1, entropy_bonus=0.2),
        Grpo(aggregation="token", kl_weight=0.1, kl="unbiased"),
        Grpo(aggregation="constant", max_length=9, entropy_bonus=0.1, entropy_tokens=2),
        Grpo(tis=1.005),
    ],
)
def test_parts_sum_to_the_whole_however_they_are_cut(method):
    tokens = make_tokens((3, 1, 5, 2))
    whole = method.loss(tokens)
    for cuts in ([0, 4, 11], [0, 1, 2, 9, 11], list(range(12))):
        parts = 0.0
        for start, stop in pairwise(cuts):
            cut = {
                field.name: value[start:stop]
                for field in fields(Tokens)
                if isinstance(value := getattr(tokens, field.name), torch.Tensor)
            }
            parts = parts + method.loss(replace(tokens, **cut))
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("until", "progress", "expected"),
    [(1.0, 0.0, 0.2), (1.0, 0.99, 0.2), (0.5, 0.0, 0.2), (0.5, 0.25, 0.1), (0.5, 0.5, 0.0), (0.5, 0.9, 0.0)],
)
def test_the_entropy_bonus_falls_to_zero(until, progress, expected):
    method = Grpo(entropy_bonus=0.2, entropy_until=until, aggregation="token")
    assert method.entropy_weight(progress) == pytest.approx(expected)
    tokens = make_tokens(progress=progress)
    tokens.entropy.retain_grad()
    method.loss(tokens).backward()
    found = tokens.entropy.grad
    assert (0 if found is None else found.numpy()) == pytest.approx(-expected / tokens.batch_tokens)


def test_the_entropy_bonus_on_the_first_tokens_of_a_turn():
    tokens = make_tokens((3, 1, 5, 2))
    Grpo(entropy_bonus=0.2, entropy_tokens=2, aggregation="token").loss(tokens).backward()
    paid = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1])
    assert tokens.entropy.grad.numpy() == pytest.approx(-0.2 * paid / 11)


def test_which_rollouts_need_no_computing():
    assert Grpo().gradient_only_from_advantages(0.0)
    assert not Grpo(kl_weight=0.1).gradient_only_from_advantages(0.0)
    late = Grpo(entropy_bonus=0.1, entropy_until=0.5)
    assert not late.gradient_only_from_advantages(0.4)
    assert late.gradient_only_from_advantages(0.5)


def test_the_reference_is_needed_with_a_kl_term_alone():
    assert Grpo(kl_weight=0.1).needs_reference
    assert not Grpo().needs_reference
    tokens = replace(make_tokens(), reference=None)
    assert torch.isfinite(Grpo().loss(tokens))


@pytest.mark.parametrize("settings", [{"aggregation": "constant"}, {"max_length": 5}])
def test_constant_aggregation_needs_its_length(settings):
    with pytest.raises(ValidationError, match="set both or neither"):
        Grpo(**settings)
