"""The relatives that differ in what they sum over (Dr. GRPO, DAPO, BNPO), and the dual clip."""

import numpy as np
import pytest
import torch
from ragged import LENGTHS, assert_follows, clipped, make_tokens, select

from grpo_agents.methods import coefficients, make_method
from grpo_agents.methods.bnpo import Bnpo
from grpo_agents.methods.dapo import Dapo
from grpo_agents.methods.dr_grpo import DrGrpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.gspo import Gspo
from grpo_agents.methods.surrogate import sum_by_unit


def surrogate(low, high):
    return lambda x: clipped(x.rho, x.a, low, high)


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [
        (DrGrpo(max_length=9), 0.2, 0.2),
        (Dapo(), 0.2, 0.28),
        (Bnpo(), 0.2, 0.2),
        (Grpo(), 0.2, 0.2),
        (Grpo(clip_low=0.05, clip_high=1.5), 0.05, 1.5),
        (DrGrpo(max_length=9, clip_low=0.5, clip_high=0.1), 0.5, 0.1),
    ],
)
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_the_clipped_surrogate(method, low, high, spread):
    assert_follows(method, surrogate(low, high), spread=spread)


def test_what_the_papers_set():
    assert (DrGrpo(max_length=9).aggregation, DrGrpo(max_length=9).scale) == ("constant", "none")
    assert (Dapo().aggregation, Dapo().clip_low, Dapo().clip_high, Dapo().kl_weight) == ("token", 0.2, 0.28, 0)
    assert Dapo().most_resamples > 0
    assert Bnpo().aggregation == "token"


def test_what_a_token_weighs():
    """Equal advantages on-policy: 1/(B·L) with Dr. GRPO, 1/Σ|o| with DAPO and BNPO, 1/(B·|o|) with GRPO."""
    tokens = make_tokens(LENGTHS, spread=0.0)
    tokens.advantages = torch.ones(sum(LENGTHS), dtype=torch.float64)
    lengths = np.repeat(LENGTHS, LENGTHS)
    weights = {DrGrpo(max_length=9): 1 / (6 * 9), Dapo(): 1 / 21, Bnpo(): 1 / 21, Grpo(): 1 / (6 * lengths)}
    for method, weight in weights.items():
        assert coefficients(method, tokens).numpy() == pytest.approx(np.broadcast_to(weight, 21), rel=1e-12)


def test_bnpo_counts_the_tokens_of_the_global_batch_and_not_of_a_micro_batch():
    tokens = make_tokens(LENGTHS)
    whole, part = coefficients(Bnpo(), tokens), coefficients(Bnpo(), select(tokens, torch.arange(4)))
    torch.testing.assert_close(part, whole[:4], rtol=1e-12, atol=0)


@pytest.mark.parametrize("bound", [1.5, 3.0])
def test_the_dual_clip_bounds_what_a_negative_advantage_counts(bound):
    bounded = []

    def formula(x):
        value, slope = clipped(x.rho, x.a, 0.2, 0.28)
        held = (x.a < 0) & (value < bound * x.a)
        bounded.append(held.any())
        return np.where(held, bound * x.a, value), np.where(held, 0.0, slope)

    assert_follows(Grpo(clip_high=0.28, dual_clip=bound), formula, spread=1.5)
    assert any(bounded)


def test_the_dual_clip_by_hand():
    """ρ = 20 with Â = −1 counts 10 and has no gradient; with Â = 1 the usual clip holds."""
    tokens = make_tokens((1,) * 3)
    tokens.logprobs = (tokens.old + torch.tensor([20.0, 9.0, 20.0]).log()).detach()
    tokens.advantages = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    method = Grpo(clip_high=0.28, dual_clip=10.0, aggregation="token")
    assert method.loss(tokens).item() == pytest.approx((10 + 9 - 1.28) / 3, rel=1e-6)
    assert coefficients(method, tokens).tolist() == pytest.approx([0, -3, 0], rel=1e-6)
    assert method.figures(tokens)["clipped"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "settings", [{"name": "dr_grpo"}, {"aggregation": "constant"}, {"max_length": 5}, {"name": "dapo", "max_length": 5}]
)
def test_constant_aggregation_and_its_length_go_together(settings):
    with pytest.raises(ValueError, match="aggregation = 'constant' and max_length go together: set both or neither"):
        make_method(settings)


def test_a_dual_clip_below_one_is_refused():
    with pytest.raises(ValueError, match=r"method\.dual_clip: .*greater than 1"):
        make_method({"dual_clip": 0.9})


@pytest.mark.parametrize("method", [
    Grpo(), Dapo(), Grpo(clip_low=0.5, clip_high=0.1), Grpo(dual_clip=1.5), Gspo(clip_low=0.1, clip_high=0.2),
])  # fmt: skip
def test_what_is_called_clipped_is_what_has_no_gradient(method):
    seen = set()
    for seed in range(4):
        tokens = make_tokens(LENGTHS, seed=seed, spread=0.5)
        found = method.is_clipped(tokens)
        assert found.tolist() == (coefficients(method, tokens) == 0).tolist()
        seen |= set(zip(found.tolist(), (tokens.advantages > 0).tolist(), strict=True))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_sums_of_units_in_any_order():
    values, unit = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([2, 0, 2, 1])
    assert sum_by_unit(values, unit).tolist() == [2.0, 8.0, 1.0 + 4.0]
    assert sum_by_unit(values[:0], unit[:0]).tolist() == []
