"""The README's own example, run as it stands: only the model is a tiny one and the run is short."""

import doctest
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from tiny import demo_module, save_start
from transformers import Qwen3Config
from typer.testing import CliRunner

from grpo_agents import store
from grpo_agents.cli import app
from grpo_agents.utility import utility

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SHORT = ["--set", "model.path=tiny", "--set", "train.steps=2", "--set", "train.batch=1", "--set", "eval.tasks=3"]
SHORT += ["--set", "rollout.group_size=2", "--set", "rollout.max_turn_tokens=8"]


def section(title):
    """What stands below a title."""
    return re.search(rf"^## {title}\n(.*?)^## ", TEXT, re.DOTALL | re.MULTILINE)[1]


def test_the_two_commands_come_first():
    code = [line.split("#")[0].split() for line in README.read_text().splitlines() if line.startswith("    ")]
    assert code[:2] == [["make", "demo"], ["make", "test"]]


def test_an_environment_a_vector_training_and_evaluation_take_fewer_than_40_lines():
    assert [language for language, _ in BLOCKS] == ["python", "python", "toml", "sh"]
    assert sum(len([line for line in text.splitlines() if line.strip()]) for _, text in BLOCKS) < 40


def test_its_lists_of_commands_and_rooms_are_what_is_there():
    listed = re.findall(r"^    grpo-agents ([a-z-]+) ", section("Commands"), re.MULTILINE)
    assert set(listed) == set(typer.main.get_command(app).commands)
    cells = re.findall(r"^\| (`.*?`) \|", section("The way of the data"), re.MULTILINE)
    rooms = [room for cell in cells for room in re.findall(r"`([^`]+)`", cell)]
    assert len(rooms) > 30
    package = README.parent / "grpo_agents"
    assert [room for room in rooms if not (README.parent / room).exists() and not (package / room).exists()] == []


def test_what_it_shows_at_the_prompt_is_so():
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert (failed, tried > 5) == (0, True)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each command of the README printed, by its name."""
    folder = tmp_path_factory.mktemp("readme")
    save_start(folder / "tiny", max_position_embeddings=2048)
    for language, text in BLOCKS:
        if language != "sh":
            name = re.match(r"# (\S+)\n", text)
            (folder / name.group(1)).write_text(text, encoding="utf-8")
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in BLOCKS[-1][1].splitlines():
            program, command, *arguments = shlex.split(line.replace("eval-000100", "eval-000002"))
            assert program == "grpo-agents"
            result = CliRunner().invoke(app, [command, *arguments, *(SHORT if command == "train" else [])])
            assert result.exit_code == 0, result.output
            printed[command] = result.stdout
        checked = CliRunner().invoke(app, ["check", "shop.py:Shop"])
        assert checked.exit_code == 0, checked.output
    return folder, printed


def test_the_run_leaves_what_the_readme_says(outputs):
    folder, printed = outputs
    run = folder / "runs" / "shop"
    files = {"config.toml", "metrics.jsonl", "curves.png", "tool_use.png"}
    assert {entry.name for entry in run.iterdir()} == files | {"tensorboard", "trajectories", "checkpoints", "model"}
    assert "grpo-agents evaluate runs/shop/trajectories/eval-000002.parquet" in printed["train"]


def test_a_wrong_answer_of_the_shop_earns_nothing_by_being_cheap(outputs):
    scoring = store.read_scoring(outputs[0] / "runs" / "shop" / "trajectories")
    rewards, weights = {"brevity": 1.0, "cost": 0.0}, {"outcome": 0.2, "brevity": 0.3, "cost": 0.5}
    for outcome, worth in {0.0: 0.0, 1.0: 1.0}.items():
        given = {"outcome": outcome, **rewards}
        assert utility(given, weights, scoring.vector, scoring.maxima, scoring.gate) == pytest.approx(worth)


def test_the_shop_is_tried_on_a_model_from_scratch(tmp_path, monkeypatch):
    found = re.search(r"^    (python examples/demo/tiny_model.py .*)\n    (grpo-agents train .*)$", TEXT, re.MULTILINE)
    make, train = found.groups()
    for _, text in BLOCKS[:-1]:
        (tmp_path / re.match(r"# (\S+)\n", text).group(1)).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", shlex.split(make)[1:])
    demo_module("tiny_model").main()
    fewer = ["--set", "train.batch=1", "--set", "eval.tasks=2", "--set", "rollout.group_size=2"]
    result = CliRunner().invoke(app, [*shlex.split(train)[1:], *fewer])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "shop" / "trajectories" / "eval-000003.parquet").is_file()


def test_the_program_is_found_before_it_is_called():
    assert TEXT.index(". .venv/bin/activate") < TEXT.index("\ngrpo-agents ")


def test_the_lens_shows_the_papers_methods(outputs):
    _, printed = outputs
    assert "trajectory 0.0 of train-000001.parquet, one of a group of 2" in printed["explain"]
    for method in ("run: grpo", "sft", "rft", "online_rft", "dpo", "ppo", "grpo"):
        assert f"\n{method} " in printed["explain"]


def test_the_evaluation_shows_the_vector(outputs):
    _, printed = outputs
    assert "3 episodes of 3 tasks" in printed["evaluate"]
    for row in ("outcome ↑", "brevity ↑", "cost ↓", "reward (scalar)", "look_up"):
        assert row in printed["evaluate"]


def test_it_costs_what_is_shown(tmp_path, monkeypatch):
    """The model's shape is that of Qwen3-0.6B: its config is made here, as a hub is out of reach of tests."""
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
             "tie_word_embeddings": True}  # fmt: skip
    Qwen3Config(**sizes).save_pretrained(tmp_path / "Qwen" / "Qwen3-0.6B")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(app, ["cost", str(README.parent / "examples" / "gsm8k.toml")])
    assert result.exit_code == 0, result.output
    lines = [line[4:] for line in section("What it costs").splitlines() if line.startswith("    ")]
    assert len(lines) > 20
    assert "\n".join(lines) in result.stdout
