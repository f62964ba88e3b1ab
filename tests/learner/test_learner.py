import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import copy_weights, full_logprobs, make_model
from updates import VOCAB, gradients, make_learner, on_policy, ragged, reference_gradient

from grpo_agents.learner import learner as learner_module
from grpo_agents.learner import logprobs as logprobs_module
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.forward import ForwardPass
from grpo_agents.learner.model import add_lora
from grpo_agents.learner.settings import LoraSettings
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.ppo import Ppo
from grpo_agents.methods.sft import Sft
from grpo_agents.trajectory import Step


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("method", [Grpo(), Grpo(aggregation="token"), Sft(aggregation="token")],
                         ids=["sequence", "token", "sft"])  # fmt: skip
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_whole_logits_in_float64(kind, method, temperature):
    model = make_model(kind)
    trajectories = on_policy(model, ragged(), temperature)
    found = gradients(make_learner(model, method, temperature=temperature), make_batch(trajectories))
    expected = reference_gradient(model, method, trajectories, temperature)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=1e-6 + 1e-4 * value.abs().max().item())


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("settings", [{"kl_weight": 0.1}, {"aggregation": "token", "entropy_bonus": 0.1},
                                      {"aggregation": "constant", "max_length": 20}])  # fmt: skip
def test_an_update_is_the_same_however_it_is_split(kind, settings, monkeypatch):
    """Micro-batches, the order of the rows, chunks of logits, every row alone, and rows that share no prefix."""
    start = make_model(kind)
    trajectories = ragged(count=9)
    results = []
    for variant in ("whole", "small", "shuffled", "chunked", "alone", "padded"):
        model = copy.deepcopy(start)
        if variant == "padded":
            monkeypatch.setattr(learner_module, "prepare", lambda _: "for this test")
        learner = make_learner(model, Grpo(**settings), lr=1e-2, max_tokens=40 if variant == "small" else 4000)
        mine = list(trajectories)
        if variant == "shuffled":
            mine = [mine[index] for index in np.random.default_rng(1).permutation(len(mine))]
        if variant == "alone":
            monkeypatch.setattr("grpo_agents.learner.packing._trees", lambda bundles, *_: iter(bundles))
        monkeypatch.setattr(logprobs_module, "CHUNK_LOGITS", VOCAB * 5 if variant == "chunked" else 1 << 25)
        batch = make_batch(mine)
        learner.prepare(batch)
        figures = learner.update(batch, 0.0)
        monkeypatch.undo()
        results.append((copy_weights(model), figures))
    (weights, figures), *others = results
    assert max((weights[name] - value).abs().max() for name, value in start.named_parameters()) > 5e-3
    for other, other_figures in others:
        for name, value in weights.items():
            # Adam's first step is ±lr wherever the gradient is more than rounding: compare those
            assert ((other[name] - value).abs() > 1e-5).float().mean() < 2e-3, name
        assert other_figures == pytest.approx(figures, rel=1e-4, abs=1e-6)


def test_gradients_of_splits_agree_to_rounding():
    model = make_model()
    batch = make_batch(ragged(count=9))
    whole = gradients(make_learner(model, max_tokens=4000), batch)
    for budget in (24, 60):
        split = gradients(make_learner(model, max_tokens=budget), batch)
        for name, value in whole.items():
            torch.testing.assert_close(split[name], value, rtol=1e-3, atol=1e-5 * float(value.abs().max()) + 1e-9)


def test_rows_without_advantage_may_be_dropped(monkeypatch):
    model = make_model()
    batch = make_batch(ragged(advantages=[1.0, 0.0, -1.0, 0.0, 0.0, 0.5]))
    learner = make_learner(model)
    seen = []
    forward = ForwardPass.forward

    def counting(self, rows, **settings):
        seen.append(len(rows))
        return forward(self, rows, **settings)

    monkeypatch.setattr(ForwardPass, "forward", counting)
    dropped = gradients(learner, batch)
    monkeypatch.setattr(Grpo, "gradient_only_from_advantages", lambda self, progress: False)
    kept = gradients(learner, batch)
    assert seen == [3, 6]
    for name, value in kept.items():
        torch.testing.assert_close(dropped[name], value, rtol=1e-3, atol=1e-7)


