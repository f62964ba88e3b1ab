"""What one task of a yes/no reward pushes in expectation, by enumeration of every group of G rollouts."""

from math import comb

import numpy as np
import pytest
import torch
from ragged import make_tokens
from tiny import group_of, vector_of

from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.methods.cispo import Cispo
from grpo_agents.methods.dr_grpo import DrGrpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.maxrl import MaxRl
from grpo_agents.methods.rloo import Rloo


def expected_push(method, p, size):
    """E[−∇loss] in units of ∇p, for a policy of one token, right with probability p = σ(θ)."""
    logit = torch.tensor(np.log(p / (1 - p)), requires_grad=True)
    right, wrong = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
    total = torch.zeros((), dtype=torch.float64)
    for correct in range(size + 1):
        rewards = [1.0] * correct + [0.0] * (size - correct)
        group = group_of(rewards)
        assign_advantages([group], vector_of(outcome="max"), AdvantageConfig(), {}, method)
        tokens = make_tokens((1,) * size)
        tokens.logprobs = torch.stack([right] * correct + [wrong] * (size - correct))
        tokens.old = tokens.logprobs.detach()
        tokens.advantages = torch.tensor([one.advantage for one in group.trajectories], dtype=torch.float64)
        chance = comb(size, correct) * p**correct * (1 - p) ** (size - correct)
        total = total + chance * method.loss(tokens)
    (gradient,) = torch.autograd.grad(total, logit)
    return -gradient.item() / (p * (1 - p))


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("size", [2, 5, 8])
def test_dr_grpo_pushes_by_the_success_rate_less_one_share_and_rloo_by_all_of_it(p, size):
    assert expected_push(DrGrpo(max_length=1), p, size) == pytest.approx((size - 1) / size, rel=1e-9)
    assert expected_push(Rloo(), p, size) == pytest.approx(1, rel=1e-9)
    assert expected_push(Cispo(scale="none"), p, size) == pytest.approx((size - 1) / size, rel=1e-9)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_grpo_pushes_by_the_inverse_of_the_deviation(p):
    """Large groups; of small ones the deviation is rough, and those without any are silent."""
    expected = 1 / np.sqrt(p * (1 - p))
    assert expected_push(Grpo(), p, 256) == pytest.approx(expected, rel=0.02)
    assert abs(expected_push(Grpo(), p, 4) / expected - 1) > 0.02


@pytest.mark.parametrize(
    ("size", "p"), [*((size, p) for size in (2, 5) for p in (0.05, 0.3, 0.5, 0.9)), (256, 0.05), (256, 0.5)]
)
def test_maxrl_pushes_by_the_logarithm_of_the_success_rate(p, size):
    """∇p/p = ∇ log p; exactly ∇p/p · (1 − (1−p)^{G−1}), as a group without success is silent."""
    push = expected_push(MaxRl(), p, size)
    assert push == pytest.approx((1 - (1 - p) ** (size - 1)) / p, rel=1e-9)
    assert size < 256 or push == pytest.approx(1 / p, rel=1e-4)
