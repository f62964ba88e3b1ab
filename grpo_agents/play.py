"""A person is the policy: the conversation is shown, and what is typed is the next message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from grpo_agents.env import AgentEnv, describe_message
from grpo_agents.spaces import tool_call
from grpo_agents.tools import Tool
from grpo_agents.trajectory import Message

HOW = 'Type an answer, or /call TOOL {"argument": value} to call a tool, or /quit.'


def play(env: AgentEnv, lines: Iterable[str], say: Callable[[str], None], *, seed: int | None = None) -> bool:
    """Plays one episode.

    Args:
        env: The environment.
        lines: What the person types, line by line.
        say: Shows a line to the person.
        seed: Of the episode.

    Returns:
        True where the episode came to its end, False where the person left.
    """
    observation, _ = env.reset(seed=seed)
    for tool in env.offer.values():
        say(_describe_tool(tool))
    for message in observation:
        say(describe_message(message))
    say(HOW)
    total = 0.0
    for line in lines:
        line = line.strip()
        if line == "/quit":
            break
        if not line:
            continue
        try:
            action = _read(line)
        except ValueError as error:
            say(f"not understood: {error}. {HOW}")
            continue
        observation, reward, terminated, truncated, info = env.step(action)
        total += reward
        for run in env.runs:
            say(f"[{run.name}: ${run.dollars:g}, {run.latency:.3g} s{', failed' if run.error else ''}]")
        for message in observation:
            say(describe_message(message))
        if info["rewards"]:
            say("rewards: " + ", ".join(f"{name} {value:g}" for name, value in info["rewards"].items()))
        if terminated or truncated:
            weighed = f" under the preference {json.dumps(env.preference)}" if env.preference else ""
            say(f"the episode is over; reward {total:g}{weighed}")
            return True
    say("left before the end")
    return False


def _read(line: str) -> Message | str:
    """The action that a line stands for.

    Raises:
        ValueError: An unknown command, or arguments that are no JSON object.
    """
    if not line.startswith("/"):
        return line
    command, _, rest = line.partition(" ")
    name, _, text = rest.strip().partition(" ")
    if command != "/call" or not name:
        raise ValueError(f"{line!r}")
    try:
        arguments = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"the arguments {text!r} are no JSON ({error})") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments {text!r} are no JSON object")
    return {"role": "assistant", "content": "", "tool_calls": [tool_call(name, arguments)]}


def describe_costs(tool: Tool) -> str:
    """A tool's price and latency, for people."""
    price = "by use" if tool.prices is None else f"${tool.price:g}" if not tool.metered else str(tool.prices)
    return f"{price}, {'measured' if tool.latency is None else f'{tool.latency:g} s'}"


def _describe_tool(tool: Tool) -> str:
    function = tool.schema["function"]
    properties = function["parameters"].get("properties", {})
    parameters = ", ".join(f"{name}: {entry.get('type', 'any')}" for name, entry in properties.items())
    return f"tool {tool.name}({parameters})  {describe_costs(tool)}  {function['description'].splitlines()[0]}"
