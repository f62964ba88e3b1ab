import pytest
import torch

from grpo_agents.methods import Tokens, coefficients
from grpo_agents.methods.sft import Sft


def tokens(count=7, batch=20):
    values = torch.linspace(-3, -0.1, count, dtype=torch.float64)
    zeros = torch.zeros(count, dtype=torch.float64)
    return Tokens(values, zeros, zeros, None, zeros, zeros + 1, zeros + count, *[zeros.long()] * 3, batch, 3)


def test_the_coefficient_is_one_over_the_tokens_of_the_global_batch():
    assert coefficients(Sft(aggregation="token"), tokens()).tolist() == [1 / 20] * 7
    assert coefficients(Sft(), tokens()).tolist() == pytest.approx([1 / 7 / 3] * 7)  # (1/|o|) of 3 trajectories


def test_the_loss_is_the_mean_negative_log_likelihood():
    assert Sft(aggregation="token").loss(tokens(5, 5)).item() == pytest.approx(1.55)


def test_it_learns_from_demonstrations_and_needs_no_group():
    method = Sft()
    assert method.sources == ("demonstrations",)
    assert not method.normalises_by_group
    assert not method.needs_reference
