"""The KL against the reference: its estimators in the loss and in the reward, and what they are the gradient of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ragged import assert_follows, clipped, make_tokens
from tiny import sampled

from grpo_agents.learner.batch import assign_credit, make_batch
from grpo_agents.methods import Episode, coefficients, make_method
from grpo_agents.methods.cispo import Cispo
from grpo_agents.methods.dr_grpo import DrGrpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.surrogate import kl_estimate
from grpo_agents.trajectory import Trajectory


def estimate(kl, x):
    """The estimator, and its derivative by log π, of each token."""
    u = np.exp(x.ref - x.logp)  # π_ref/π
    return {
        "k2": (np.log(u) ** 2 / 2, -np.log(u)),
        "k3": (u - np.log(u) - 1, 1 - u),
        "unbiased": (x.rho * (u - np.log(u) - 1), x.rho * -np.log(u)),
    }[kl]


@pytest.mark.parametrize("kl", ["k2", "k3", "unbiased"])
@pytest.mark.parametrize("beta", [0.04, 1.5])
@pytest.mark.parametrize("spread", [0.1, 1.0])
@pytest.mark.parametrize("method", [Grpo, DrGrpo, Cispo])
def test_the_kl_in_the_loss(method, kl, beta, spread):
    def formula(x):
        weight = np.minimum(x.rho, 5.0) * x.a
        value, slope = (weight * x.logp, weight) if method is Cispo else clipped(x.rho, x.a, 0.2, 0.2)
        divergence, push = estimate(kl, x)
        return value - beta * divergence, slope - beta * push

    settings = {"max_length": 9} if method is DrGrpo else {}
    assert_follows(method(kl_weight=beta, kl=kl, **settings), formula, spread=spread)


def test_the_coefficient_of_the_unbiased_kl():
    """ρ · log(π/π_ref), off-policy too (DeepSeek-V3.2)."""
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


def test_tokens_that_became_rare_get_a_huge_push_from_k3_and_a_bounded_one_from_the_unbiased_kl():
    """π_old = π_ref = 0.5 and π → 0: π_ref/π grows without bound, |ρ log(π/π_ref)| never exceeds 1/e."""
    policy = torch.logspace(-1, -12, 12, dtype=torch.float64)
    half = torch.full_like(policy, 0.5).log()
    tokens = make_tokens((1,) * 12)
    tokens = replace(tokens, logprobs=policy.log(), old=half, reference=half, advantages=torch.zeros_like(half))
    k3, unbiased = (coefficients(Grpo(kl_weight=12.0, kl=kl), tokens) for kl in ("k3", "unbiased"))
    torch.testing.assert_close(k3, 0.5 / policy - 1, rtol=1e-9, atol=0)
    assert k3[-1] > 1e11
    assert (unbiased > 0).all()
    assert unbiased.max() < 1 / np.e
    assert unbiased[-1] < 1e-10


def two_steps(seed=0, size=3):
    """Logits of a policy of two tokens, the second depending on the first, with log π and log π_ref of every pair."""
    rng = np.random.default_rng(seed)
    logits = [torch.tensor(rng.normal(size=shape), requires_grad=True) for shape in ((size,), (size, size))]
    reference = [torch.log_softmax(torch.tensor(rng.normal(size=shape)), -1) for shape in ((size,), (size, size))]

    def of_pairs(first, second):
        return torch.stack([first[:, None].expand(size, size), second], -1).reshape(-1, 2)  # (pairs, 2)

    return logits, of_pairs(*(torch.log_softmax(values, -1) for values in logits)), of_pairs(*reference)


def gradient_of(value, logits):
    found = torch.autograd.grad(value, logits, retain_graph=True)
    return torch.cat([part.flatten() for part in found])


def test_k1_in_the_reward_is_the_gradient_of_the_sequence_kl_and_the_unbiased_kl_is_not():
    """Over every sequence of two tokens, on-policy: an earlier token answers for the KL of the later one, or not."""
    logits, logprobs, reference = two_steps()
    probability = logprobs.sum(1).exp()
    kl = gradient_of((probability * (logprobs - reference).sum(1)).sum(), logits)

    credited = []
    for old, ref in zip(logprobs.detach().numpy(), reference.numpy(), strict=True):
        episode = Episode(np.zeros(2), np.zeros(2, int), old, ref)
        Grpo(kl_weight=1.0, kl="k1", kl_in="reward").credit([episode])
        credited.append(episode.advantages)
    pushed = gradient_of((probability.detach()[:, None] * torch.tensor(np.array(credited)) * logprobs).sum(), logits)
    torch.testing.assert_close(-pushed, kl, rtol=1e-10, atol=1e-12)

    per_token = kl_estimate("unbiased", logprobs, reference, logprobs.detach())
    unbiased = gradient_of((probability.detach()[:, None] * per_token).sum(), logits)
    torch.testing.assert_close(unbiased[3:], kl[3:], rtol=1e-10, atol=1e-12)  # of the last token: the same
    assert (unbiased[:3] - kl[:3]).abs().max() > 0.05
    own = gradient_of((logprobs.exp() * (logprobs - reference)).reshape(3, 3, 2)[:, 0, 0].sum(), logits)
    torch.testing.assert_close(unbiased[:3], own[:3], rtol=1e-10, atol=1e-12)  # of the first: that of its own KL


def test_k1_in_the_loss_would_push_nowhere():
    logits, logprobs, reference = two_steps()
    per_token = kl_estimate("k1", logprobs, reference, logprobs.detach())
    pushed = gradient_of((logprobs.sum(1).exp().detach()[:, None] * per_token).sum(), logits)
    assert pushed.abs().max() < 1e-15


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
def test_the_kl_in_the_reward_is_that_of_the_token_and_of_all_later_ones(kl):
    """Rows of a trajectory, with what the environment wrote between its tokens, are one episode."""
    rng = np.random.default_rng(0)
    one, two, other = (sampled(rng, 9, 2, [(3, 2), (2, 0)]) for _ in range(3))
    forked = Trajectory(samples=[*one.samples, *two.samples], advantage=0.7)
    other.advantage, other.index = -0.3, 1
    batch = make_batch([forked, other])
    for row in batch.rows:
        row.reference = row.old + rng.normal(size=len(row.old))
    rows = list(batch.rows)
    assign_credit(batch, Grpo(kl_weight=0.2, kl=kl, kl_in="reward"))
    for mine, advantage in ((rows[:2], 0.7), (rows[2:], -0.3)):
        gap = np.concatenate([row.old - row.reference for row in mine]).astype(np.float64)  # log(π/π_ref)
        costs = {"k1": gap, "k2": gap**2 / 2, "k3": np.exp(-gap) + gap - 1}[kl]
        found = np.concatenate([row.advantages for row in mine])
        expected = [advantage - 0.2 * sum(costs[t:]) for t in range(len(gap))]
        assert found == pytest.approx(expected, rel=1e-6)
        assert len(found) == sum(len(row.trained) for row in mine)


def test_in_the_reward_the_loss_has_no_kl():
    tokens = make_tokens()
    method = Grpo(kl_weight=5.0, kl="k1", kl_in="reward")
    assert method.needs_reference
    assert method.loss(tokens).item() == Grpo().loss(tokens).item()


def test_the_reference_is_needed_with_a_kl_alone():
    assert Grpo(kl_weight=0.1).needs_reference
    assert not Grpo().needs_reference
    assert torch.isfinite(Grpo().loss(replace(make_tokens(), reference=None)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kl_weight": 0.1, "kl": "k1"}, "'k1' in the loss has no gradient in expectation, .*set kl_in = 'reward'"),
        (
            {"kl_weight": 0.1, "kl": "unbiased", "kl_in": "reward"},
            "'unbiased' is a gradient's .*in the reward use 'k1'",
        ),
        ({"reference_every": 5}, "reference_every moves a reference that nothing reads: set kl_weight, too"),
    ],
)
@pytest.mark.parametrize("name", ["grpo", "gspo", "reinforce_pp"])
def test_a_kl_that_means_nothing_is_refused(name, settings, said):
    with pytest.raises(ValueError, match=said):
        make_method({"name": name, **settings})


@pytest.mark.parametrize("settings", [{"kl_weight": 0.3}, {"kl_in": "reward"}])
def test_a_kl_that_is_in_the_loss_or_weighs_nothing_is_not_in_the_reward(settings):
    given = np.array([1.0, -1.0])
    episode = Episode(given, np.zeros(2, int), np.array([-1.0, -2.0]), np.array([-2.0, -0.5]))
    Grpo(**settings).credit([episode])
    assert episode.advantages.tolist() == given.tolist()
