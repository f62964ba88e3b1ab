"""The cost model beside what is measured: operations as torch counts them, bytes as they lie in memory and on disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import forking, make_model, make_tokenizer, sampled, save_start
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from grpo_agents import store
from grpo_agents.config import make_config
from grpo_agents.cost import (
    TEXTBOOK,
    Recipe,
    checkpoint_bytes,
    compare,
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
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.model import add_lora, load_model
from grpo_agents.learner.reward_model import RewardModel
from grpo_agents.learner.settings import (
    LearnerConfig,
    LoraSettings,
    ModelConfig,
    OptimizerConfig,
    RewardModelConfig,
)
from grpo_agents.learner.shape import load_judge, load_shape, shape_of
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.ppo import Ppo
from grpo_agents.support import Support
from grpo_agents.trajectory import Group, Message, Step, Trajectory
from grpo_agents.workload import (
    Work,
    budgeted,
    judged_work,
    learned_work,
    measured,
    packs,
    sampled_work,
    total,
    triangle,
)

SHAPES = {
    "qwen3": {"kind": "qwen3"},
    "llama": {"kind": "llama"},
    "wide heads": {"kind": "qwen3", "head_dim": 24},
    "of five layers": {"kind": "llama", "num_hidden_layers": 5, "intermediate_size": 100, "num_key_value_heads": 4},
}
CLOSE = 0.01
"""How far the operations may be from those that torch counts."""


def model_of(name, lora=False, **settings):
    model = make_model(**{**SHAPES[name], **settings})
    return add_lora(model, LoraSettings(rank=4)) if lora else model


def make_learner(model, method=None, *, optimizer="adamw", **settings):
    config = LearnerConfig(optimizer=OptimizerConfig(name=optimizer, lr=1e-3), **settings)
    return Learner(model, config, method or Grpo(), steps=10)


def ragged(count=6, advantages=None):
    """Trajectories of different lengths and turns."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        turns = [(int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
        advantage = float(rng.normal()) if advantages is None else advantages[number]
        found.append(sampled(rng, 97, int(rng.integers(1, 7)), turns, advantage=advantage, index=number))
    return found


def attention(query, key, value, dropout=0.0, causal=False, **_):
    """Operations of the flash kernel for CPUs, of which torch counts none: two products for each key attended."""
    batch, heads, asking, size = query
    pairs = triangle(asking, key[2] - asking) if causal else asking * key[2]
    return int(2 * batch * heads * pairs * (size + value[-1]))


def attention_backward(gradient, query, key, value, output, normaliser, dropout=0.0, causal=False, **_):
    """Its backward pass: the four products of gradients; scores, which the kernel computes again, are left out."""
    return 2 * attention(query, key, value, dropout, causal)


KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


def counted(work):
    """The operations of what is done, as torch counts them."""
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        work()
    return counter.get_total_flops()


def config_of(**settings):
    sections = {"model": {"path": "nowhere"}, "env": {"id": "grpo_agents/Math-v0"}}
    for key, value in settings.items():
        section, _, name = key.partition("__")
        if name:
            sections.setdefault(section, {})[name] = value
        else:
            sections[section] = value
    return make_config(sections)


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


