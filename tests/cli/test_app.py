"""Help, and how commands end that went wrong."""

import os
import re
import subprocess
import sys

import pytest
from shell import BROKEN, refused

from grpo_agents.cli import training


def test_help_has_an_example_for_each_command(run):
    listed = run("--help").stdout
    for command in (
        "train",
        "rollout",
        "reward-model",
        "evaluate",
        "rescore",
        "import",
        "export",
        "replay",
        "explain",
        "cost",
        "envs",
        "keys",
        "check",
        "play",
        "new env",
        "new reward",
    ):
        assert command.split()[0] in listed
        shown = run(*command.split(), "--help").stdout
        assert f"Example: grpo-agents {command}" in shown


def test_help_gives_a_value_to_nothing_that_takes_none(run):
    for command in ("", "train", "rollout", "evaluate", "explain", "cost", "new", "new env"):
        shown = run(*command.split(), "--help").stdout
        assert "<bool>" not in shown
        assert "list[" not in shown
    assert re.search(r"--greedy +Take the likeliest", run("rollout", "--help").stdout)
    assert re.search(r"--reward +NAMES", run("evaluate", "--help").stdout)
    assert re.search(r"FILE +Trajectory files", run("evaluate", "--help").stdout)


def test_help_needs_no_torch():
    code = "import sys; from grpo_agents.cli import app; app(['--help'], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "evaluate" in shown
    assert shown.split()[-1] == "False"


def test_the_version_is_shown(run):
    assert re.fullmatch(r"grpo-agents \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("command", ["train", "play", "check"])
@pytest.mark.parametrize(
    ("third_line", "said"), [("class Shop(:", "SyntaxError: invalid syntax"), ("prices[1]", "NameError: name 'prices'")]
)
def test_an_error_in_a_persons_file_is_said_with_file_and_line(run, tmp_path, command, third_line, said):
    (tmp_path / "shop.py").write_text(f"import math\n\n{third_line}\n    \n")
    (tmp_path / "shop.toml").write_text('model.path = "x"\nenv.id = "shop.py:Shop"\n')
    result = run(command, "shop.toml" if command == "train" else "shop.py:Shop")
    message = result.stdout if command == "check" else refused(result)
    assert "shop.py, line 3" in message
    assert said in " ".join(message.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "name a config to train, or a run to go on with"),
        (["train", "a.toml", "--resume", "runs/a"], "the config in its folder: leave a.toml out, or --resume"),
        (["train", "--resume", "runs/a", "--overwrite"], "a run goes on as it began"),
        (["train", "--resume", "runs/a", "--set", "seed=1"], "a run goes on as it began"),
        (
            ["train", "--resume", "runs/a", "--set", "train.steps=9"],
            "raise train.steps in runs/a/config.toml and resume",
        ),
        (["train", "nowhere.toml"], "no config file HERE/nowhere.toml"),
        (["train", "--resume", "nowhere"], "nowhere holds no run. `grpo-agents train CONFIG` begins one"),
        (["rollout", "nowhere.toml", "--out", "a.parquet"], "no config file HERE/nowhere.toml"),
        (["evaluate", "nowhere.parquet"], "no trajectory file HERE/nowhere.parquet"),
        (["play", "nowhere.py:Shop"], "there is no file HERE/nowhere.py"),
        (["play", "grpo_agents/Maths-v0"], "Did you mean grpo_agents/Math-v0"),
        (["play", "shop"], "unknown environment 'shop'"),
        (["play", "shop.py"], "Name the class as well: shop.py:Class"),
        (["new", "env", "corner shop"], "'corner shop' cannot name a Python module"),
        (["new", "env", "class"], "'class' cannot name a Python module"),
        (["new", "reward", "calendar"], "Python has a module 'calendar' of its own, which calendar.py could hide"),
    ],
)
def test_what_a_person_got_wrong_is_one_message(run, tmp_path, arguments, message):
    assert message.replace("HERE", str(tmp_path)) in refused(run(*arguments))


def test_an_unknown_key_names_the_nearest(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    assert "Did you mean 'group_size'" in refused(run("train", "run.toml", "--set", "rollout.groupsize=3"))


def test_debug_shows_where_an_error_comes_from(run):
    result = run("--debug", "train", "nowhere.toml")
    assert isinstance(result.exception, FileNotFoundError)


def test_an_error_that_is_not_ours_says_how_to_find_it(run, tmp_path):
    (tmp_path / "raises.py").write_text("def Shop():\n    raise ValueError('the shop is closed')\n")
    message = refused(run("play", "raises.py:Shop"))
    assert "ValueError: the shop is closed" in message
    assert "--debug" in message


def test_a_missing_package_is_named_with_its_remedy(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.utils", None)
    monkeypatch.setattr(training, "_hush", lambda: __import__("no_such_package"))
    assert isinstance(run("train", "a.toml").exception, ModuleNotFoundError)

    def without_torch():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(training, "_hush", without_torch)
    assert "pip install 'grpo-agents[train]'" in refused(run("train", "a.toml"))


def test_the_console_script_finds_modules_of_the_folder_it_is_run_in_after_all_others(tmp_path):
    (tmp_path / "mine.py").write_text(BROKEN)
    for name in ("calendar", "string", "rich"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a module of this name is needed elsewhere')")
    script = os.path.join(os.path.dirname(sys.executable), "grpo-agents")
    done = subprocess.run([script, "check", "mine:Good"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_run_as_the_script_is(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "grpo_agents", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("grpo-agents ")
