"""The cost model beside what is measured: operations as torch counts them, bytes as they lie in memory and on disk."""

import numpy as np
import pytest
import torch
from costing import CLOSE, SHAPES, config_of, counted, make_learner, model_of, ragged
from tiny import forking, sampled, save_start

from grpo_agents import store
from grpo_agents.cost import (
    checkpoint_bytes,
    critic_forward,
    critic_training,
    estimate,
    forward,
    kv_bytes,
    memory,
    model_bytes,
    stored_bytes,
    training,
)
from grpo_agents.engines import Request, Sampling
from grpo_agents.engines.transformers import TransformersEngine
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.model import load_model
from grpo_agents.learner.settings import (
    LoraSettings,
    ModelConfig,
)
from grpo_agents.learner.shape import load_shape, shape_of
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.ppo import Ppo
from grpo_agents.support import Support
from grpo_agents.trajectory import Group
from grpo_agents.workload import (
    Work,
    budgeted,
    learned_work,
    measured,
    sampled_work,
    triangle,
)

# Operations


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("lora", [False, True])
def test_a_forward_pass_has_as_many_operations_as_torch_counts(name, lora):
    model = model_of(name, lora)
    ids = torch.zeros((3, 40), dtype=torch.int64)
    with torch.no_grad():
        found = counted(lambda: model(input_ids=ids, use_cache=False))
    assert forward(shape_of(model), Work(120, 3 * triangle(40), 120)) == pytest.approx(found, rel=1e-3)


def test_attention_is_the_part_that_grows_with_the_square():
    """And d is heads · head_dim: here three times the hidden size."""
    model = model_of("wide heads")
    shape = shape_of(model)
    with torch.no_grad():
        one, two = (
            counted(lambda n=n: model(input_ids=torch.zeros((1, n), dtype=torch.int64), use_cache=False))
            for n in (50, 100)
        )
    assert shape.width == 96 == 3 * shape.hidden
    assert two - 2 * one == pytest.approx(4 * 2 * 96 * (triangle(100) - 2 * triangle(50)), rel=1e-3)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_update_has_as_many_operations_as_torch_counts(name, checkpointing):
    model = model_of(name)
    batch = make_batch(forking(np.random.default_rng(0), 97))
    learner = make_learner(model, gradient_checkpointing=checkpointing, max_tokens=60)
    found = counted(lambda: learner.update(batch, 0.0))
    work = learned_work(batch.rows, 60)
    assert learner.shares_prefixes
    assert work.tokens < sum(len(row.ids) - 1 for row in batch.rows)
    assert training(shape_of(model), work, checkpointing=checkpointing) == pytest.approx(found, rel=CLOSE)


def test_an_update_of_adapters_has_as_many_operations_as_torch_counts():
    """But for the gradient of what the first layer reads, which nobody asks for: one part in layers of the inputs'."""
    model = model_of("qwen3", lora=True, num_hidden_layers=12)
    batch = make_batch(ragged(count=9))
    learner = make_learner(model)
    found = counted(lambda: learner.update(batch, 0.0))
    work = learned_work(batch.rows, 16384)
    assert found < training(shape_of(model), work) < 1.02 * found