def test_a_batch_of_zero_advantages_moves_nothing():
    model = make_model()
    before = copy_weights(model)
    learner = make_learner(model)
    figures = learner.update(make_batch(ragged(advantages=[0.0] * 6)), 0.0)
    assert figures["grad_norm"] == 0.0
    assert figures["skipped/no_gradient"] == 1.0
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_the_second_update_on_a_batch_is_off_policy():
    model = make_model()
    trajectories = on_policy(model, ragged())
    batch = make_batch(trajectories)
    learner = make_learner(model, lr=1e-2, updates=2)
    learner.prepare(batch)
    first, second = learner.update(batch, 0.0, version=0), learner.update(batch, 0.0)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["mismatch/mean"] < 1e-5
    assert "mismatch/mean" not in second
    assert abs(second["ratio"] - 1) > 1e-3
    moved = np.concatenate(
        [full_logprobs(model, sample.ids)[sample.mask[1:]] for t in trajectories for sample in t.samples]
    )
    old = np.concatenate([sample.logprobs[sample.mask] for t in trajectories for sample in t.samples])
    third = learner.update(batch, 0.0)  # its figures are of the weights that the second update left
    assert third["ratio"] == pytest.approx(np.exp(moved - old).mean(), rel=1e-4)
    assert learner.updates == 3


def sampled_with(version, trajectories):
    """The same trajectories, each a turn of weights of that version."""
    for trajectory in trajectories:
        trajectory.steps = [
            Step({}, sample=number, span=(0, len(sample.ids)), version=version)
            for number, sample in enumerate(trajectory.samples)
        ]
    return trajectories


@pytest.mark.parametrize("old", ["engine", "recompute"])
def test_a_batch_that_another_policy_sampled_is_refused_before_anything_moves(old):
    model = make_model()
    before = copy_weights(model)
    trajectories = sampled_with(3, on_policy(make_model(seed=1), ragged()))
    learner = make_learner(model, old_logprobs=old)
    learner.largest_mismatch = 0.1
    with pytest.raises(ValueError, match=r"log-probabilities are off.*Nothing was learned from it"):
        learner.learn(make_batch(trajectories), version=3, progress=0.0)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    assert learner.updates == 0
    assert not learner.optimizer.state()
    figures = learner.learn(make_batch(sampled_with(2, trajectories)), version=3, progress=0.0)  # known to be stale
    assert "mismatch/mean" not in figures
    assert (figures["staleness/mean"], figures["staleness/max"]) == (1.0, 1.0)


def test_of_several_updates_the_first_is_compared():
    """The others move away from what the engine sampled with; their loss and ratio are reported."""
    model = make_model()
    batch = make_batch(sampled_with(5, on_policy(model, ragged())))
    learner = make_learner(model, lr=1e-2, updates=3)
    learner.largest_mismatch = 1e-3
    figures = learner.learn(batch, version=5, progress=0.0)
    assert learner.updates == 3
    assert figures["mismatch/max"] < 1e-4
    assert abs(figures["ratio"] - 1) > 1e-3
    assert figures["staleness/max"] == 0


def test_dropout_is_no_mismatch_where_the_learner_computes_the_old_log_probabilities():
    torch.manual_seed(0)
    model = get_peft_model(
        make_model(), LoraConfig(r=4, lora_alpha=64, lora_dropout=0.5, init_lora_weights=False, task_type="CAUSAL_LM",
                                 target_modules="all-linear")
    ).eval()  # fmt: skip
    trajectories = on_policy(model, ragged())
    found = {}
    for old in ("engine", "recompute"):
        batch = make_batch(trajectories)
        found[old] = make_learner(model, old_logprobs=old, lr=1e-9).learn(batch, version=0, progress=0.0)
    assert found["recompute"]["mismatch/max"] < 1e-4 < 0.1 < found["engine"]["mismatch/mean"]


def test_demonstrations_are_compared_with_nobody():
    figures = make_learner(make_model(), Sft(), source="demonstrations").learn(
        make_batch(ragged()), version=1, progress=0.0
    )
    assert not {name for name in figures if name.startswith(("mismatch", "staleness"))}