# A reward model


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The settings of a tiny reward model, and its shape."""
    folder, tokenizer = tmp_path_factory.mktemp("judge"), make_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}  # fmt: skip
    config = Qwen3Config(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **sizes)
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = RewardModelConfig(path=str(folder), batch=4)
    return settings, load_judge(settings)


def make_judge(settings):
    judge = RewardModel(settings)
    judge.model.set_attn_implementation("eager")  # matrix products that torch counts
    return judge


def told(count=6):
    """Conversations of different lengths."""
    prompt: tuple[Message, ...] = ({"role": "user", "content": "1+1"},)
    return [Trajectory(prompt=prompt, steps=[Step({"role": "assistant", "content": "12" * n})]) for n in range(count)]


def squared(lengths, together):
    """What is computed for sequences of these lengths, where each position attends to the whole width."""
    parts = [lengths[start : start + together] for start in range(0, len(lengths), together)]
    return total([Work(len(part) * max(part), len(part) * max(part) ** 2, len(part)) for part in parts])


def test_judging_has_as_many_operations_as_torch_counts(judged):
    settings, shape = judged
    judge, conversations = make_judge(settings), told()
    found = counted(lambda: judge.score(conversations))
    lengths = [len(judge.encode(trajectory.messages())) for trajectory in conversations]
    assert len(set(lengths)) > 1
    assert forward(shape, squared(lengths, 4)) == pytest.approx(found, rel=CLOSE)


def test_retraining_a_reward_model_has_as_many_operations_as_torch_counts(judged):
    settings, shape = judged
    judge, conversations = make_judge(settings), told(12)
    sequences = [judge.encode(trajectory.messages()) for trajectory in conversations[6:]]
    sequences = [ids[: len(sequences[0])] for ids in sequences]
    found = counted(lambda: judge.learn(list(zip(sequences[::2], sequences[1::2], strict=True))))
    assert training(shape, squared([len(sequences[0])] * 6, 6)) == pytest.approx(found, rel=CLOSE)


def test_a_reward_model_takes_as_many_bytes_as_it_does(judged, monkeypatch):
    settings, shape = judged
    config = config_of(reward_model={**settings.model_dump(), "retrain_every": 2})
    step = budgeted(config, shape_of(make_model()), prompt=20, observation=9)
    parts = {part.name: part for part in memory(config, shape_of(make_model()), step, shape)}
    judge, gradients, moments = make_judge(settings), [], []
    for parameter in judge.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda entry: gradients.append(entry.grad.nbytes))

    class Watched(torch.optim.AdamW):
        def step(self):
            super().step()
            held = [value.nbytes for state in self.state.values() for name, value in state.items() if name != "step"]
            moments.append(sum(held))

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    judge.learn([([5, 6, 7], [8, 9])])
    assert parts["reward model"].bytes == sum(parameter.nbytes for parameter in judge.model.parameters())
    assert parts["reward model"].when == "always"
    transient = parts["reward model's gradients, moments"]
    assert (transient.bytes, transient.when) == (sum(gradients) + moments[0], "retraining")
    assert all(parameter.grad is None for parameter in judge.model.parameters())  # none is left for the policy's step


def test_a_reward_model_judges_what_is_sampled_and_is_retrained_every_so_often(judged):
    settings, judge = judged
    shape = shape_of(make_model())
    sections = {"rollout": {"group_size": 4, "max_turns": 1, "max_turn_tokens": 32}, "train": {"steps": 10, "batch": 3},
                "eval": {"every": 5, "tasks": 6}}  # fmt: skip
    taught = {**settings.model_dump(), "retrain_every": 4, "replay": 0.2}
    still, moving = (config_of(**sections, reward_model=entry) for entry in (settings.model_dump(), taught))
    workload = budgeted(still, shape, prompt=20, observation=9)
    assert workload.judging == Work(12 * 52, 12 * triangle(52), 12)
    found = estimate(still, shape, workload, judge=judge, prompt=20, observation=9)
    phases = {phase.name: phase for phase in found.phases}
    assert (phases["reward model"].flops, phases["reward model"].times) == (forward(judge, workload.judging), 10)
    assert phases["evaluation's rewards"].flops == phases["reward model"].flops / 2  # six conversations for twelve
    assert phases["evaluation's rewards"].times == phases["evaluation"].times
    assert found.moments == ["learning", "sampling"]
    besides = estimate(moving, shape, workload, judge=judge, prompt=20, observation=9)
    retraining = next(phase for phase in besides.phases if phase.name == "reward model training")
    rows = 4 * 3 * 2 / 0.8  # of four steps' three groups a pair, and a fifth of older ones
    assert retraining.flops == pytest.approx(training(judge, workload.judging.times(rows / 12)))
    assert retraining.times == 2
    weights = 4 * judge.policy.count
    assert besides.moments == ["learning", "retraining", "sampling"]
    assert found.needed("learning") == 16 * shape.policy.count + weights
    assert besides.needed("retraining") == 12 * shape.policy.count + 4 * weights
    assert checkpoint_bytes(moving, shape, judge) - checkpoint_bytes(still, shape, judge) == weights
    assert besides.on_disk - found.on_disk == 2 * weights  # a checkpoint's, and the trained one


def test_methods_that_sample_are_compared_with_what_a_reward_model_costs(judged):
    settings, judge = judged
    shape, config = shape_of(make_model()), config_of(reward_model={**settings.model_dump(), "retrain_every": 1})
    workload = budgeted(config, shape, prompt=100, observation=0)
    without, rows = (
        {name: row for row in compare(config, shape, workload, chosen) for name in row.methods}
        for chosen in (None, judge)
    )
    assert rows["grpo"].flops - without["grpo"].flops == pytest.approx(forward(judge, workload.judging))
    assert rows["grpo"].bytes - without["grpo"].bytes == 4 * judge.policy.count
    assert rows["sft"].flops == without["sft"].flops


def test_a_run_says_how_long_its_conversations_were():
    trajectories = ragged()
    lengths = [len(trajectory.samples[0].ids) for trajectory in trajectories]
    widest = [max(lengths[:4])] * 4 + [max(lengths[4:])] * 2
    assert judged_work(trajectories, 4) == Work(sum(widest), sum(map(triangle, widest)), 6)


def test_a_reward_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"reward_model\.path '.*nowhere' could not be loaded"):
        load_judge(RewardModelConfig(path=str(tmp_path / "nowhere")))


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


# Whole runs


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