def test_rows_without_advantage_cost_nothing():
    batch = make_batch(ragged(advantages=[1.0, 0.0, -1.0, 0.0, 0.0, 0.5]))
    model = model_of("qwen3")
    kept = [row for row in batch.rows if row.advantages.any()]
    work = learned_work(kept, 16384)
    learner = make_learner(model)
    found = counted(lambda: learner.update(batch, 0.0))
    assert len(kept) == 3
    assert training(shape_of(model), work) == pytest.approx(found, rel=CLOSE)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(("method", "old"), [
    (Grpo(), "engine"), (Grpo(), "recompute"), (Grpo(kl_weight=0.1), "engine"), (Ppo(), "engine"),
    (Ppo(value_model="separate", kl_weight=0.1), "engine"),
], ids=["nothing", "old", "reference", "critic head", "critic and reference"])  # fmt: skip
def test_before_an_update_only_what_is_asked_for_is_computed(method, old, lora):
    model = model_of("qwen3", lora)
    trajectories = forking(np.random.default_rng(0), 97)
    shape, batch = shape_of(model), make_batch(trajectories)
    learner = make_learner(model, method, old_logprobs=old)
    found = counted(lambda: learner.prepare(batch))
    config = config_of(method={"name": method.name, **method.settings()}, learner__old_logprobs=old)
    step = measured(config, [[Group({}, {}, trajectories)]])
    phases = {phase.name: phase.flops for phase in estimate(config, shape, step).phases}
    asked = sum(phases.get(name, 0) for name in ("old log-probs", "reference", "critic"))
    assert asked == pytest.approx(found, rel=CLOSE)
    assert (found == 0) == (method == Grpo() and old == "engine")


@pytest.mark.parametrize("kind", ["head", "separate"])
def test_training_a_critic_has_as_many_operations_as_torch_counts(kind):
    model, method = model_of("llama"), Ppo(value_model=kind)
    shape, batch = shape_of(model), make_batch(ragged(count=9))
    learner = make_learner(model, method, gradient_checkpointing=True)
    learner.prepare(batch)
    found = counted(lambda: learner.update(batch, 0.0))
    work = learned_work(batch.rows, 16384, method)
    critic = critic_training(shape, work, method.critic, checkpointing=True)
    assert training(shape, work, checkpointing=True) + critic == pytest.approx(found, rel=CLOSE)
    assert (critic > critic_forward(shape, work, "model")) == (kind == "separate")


def test_sampling_a_group_computes_its_prompt_once():
    model, prompt, tokens, size = model_of("qwen3"), 30, 12, 5
    engine = TransformersEngine(model, pad_id=0)
    requests = [Request(session, list(range(prompt)), session, tokens) for session in range(size)]
    done = []
    found = counted(lambda: engine.submit(requests, Sampling(stop_ids=()), done.append))
    assert [completion.tokens for completion in done] == [tokens] * size
    made = [sampled(np.random.default_rng(number), 97, 0, [(tokens, 0)]) for number in range(size)]
    for trajectory, completion in zip(made, done, strict=True):
        sample = trajectory.samples[0]
        sample.ids = np.array([*range(prompt), *completion.ids], np.int32)
        sample.mask = np.arange(prompt + tokens) >= prompt
    work = sampled_work(made)
    assert work.tokens == prompt + size * (tokens - 1)
    assert work.heads == 1 + size * (tokens - 1)
    assert forward(shape_of(model), work) == pytest.approx(found, rel=CLOSE)
    config = config_of(rollout={"group_size": size, "max_turn_tokens": tokens, "max_turns": 1}, train__batch=1)
    assert budgeted(config, shape_of(model), prompt=prompt, observation=9).sampling == work


# Memory


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adamw8bit"])
@pytest.mark.parametrize("method", [Grpo(), Grpo(kl_weight=0.1), Ppo(), Ppo(value_model="separate", kl_weight=0.1)],
                         ids=["grpo", "reference", "critic head", "critic and reference"])  # fmt: skip
