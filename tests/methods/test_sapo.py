from dataclasses import replace

import numpy as np
import pytest
import torch
from ragged import assert_follows, make_tokens, numbers

from grpo_agents.methods import coefficients, make_method
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.sapo import Sapo


@pytest.mark.parametrize("temperatures", [(1.0, 1.05), (0.3, 4.0)])
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_the_soft_gate(temperatures, aggregation):
    def formula(x):
        tau = np.where(x.a > 0, *temperatures)
        gate = 1 / (1 + np.exp(-tau * (x.rho - 1)))
        return 4 / tau * gate * x.a, 4 * gate * (1 - gate) * x.rho * x.a

    positive, negative = temperatures
    assert_follows(Sapo(tau_positive=positive, tau_negative=negative, aggregation=aggregation), formula)


def test_its_defaults_are_the_papers():
    assert (Sapo().tau_positive, Sapo().tau_negative) == (1.0, 1.05)


def test_on_policy_it_is_grpo():
    """4 σ(0) (1 − σ(0)) = 1, whatever τ."""
    tokens = make_tokens()
    on_policy = replace(tokens, old=tokens.logprobs.detach())
    found = coefficients(Sapo(tau_positive=0.2, tau_negative=7.0), on_policy)
    torch.testing.assert_close(found, coefficients(Grpo(), on_policy), rtol=1e-12, atol=0)


def test_what_is_far_off_fades_and_is_never_cut():
    tokens = make_tokens((1,) * 4)
    tokens.advantages = torch.ones(4, dtype=torch.float64)
    tokens.logprobs = tokens.old + torch.tensor([2.0, 3.0, 5.0, 8.0]).log()
    found = coefficients(Sapo(), tokens)
    assert (found > 0).all()
    assert (found.diff() < 0).all()
    assert numbers(tokens).rho.max() > 7
    assert Sapo().figures(tokens)["clipped"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("setting", [{"clip_low": 0.1}, {"clip_high": 0.3}, {"dual_clip": 3.0}])
def test_hard_bounds_are_refused(setting):
    with pytest.raises(ValueError, match=f"method 'sapo' does not use {next(iter(setting))}: leave it out"):
        make_method({"name": "sapo", **setting})
