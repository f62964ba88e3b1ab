"""The commands as a person types them: what they print, what they leave, and how they end."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from tiny import save_start
from typer.testing import CliRunner

from grpo_agents import cli, store, trainer
from grpo_agents.rewards import BUILT_IN
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Step, ToolRun, Trajectory

CONFIG = """
run = "runs/new"
model = { path = "start" }
env = { id = "grpo_agents/Orchestra-v0", options = { split = "train" } }
rewards = { vector = ["outcome", "cost", "latency"] }
advantage = { gate = "outcome" }
rollout = { group_size = 2, max_turn_tokens = 6, max_turns = 2 }
train = { steps = 2, batch = 2 }
eval = { every = 2, tasks = 3, env_options = { split = "test" } }
"""

BROKEN = '''
import itertools
from grpo_agents import AgentEnv, Reply, tool

count = itertools.count()


@tool(timeout=None)
def look(number: int) -> str:
    """Looks."""
    return str(next(count))


class Good(AgentEnv):
    """Keeps the contract."""

    tasks = [{"word": "tree"}]

    def start(self, task):
        return "A word?"

    def finish(self, task, message):
        return {"outcome": 1.0}


class Unmakeable(Good):
    def __init__(self):
        raise RuntimeError("no shop today")


class OddTasks(Good):
    tasks = [{"word": {1, 2}}]


class OtherTasks(Good):
    tasks = lambda rng: {"number": next(count)}


class TwoTools(Good):
    tools = (look, look)


class Forgetful(Good):
    tools = (look,)


class NoMessage(Good):
    def start(self, task):
        return ({"role": "robot", "content": "A word?"},)


class Silent(Good):
    def respond(self, message):
        return Reply()


class Cut(Good):
    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, True, info


class Undeclared(Good):
    def finish(self, task, message):
        return {"outcome": 1.0, "style": 0.5}


class Sparing(Good):
    components = ("outcome", "style")


class Costs(Good):
    maxima = {"costs": 4.0}


class Free(Good):
    maxima = {"cost": 0.0}


class Endless(Good):
    def finish(self, task, message):
        return {"outcome": float("inf")}


class Secretive(Good):
    def describe_preference(self, preference):
        return ""


class Raises(Good):
    def finish(self, task, message):
        return {"outcome": task["wrod"]}
'''


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments, stdin=None: CliRunner().invoke(cli.app, [str(entry) for entry in arguments], input=stdin)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a config, a tiny model and a run of it; and what was printed."""
    folder = tmp_path_factory.mktemp("cli")
    save_start(folder / "start")
    (folder / "run.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(cli.app, ["train", "run.toml", "--set", "run=runs/a"])
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def refused(result, code=2):
    """The message of a command that failed, without a traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr.strip()


# Help


def test_help_has_an_example_for_each_command(run):
    listed = run("--help").stdout
    for command in ("train", "rollout", "evaluate", "envs", "keys", "check", "play", "new env", "new reward"):
        assert command.split()[0] in listed
        shown = run(*command.split(), "--help").stdout
        assert f"Example: grpo-agents {command}" in shown


def test_help_gives_a_value_to_nothing_that_takes_none(run):
    for command in ("", "train", "rollout", "evaluate", "new", "new env"):
        shown = run(*command.split(), "--help").stdout
        assert "<bool>" not in shown
        assert "list[" not in shown
    assert re.search(r"--greedy +Take the likeliest", run("rollout", "--help").stdout)
    assert re.search(r"--rewards +NAMES", run("evaluate", "--help").stdout)
    assert re.search(r"FILE +Trajectory files", run("evaluate", "--help").stdout)


def test_help_needs_no_torch():
    code = "import sys; from grpo_agents.cli import app; app(['--help'], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "evaluate" in shown
    assert shown.split()[-1] == "False"


def test_the_version_is_shown(run):
    assert re.fullmatch(r"grpo-agents \d+\.\d+\.\d+\n", run("--version").stdout)


# train, rollout, evaluate


def test_train_says_where_to_look(finished):
    folder, printed = finished
    pictures = ["runs/a/curves.png", "runs/a/tool_use.png"]
    assert f"pictures  {', '.join(pictures)}" in printed
    assert all((folder / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "grpo-agents evaluate runs/a/trajectories/eval-000002.parquet" in printed


def test_train_refuses_a_folder_that_holds_a_run(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    message = refused(run("train", "run.toml", "--set", "run=runs/a"))
    assert "train --resume runs/a" in message
    assert "--overwrite" in message


def test_train_refuses_a_config_where_its_own_would_be_written(run, finished, monkeypatch):
    """Whether a run is there or not: nobody's config is lost."""
    monkeypatch.chdir(finished[0])
    (finished[0] / "exp").mkdir()
    (finished[0] / "exp" / "config.toml").write_text(CONFIG.replace("runs/new", "exp"))
    for place in ("exp", "runs/a"):
        before = (finished[0] / place / "config.toml").read_text()
        for options in ([], ["--overwrite"]):
            message = refused(run("train", f"{place}/config.toml", *options))
            assert f"{place}/config.toml lies where the run writes a config.toml of its own" in message
        assert (finished[0] / place / "config.toml").read_text() == before


def test_a_finished_run_can_be_resumed(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    before = (finished[0] / "runs/a/metrics.jsonl").read_text().splitlines()
    assert run("train", "--resume", "runs/a").exit_code == 0
    after = (finished[0] / "runs/a/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in after] == [json.loads(line) for line in before]


def test_a_run_is_made_longer_in_its_config(run, finished, tmp_path):
    longer = shutil.copytree(finished[0] / "runs/a", tmp_path / "longer")
    shutil.copytree(finished[0] / "start", tmp_path / "start")
    config = longer / "config.toml"
    config.write_text(config.read_text().replace("steps = 2", "steps = 3"))
    assert run("train", "--resume", "longer").exit_code == 0
    rows = [json.loads(line) for line in (longer / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "reward" in row] == [0, 1, 2]
    assert [row["step"] for row in rows if "eval/reward" in row] == [0, 2, 3]


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
        (["train", "a.toml", "--resume", "runs/a"], "name a config to train, or a run"),
        (["train", "--resume", "runs/a", "--overwrite"], "a run goes on as it began"),
        (["train", "--resume", "runs/a", "--set", "seed=1"], "a run goes on as it began"),
        (
            ["train", "--resume", "runs/a", "--set", "train.steps=9"],
            "raise train.steps in runs/a/config.toml and resume",
        ),
        (["train", "nowhere.toml"], "no config file HERE/nowhere.toml"),
        (["train", "--resume", "nowhere"], "no config file HERE/nowhere/config.toml"),
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
    monkeypatch.setattr(cli, "_hush", lambda: __import__("no_such_package"))
    assert isinstance(run("train", "a.toml").exception, ModuleNotFoundError)

    def without_torch():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "_hush", without_torch)
    assert "pip install 'grpo-agents[train]'" in refused(run("train", "a.toml"))


def test_an_interrupted_run_says_how_to_go_on_and_exits_with_130(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])

    def stopped(config, *, overwrite):
        raise KeyboardInterrupt("stopped after step 3; go on with `grpo-agents train --resume runs/a`")

    monkeypatch.setattr(trainer, "train", stopped)
    assert "go on with `grpo-agents train --resume runs/a`" in refused(run("train", "run.toml"), cli.INTERRUPTED)


def test_rollout_stores_and_sums_up(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    result = run("rollout", "run.toml", "--tasks", 3, "--out", "played.parquet")
    assert result.exit_code == 0, result.output
    assert "6 episodes of 3 tasks" in result.stdout
    stored = store.read(finished[0] / "played.parquet")
    assert [entry.id for entry in stored] == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    assert all(entry.samples and set(entry.rewards) == {"outcome", "cost", "latency"} for entry in stored)
    assert "played.parquet exists" in refused(run("rollout", "run.toml", "--out", "played.parquet"))


def test_greedy_rollouts_are_one_a_task_and_those_of_the_evaluation_other_tasks(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    for name, options in {"greedy": ["--greedy"], "held": ["--greedy", "--eval"]}.items():
        assert run("rollout", "run.toml", "--tasks", 4, "--out", f"{name}.parquet", *options).exit_code == 0
    greedy, held = (store.read(finished[0] / f"{name}.parquet") for name in ("greedy", "held"))
    assert len(greedy) == len(held) == 4
    assert not {entry.task["id"] for entry in greedy} & {entry.task["id"] for entry in held}


def episode(task, outcome, dollars, **fields):
    step = Step({"role": "assistant", "content": "one two"}, rewards={"outcome": outcome})
    step.tools = [ToolRun("expert", dollars, 0.3)]
    rewards = {"outcome": outcome, "cost": dollars}
    return Trajectory(env="grpo_agents/Orchestra-v0", task={"id": task}, steps=[step], rewards=rewards, **fields)


def test_evaluate_weighs_with_the_maxima_of_the_environment_that_was_played(run, tmp_path):
    episodes = [episode("a", 1.0, 10.0, group=0), episode("b", 1.0, 5.0, group=1)]
    store.write(tmp_path / "some.parquet", episodes)
    found = json.loads(run("evaluate", "some.parquet", "--json").stdout)
    assert found["reward"]["interval"]["mean"] == pytest.approx(1 + (0.0 + 0.5) / 2)  # 1 − cost/10 saved
    assert found["components"]["cost"]["unit"] == "dollars"
    gated = run("evaluate", "some.parquet", "--env", "grpo_agents/Math-v0", "--gate", "outcome", "--json")
    assert json.loads(gated.stdout)["reward"]["interval"]["mean"] == pytest.approx(1 - 7.5)  # no maxima: −cost


def test_evaluate_says_what_training_said(run, finished, monkeypatch):
    """The gate and the maxima are the run's, and its figures come out again."""
    monkeypatch.chdir(finished[0])
    rows = map(json.loads, (finished[0] / "runs/a/metrics.jsonl").read_text().splitlines())
    said = {row["step"]: row for row in rows if "eval/reward" in row}
    for step in (0, 2):
        file = f"runs/a/trajectories/eval-{step:06d}.parquet"
        found = json.loads(run("evaluate", file, "--json").stdout)
        assert found["reward"]["interval"]["mean"] == pytest.approx(said[step]["eval/reward"])
        ungated = json.loads(run("evaluate", file, "--gate", "", "--json").stdout)
        assert ungated["reward"]["interval"]["mean"] > said[step]["eval/reward"]  # a wrong answer that cost nothing


WORDS = Scoring(
    RewardVector(["outcome", Component("words", len, "min", "words"), BUILT_IN["cost"]]),
    {"words": 4.0, "cost": 20.0},
    "outcome",
)


def test_evaluate_reads_components_maxima_and_gate_from_the_file_alone(run, tmp_path):
    episodes = [episode("a", 1.0, 10.0, group=0), episode("b", 0.0, 10.0, group=1)]
    for trajectory in episodes:
        trajectory.rewards["words"] = 3.0
        trajectory.env = "long_gone.py:Shop"
    store.write(tmp_path / "some.parquet", episodes, scoring=WORDS)
    found = json.loads(run("evaluate", "some.parquet", "--json").stdout)
    assert found["reward"]["interval"]["mean"] == pytest.approx((1 + 0.25 + 0.5) / 2)
    assert (found["components"]["words"]["direction"], found["components"]["words"]["unit"]) == ("min", "words")
    for options, mean in {
        ("--env", "grpo_agents/Orchestra-v0"): (1 - 3 + 0.0) / 2,
        ("--gate", ""): 0.5 + 0.25 + 0.5,
        ("--rewards", "outcome,words"): (1 + 0.25) / 2,
    }.items():
        found = json.loads(run("evaluate", "some.parquet", *options, "--json").stdout)
        assert found["reward"]["interval"]["mean"] == pytest.approx(mean), options
    ungated = run("evaluate", "some.parquet", "--rewards", "words", "--json")
    assert json.loads(ungated.stdout)["reward"]["interval"]["mean"] == pytest.approx(0.25)
    assert "no gate: the stored one, outcome, is not among these rewards" in ungated.stderr


def test_evaluate_knows_a_stored_component_that_no_episode_has(run, tmp_path):
    missing = {"outcome": "the environment failed"}
    episodes = [Trajectory(rewards={"outcome": None, "words": None, "cost": 1.0}, missing=missing, error="down")]
    store.write(tmp_path / "some.parquet", episodes, scoring=WORDS)
    for options in ([], ["--rewards", "outcome,cost"], ["--gate", "outcome"]):
        found = json.loads(run("evaluate", "some.parquet", *options, "--json").stdout)
        assert found["components"]["outcome"]["reasons"] == {"the environment failed": 1}, options
        assert found["reward"]["missing"] == 1


def test_evaluate_says_when_it_pools_several_policies(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    pooled = run("evaluate", "runs/a/trajectories", "--json")
    assert "of 3 policies, of steps 0, 1 and 2" in pooled.stderr
    assert json.loads(pooled.stdout)["trajectories"] == 3 + 4 + 4 + 3
    assert run("evaluate", "runs/a", "--json").stdout == pooled.stdout
    assert "policies" not in run("evaluate", "runs/a/trajectories/eval-000002.parquet").stderr


def test_evaluate_computes_the_rewards_that_are_named_anew(run, tmp_path):
    store.write(tmp_path / "some.parquet", [episode("a", 1.0, 10.0)])
    table = run("evaluate", "some.parquet", "--rewards", "outcome,tool_calls").stdout
    assert "tool_calls ↓" in table
    assert "cost" not in table
    (tmp_path / "mine.py").write_text(
        "from grpo_agents import RewardVector, component\n"
        "@component(direction='min', unit='words')\n"
        "def words(trajectory):\n    return len(trajectory.final.split())\n"
        "vector = RewardVector(['outcome', words])\n"
        "misspelt = RewardVector(['outcom', words])\n"
        "several = ['outcome', words, 'cost']\n"
        "plain = lambda trajectory: 1.0\n"
    )
    for name in ("mine.py:vector", "mine.py:words", "mine.py:several"):
        found = json.loads(run("evaluate", "some.parquet", "--rewards", name, "--json").stdout)
        assert found["components"]["words"]["interval"]["mean"] == 2
    assert found["components"]["cost"]["direction"] == "min"  # of several: the built-in one, not one of the environment
    for name in ("outcom", "mine.py:misspelt"):
        assert "Did you mean 'outcome'" in refused(run("evaluate", "some.parquet", "--rewards", name))
    said = (
        "--rewards mine.py:plain: a RewardVector, a component or a list of them is wanted, not a function: write @comp"
    )
    assert said in refused(run("evaluate", "some.parquet", "--rewards", "mine.py:plain"))
    listed = refused(run("evaluate", "some.parquet", "--rewards", "nope")).split(": ")[-1]
    assert listed.count("cost") == 1


def test_evaluate_makes_no_scalar_of_a_component_whose_direction_it_cannot_know(run, tmp_path):
    store.write(tmp_path / "some.parquet", [Trajectory(rewards={"words": 7.0})])
    result = run("evaluate", "some.parquet")
    assert "reward (scalar)" not in result.stdout
    assert "Add --rewards file.py:vector" in result.stdout
    assert "--gate words needs a vector" in refused(run("evaluate", "some.parquet", "--gate", "words"))


# envs, keys, check, new, play


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([r"\frac12", "0.5"], 0, "equal"),
        (["-5", "-5.0"], 0, "equal"),
        (["(1, 2)", "(2, 1)"], 1, "The answer (2, 1) is not (1, 2)"),
        (["3", r"\frac{1}{"], 1, "cannot be read"),
        (["50", r"50\%", "--percent", "value"], 1, "different"),
        (["1/3", "0.33", "--digits", "2"], 0, "rounded"),
        (["15", r"5 \cdot 3 is \boxed{15}.", "--response"], 0, "equal"),
        (["15", "it is 15\n#### 15", "--response", "--marker", "####"], 0, "equal"),
        (["15", "it is 15", "--response"], 1, r"no answer: the response has no \boxed{}"),
    ],
)
def test_verify_shows_a_verdict_and_exits_with_it(run, arguments, code, said):
    result = run("verify", *arguments)
    assert (result.exit_code, said in result.stdout) == (code, True), result.output


def test_envs_lists_tools_prices_and_rewards(run):
    listed = run("envs").stdout
    for text in (
        "grpo_agents/Math-v0",
        "grpo_agents/ToolMath-v0",
        "grpo_agents/Orchestra-v0",
        "expert $10, 0.3 s",
        "outcome",
    ):
        assert text in listed


def test_keys_are_listed_whole_or_by_section(run):
    assert "learner.optimizer.lr: number = 1e-06\n    Learning rate at its highest.\n" in run("keys").stdout
    shown = run("keys", "model.lora").stdout
    assert [line.split(":")[0] for line in shown.splitlines() if not line.startswith(" ")] == [
        "model.lora", "model.lora.rank", "model.lora.alpha", "model.lora.dropout", "model.lora.targets"
    ]  # fmt: skip
    assert "Did you mean 'rollout'" in refused(run("keys", "rolout"))


@pytest.mark.parametrize("name", ["Math", "ToolMath", "Orchestra"])
def test_the_built_in_environments_keep_the_contract(run, name):
    result = run("check", f"grpo_agents/{name}-v0")
    assert result.exit_code == 0, result.output
    assert "all is well" in result.stdout


@pytest.mark.parametrize(
    ("name", "problem", "remedy"),
    [
        ("Unmakeable", "RuntimeError: no shop today", "broken.py, line"),
        ("OddTasks", "task 0 is not plain JSON", "use text, numbers"),
        ("OtherTasks", "task 0 is another one the second time", "draw with the generator"),
        ("TwoTools", "two tools have one name: look, look", "rename one"),
        ("Forgetful", "gives another observation", "no clocks"),
        ("Silent", "neither ends nor goes on", "terminated=True"),
        ("Cut", "an answer truncates the episode", "terminate it"),
        ("Undeclared", "gives the reward 'style'", "components = ('outcome', 'style')"),
        ("Sparing", "without the reward 'style'", "0 where it earned nothing"),
        ("Costs", "'costs' is no reward component. Did you mean 'cost'", "the most an episode can sensibly cost"),
        ("Free", "'cost' is 0.0, and the most an episode can cost is a positive number", "set `maxima`"),
        ("Endless", "outcome = inf", "a finite number"),
        ("Secretive", "the opening messages are the same", "describe_preference"),
        ("Raises", "KeyError: 'wrod'", "broken.py, line"),
    ],
)
def test_check_says_what_is_broken_and_what_to_do(run, tmp_path, name, problem, remedy):
    (tmp_path / "broken.py").write_text(BROKEN)
    result = run("check", f"broken.py:{name}")
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    place = next(place for place, line in enumerate(lines) if problem in line)
    assert any(line.startswith("✗") for line in lines[:place])
    assert any("→" in line and remedy in line for line in lines[place:])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            "def finish(self, task, message): return 1.0",
            "It.finish returned a float; return a dict such as {'outcome': 1",
        ),
        ("def finish(self, task, message): pass", "It.finish returned nothing; return a dict"),
        ("def finish(self, task, message): return 'good'", "It.finish returned a str; return a dict"),
        (
            "def finish(self, task, message): return {'outcome': 'good'}",
            "It gave the reward 'outcome' as 'good', which is",
        ),
        ("def respond(self, message): pass", "It.respond returned nothing; return a Reply"),
        ("def start(self, task): pass", "It.start returned nothing; return the opening text"),
        ("def start(self, task): return ({'role': 'robot', 'content': '?'},)", "not {'role': 'robot'"),
        ("start = AgentEnv.start", "It does not define start(task)"),
        ("def start(self, task): return task['wrod']", "KeyError: 'wrod'"),
    ],
)
def test_a_common_mistake_is_named_once(run, tmp_path, body, problem):
    (tmp_path / "broken.py").write_text(f"{BROKEN}\n\nclass It(Good):\n    {body}\n")
    result = run("check", "broken.py:It")
    assert result.stdout.count(problem) == 1, result.stdout
    assert re.search(r"broken\.py:It: 1 of \d+ checks failed", result.stdout)


