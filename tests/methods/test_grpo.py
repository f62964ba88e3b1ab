from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from ragged import make_tokens

from grpo_agents.methods import Tokens, coefficients
from grpo_agents.methods.grpo import Grpo


def reference(tokens, lengths, *, low, high, beta, kl, aggregation, max_length=None):
    """The objective, token by token: the loss and d loss / d log π."""
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


def test_the_loss_at_the_start_is_zero_and_its_gradient_is_not():
    """π = π_old = π_ref, sequence aggregation, centred advantages."""
    tokens = make_tokens(centred=True)
    at_start = replace(tokens, old=tokens.logprobs.detach(), reference=tokens.logprobs.detach())
    loss = Grpo(kl_weight=0.04).loss(at_start)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert tokens.logprobs.grad.abs().max() > 0.01
    assert abs(Grpo(aggregation="token").loss(at_start).item()) > 0.01  # ragged lengths: another value


def test_the_coefficient_is_the_papers():
    """On-policy: Â + β (π_ref/π − 1), sequence-normalised (DeepSeekMath, section 5)."""
    tokens = make_tokens()
    on_policy = replace(tokens, old=tokens.logprobs.detach())
    found = coefficients(Grpo(kl_weight=0.3), on_policy) * tokens.lengths * tokens.batch_trajectories
    expected = tokens.advantages + 0.3 * ((tokens.reference - tokens.logprobs).exp() - 1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert tokens.logprobs.grad is None  # asking leaves no trace


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
