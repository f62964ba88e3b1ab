"""The configs for a real model, run by the same code path on a tiny stand-in of its architecture."""

import json
from pathlib import Path

import pytest
from test_chat import MARKERS
from test_chat import make_tokenizer as make_qwen_tokenizer
from tiny import make_model

from grpo_agents import store
from grpo_agents.config import load_config
from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.trainer import train

EXAMPLES = Path(__file__).parents[2] / "examples"
FEW = [
    "model.dtype=float32",
    "model.device=cpu",
    "rollout.group_size=2",
    "rollout.max_turn_tokens=8",
    "train.steps=2",
    "train.batch=2",
    "train.save_every=2",
    "eval.every=2",
    "eval.tasks=2",
]


@pytest.fixture
def gsm8k(tmp_path):
    """Two questions of our own in GSM8K's form, as the data set has it and with the bare answer beside it."""
    rows = [
        {"question": "Ann has 2 apples and buys 3. How many?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5", "final": "5"},
        {"question": "Bob halves 1,200. What is it?", "answer": "It is <<1200/2=600>>600.\n#### 600", "final": "600"},
    ]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_gsm8k_trains_on_a_local_file(stand_in, gsm8k, tmp_path):
    run = tmp_path / "run"
    local = [f"tasks.source={gsm8k}", f"eval.source.source={gsm8k}", f"run={run}", f"model.path={stand_in}"]
    train(load_config(EXAMPLES / "gsm8k.toml", [*FEW, *local]))
    trajectories = store.read(run / "trajectories" / "train-000001.parquet")
    assert len(trajectories) == 4
    assert {trajectory.task["answer"].rpartition("#### ")[2] for trajectory in trajectories} <= {"5", "600"}
    assert all(trajectory.rewards["outcome"] is not None for trajectory in trajectories)


def test_gsm8k_takes_a_hub_id_by_the_same_path(stand_in, gsm8k, tmp_path, monkeypatch):
    """What a hub id loads is what `datasets` gives; here from a folder, as a hub is out of reach of tests."""
    import datasets

    asked = []

    def load_dataset(name, config=None, split=None):
        asked.append((name, config, split))
        return datasets.Dataset.from_json(str(gsm8k), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    run = tmp_path / "run"
    train(load_config(EXAMPLES / "gsm8k.toml", [*FEW, f"run={run}", f"model.path={stand_in}"]))
    assert ("openai/gsm8k", "main", "train") in asked
    assert ("openai/gsm8k", "main", "test") in asked


def test_orchestra_trains_adapters(stand_in, tmp_path):
    run = tmp_path / "run"
    train(load_config(EXAMPLES / "orchestra.toml", [*FEW, f"run={run}", f"model.path={stand_in}"]))
    assert (run / "model" / "adapter_model.safetensors").is_file()
    assert store.read(run / "trajectories" / "train-000001.parquet")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Another stand-in, whose tokenizer has words enough for the rules of a library and its tools."""
    folder = tmp_path_factory.mktemp("reader")
    env = LibraryDeskEnv()
    texts = [message["content"] for seed in range(20) for message in env.reset(seed=seed)[0]]
    texts += [json.dumps(tool.schema) for tool in env.tools]
    qwen = make_qwen_tokenizer("qwen3")
    tokenizer = qwen.train_new_from_iterator(texts, 2000)
    tokenizer.add_tokens(MARKERS)
    tokenizer.chat_template = qwen.chat_template
    make_model(vocab_size=len(tokenizer), max_position_embeddings=8192).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_library_desk_trains_on_its_first_level(reader, tmp_path):
    """By how long it talks, which differs also between episodes of random weights."""
    run = tmp_path / "run"
    local = [f"run={run}", f"model.path={reader}", "train.steps=3", "rollout.group_size=4"]
    local += ["env.options={split = 'train', levels = [1]}", "rollout.stop=['e', 'a']"]
    local += ["rewards.vector=['outcome', 'progress', 'cost', 'length']", "preference.choices=[{length = 1.0}]"]
    train(load_config(EXAMPLES / "library_desk.toml", [*FEW, *local, "rollout.max_turn_tokens=64"]))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["grad_norm"] > 0 for row in rows if "grad_norm" in row] == [True] * 3
    ended = []
    for step in range(3):
        for trajectory in store.read(run / "trajectories" / f"train-{step:06}.parquet"):
            assert trajectory.error is None
            assert trajectory.task["level"] == 1
            assert [message["role"] for message in trajectory.prompt] == ["system", "user"]
            ended += [trajectory] if trajectory.stop_reason == "terminated" else []
    assert len(ended) > 12  # of 24: the member left
    assert all(trajectory.steps[-1].rewards == {"outcome": 0.0, "progress": 0.0} for trajectory in ended)
    assert (run / "model" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ["gsm8k.toml", "orchestra.toml", "library_desk.toml"])
def test_they_name_models_and_data_of_the_hub(name):
    config = load_config(EXAMPLES / name)
    assert config.model.path == "Qwen/Qwen3-0.6B"
    assert config.chosen_method.name == "grpo"
