"""docs/library_desk.md: its programs run, and what it shows is so."""

import re
import shlex
import subprocess
import sys

import pytest
import typer
from fake_openai import serving
from tiny import REPOSITORY

from grpo_agents.cli import app
from grpo_agents.contract import check
from grpo_agents.env import make_env
from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.envs.library_desk.tasks import LEVELS
from grpo_agents.envs.library_desk.tools import LOOK_UPS, WRITES
from grpo_agents.spaces import tool_call
from grpo_agents.tasks import load_object

PAGE = (REPOSITORY / "docs" / "library_desk.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TRANSCRIPT, MEMBER, DOMAIN = (text for kind, text in BLOCKS if kind == "python")


def test_the_dialogue_that_it_shows_is_what_its_program_prints():
    done = subprocess.run(
        [sys.executable, "-c", TRANSCRIPT], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    (shown,) = (text for kind, text in BLOCKS if kind == "text")
    assert done.stdout == shown
    assert shown.endswith("{'outcome': 1.0, 'progress': 1.0}\n")


def test_its_tables_are_of_what_is_there():
    rows = re.findall(r"^\| (\d) \| (\d) \|", PAGE, re.MULTILINE)
    wishes = {number: level.plain + level.conditional + level.forbidden for number, level in LEVELS.items()}
    assert {int(level): int(count) for level, count in rows} == wishes
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(LibraryDeskEnv.components)
    for tool in (*LOOK_UPS, *WRITES):
        assert f"`{tool.name}`" in PAGE
    assert {(tool.price, tool.latency) for tool in LOOK_UPS} == {(0.01, 0.2)}
    assert {(tool.price, tool.latency) for tool in WRITES} == {(0.02, 0.5)}


def test_its_member_behind_a_server_serves_an_episode(tmp_path, monkeypatch):
    def answer(path, body):
        said = "Hello." if len(body["messages"]) == 2 else "###STOP###"
        message = {"role": "assistant", "content": said}
        return {
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 2},
        }

    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    with serving(answer) as server:
        path = tmp_path / "member.py"
        path.write_text(re.sub(r"http://[^\"]+", server.url, MEMBER))
        env = make_env("grpo_agents/LibraryDesk-v0", user=f"{path}:member")
        assert env.reset(seed=0)[0][-1]["content"] == "Hello."
        observation, _, terminated, _, _ = env.step("All is done.")
        assert (observation[0]["content"], terminated) == ("Goodbye.", True)
        load_object(f"{path}:member")._shared.engine.close()


def test_its_domain_keeps_the_contract_and_can_be_solved(tmp_path):
    path = tmp_path / "box_office.py"
    path.write_text(DOMAIN)
    assert len([line for line in DOMAIN.splitlines() if line.strip()]) <= 60
    name = f"{path}:BoxOffice"
    assert [finding for finding in check(lambda: make_env(name)) if finding.problem] == []
    env = make_env(name)
    for seed in range(50):
        _, info = env.reset(seed=seed)
        task = info["task"]
        calls = [tool_call("sell", {"guest": task["name"], "seat": seat}) for seat in task["solution"]]
        env.step({"role": "assistant", "content": "", "tool_calls": calls})
        assert env.step("It is done.")[1] == 1.0
        env.reset(seed=seed)
        assert env.step("It is done.")[1] == 0.0


@pytest.mark.parametrize("command", re.findall(r"^    grpo-agents (.+)$", PAGE, re.MULTILINE))
def test_its_commands_have_these_options(command):
    name, *arguments = shlex.split(command)
    typer.main.get_command(app).commands[name].make_context(name, arguments)
