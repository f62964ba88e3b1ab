"""Ragged trajectories of random numbers, and what formulas in float64 say of them."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import sampled, vector_of

from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.learner.batch import assign_credit, make_batch
from grpo_agents.methods import Tokens, coefficients
from grpo_agents.trajectory import Group, Step

LENGTHS = (3, 1, 5, 2, 4, 6)


def make_tokens(lengths=(3, 1, 5, 2), *, seed=0, spread=1.0, progress=0.0, centred=False):
    """Ragged trajectories of random log-probabilities, in float64."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    old = rng.normal(-2, 1, count)
    advantages = rng.normal(size=len(lengths))
    if centred:
        advantages -= advantages.mean()

    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=torch.float64)

    return Tokens(
        logprobs=tensor(old + spread * rng.normal(size=count)).requires_grad_(True),
        sampler=tensor(old + 0.01),
        old=tensor(old),
        reference=tensor(old + 0.7 * spread * rng.normal(size=count)),
        entropy=tensor(rng.uniform(0, 3, count)).requires_grad_(True),
        advantages=tensor(np.repeat(advantages, lengths)),
        lengths=tensor(np.repeat(lengths, lengths)),
        turn_position=torch.tensor([place for length in lengths for place in range(length)]),
        trajectory=torch.tensor(np.repeat(np.arange(len(lengths)), lengths)),
        group=torch.tensor(np.repeat(np.arange(len(lengths)) // 2, lengths)),
        batch_tokens=count,
        batch_trajectories=len(lengths),
        progress=progress,
    )


def off_policy(tokens, spread, seed=5):
    """The same tokens, sampled by another policy than π_old."""
    noise = np.random.default_rng(seed).normal(0, spread, len(tokens.old))
    return replace(tokens, sampler=tokens.old + torch.tensor(noise))


def select(tokens, places):
    """Some of the tokens, as a part of the same global batch: trajectories and groups are counted anew."""
    part = {
        field.name: value.detach()[places]
        for field in fields(Tokens)
        if isinstance(value := getattr(tokens, field.name), torch.Tensor)
    }
    for unit in ("trajectory", "group"):
        part[unit] = part[unit].unique(return_inverse=True)[1]
    return replace(tokens, **part)


def numbers(tokens):
    """What formulas speak of, as arrays in float64: ρ, Â, the four log-probabilities, and whose each token is."""
    logp, old, sampler, ref, advantages = (
        getattr(tokens, name).detach().double().numpy()
        for name in ("logprobs", "old", "sampler", "reference", "advantages")
    )
    whose = tokens.trajectory.numpy()
    length = np.bincount(whose)[whose]
    return SimpleNamespace(rho=np.exp(logp - old), a=advantages, logp=logp, old=old, sampler=sampler, ref=ref,
                           whose=whose, length=length)  # fmt: skip


def sums(values, whose):
    """The sum over its trajectory, on each token."""
    return np.array([values[whose == one].sum() for one in whose])


def shares(x, aggregation, max_length=None):
    """What a token weighs in the loss."""
    count = len(set(x.whose.tolist()))
    return {
        "token": np.full(len(x.whose), 1 / len(x.whose)),
        "sequence": 1 / (x.length * count),
        "constant": np.full(len(x.whose), 1 / (count * (max_length or 1))),
    }[aggregation]


def assert_follows(method, formula, *, seeds=range(6), **settings):
    """The loss is −Σ share · value, and the coefficient of a token share · slope, for (value, slope) = formula(x).

    To 1e-6 in float64 and to 1e-4 in float32, of shuffled tokens whose ρ is between 0.02 and 50.
    """
    for seed in seeds:
        tokens = off_policy(make_tokens(LENGTHS, seed=seed, **settings), 0.7, seed)
        places = torch.tensor(np.random.default_rng(seed).permutation(sum(LENGTHS)))
        assert_is(method, select(tokens, places), formula)


def assert_is(method, tokens, formula):
    """The same, of these tokens."""
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        cast = in_dtype(tokens, dtype)
        x = numbers(cast)
        value, slope = formula(x)
        share = shares(x, method.aggregation, method.max_length)
        assert method.loss(cast).item() == pytest.approx(
            -(share * value).sum(), rel=tolerance, abs=tolerance / 10 * np.abs(share * value).sum()
        )
        found, expected = coefficients(method, cast).double().numpy(), share * slope
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance / 100 * np.abs(expected).max())


def in_dtype(tokens, dtype):
    """The same with other floating-point numbers."""
    values = {field.name: getattr(tokens, field.name) for field in fields(Tokens)}
    return Tokens(
        **{
            name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in values.items()
        }
    )


def clipped(ratio, a, low, high):
    """The value of min(ρÂ, clip(ρ)Â), and d/d log π: 0 where the clip holds."""
    bounded = np.clip(ratio, 1 - low, 1 + high) * a
    return np.minimum(ratio * a, bounded), np.where(ratio * a <= bounded, ratio * a, 0.0)


def episode(rng, rewards, *, sees=None, roles=None):
    """A turn for each reward, of a few sampled tokens and an answer; ``sees`` is the question and every answer."""
    sees = sees or [str(rng.integers(10**9)) for _ in range(len(rewards) + 1)]
    turns = [(int(rng.integers(1, 6)), int(rng.integers(1, 4))) for _ in rewards]
    starts = np.cumsum([3, *map(sum, turns)])
    steps = [
        Step(
            message={"role": "assistant", "content": ""},
            observation=({"role": roles[turn] if roles else "tool", "content": sees[turn + 1]},),
            rewards={"outcome": float(reward)},
            span=(int(starts[turn]), int(starts[turn] + turns[turn][0])),
        )
        for turn, reward in enumerate(rewards)
    ]
    found = sampled(rng, 97, 3, turns, steps=steps, rewards={"outcome": float(sum(rewards))})
    found.prompt = ({"role": "user", "content": sees[0]},)
    return found


def groups_of(rng, *returns):
    """Groups of episodes of a single turn that earn these returns."""
    return [Group({}, {}, [episode(rng, [reward]) for reward in group]) for group in returns]


def advantages_on_tokens(method, groups, seed=0):
    """Gives the tokens of a batch as the learner has them, Â included; all else about them is random."""
    rng = np.random.default_rng(seed)
    assign_advantages(groups, vector_of(outcome="max"), AdvantageConfig(), {}, method)
    for number, group in enumerate(groups):
        for index, trajectory in enumerate(group.trajectories):
            trajectory.group, trajectory.index = number, index
    batch = make_batch([trajectory for group in groups for trajectory in group.trajectories])
    for row in batch.rows:
        row.reference = row.old + rng.normal(size=len(row.old))
    assign_credit(batch, method)

    def joined(name):
        return torch.tensor(np.concatenate([getattr(row, name) for row in batch.rows]), dtype=torch.float64)

    counts = [len(row.trained) for row in batch.rows]
    tokens = make_tokens([1] * batch.tokens, seed=seed)
    return replace(
        tokens,
        logprobs=joined("old") + torch.tensor(rng.normal(size=batch.tokens)),
        sampler=joined("sampler"),
        old=joined("old"),
        reference=joined("reference"),
        advantages=joined("advantages"),
        lengths=torch.tensor(np.repeat([row.length for row in batch.rows], counts), dtype=torch.float64),
        trajectory=torch.tensor(np.repeat([row.trajectory for row in batch.rows], counts)),
        group=torch.tensor(np.repeat([row.group for row in batch.rows], counts)),
        batch_tokens=batch.tokens,
        batch_trajectories=batch.trajectories,
    )


def assert_learns(method, groups, expected):
    """The clipped surrogate of these Â, one array of (tokens,) a trajectory."""
    tokens, expected = advantages_on_tokens(method, groups), np.concatenate(expected)
    assert tokens.advantages.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert_is(method, tokens, lambda x: clipped(x.rho, expected, method.clip_low, method.clip_high))


def on_turns(trajectory, values):
    """A value of each turn, on its tokens."""
    return np.repeat(values, [step.span[1] - step.span[0] for step in trajectory.steps])


def spread(values, epsilon=1e-6):
    """(x − mean)/std, unbiased; zeros where nothing differs."""
    values = np.asarray(values, np.float64)
    if len(values) < 2 or np.ptp(values) < 1e-9:
        return np.zeros(len(values))
    return (values - values.mean()) / (values.std(ddof=1) + epsilon)