def test_old_log_probabilities_of_the_engine_or_computed_again():
    model = make_model()
    trajectories = ragged()
    for kind in ("engine", "recompute"):
        batch = make_batch(trajectories)
        learner = make_learner(model, old_logprobs=kind)
        learner.prepare(batch)
        for row in batch.rows:
            expected = full_logprobs(model, row.ids)[row.trained - 1] if kind == "recompute" else row.sampler
            assert row.old == pytest.approx(expected, abs=1e-5)
        figures = learner.update(batch, 0.0, version=0)
        assert figures["mismatch/mean"] > 0.1
        assert (abs(figures["ratio"] - 1) < 1e-5) == (kind == "recompute")


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_is_the_policy_before_training(lora):
    """A frozen copy with full weights; the model without its adapter with LoRA."""
    start = make_model()
    model = copy.deepcopy(start)
    if lora:
        torch.manual_seed(1)
        model = get_peft_model(
            model, LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    trajectories = on_policy(start, ragged())
    learner = make_learner(model, Grpo(kl_weight=0.1), lr=5e-2)
    for step in range(3):
        batch = make_batch(trajectories)
        learner.prepare(batch)
        for row in batch.rows:
            assert row.reference == pytest.approx(full_logprobs(start, row.ids)[row.trained - 1], abs=1e-5)
        figures = learner.update(batch, 0.0)
        assert (figures["kl"] > 1e-3) == (step > 0)
    assert full_logprobs(model, np.arange(9)) != pytest.approx(full_logprobs(start, np.arange(9)), abs=1e-2)


def test_only_the_adapter_is_trained_with_lora():
    model = get_peft_model(make_model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = copy_weights(model)
    make_learner(model).update(make_batch(ragged()), 0.0)
    changed = {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    assert changed
    assert all("lora_" in name for name in changed)


def test_training_raises_what_paid():
    """Updates on fixed trajectories raise the log-probability of those with advantage 1, lower that of the others."""
    model = make_model()
    trajectories = on_policy(model, ragged(advantages=[1.0, -1.0] * 3))

    def total(sign):
        return sum(
            full_logprobs(model, sample.ids)[sample.mask[1:]].mean()
            for trajectory in trajectories
            if trajectory.advantage == sign
            for sample in trajectory.samples
        )

    before = total(1.0), total(-1.0)
    learner = make_learner(model, lr=3e-3)
    for _ in range(3):
        batch = make_batch(on_policy(model, trajectories))
        learner.update(batch, 0.0)
    assert total(1.0) > before[0]
    assert total(-1.0) < before[1]


def test_gradient_checkpointing_changes_no_gradient():
    batch = make_batch(ragged())
    plain = gradients(make_learner(make_model()), batch)
    again = gradients(make_learner(make_model(), gradient_checkpointing=True), batch)
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-7)


def test_a_model_of_which_nothing_is_trained_is_refused():
    adapted = get_peft_model(make_model(), LoraConfig(r=2, target_modules="all-linear", inference_mode=True))
    for model in (make_model().requires_grad_(False), adapted):
        with pytest.raises(ValueError, match="nothing to train: no parameter of the model takes a gradient"):
            make_learner(model, Ppo())  # also where a critic of its own would be


def test_a_model_whose_weights_are_broken_is_refused():
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="Qwen3ForCausalLM gives log-probabilities that are not finite"):
        make_learner(model)


@pytest.mark.parametrize("scale", [0.6, 0.05])
@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("gemma2", {}, "Gemma2ForCausalLM is .*final_logit_softcapping = 30"),
        ("granite", {"logits_scaling": 8.0}, "GraniteForCausalLM is .*logits_scaling = 8"),
        ("cohere", {}, "CohereForCausalLM is .*logit_scale = 0.0625"),
    ],
)
def test_what_an_architecture_does_to_its_logits_is_named(kind, settings, named, scale):
    """Also where logits are so small that a cap hardly shows, and with adapters."""
    with pytest.raises(ValueError, match=named):
        make_learner(make_model(kind, scale=scale, **settings))
    with pytest.raises(ValueError, match=named):
        make_learner(add_lora(make_model(kind, scale=scale, **settings), LoraSettings(rank=2)))


def test_an_architecture_with_more_after_its_head_is_refused():
    """Gemma caps its logits after the output layer: chunks of hidden states would be another distribution."""
    model = make_model()
    forward = model.forward

    def capped(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    model.forward = capped
    with pytest.raises(ValueError, match="is not supported"):
        make_learner(model)


def test_figures_are_means_over_tokens():
    model = make_model()
    trajectories = on_policy(model, ragged())
    batch = make_batch(trajectories)
    learner = make_learner(model, Grpo(kl_weight=1e-9), lr=1e-9)
    learner.prepare(batch)
    figures = learner.update(batch, 0.0)
    entropies = []
    for row in batch.rows:
        with torch.no_grad():
            every = torch.log_softmax(
                model(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0].double(), -1
            )
        entropies += (-(every.exp() * every).sum(-1))[row.trained - 1].tolist()
    assert figures["entropy"] == pytest.approx(np.mean(entropies), rel=1e-5)
    assert figures["tokens"] == batch.tokens == len(entropies)
    assert figures["kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["lr"] == 1e-9


def test_the_share_of_clipped_tokens():
    """Computed from the old log-probabilities by hand."""
    model = make_model()
    trajectories = on_policy(model, ragged(advantages=[1.0, -1.0, 2.0, -1.0, 1.0, -0.5]))
    batch = make_batch(trajectories)
    rng = np.random.default_rng(0)
    clipped = []
    for row in batch.rows:
        ratio = np.exp(rng.normal(0, 0.4, len(row.trained)))
        row.old = (row.sampler - np.log(ratio)).astype(np.float32)
        clipped += (ratio > 1.28 if row.advantages[0] > 0 else ratio < 0.8).tolist()
    assert 0.1 < np.mean(clipped) < 0.6
    figures = make_learner(model, Grpo(clip_high=0.28)).update(batch, 0.0)
    assert figures["clipped"] == pytest.approx(np.mean(clipped))
