"""What runs compute and keep, by their budgets and by what they did; methods on the same tokens."""

from dataclasses import replace

import numpy as np
import pytest
from costing import config_of
from tiny import make_model, sampled

from grpo_agents import store
from grpo_agents.cost import (
    TEXTBOOK,
    Recipe,
    compare,
    estimate,
    forward,
    kv_bytes,
    memory,
    training,
)
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.shape import load_shape, shape_of
from grpo_agents.workload import (
    budgeted,
    learned_work,
    measured,
    packs,
)


def test_the_textbook_rows_are_those_of_the_formulas():
    rows = {name: (recipe.flops, recipe.bytes) for name, recipe in TEXTBOOK.items()}
    assert rows == {
        "SFT": (6, 16),
        "RFT": (8, 16),
        "DPO": (8, 16),
        "PPO": (22, 36),
        "GRPO": (14, 20),
        "GRPO, β = 0, rules, on-policy": (8, 16),
    }
    epochs, updates, kept = 3, 4, 0.25
    assert replace(TEXTBOOK["SFT"], passes=epochs).flops == 6 * epochs
    assert replace(TEXTBOOK["RFT"], passes=epochs, share=kept).flops == 2 + 6 * kept * epochs
    assert replace(TEXTBOOK["DPO"], passes=epochs).flops == 6 * epochs + 2
    assert replace(TEXTBOOK["DPO"], kept=True).bytes == 18
    assert replace(TEXTBOOK["PPO"], passes=updates).flops == 2 + 2 + 2 + 2 + 2 + 12 * updates
    assert replace(TEXTBOOK["GRPO"], passes=updates).flops == 2 + 2 + 2 + 2 + 6 * updates
    assert replace(TEXTBOOK["GRPO"], reward_model=False).bytes == 18
    assert Recipe(samples=True, old=True).flops == 10


@pytest.fixture
def shape():
    return shape_of(make_model())


def test_methods_are_compared_on_the_same_tokens(shape):
    config = config_of(rollout={"max_turns": 1})
    workload = budgeted(config, shape, prompt=100, observation=0)
    rows = {name: row for row in compare(config, shape, workload) for name in row.methods}
    sft, grpo, held = rows["sft"], rows["grpo"], rows["grpo, kl_weight = 0.04"]
    assert grpo.flops - sft.flops == forward(shape, workload.sampling)
    assert held.flops - grpo.flops == forward(shape, workload.scoring)
    assert rows["dpo"].flops == sft.flops + forward(shape, workload.scoring)
    assert held.per_weight - grpo.per_weight == 4  # a reference, in float32
    assert sft.per_weight == 16  # weights, gradients, two moments
    assert rows["ppo, kl_weight = 0.04, value_model = separate"].per_weight == pytest.approx(36, rel=0.01)
    assert rows["dapo"] is rows["dr_grpo"] is grpo
    assert (rows["ppo"].textbook, held.textbook) == ((22, 36), (14, 20))


def test_the_run_is_the_sum_of_its_steps(shape):
    rollout = {"group_size": 4, "max_turns": 1, "max_turn_tokens": 32}
    train = {"steps": 10, "batch": 3, "save_every": 4, "keep": 2}
    config = config_of(rollout=rollout, train=train, eval={"every": 4, "tasks": 12}, learner={"updates": 2})
    workload = budgeted(config, shape, prompt=20, observation=9)
    found = estimate(config, shape, workload, prompt=20, observation=9)
    assert (workload.rollouts, workload.told, workload.sampled, workload.longest) == (12, 20, 32, 52)
    assert {phase.name: phase.times for phase in found.phases} == {"sampling": 10, "training": 10, "evaluation": 4}
    sampling, learning, evaluation = found.phases
    assert learning.flops == 2 * training(shape, workload.learning)
    assert evaluation.flops > sampling.flops  # twelve prompts for three
    assert found.flops == 10 * (sampling.flops + learning.flops) + 4 * evaluation.flops
    counts = {entry.name: entry.count for entry in found.stored}
    assert counts == {"trajectories": 10, "evaluations": 4, "checkpoints": 2, "model": 1}
    state = 16 * shape.policy.count
    assert found.needed("learning") == state
    assert found.needed("sampling") == state - 4 * shape.policy.count + kv_bytes(shape, 12 * 51)


@pytest.mark.parametrize(("method", "tasks", "rollouts", "max_rows", "at_once"), [
    ("grpo", 5, 2, 512, 12), ("grpo", 20, 2, 512, 40), ("grpo", 20, 2, 15, 14), ("grpo", 20, 2, 1, 12),
    ("sft", 5, 2, 512, 10), ("sft", 20, 3, 2, 3),
])  # fmt: skip
def test_the_key_value_cache_is_as_large_as_batch_or_evaluation_makes_it(
    shape, method, tasks, rollouts, max_rows, at_once
):
    config = config_of(
        method={"name": method}, source={"path": "x"} if method == "sft" else {}, train={"batch": 3},
        rollout={"group_size": 4, "max_turns": 1, "max_turn_tokens": 32}, engine={"max_rows": max_rows},
        eval={"every": 4, "tasks": tasks, "rollouts": rollouts},
    )  # fmt: skip
    found = estimate(config, shape, budgeted(config, shape, prompt=20, observation=9), prompt=20, observation=9)
    (cache,) = (part.bytes for part in found.memory if part.name == "key-value cache")
    assert cache == kv_bytes(shape, at_once * 51)


