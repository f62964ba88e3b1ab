"""docs/theory.md: formulas beside independent numbers, tables beside what was kept, links beside files."""

import re
import sys
from math import comb

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import REPOSITORY, ragged_tokens

from grpo_agents.advantage import AdvantageConfig
from grpo_agents.methods import coefficients, make_method
from grpo_agents.methods.surrogate import kl_estimate
from grpo_agents.rewards.component import RewardVector
from grpo_agents.trajectory import Group

sys.path.insert(0, str(REPOSITORY / "examples" / "theory"))

import costs
import landscapes
import off_policy
import pictures
import practice
import theory
from table_policy import TablePolicy, episode

PAGE = (REPOSITORY / "docs" / "theory.md").read_text(encoding="utf-8")
RESULTS = theory.read_results()


# The page


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", PAGE))))
def test_links_lead_somewhere(link):
    path, _, anchor = link.partition("#")
    if not path:
        heads = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
    elif not path.startswith("https://"):
        assert (REPOSITORY / "docs" / path).exists()


def test_it_is_linked_from_the_readme():
    assert "(docs/theory.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results():
    assert theory.with_tables(PAGE) == PAGE


@pytest.mark.parametrize("name", theory.EXPERIMENTS)
def test_there_are_five_seeds_of_each_experiment_or_more(name):
    seeds = [run["seed"] for run in RESULTS[name]]
    assert len(set(seeds)) == len(seeds) >= 5


def test_pictures_are_drawn_of_the_results(tmp_path):
    pictures.draw(RESULTS, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        file.name for file in (REPOSITORY / "docs" / "theory").iterdir()
    }


# What was kept is what the code does


@pytest.mark.parametrize("arm", ["Online RFT", "GRPO"])
def test_the_kept_runs_begin_as_the_present_code_does(arm, monkeypatch):
    monkeypatch.setattr(off_policy, "STEPS", 3)
    found = off_policy.learn(0, *off_policy.ARMS[arm])["curve"]
    assert found == pytest.approx(RESULTS["off_policy"][0]["arms"][arm]["curve"][:4], abs=2e-4)
    assert found[0] == pytest.approx(np.mean(0.25 ** np.arange(1, 13)), abs=1e-4)


@pytest.mark.parametrize("arm", practice.SAMPLERS)
def test_so_do_those_of_the_curriculum(arm, monkeypatch):
    monkeypatch.setattr(practice, "STEPS", 4)
    found = practice.learn(0, practice.SAMPLERS[arm])["curve"]
    assert found == pytest.approx(RESULTS["practice"][0]["arms"][arm]["curve"][:5], abs=2e-4)


@pytest.mark.parametrize("arm", landscapes.REWARDS)
def test_so_do_those_of_the_rewards(arm, monkeypatch):
    monkeypatch.setattr(landscapes, "STEPS", 10)
    found = landscapes.learn(0, landscapes.REWARDS[arm])["path"]
    kept = RESULTS["landscapes"][0]["arms"][arm]["path"][:2]
    assert np.array(found) == pytest.approx(np.array(kept), abs=2e-3)


def test_so_do_the_costs():
    for found, kept in zip(costs.run(), RESULTS["costs"], strict=True):
        assert found["method"] == kept["method"]
        for name in ("flops", "bytes"):
            assert found[name] == pytest.approx(kept[name])


# Section 1


def better_less_worse(tokens, mean):
    """β = 0.1 times the difference of log π/π_ref of each pair, on each of its tokens, by loops."""
    ratio = (tokens.logprobs - tokens.reference).detach().numpy() * tokens.advantages.numpy()
    if mean:
        ratio = ratio / tokens.lengths.numpy()
    groups = tokens.group.tolist()
    of = {group: sum(value for value, whose in zip(ratio, groups, strict=True) if whose == group) for group in groups}
    return np.array([0.1 * of[group] for group in groups])


def test_each_coefficient_is_that_of_the_table():
    tokens = ragged_tokens()
    signs = torch.where(tokens.trajectory % 2 == 0, 1.0, -1.0).double()
    right = (signs > 0).double()
    length, u = tokens.lengths.numpy(), (tokens.reference - tokens.logprobs).exp().detach().numpy()
    rho, a = (tokens.logprobs - tokens.old).exp().detach().numpy(), tokens.advantages.numpy()
    gate = ~(((a > 0) & (rho > 1.2)) | ((a < 0) & (rho < 0.8)))
    assert 0 < gate.sum() < len(gate)

    def pushed(settings, advantages, units):
        chosen = make_method(settings)
        tokens.advantages = advantages
        return coefficients(chosen, tokens).numpy() * length * units

    surrogate, everyone = tokens.advantages, tokens.batch_trajectories
    assert pushed({"name": "sft"}, torch.ones_like(signs), everyone) == pytest.approx(1)
    assert pushed({"name": "online_rft"}, right, everyone) == pytest.approx(right.numpy())
    grpo = pushed({"name": "grpo", "kl_weight": 0.3}, surrogate, everyone)
    assert grpo == pytest.approx(gate * rho * a + 0.3 * (u - 1))
    for form, factor in (("textbook", 0.1 * length), ("length_normalised", 1)):
        found = pushed({"name": "dpo", "form": form}, signs, everyone / 2)
        margin = better_less_worse(tokens, form == "length_normalised")
        assert found == pytest.approx(signs.numpy() * factor / (1 + np.exp(margin)))


# Section 2


