"""What a learner does beside the plain gradient: a critic, pairs, credit over episodes, a reference that moves."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import copy_weights, full_logprobs, make_model, sampled
from updates import gradients

from grpo_agents.learner.batch import Batch, assign_credit, make_batch
from grpo_agents.learner.critic import Critic
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.packing import micro_batches
from grpo_agents.learner.settings import LearnerConfig, OptimizerConfig
from grpo_agents.learner.tree import Tree
from grpo_agents.methods.dpo import Dpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.ppo import Ppo
from grpo_agents.trajectory import Sample, Step, Trajectory

VOCAB = 97


def make_learner(model, method, *, lr=1e-2, source="policy", **settings):
    config = LearnerConfig(optimizer=OptimizerConfig(lr=lr, clip=1e6), **settings)
    learner = Learner(model, config, method, source=source, steps=10)
    if learner.critic is not None:  # it begins at 0, where nothing behind it would have a gradient
        torch.manual_seed(7)
        torch.nn.init.normal_(learner.critic.head.weight, std=0.3)
        torch.nn.init.normal_(learner.critic.head.bias)
    return learner


def ragged(model, count=6, seed=0):
    """Trajectories of different lengths; every third one has a second sample; log-probs are the model's."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        parts = [
            sampled(rng, VOCAB, int(rng.integers(1, 7)), [(int(rng.integers(1, 5)), int(rng.integers(1, 3)))] * 2)
            for _ in range(1 + (number % 3 == 0))
        ]
        samples = [sample for part in parts for sample in part.samples]
        for sample in samples:
            values = np.concatenate([[0.0], full_logprobs(model, sample.ids)])
            sample.logprobs[:] = np.where(sample.mask, values, 0.0)
        steps = []
        for place, sample in enumerate(samples):
            trained = np.flatnonzero(sample.mask)
            turns = np.split(trained, np.flatnonzero(np.diff(trained) > 1) + 1)
            steps += [Step({}, sample=place, span=(int(turn[0]), int(turn[-1]) + 1)) for turn in turns]
        found.append(
            Trajectory(samples=samples, steps=steps, advantage=float(rng.normal()), group=number // 2, index=number % 2)
        )
    return found


def whole(learner, sample, model=None):
    """log π of the trained tokens of a sample and the values before them, from whole logits in float64."""
    model = model or copy.deepcopy(learner.model).double()
    ids = torch.tensor(sample.ids[None].astype(np.int64))
    at = torch.tensor(np.flatnonzero(sample.mask))
    output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    every = torch.log_softmax(output.logits[0], -1)
    return every[at - 1, ids[0, at]], output.hidden_states[-1][0, at - 1]


def ppo_reference(learner, method, trajectories, moved):
    """PPO trajectory by trajectory, in float64: gradients by parameter, of policy and critic.

    π_old and V_old are those of the learner before ``moved`` was added to its weights; π_ref is that too.
    """
    old_policy, old_critic = (copy.deepcopy(part).double() for part in (learner.model, learner.critic))
    policy, critic = (copy.deepcopy(part).double() for part in (learner.model, learner.critic))
    with torch.no_grad():
        for part in (policy, critic):
            for parameter in part.parameters():
                parameter += moved * torch.sin(torch.arange(parameter.numel())).view_as(parameter)

    def values(critic, sample, hidden):
        if critic.decoder is not None:
            ids = torch.tensor(sample.ids[None].astype(np.int64))
            at = torch.tensor(np.flatnonzero(sample.mask))
            hidden = critic.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, at - 1]
        return (hidden @ critic.head.weight[0]) + critic.head.bias[0]

    total = torch.zeros((), dtype=torch.float64)
    for trajectory in trajectories:
        with torch.no_grad():
            old = [whole(learner, sample, old_policy) for sample in trajectory.samples]
            before = torch.cat(
                [
                    values(old_critic, sample, hidden)
                    for sample, (_, hidden) in zip(trajectory.samples, old, strict=True)
                ]
            ).numpy()
        count = len(before)
        after = [*before[1:], 0.0]
        rewards = [0.0] * (count - 1) + [trajectory.advantage]
        errors = [rewards[t] + method.discount * after[t] - before[t] for t in range(count)]
        advantages = np.array(
            [sum((method.discount * method.gae) ** k * errors[t + k] for k in range(count - t)) for t in range(count)]
        )
        returns = torch.tensor(advantages + before)
        now = [whole(learner, sample, policy) for sample in trajectory.samples]
        logp = torch.cat([entry for entry, _ in now])
        value = torch.cat([values(critic, s, hidden) for s, (_, hidden) in zip(trajectory.samples, now, strict=True)])
        rho = (logp - torch.cat([entry for entry, _ in old])).exp()
        gain = torch.tensor(advantages)
        surrogate = torch.minimum(rho * gain, rho.clamp(0.8, 1.2) * gain)
        start = torch.tensor(before)
        near = torch.maximum(torch.minimum(value, start + method.value_clip), start - method.value_clip)
        error = torch.maximum((value - returns) ** 2, (near - returns) ** 2) / 2
        total = total + (method.value_weight * error - surrogate).mean() / len(trajectories)
    total.backward()
    named = dict(policy.named_parameters()) | {f"critic.{name}": value for name, value in critic.named_parameters()}
    return {name: value.grad for name, value in named.items() if value.grad is not None}, total.item()