def test_what_is_sampled_depends_on_the_source(shape):
    def phases(**settings):
        config = config_of(train={"steps": 20}, **settings)
        workload = budgeted(config, shape, prompt=20, observation=9)
        return {phase.name: phase.times for phase in estimate(config, shape, workload).phases}

    assert phases(method={"name": "sft"}, source={"path": "a"}) == {"training": 20}
    assert phases(method={"name": "rft"}, source={"batches": 3}) == {"sampling": 3, "training": 20}
    assert phases(method={"name": "dpo"}, source={"path": "a"}) == {"reference": 20, "training": 20}
    stored = phases(source={"kind": "stored", "path": "a"}, learner__old_logprobs="recompute")
    assert stored == {"old log-probs": 20, "training": 20}


def test_of_a_group_dpo_learns_from_two(shape):
    config = config_of(method={"name": "dpo"}, source={"kind": "policy"}, rollout={"group_size": 8})
    workload = budgeted(config, shape, prompt=20, observation=9)
    grpo = budgeted(config_of(rollout={"group_size": 8}), shape, prompt=20, observation=9)
    groups, prompt = 16, 20
    assert workload.scoring.tokens - groups * prompt == (workload.sampling.tokens - groups * prompt) / 4
    assert workload.scoring == workload.learning
    assert workload.sampling == grpo.sampling


@pytest.mark.parametrize("method", ["grpo", "dpo"])
@pytest.mark.parametrize("max_tokens", [52, 100, 205, 206, 500, 10_000])
def test_budgets_are_computed_as_groups_that_share_their_prompt(shape, method, max_tokens):
    """As micro-batches of such groups would be; a group beyond the budget has its prompt in several."""
    settings = {"rollout": {"group_size": 6, "max_turns": 1, "max_turn_tokens": 32}, "train": {"batch": 5}}
    if method == "dpo":  # the best and the worst of each
        settings |= {"method": {"name": "dpo"}, "source": {"kind": "policy"}}
        max_tokens *= 2
    config = config_of(**settings, learner={"max_tokens": max_tokens})
    rng, trajectories, size = np.random.default_rng(0), [], 6 if method == "grpo" else 2
    for group in range(5):
        own = [sampled(rng, 97, 20, [(32, 0)], advantage=1.0, group=group) for _ in range(size)]
        for number, trajectory in enumerate(own):
            ids = trajectory.samples[0].ids
            ids[:20], ids[20] = own[0].samples[0].ids[:20], number  # they part with the first word said
        trajectories += own
    rows = make_batch(trajectories).rows
    step = budgeted(config, shape, prompt=20, observation=9)
    assert step.scoring == learned_work(rows, max_tokens)
    assert step.learning == learned_work(rows, max_tokens, config.chosen_method.unit)
    split = method == "grpo" and max_tokens < 20 + 6 * 31
    assert (step.scoring.tokens > 5 * 20 + 5 * size * 31) == split


def test_what_belongs_together_is_one_micro_batch_however_large():
    assert list(packs(groups=2, size=4, prompt=10, rest=5, max_tokens=20, unit="group")) == [(1, 4), (1, 4)]
    assert list(packs(groups=2, size=1, prompt=10, rest=5, max_tokens=9)) == [(1, 1), (1, 1)]


def test_budgets_are_an_upper_bound_of_what_a_run_did(warm, unbroken):
    from grpo_agents.config import load_config

    config = load_config(unbroken / "config.toml")
    shape = load_shape(config.model)
    steps = [store.read_groups(file) for file in sorted((unbroken / "trajectories").glob("train-*.parquet"))]
    did = measured(config, steps)
    allowed = budgeted(config, shape, prompt=120, observation=30)
    assert did.measured
    assert not allowed.measured
    assert did.rollouts == allowed.rollouts == 9
    assert did.turns <= allowed.turns
    assert did.sampled <= allowed.sampled
    for name in ("sampling", "scoring", "learning"):
        assert getattr(did, name).tokens <= getattr(allowed, name).tokens, name


def test_a_second_copy_of_the_weights_is_vllms(shape):
    def held(**settings):
        config = config_of(engine={"backend": "vllm"}, **settings)
        workload = budgeted(config, shape, prompt=20, observation=9)
        return {part.name: (part.bytes, part.when) for part in memory(config, shape, workload)}

    name, count = "vLLM's weights, without its cache", shape.policy.count
    assert held()[name] == (4 * count, "sampling")
    assert held(model={"path": "nowhere", "dtype": "bfloat16"})[name] == (2 * count, "sampling")
    overlapping = {"train": {"overlap": True}, "method": {"tis": 2.0}, "learner__old_logprobs": "recompute"}
    assert held(**overlapping)[name] == (4 * count, "always")
    assert "key-value cache" not in held()