def test_names_are_never_made_into_pictures(run, tmp_path):
    (tmp_path / "hello.py").write_text(BROKEN + "\nX = Good\n")
    assert "hello.py:X: all is well" in run("check", "hello.py:X").stdout


def test_check_passes_what_is_well(run, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    assert run("check", "broken.py:Good").exit_code == 0


def test_a_new_environment_keeps_the_contract_and_is_never_overwritten(run, tmp_path):
    assert "corner_shop.py:CornerShop" in run("new", "env", "corner_shop").stdout
    written = (tmp_path / "corner_shop.py").read_text()
    assert "class CornerShop(AgentEnv)" in written
    assert run("check", "corner_shop.py:CornerShop").exit_code == 0
    assert "corner_shop.py exists" in refused(run("new", "env", "corner_shop"))
    assert (tmp_path / "corner_shop.py").read_text() == written


def test_a_new_reward_scores_episodes(run, tmp_path):
    assert 'vector = "brief.py:vector"' in run("new", "reward", "brief").stdout
    store.write(tmp_path / "some.parquet", [episode("a", 1.0, 10.0)])
    found = json.loads(run("evaluate", "some.parquet", "--rewards", "brief.py:vector", "--json").stdout)
    means = {name: entry["interval"]["mean"] for name, entry in found["components"].items()}
    assert means == {"outcome": 1.0, "brevity": pytest.approx(1 - 7 / 500), "cost": 10.0}


def test_a_person_can_play(run):
    typed = ['/call calculator {"expression": "47*83"}', "", "/call", "/call calculator {x}", "/call calculator [1]"]
    lines = [f"{line}\n" for line in (*typed, "/call expert", "3")]
    result = run("play", "grpo_agents/Orchestra-v0", "--seed", 1, stdin="".join(lines))
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert "tool calculator(expression: string)  $1, 3 s" in shown
    assert "[calculator: $1, 3 s]\ntool: 3901" in shown
    assert shown.count("not understood") == 3
    assert "[expert: $10, 0.3 s]" in shown
    assert "rewards: outcome 0" in shown
    assert "the episode is over; reward 0 under the preference" in shown


@pytest.mark.parametrize("lines", ["/quit\n", ""])
def test_a_person_can_leave(run, lines):
    result = run("play", "grpo_agents/Math-v0", stdin=lines)
    assert result.exit_code == 0
    assert result.stdout.endswith("left before the end\n")


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
