"""docs/tools.md and docs/your_agent.md, run as they stand."""

import doctest
import importlib
import re
import sys
import tomllib

import pytest
import typer
from fake_openai import serving
from tiny import REPOSITORY
from typer.testing import CliRunner

from grpo_agents import store
from grpo_agents.cli import app
from grpo_agents.config import load_config
from grpo_agents.env import make_env
from grpo_agents.spaces import tool_call
from grpo_agents.tasks import load_object
from grpo_agents.trajectory import Group, Step, Trajectory

TOOLS = REPOSITORY / "docs" / "tools.md"
AGENT = REPOSITORY / "docs" / "your_agent.md"


def blocks(page):
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files of both pages, where one is and from which modules come."""
    for page in (TOOLS, AGENT):
        for _, text in blocks(page):
            if named := re.match(r"# (\S+\.\w+)\n", text):
                (tmp_path / named[1]).write_text(text)
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_the_page_of_tools_says_what_they_do(folder):
    failed, tried = doctest.testfile(str(TOOLS), module_relative=False)
    assert (failed, tried > 30) == (0, True)


def test_its_config_is_one(folder):
    (text,) = [text for kind, text in blocks(TOOLS) if kind == "toml"]
    found = tomllib.loads(text)
    assert sum(found["preference"]["choices"][1].values()) == 1
    assert set(found["preference"]["choices"][1]) <= set(found["rewards"]["vector"])


def played(env, *messages):
    """An episode of these messages, with its rewards by the page's vector."""
    observation, info = env.reset(seed=0, options={"task": env.task_source[1]})
    made = Trajectory(task=info["task"], preference=info["preference"], prompt=observation, tools=info["tools"])
    for message in messages:
        observation, _, terminated, _, info = env.step(message)
        made.steps.append(Step(message, observation, info["rewards"], env.runs))
    assert terminated
    load_object("matters.py:vector").score([Group(made.task, made.preference, [made])])
    return made


def calls(*named):
    made = [tool_call(name, {"number": "B02"}, at) for at, name in enumerate(named)]
    return {"role": "assistant", "content": "", "tool_calls": made}


ANSWER = {"role": "assistant", "content": "No"}


def test_the_agent_has_become_an_environment(folder):
    env = make_env("users.py:SupportForUsers")
    careful = played(env, calls("find_order"), calls("refund"), ANSWER)
    assert careful.steps[0].observation[0]["content"] == '{"item": "lamp", "arrived": false}'
    assert careful.rewards == {
        "outcome": 1.0,
        "refunds": 1.0,
        "careful": 1.0,
        "cost": pytest.approx(0.06),
        "uses.find_order": 1.0,
    }
    rash = played(env, calls("refund", "find_order"), ANSWER)
    assert (rash.rewards["careful"], rash.rewards["refunds"]) == (0.0, 1.0)  # nothing is left of the episode before
    assert "This user " in rash.prompt[-1]["content"]
    assert CliRunner().invoke(app, ["check", "support.py:Support"]).exit_code == 0


def test_its_schemas_are_those_that_the_agent_wrote_by_hand(folder):
    schemas = load_object("agent.py:SCHEMAS")
    for by_hand, tool in zip(schemas, make_env("support.py:Support").tools, strict=True):
        written, derived = by_hand["function"], tool.schema["function"]
        assert (derived["name"], derived["description"]) == (written["name"], written["description"])
        assert derived["parameters"] == written["parameters"]


def test_its_runs_can_be_made(folder, monkeypatch):
    load_config("train.toml")
    commands = re.findall(r"^    grpo-agents (\w+) ", AGENT.read_text(), re.MULTILINE)
    assert set(commands) <= set(typer.main.get_command(app).commands)
    answer = {"choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}
    with serving(lambda path, body: answer) as fake:
        settings = ["--set", f"engine.server.url={fake.url}", "--set", "rollout.group_size=2"]
        done = CliRunner().invoke(app, ["rollout", "now.toml", "--out", "now.parquet", "--tasks", "2", *settings])
    assert done.exit_code == 0, done.output
    read = store.read("now.parquet")
    assert [entry.rewards["refunds"] for entry in read] == [entry.task["refund"] == [] for entry in read]
