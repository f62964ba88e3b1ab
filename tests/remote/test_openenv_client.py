"""OpenEnv's own client plays what ``grpo-agents serve-env`` serves.

It lives in a Python of its own, since openenv wants another version of mcp than this project: ``make test-openenv``
makes one and runs this. ``OPENENV_PYTHON`` names one that is there.
"""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import REPOSITORY

from grpo_agents.env import make_env
from grpo_agents.spaces import tool_call

PYTHON = os.environ.get("OPENENV_PYTHON")
TOKEN = "s3cret-t0ken"

pytestmark = pytest.mark.skipif(not PYTHON, reason="OPENENV_PYTHON names no Python with openenv; see make test-openenv")


@contextmanager
def serve_env(name, *options):
    """The URL of the command's server, while it runs."""
    command = [sys.executable, "-m", "grpo_agents", "serve-env", name, "--port", "0", *options]
    env = {**os.environ, "OURS": TOKEN, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as server:
        yield re.search(r"at (http://127.0.0.1:\d+)", server.stderr.readline())[1]
        server.send_signal(signal.SIGTERM)
        assert "Traceback" not in server.stderr.read()


def played_by_openenv(url, *sessions):
    """What its client gives in each session: its episodes, or why it was not let in."""
    command = [PYTHON, Path(__file__).with_name("openenv_player.py")]
    asked = json.dumps({"url": url, "sessions": sessions})
    done = subprocess.run(command, input=asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def as_json(value):
    return json.loads(json.dumps(value))


def actions(env):
    """Each tool once, with words that may do for arguments; then words."""
    for name, tool in env.offer.items():
        keys = tool.schema["function"]["parameters"].get("properties", {})
        yield {"role": "assistant", "content": "so", "tool_calls": [tool_call(name, dict.fromkeys(keys, "3 + 4"))]}
    yield from ["é", "\\boxed{7}", "7", "bye"] * 8


def played_here(env, reset):
    """An episode as OpenEnv's client shows it, and the actions that were taken."""
    shown, taken = [[*env.reset(seed=reset["seed"], options={"task": reset.get("task")}), None, False]], []
    for action in actions(env):
        said, reward, terminated, truncated, info = env.step(action)
        taken.append(action)
        shown.append([said, info, reward, terminated or truncated])
        if shown[-1][-1]:
            break
    state = {"episode_id": None, "step_count": len(taken), "running": False}
    return taken, {"shown": shown, "state": state}


@pytest.mark.parametrize("name", ["grpo_agents/ToolMath-v0", "grpo_agents/LibraryDesk-v0"])
def test_its_episodes_are_those_of_the_environment_bit_for_bit(name):
    env = make_env(name)
    resets = [{"seed": 0}, {"seed": 1}, {"seed": 2, "task": env.task_source[3]}]
    played = [played_here(env, reset) for reset in resets]
    episodes = [{"reset": reset, "actions": taken} for reset, (taken, _) in zip(resets, played, strict=True)]
    with serve_env(name) as url:
        given = played_by_openenv(url, {"headers": None, "episodes": episodes})
    assert given == [{"episodes": as_json([shown for _, shown in played])}]
    assert all(len(taken) > 1 for taken, _ in played)


def test_it_shows_a_token_where_one_is_wanted():
    """As a header, which its client takes since 0.9."""
    taken, shown = played_here(make_env("grpo_agents/ToolMath-v0"), {"seed": 5})
    headers = [None, {"Authorization": "Bearer another"}, {"Authorization": f"Bearer {TOKEN}"}]
    episodes = [{"reset": {"seed": 5}, "actions": taken}]
    with serve_env("grpo_agents/ToolMath-v0", "--token-variable", "OURS") as url:
        *refused, given = played_by_openenv(url, *({"headers": shown, "episodes": episodes} for shown in headers))
    assert all("401" in session["error"] and TOKEN not in session["error"] for session in refused)
    assert given == {"episodes": as_json([shown])}
