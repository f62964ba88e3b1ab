"""The sandbox as a tool of an environment."""

import gc

from processes import descendants, eventually
from snippets import zygote

from grpo_agents.env import AgentEnv
from grpo_agents.spaces import tool_call
from grpo_agents.tools import run_calls


def say(*codes):
    calls = [tool_call("python", {"code": code}, n) for n, code in enumerate(codes)]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def test_the_tool(hasty):
    python = hasty.tool()
    message = say("print(1)", "1 / 0", "while True: pass")
    messages, runs = run_calls({"python": python}, message["tool_calls"])
    assert [message["content"].rpartition("\n")[2] for message in messages] == [
        "1",
        "ZeroDivisionError: division by zero",
        "ended: it was stopped: no end within 0.4 s",
    ]
    assert [run.error for run in runs] == [None] * 3
    assert python.timeout is None  # its own limit is the only one
    assert python.schema["function"]["parameters"]["required"] == ["code"]
    assert python("6 * 7") == "value:\n42"
    kept = hasty.tool(session=True)
    kept("x = 1")
    assert kept("x") == "value:\n1"  # also without an environment
    assert "kept" in kept.schema["function"]["description"]
    assert kept.costing(price=2.0).price == 2.0


def test_an_environment_has_a_session_for_each_episode(sandbox):
    class Lab(AgentEnv):
        tasks = ({"question": "?"},)
        tools = (sandbox.tool(session=True),)

        def start(self, task):
            return "Try it."

        def finish(self, task, message):
            return {"outcome": 1.0}

    def contents(env, *codes):
        return [message["content"] for message in env.step(say(*codes))[0]]

    top = zygote(sandbox)
    resting = len(descendants(top))
    one, two = Lab(), Lab()
    one.reset(seed=1)
    two.reset(seed=1)
    assert contents(one, "x = 1", "x") == ["no output", "value:\n1"]
    assert "NameError" in contents(two, "x")[0]
    assert contents(one, "x + 1") == ["value:\n2"]
    assert len(descendants(top)) == resting + 6
    one.reset(seed=1)
    assert eventually(lambda: len(descendants(top)) == resting + 3)  # the old episode's is gone
    assert "NameError" in contents(one, "x")[0]
    del one, two
    gc.collect()
    assert eventually(lambda: len(descendants(top)) == resting)