@pytest.mark.parametrize("kind", ["head", "separate"])
@pytest.mark.parametrize("moved", [0.0, 3e-3], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("max_tokens", [40, 4000])
def test_with_a_critic_the_gradient_is_that_of_whole_logits(kind, moved, max_tokens):
    model = make_model()
    trajectories = ragged(model)
    method = Ppo(value_model=kind, discount=0.95, gae=0.9, value_clip=0.05)
    learner = make_learner(model, method, max_tokens=max_tokens)
    expected, _ = ppo_reference(learner, method, trajectories, moved)
    batch = make_batch(trajectories)
    learner.prepare(batch)
    with torch.no_grad():
        for parameter in learner.optimizer.named.values():
            parameter += (moved * torch.sin(torch.arange(parameter.numel(), dtype=torch.float64))).view_as(parameter)
    found = gradients(learner, batch)
    assert found.keys() == expected.keys()
    assert {name for name in found if name.startswith("critic.")} >= {"critic.head.weight", "critic.head.bias"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=1e-6 + 1e-4 * value.abs().max().item())


def without_gain(batch):
    for row in batch.rows:
        row.advantages = np.zeros_like(row.advantages)
    return batch


@pytest.mark.parametrize("kind", ["head", "separate"])
def test_the_value_loss_moves_the_policy_only_through_a_head(kind):
    model = make_model()
    learner = make_learner(model, Ppo(value_model=kind))
    batch = make_batch(ragged(model))
    learner.prepare(batch)
    found = gradients(learner, without_gain(batch))
    of_policy = [float(value.abs().max()) for name, value in found.items() if not name.startswith("critic.")]
    assert all(value == 0 for value in of_policy) == (kind == "separate")
    assert all(float(value.abs().max()) > 0 for name, value in found.items() if name.startswith("critic."))


def test_a_critic_of_its_own_begins_with_the_policys_weights_and_shares_none():
    model = make_model()
    critic = Critic(model, "model")
    assert critic.decoder is not None
    theirs = dict(model.model.named_parameters())
    for name, value in critic.decoder.named_parameters():
        assert torch.equal(value, theirs[name])
        assert value.data_ptr() != theirs[name].data_ptr()
    assert Critic(model, "head").decoder is None


def test_a_critic_begins_at_zero_and_learns_the_return():
    model = make_model()
    learner = make_learner(model, Ppo(value_clip=9.0, discount=1.0, gae=1.0), lr=3e-3)
    torch.nn.init.zeros_(learner.critic.head.weight)
    torch.nn.init.zeros_(learner.critic.head.bias)
    trajectories = ragged(model)
    for trajectory in trajectories:
        trajectory.advantage = 2.0
    seen = []
    for step in range(40):
        batch = make_batch(trajectories)
        figures = learner.learn(batch, version=step, progress=0.0)
        seen.append(figures["value"])
        assert all((row.returns == pytest.approx(2.0)) for row in batch.rows)
    assert seen[0] == 0.0
    assert seen[-1] == pytest.approx(2.0, abs=0.4)


@pytest.mark.parametrize(
    ("method", "budgets"),
    [
        (Ppo(kl_weight=0.1, whiten=True), (24, 60)),
        (Ppo(value_model="separate"), (24, 60)),
        (Dpo(beta=0.5), (40, 60)),
        (Dpo(beta=0.5, form="length_normalised"), (40, 60)),
    ],
    ids=["ppo", "ppo-separate", "dpo", "dpo-normalised"],
)
def test_gradients_of_splits_agree_to_rounding(method, budgets):
    """Also with the rows in another order."""
    model = make_model()
    trajectories = ragged(model)
    if isinstance(method, Dpo):
        for trajectory in trajectories:
            trajectory.advantage = 1.0 if trajectory.index else -1.0
    results = []
    for budget, order in [(4000, 1), *((budget, order) for budget in budgets for order in (1, -1))]:
        learner = make_learner(model, method, max_tokens=budget)
        batch = make_batch(trajectories[::order])
        assert (len(list(micro_batches(batch.rows, budget, method.unit))) > 1) == (budget < 4000)
        learner.prepare(batch)
        if learner.reference is not None:  # another policy than it began with
            for row in batch.rows:
                row.reference = row.reference + 0.3 * np.cos(row.ids[row.trained]).astype(np.float32)
            if not isinstance(method, Dpo):
                batch = again(batch, trajectories[::order], method)
        results.append(gradients(learner, batch))
    first, *others = results
    assert max(float(value.abs().max()) for value in first.values()) > 1e-3
    for other in others:
        for name, value in first.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-5 * float(value.abs().max()) + 1e-9)


