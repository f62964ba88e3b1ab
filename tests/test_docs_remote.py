"""docs/remote_environments.md, run as it stands."""

import re
import shlex
import threading
import tomllib

import pytest
import typer
from tiny import REPOSITORY

from grpo_agents.cli import app
from grpo_agents.config import EnvConfig
from grpo_agents.remote import answering
from grpo_agents.remote.making import PATIENCE, TIMEOUT
from grpo_agents.remote.server import Limits
from grpo_agents.remote.websocket import TOKEN_VARIABLE
from grpo_agents.remote.wire import MAX_BYTES, PROTOCOL

PAGE = (REPOSITORY / "docs" / "remote_environments.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_its_python_serves_plays_and_says_who_is_away():
    before = threading.active_count()
    program, left = "\n".join(text for kind, text in BLOCKS if kind == "python"), {}
    try:
        exec(program, left)
    finally:
        left["server"].should_exit = True
        left["thread"].join()
    assert left["said"].startswith("What is 6 times 7?")
    assert (left["reward"], left["terminated"], left["info"]["rewards"]) == (1.0, True, {"outcome": 1.0})
    assert re.match(rf"{left['url']} cannot be reached: .*serve-env", left["away"])
    assert threading.active_count() <= before + 20


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "toml"])
def test_its_configs_are_some(text):
    made = EnvConfig(**tomllib.loads(text)["env"])
    assert made.made_with()
    if made.place is None:
        assert made.options == {"timeout": TIMEOUT, "patience": PATIENCE}


@pytest.mark.parametrize("command", re.findall(r"^    grpo-agents (serve-env .+)$", PAGE, re.MULTILINE))
def test_its_commands_have_these_options(command):
    name, *arguments = shlex.split(command)
    typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_it_names_every_request_and_the_limits():
    rows = re.search(r"^\| request \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)[1]
    named = [name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted([*answering._ANSWERS, "close"])
    limits = Limits()
    assert f"`--sessions` ({limits.sessions})" in PAGE
    assert f"`--step-timeout` ({limits.step_timeout:g} s)" in PAGE
    assert limits.idle_timeout == 3600
    assert f"at most {MAX_BYTES // 2**20} MiB" in PAGE
    assert f"Version {PROTOCOL}:" in PAGE
    assert TOKEN_VARIABLE in PAGE
