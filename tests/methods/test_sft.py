import numpy as np
import pytest
import torch
from tiny import part_of, ragged_tokens

from grpo_agents.methods import Tokens, coefficients, make_method
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


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_coefficient_of_ragged_dialogues(aggregation, dtype, tolerance):
    """Coefficient 1, over |o| of each dialogue or over the tokens of the batch."""
    lengths = (3, 1, 5, 2)
    tokens = ragged_tokens(lengths, dtype=dtype)
    tokens.advantages = torch.ones_like(tokens.advantages)
    method = Sft(aggregation=aggregation)
    shares = np.repeat([1 / (4 * n) if aggregation == "sequence" else 1 / 11 for n in lengths], lengths)
    loss = -(shares * tokens.logprobs.detach().double().numpy()).sum()
    assert method.loss(tokens).item() == pytest.approx(loss, rel=tolerance)
    assert coefficients(method, tokens).numpy() == pytest.approx(shares, rel=tolerance)
    parts = [method.loss(part_of(tokens, slice(start, start + 4))) for start in (0, 4, 8)]
    torch.testing.assert_close(sum(parts), method.loss(tokens))


def test_it_learns_from_demonstrations_and_needs_no_group():
    method = Sft()
    assert method.sources == ("demonstrations",)
    assert not method.normalises_by_group
    assert not method.needs_reference


def test_a_constant_length_which_it_has_not_is_refused():
    with pytest.raises(ValueError, match=r"method\.aggregation: .*'sequence' or 'token'"):
        make_method({"name": "sft", "aggregation": "constant"})