def again(batch, trajectories, method):
    """The batch with credit assigned anew, after what it is made of was changed."""
    fresh = make_batch(trajectories)
    for row, changed in zip(fresh.rows, batch.rows, strict=True):
        row.reference, row.values = changed.reference, changed.values
    assign_credit(fresh, method)
    return fresh


def test_pairs_have_the_gradient_of_whole_logits():
    model = make_model()
    start = copy.deepcopy(model)
    trajectories = ragged(model)
    for trajectory in trajectories:
        trajectory.advantage = 1.0 if trajectory.index else -1.0
    learner = make_learner(model, Dpo(beta=0.4), source="pairs")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.cos(torch.arange(parameter.numel())).view_as(parameter)
    batch = make_batch(trajectories)
    learner.prepare(batch)
    found = gradients(learner, batch)
    policy, reference, total = copy.deepcopy(model).double(), start.double(), 0.0
    for pair in range(3):
        margin = 0.0
        for trajectory in trajectories[2 * pair : 2 * pair + 2]:
            for sample in trajectory.samples:
                ratio = whole(learner, sample, policy)[0] - whole(learner, sample, reference)[0].detach()
                margin = margin + trajectory.advantage * ratio.sum()
        total = total - torch.nn.functional.logsigmoid(0.4 * margin) / 3
    total.backward()
    for name, value in policy.named_parameters():
        torch.testing.assert_close(found[name].double(), value.grad, rtol=1e-3,
                                   atol=1e-6 + 1e-4 * value.grad.abs().max().item())  # fmt: skip


@pytest.mark.parametrize(("shares", "budget"), [(True, 70), (False, 140)])
def test_what_belongs_together_is_in_one_micro_batch_or_refused(shares, budget):
    model = make_model()
    rows = make_batch(ragged(model, count=8)).rows
    for unit in ("trajectory", "group"):
        parts = list(micro_batches(rows, budget, unit, shares=shares))
        assert len(parts) > 1
        whose = [{getattr(row, unit) for row in part} for part in parts]
        assert sum(map(len, whose)) == len(set().union(*whose))
        assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
        for part in parts:
            padded = len(part) * max(len(row.ids) for row in part)
            assert (len(Tree.of([row.ids[:-1] for row in part]).ids) if shares else padded) <= budget
    learner = make_learner(model, Dpo(), max_tokens=30)
    refused = r"^\d rows of group \d, which belong together, come to \d+ tokens, more than learner\.max_tokens = 30\."
    with pytest.raises(ValueError, match=refused):
        learner.learn(Batch(rows, sum(len(row.trained) for row in rows), 8), version=0, progress=0.0)


def test_credit_goes_over_the_samples_of_a_trajectory_as_they_were_sampled(monkeypatch):
    rng = np.random.default_rng(0)
    first, second = sampled(rng, VOCAB, 3, [(2, 2), (3, 1)]), sampled(rng, VOCAB, 5, [(4, 1)])
    steps = [Step({}, span=(3, 5)), Step({}, span=(7, 10)), Step({}, sample=1, span=(5, 9))]
    forked = Trajectory(samples=[*first.samples, *second.samples], steps=steps, advantage=1.0)
    batch = make_batch([sampled(rng, VOCAB, 2, [(2, 0)], advantage=-1.0), forked])
    for number, row in enumerate(batch.rows):
        row.values = 10.0 * number + np.arange(len(row.trained))
        row.reference = -row.values
    seen = []

    def credit(self, episodes):
        for episode in episodes:
            seen.append(episode)
            episode.advantages = 100 * episode.advantages + np.arange(len(episode.turn))
            episode.returns = episode.values + 0.5

    monkeypatch.setattr(Ppo, "credit", credit)
    assign_credit(batch, Ppo())
    assert [episode.turn.tolist() for episode in seen] == [[0, 0], [0, 0, 1, 1, 1, 2, 2, 2, 2]]
    assert seen[1].values.tolist() == [10, 11, 12, 13, 14, 20, 21, 22, 23]
    assert seen[1].reference.tolist() == (-seen[1].values).tolist()
    assert seen[1].old.tolist() == np.concatenate([row.sampler for row in batch.rows[1:]]).tolist()
    assert [row.advantages.tolist() for row in batch.rows] == [
        [-100, -99], [100, 101, 102, 103, 104], [105, 106, 107, 108],
    ]  # fmt: skip
    assert [row.returns.tolist() for row in batch.rows] == [(row.values + 0.5).tolist() for row in batch.rows]