def test_state_takes_as_many_bytes_as_it_does(lora, optimizer, method):
    """To the byte, but for AdamW's step counters, and what codes of 8 bits stand for, which is there once."""
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    model = model_of("qwen3", lora, vocab=150)  # 4,800 weights of the table: enough for moments in 8 bits
    shape = shape_of(model)
    learner = make_learner(model, method, optimizer=optimizer)
    gradients = []
    for parameter in learner.optimizer.named.values():
        parameter.register_post_accumulate_grad_hook(lambda entry: gradients.append(entry.grad.nbytes))
    batch = make_batch(ragged())
    learner.prepare(batch)
    learner.update(batch, 0.0)
    config = config_of(method={"name": method.name, **method.settings()}, learner__optimizer={"name": optimizer})
    step = measured(config, [[Group({}, {}, ragged())]])
    found = {part.name.split(" ")[0]: part.bytes for part in memory(config, shape, step)}

    def size(module):
        return 0 if module is None else sum(parameter.nbytes for parameter in module.parameters())

    state = learner.optimizer.state()
    assert found["weights"] == size(model)
    assert found["moments"] == sum(
        value.nbytes for name, value in state.items() if not name.endswith(("|step", "|qmap1", "|qmap2"))
    )
    assert found["gradients"] == sum(gradients)
    assert found.get("reference", 0) == size(learner.reference)
    assert found.get("critic", 0) == size(learner.critic)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_key_value_cache_takes_as_many_bytes_as_it_does(dtype):
    model = model_of("qwen3")
    engine = TransformersEngine(
        model, pad_id=0, computing=lambda: torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    )
    engine.submit([Request(n, [1, 2, 3], n, 8) for n in range(4)], Sampling(stop_ids=()), lambda _: None)
    (block,) = engine._blocks
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in block.cache.layers)
    assert kv_bytes(shape_of(model), 4 * (3 + 8 - 1)) == held


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_a_shape_read_off_a_config_is_that_of_the_model(tmp_path, lora):
    save_start(tmp_path)
    config = ModelConfig(path=str(tmp_path), device="cpu", lora=lora)
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    shape = load_shape(config)
    (tmp_path / "elsewhere").rename(tmp_path / "model.safetensors")
    model = load_model(config)
    assert shape == shape_of(model)
    assert shape.policy.count == sum(parameter.numel() for parameter in model.parameters())


def test_of_a_mixture_a_token_meets_a_few_experts():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 97}  # fmt: skip
    few, many = (
        shape_of(Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_experts=count, num_experts_per_tok=2)))
        for count in (4, 8)
    )
    assert many.policy.count - few.policy.count == 2 * 4 * (
        3 * 32 * 16 + 32
    )  # layers · experts · (three matrices, router)
    assert many.matrices - few.matrices == 2 * 4 * 32  # the router


# Disk


def test_a_file_of_trajectories_is_within_a_factor_of_two(unbroken):
    for file in sorted((unbroken / "trajectories").glob("*.parquet")):
        config = config_of()
        step = measured(config, [store.read_groups(file)])
        assert 0.5 < stored_bytes(step) / file.stat().st_size < 2, file.name


def test_a_file_with_supports_is_within_a_factor_of_two(tmp_path):
    rng = np.random.default_rng(0)
    trajectories = [sampled(rng, 150_000, 50, [(200, 0)], advantage=1.0, index=index) for index in range(8)]
    for trajectory in trajectories:
        (entry,) = trajectory.samples
        counts = np.where(entry.mask, 64, 0).astype(np.int32)
        ids = rng.integers(0, 150_000, counts.sum()).astype(np.int32)
        ids[::64] = entry.ids[entry.mask]
        entry.support = Support(ids, counts)
    file = tmp_path / "a.parquet"
    store.write(file, trajectories)
    step = measured(config_of(), [store.read_groups(file)])
    assert 0.5 < stored_bytes(step, 64) / file.stat().st_size < 2


def test_checkpoint_and_model_take_as_many_bytes_as_they_do(unbroken):
    """But for the headers of files and AdamW's counters."""
    from grpo_agents.config import load_config

    config = load_config(unbroken / "config.toml")
    shape = load_shape(config.model)
    latest = max((unbroken / "checkpoints").glob("step-*"))
    held = sum(file.stat().st_size for file in latest.rglob("*.safetensors"))
    assert checkpoint_bytes(config, shape) == pytest.approx(held, rel=0.04)
    assert model_bytes(shape) == pytest.approx((unbroken / "model" / "model.safetensors").stat().st_size, rel=0.02)
