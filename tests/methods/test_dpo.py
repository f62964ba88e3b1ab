from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import group_of, part_of, ragged_tokens, sampled, vector_of

from grpo_agents.advantage import AdvantageConfig, assign_advantages, score_group
from grpo_agents.learner.batch import make_batch
from grpo_agents.methods import coefficients
from grpo_agents.methods.dpo import Dpo
from grpo_agents.trajectory import Step

LENGTHS = (3, 1, 5, 2, 4, 3)


def test_a_rollout_of_which_nothing_is_learned_is_half_of_no_pair():
    group = group_of([1.0, 0.5, 0.0])
    for trajectory in group.trajectories:
        said = sampled(np.random.default_rng(0), 97, 3, [(4, 1)])
        trajectory.samples, trajectory.steps = said.samples, [Step(message={}, span=(3, 7))]
    group.trajectories[2].steps[0].message = {"tool_calls": [{"invalid": "no JSON"}]}
    assign_advantages([group], vector_of(outcome="max"), AdvantageConfig(drop=["unreadable"]), {}, Dpo())
    assert [trajectory.advantage for trajectory in group.trajectories] == [1, -1, None]
    assert make_batch(group.trajectories).trajectories == 2


def pairs(dtype=torch.float64, seed=0):
    """Three pairs, the better one not always first."""
    signs = np.repeat([1.0, -1.0, -1.0, 1.0, 1.0, -1.0], LENGTHS)
    return replace(ragged_tokens(LENGTHS, seed=seed, dtype=dtype), advantages=torch.tensor(signs, dtype=dtype))


def reference(tokens, beta, form):
    """DPO in plain Python: the loss, and the coefficient of every token times the number of pairs."""
    log_ratio = (tokens.logprobs - tokens.reference).detach().double().numpy()
    signs, lengths = tokens.advantages.numpy(), tokens.lengths.numpy()
    loss, found = 0.0, np.zeros(len(log_ratio))
    for pair in range(3):
        mine = tokens.group.numpy() == pair
        better, worse = mine & (signs > 0), mine & (signs < 0)
        if form == "textbook":
            difference = log_ratio[worse].sum() - log_ratio[better].sum()
            loss += np.log1p(np.exp(beta * difference)) / 3
            weight = beta / (1 + np.exp(-beta * difference))
            found[better], found[worse] = weight, -weight
        else:
            difference = log_ratio[worse].mean() - log_ratio[better].mean()
            loss += np.log1p(np.exp(beta * difference)) / (3 * beta)
            weight = 1 / (1 + np.exp(-beta * difference))  # σ(β worse − β better), as the table prints it
            found[better], found[worse] = weight / lengths[better], -weight / lengths[worse]
    return loss, found


@pytest.mark.parametrize("form", ["textbook", "length_normalised"])
@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_coefficients_are_the_formulas(form, beta, dtype, tolerance, seed):
    tokens = pairs(dtype, seed)
    method = Dpo(beta=beta, form=form)
    loss, expected = reference(tokens, beta, form)
    assert method.loss(tokens).item() == pytest.approx(loss, rel=tolerance)
    assert coefficients(method, tokens).numpy() * 3 == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("form", ["textbook", "length_normalised"])
def test_at_the_reference_every_pair_is_pushed_by_one_half(form):
    tokens = pairs()
    tokens = replace(tokens, reference=tokens.logprobs.detach())
    found = coefficients(Dpo(beta=0.3, form=form), tokens) * 3
    share = 0.3 if form == "textbook" else 1 / tokens.lengths
    torch.testing.assert_close(found, tokens.advantages * share / 2, rtol=1e-12, atol=0)


def test_a_pair_that_is_right_already_is_pushed_less():
    """Not σ(Δ), which would push it more."""
    tokens = pairs()
    log_ratio = 3 * tokens.advantages  # the better ones likelier
    right, wrong = (replace(tokens, reference=tokens.logprobs.detach() - sign * log_ratio) for sign in (1, -1))
    pushes = [coefficients(Dpo(beta=1.0), some).abs() for some in (right, wrong)]
    assert (pushes[0] < 0.1 * pushes[1]).all()
    figures = [Dpo(beta=1.0).figures(some) for some in (right, wrong)]
    assert [entry["pair_right"].tolist() for entry in figures] == [[1.0] * 18, [0.0] * 18]
    torch.testing.assert_close(figures[0]["margin"], -figures[1]["margin"])


@pytest.mark.parametrize("form", ["textbook", "length_normalised"])
def test_parts_of_whole_pairs_sum_to_the_whole(form):
    tokens, method = pairs(), Dpo(beta=0.5, form=form)
    whole = method.loss(tokens)
    for split in ([[0], [1], [2]], [[0, 2], [1]]):
        parts = [method.loss(part_of(tokens, torch.isin(tokens.group, torch.tensor(mine)))) for mine in split]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(method.loss(part_of(tokens, order)), whole, rtol=1e-12, atol=0)


def scores_of(returns, said=None):
    group = group_of(returns)
    rng = np.random.default_rng(0)
    for place, trajectory in enumerate(group.trajectories):
        trajectory.samples = sampled(rng, 9, 2, [(2, 1)]).samples if said is None or said[place] else []
    return score_group(group.trajectories, {}, vector_of(outcome="max"), AdvantageConfig(), {})


def test_a_pair_is_the_best_and_the_worst_of_a_group():
    found = Dpo().advantages([scores_of([0.5, 1.0, 0.0, 0.2]), scores_of([1.0, 1.0, 1.0]), scores_of([0.0, 1.0])])
    np.testing.assert_equal([array.tolist() for array in found], [[np.nan, 1, -1, np.nan], [np.nan] * 3, [-1, 1]])


def test_what_said_nothing_is_of_no_pair():
    """An episode whose prompt leaves no room has a return, and no token to push."""
    nothing, rest = scores_of([0.0, 0.5, 1.0], said=[False, True, True]), scores_of([0.0, 1.0], said=[False, True])
    found = Dpo().advantages([nothing, rest])
    np.testing.assert_equal([array.tolist() for array in found], [[np.nan, -1, 1], [np.nan] * 2])


def test_a_single_token_says_enough_for_a_pair():
    scores = scores_of([0.0, 1.0])
    for trajectory in scores.trajectories:
        trajectory.samples = sampled(np.random.default_rng(0), 9, 2, [(1, 1)]).samples
    assert Dpo().advantages([scores])[0].tolist() == [-1, 1]


def test_what_it_asks_for():
    method = Dpo()
    assert (method.unit, method.needs_reference, method.sources[0]) == ("group", True, "pairs")
    assert not method.gradient_only_from_advantages(0.0)