def test_the_kl_in_the_reward_is_answered_for_by_earlier_tokens():
    """By the formulas, over both samples of a trajectory."""
    model = make_model()
    batch = make_batch(ragged(model, count=1))
    before = np.concatenate([row.advantages for row in batch.rows])
    for row in batch.rows:
        row.reference = row.old + 0.1 * np.arange(len(row.trained))
    kl = np.concatenate([row.old - row.reference for row in batch.rows]).astype(np.float64)
    assign_credit(batch, Grpo(kl_weight=0.3, kl="k1", kl_in="reward"))
    assert len(batch.rows) == 2
    expected = [before[t] - 0.3 * kl[t:].sum() for t in range(len(kl))]
    assert np.concatenate([row.advantages for row in batch.rows]) == pytest.approx(expected)


def test_the_policy_becomes_the_reference_every_so_many_steps():
    """Before the updates of that step, also where one before it had nothing to learn from."""
    model = make_model()
    trajectories = ragged(model)
    learner = make_learner(model, Grpo(kl_weight=0.01, reference_every=2))
    history = []
    for step in range(6):
        history.append(copy_weights(model))
        batch = make_batch(trajectories if step != 4 else [])
        learner.learn(batch, version=step, progress=0.0)
        expected = history[step - step % 2]
        reference = dict(learner.reference.named_parameters())
        assert all(torch.equal(reference[name], value) for name, value in expected.items()), step
    assert not torch.equal(history[1]["model.norm.weight"], history[2]["model.norm.weight"])


def test_with_lora_the_reference_cannot_move():
    model = get_peft_model(make_model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"method\.reference_every: with model\.lora .* Leave one of them out"):
        make_learner(model, Grpo(kl_weight=0.1, reference_every=2))


@pytest.mark.parametrize("kind", ["head", "separate"])
def test_with_lora_a_critic_moves_adapters_and_its_head_alone(kind):
    model = get_peft_model(make_model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    learner = make_learner(model, Ppo(value_model=kind, kl_weight=0.1))
    assert all("lora_" in name or name.startswith("critic.head") for name in learner.optimizer.named)
    assert any("critic.decoder" in name for name in learner.optimizer.named) == (kind == "separate")
    before = {name: value.detach().clone() for name, value in learner.critic.named_parameters()} | copy_weights(model)
    learner.learn(make_batch(ragged(model)), version=0, progress=0.0)
    after = dict(learner.critic.named_parameters()) | dict(model.named_parameters())
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all("lora_" in name or name.startswith("head") for name in changed)


def test_rows_of_a_trajectory_are_dropped_together():
    """Where a turn's advantage makes up for another's, what is decided for the whole trajectory needs all of it."""
    model = make_model()
    (trajectory, *_) = ragged(model, count=1)
    trajectory.advantage = 1.0
    for step in trajectory.steps:
        step.advantage = -1.0 if step.sample == 0 else 1.0
    batch = make_batch([trajectory])
    assert [bool(np.any(row.advantages)) for row in batch.rows] == [False, True]
    assert make_learner(model, Grpo()).update(batch, 0.0)["tokens"] == batch.tokens


def test_a_critic_needs_no_sample_of_its_own():
    """Rows without a trained token are nowhere: a sample that only shares a prefix."""
    model = make_model()
    (trajectory, *_) = ragged(model, count=1)
    nothing = Sample(np.arange(4, dtype=np.int32), np.zeros(4, bool), np.zeros(4, np.float32))
    trajectory.samples = [trajectory.samples[0], nothing, trajectory.samples[1]]
    for step in trajectory.steps:
        step.sample *= 2
    batch = make_batch([trajectory])
    make_learner(model, Ppo()).learn(batch, version=0, progress=0.0)
    assert len(batch.rows) == 2
    assert all(row.returns is not None for row in batch.rows)