@pytest.mark.parametrize(("estimator", "forward"), [("k3", False), ("unbiased", True), ("k2", True)])
def test_what_the_kl_term_pulls_towards(estimator, forward):
    """Its expected gradient under the policy, which sampled, beside that of either divergence."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=6), requires_grad=True)
    policy, reference = torch.log_softmax(logits, -1), torch.log_softmax(torch.tensor(rng.normal(size=6)), -1)
    fixed = policy.detach()
    value = (fixed.exp() * kl_estimate(estimator, policy, reference, fixed)).sum()
    to, of = (policy, reference) if forward else (reference, policy)
    expected = (to.exp() * (to - of)).sum()
    assert torch.autograd.grad(value, logits, retain_graph=True)[0].numpy() == pytest.approx(
        torch.autograd.grad(expected, logits)[0].numpy()
    )


def test_what_a_task_weighs_at_one_in_a_hundred():
    said = re.search(r"At \$p=0.01\$ these are ([\d.]+), ([\d.]+) and ([\d.]+)\.", PAGE).groups()
    p = 0.01
    assert [float(value) for value in said] == pytest.approx([np.sqrt(p * (1 - p)), p * (1 - p), 1 - p], rel=5e-3)


def test_dividing_by_the_deviation_climbs_the_arcsine():
    p, step = 0.3, 1e-6
    slope = (np.arcsin(np.sqrt(p + step)) - np.arcsin(np.sqrt(p - step))) / step
    assert slope == pytest.approx(1 / np.sqrt(p * (1 - p)), rel=1e-6)


def test_the_picture_of_pushes_sums_over_groups():
    """Drawn at random instead: 200,000 groups of eight."""
    rng, p = np.random.default_rng(0), 0.2
    rewards = (rng.random((200_000, 8)) < p).astype(float)
    difference = rewards - rewards.mean(1, keepdims=True)
    pushed = (difference * (rewards - p)).sum(1).mean() / 8  # ∂ log π/∂θ = R − p
    assert pictures.expected_push(p, 8, lambda values: values - values.mean()) == pytest.approx(pushed, rel=0.02)
    assert pushed == pytest.approx(7 / 8 * p * (1 - p), rel=0.02)


# Section 3


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_rft_ends_at_the_sampler_given_that_it_is_right(aggregation):
    """Three rollouts: one token (right), or a second one after it (right or wrong), as often as π_0 says."""
    table = np.array([[0.3, 0.7], [0.4, 0.6]])
    kinds = [([0], [0], 1.0, 15), ([0, 1], [1, 0], 1.0, 14), ([0, 1], [1, 1], 0.0, 21)]
    rollouts = [
        episode(table, states, actions, {"outcome": outcome})
        for states, actions, outcome, count in kinds
        for _ in range(count)
    ]
    policy, method = TablePolicy(np.log(table), lr=0.1), make_method({"name": "rft", "aggregation": aggregation})
    for _ in range(150):
        policy.learn([Group({}, {}, rollouts)], method, RewardVector(["outcome"]), AdvantageConfig())
    short, long = (0.3, 0.28) if aggregation == "token" else (0.3, 0.28 / 2)
    assert policy.table()[0, 0] == pytest.approx(short / (short + long), abs=0.005)
    assert policy.table()[1, 0] > 0.99


@pytest.mark.parametrize("shift", off_policy.SHIFTS)
def test_the_second_moment_of_a_coins_weight(shift):
    assert off_policy.second_moment(shift) == pytest.approx(1 + np.tanh(shift / 2) ** 2)


def test_more_passes_over_frozen_samples_reach_no_further_than_they_do():
    for run in RESULTS["off_policy"]:
        arm = run["arms"]["RFT, frozen, 5 passes"]
        assert arm["final"] < (arm["longest"] + 0.4) / off_policy.SKILLS
        assert arm["right"][arm["longest"] :] == pytest.approx([0.25] * (off_policy.SKILLS - arm["longest"]))


# Section 4


@pytest.mark.parametrize("name", landscapes.REWARDS)
def test_a_surface_is_what_episodes_earn(name):
    reward = landscapes.REWARDS[name]
    rng, calls, answers = np.random.default_rng(0), 0.6, 0.3
    table = np.array([[1 - calls, calls], [answers, 1 - answers]])
    earned = []
    for _ in range(400):
        for trajectory in landscapes.sample_group(table, reward, rng).trajectories:
            saved = 1 - trajectory.rewards["calls"] / 2
            values = {**trajectory.rewards, "calls": saved}
            total = sum(weight * values[key] for key, weight in reward.preference.items())
            earned.append(total * (values["outcome"] if reward.config.gate else 1))
    expected = landscapes.surface(reward, np.array(calls), np.array(answers))
    assert np.mean(earned) == pytest.approx(expected, abs=0.035)


def test_thresholds_of_calling_are_those_of_the_page():
    thresholds = []
    for reward in landscapes.REWARDS.values():
        at_once, answered, twice = landscapes.corners(reward)
        thresholds.append((at_once - twice) / (answered - twice))
    assert thresholds[0] == pytest.approx(1 / 8)
    assert thresholds[1] < 0
    assert thresholds[2] == pytest.approx(0.846, abs=5e-4)
    assert thresholds[4] == pytest.approx(0.19, abs=5e-3)


# Section 6


@pytest.mark.parametrize(("p", "said"), [(0.05, 0.34), (0.5, 0.99)])
def test_how_likely_a_group_is_informative(p, said):
    mixed = sum(comb(8, right) * p**right * (1 - p) ** (8 - right) for right in range(1, 8))
    assert 1 - p**8 - (1 - p) ** 8 == pytest.approx(mixed)
    assert mixed == pytest.approx(said, abs=5e-3)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (3, 1), (1.5, 7)])
def test_the_expected_variance_of_a_beta(a, b):
    assert stats.beta(a, b).expect(lambda p: p * (1 - p)) == pytest.approx(a * b / ((a + b) * (a + b + 1)))
