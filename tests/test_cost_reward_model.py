"""What a reward model costs, beside what is measured."""

import pytest
import torch
from costing import CLOSE, config_of, counted, ragged
from tiny import make_model, make_tokenizer
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from grpo_agents.cost import (
    checkpoint_bytes,
    compare,
    estimate,
    forward,
    memory,
    training,
)
from grpo_agents.learner.reward_model import RewardModel
from grpo_agents.learner.settings import (
    RewardModelConfig,
)
from grpo_agents.learner.shape import load_judge, shape_of
from grpo_agents.trajectory import Message, Step, Trajectory
from grpo_agents.workload import (
    Work,
    budgeted,
    judged_work,
    total,
    triangle,
)


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
