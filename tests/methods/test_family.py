"""What every relative of GRPO shares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ragged import LENGTHS, advantages_on_tokens, episode, groups_of, make_tokens, off_policy, select

from grpo_agents.methods import available, coefficients, make_method
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.ppo import Ppo
from grpo_agents.trajectory import Group

FAMILY = sorted(name for name, cls in available().items() if issubclass(cls, Grpo) and cls is not Ppo)
NEEDED = {"dr_grpo": {"max_length": 9}}
EXTRAS = [
    {},
    {"kl_weight": 0.1, "entropy_bonus": 0.2, "entropy_tokens": 2},
    {"kl_weight": 0.1, "kl": "unbiased", "tis": 1.3, "importance_level": "sequence"},
    {"mis": 1.3, "importance_low": 0.6, "importance_level": "sequence", "off_policy_mask": 0.2},
    {"kl_weight": 0.1, "kl": "k2", "off_policy_mask": 0.0},
]


def make(name, **settings):
    return make_method({"name": name, **NEEDED.get(name, {}), **settings})


def test_the_whole_family_is_here():
    assert FAMILY == ["bnpo", "cispo", "dapo", "dr_grpo", "gdpo", "gigpo", "grpo", "gspo", "maxrl", "mt_grpo",
                      "reinforce_pp", "reinforce_pp_baseline", "rloo", "sapo"]  # fmt: skip


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("extra", EXTRAS)
def test_parts_that_keep_what_belongs_together_sum_to_the_whole(name, extra):
    method, tokens = make(name, **extra), off_policy(make_tokens(LENGTHS, seed=1), 0.5)
    whole, coefficient = method.loss(tokens), coefficients(method, tokens)
    unit = torch.arange(sum(LENGTHS)) if method.unit == "token" else getattr(tokens, method.unit)
    rng = np.random.default_rng(0)
    for parts in (1, 2, 4, int(unit.max()) + 1):
        where = torch.tensor(rng.permutation(int(unit.max()) + 1) % parts)[unit]
        loss, found = 0.0, torch.zeros_like(coefficient)
        for part in range(parts):
            places = (where == part).nonzero()[:, 0]
            places = places[torch.tensor(rng.permutation(len(places)))]
            loss = loss + method.loss(select(tokens, places))
            found[places] = coefficients(method, select(tokens, places))
        torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found, coefficient, rtol=1e-12, atol=1e-14)


def walks(rng, returns):
    return Group({}, {}, [episode(rng, [0.5, reward], sees=["start", "door", "end"]) for reward in returns])


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_the_order_of_groups_changes_nothing(name, scale):
    settings = {} if "scale" in available()[name].unused else {"scale": scale}
    returns = [[1, 0, 0, 0.2], [0.3, 2.0], [0.1, 0.1, 0.1], [5.0], [0, 1, 1]]

    def learned(order):
        groups = {number: walks(np.random.default_rng(number), returns[number]) for number in order}
        tokens = advantages_on_tokens(make(name, **settings), list(groups.values()))
        found = tokens.advantages.split([sum(one.sampled_tokens for one in g.trajectories) for g in groups.values()])
        return dict(zip(order, found, strict=True))

    straight, mixed = learned(range(5)), learned([3, 1, 4, 0, 2])
    for number in range(5):
        torch.testing.assert_close(mixed[number], straight[number], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in FAMILY if make(name).normalises_by_group])
@pytest.mark.parametrize("equal", [[0.1] * 3, [0.0, 0.0], [0.7], [1 / 3, 0.1 + 0.7 / 3, np.nextafter(1 / 3, 1)]])
def test_equal_rewards_and_a_group_of_one_push_nothing(name, equal):
    rng = np.random.default_rng(0)
    method = make(name)
    tokens = advantages_on_tokens(method, [walks(rng, equal), walks(rng, [1, 0, 0])])
    silent = tokens.group == 0
    assert (tokens.advantages[silent] == 0).all()
    on_policy = replace(tokens, old=tokens.logprobs)
    assert (coefficients(method, on_policy)[silent] == 0).all()
    assert (coefficients(method, on_policy)[~silent] != 0).any()


def test_who_needs_no_group():
    assert [name for name in FAMILY if not make(name).normalises_by_group] == ["reinforce_pp"]


@pytest.mark.parametrize("name", FAMILY)
def test_at_the_start_the_coefficient_is_the_advantage(name):
    """π = π_old: no clip, gate or cap is felt, and a token's coefficient is its share of Â."""
    rng = np.random.default_rng(0)
    method = make(name, aggregation="token") if name != "dr_grpo" else make(name)
    tokens = advantages_on_tokens(method, groups_of(rng, [1, 0, 0, 0], [0.3, 2.0, 0.7]))
    on_policy = replace(tokens, old=tokens.logprobs)
    share = 1 / tokens.batch_tokens if name != "dr_grpo" else 1 / (7 * 9)
    torch.testing.assert_close(coefficients(method, on_policy), share * tokens.advantages, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", FAMILY)
def test_settings_are_read_back_as_they_were(name):
    method = make(name)
    assert make_method({"name": name, **method.settings()}) == method
