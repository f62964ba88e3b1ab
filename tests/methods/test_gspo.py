import numpy as np
import pytest
import torch
from pydantic import ValidationError
from ragged import assert_follows, clipped, make_tokens, numbers, sums

from grpo_agents.methods import coefficients, make_method
from grpo_agents.methods.gspo import Gspo


def sequence_ratio(x):
    """(π(o)/π_old(o))^{1/|o|}, by products."""
    ratio = np.empty(len(x.rho))
    for one in set(x.whose.tolist()):
        ratio[x.whose == one] = np.prod(x.rho[x.whose == one]) ** (1 / (x.whose == one).sum())
    return ratio


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
@pytest.mark.parametrize(("low", "high", "spread"), [(3e-4, 4e-4, 4e-4), (3e-4, 4e-4, 1.0), (0.3, 0.6, 1.0)])
def test_a_trajectory_has_one_ratio_and_one_clip(aggregation, low, high, spread):
    def formula(x):
        return clipped(sequence_ratio(x), x.a, low, high)

    assert_follows(Gspo(clip_low=low, clip_high=high, aggregation=aggregation), formula, spread=spread)


def test_its_defaults_are_the_papers():
    assert (Gspo().clip_low, Gspo().clip_high, Gspo().kl_weight) == (3e-4, 4e-4, 0)


def test_every_token_of_a_trajectory_has_the_same_coefficient():
    tokens = make_tokens(spread=1e-4)
    found, x = coefficients(Gspo(), tokens).numpy(), numbers(tokens)
    assert found == pytest.approx(sums(found, x.whose) / x.length, rel=1e-12)
    assert np.abs(found).min() > 0


def test_its_weights_against_the_sampler_are_those_of_whole_trajectories():
    def formula(x):
        weight = np.clip(np.exp(sums(x.old - x.sampler, x.whose)), 0.4, 2.0)
        return tuple(weight * value for value in clipped(sequence_ratio(x), x.a, 0.3, 0.6))

    assert_follows(Gspo(clip_low=0.3, clip_high=0.6, tis=2.0, importance_low=0.4), formula)


@pytest.mark.parametrize("correction", ["tis", "mis"])
def test_weights_of_single_tokens_are_refused(correction):
    with pytest.raises(ValueError, match=r"importance_level = 'token'.* one ratio for a whole trajectory"):
        make_method({"name": "gspo", correction: 2.0, "importance_level": "token"})


def test_the_clip_fraction_is_that_of_trajectories():
    """Single ratios are far outside the clip, and their geometric mean is 1."""
    tokens = make_tokens((2, 2))
    tokens.logprobs = tokens.old + torch.tensor([1.0, -1.0, 2.0, -2.0])
    assert Gspo().figures(tokens)["clipped"].tolist() == [0, 0, 0, 0]
    tokens.advantages = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    tokens.logprobs = tokens.old + torch.tensor([1.0, -0.9, 2.0, -1.9])
    assert Gspo().figures(tokens)["clipped"].tolist() == [1, 1, 0, 0]


def test_the_level_is_the_trajectorys_without_being_told():
    with pytest.raises(ValidationError, match="'token' or 'sequence'"):
        Gspo(importance_level="word")
    assert Gspo(tis=2.0).importance_level == "sequence"
    assert Gspo().unit == "trajectory"


def test_turns_of_their_own_advantage_are_refused():
    """Its one ratio pushes all tokens of a trajectory by the mean of their advantages."""
    with pytest.raises(ValueError, match="method 'gspo' does not use supervision"):
        make_method({"name": "gspo", "supervision": "process"})
