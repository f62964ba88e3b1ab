import numpy as np
import pytest
import torch
from ragged import assert_follows, make_tokens, numbers

from grpo_agents.methods import coefficients, make_method
from grpo_agents.methods.cispo import Cispo


@pytest.mark.parametrize("cap", [0.7, 2.0, 5.0])
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_the_weighed_log_probability(cap, aggregation):
    def formula(x):
        weight = np.minimum(x.rho, cap) * x.a
        return weight * x.logp, weight

    assert_follows(Cispo(cap=cap, aggregation=aggregation), formula)


def test_no_token_loses_its_gradient():
    tokens = make_tokens(spread=3.0)
    assert numbers(tokens).rho.max() > 50
    assert coefficients(Cispo(), tokens).abs().min() > 0


def test_the_clip_fraction_is_where_the_cap_holds():
    tokens = make_tokens((4,))
    tokens.logprobs = tokens.old + torch.tensor([0.1, 4.9, 5.1, 60.0]).log()
    assert Cispo().figures(tokens)["clipped"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("setting", [{"clip_low": 0.1}, {"clip_high": 0.3}, {"dual_clip": 3.0}])
def test_bounds_that_it_does_not_have_are_refused(setting):
    with pytest.raises(ValueError, match=f"method 'cispo' does not use {next(iter(setting))}: leave it out"):
        make_method({"name": "cispo", **setting})
