"""An environment that goes on until it is told not to, what is said to it, and a rollout of it."""

import threading
import time

from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.env import AgentEnv, Reply
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call
from grpo_agents.tools import tool


class Talk(AgentEnv):
    """Goes on until the policy says ``bye``; a task may ask for trouble."""

    tasks = [{"do": "talk"}]  # noqa: RUF012
    made = []  # noqa: RUF012  every one of a test, in order of birth
    hang = threading.Event()

    def __init__(self, **settings):
        super().__init__(**settings)
        self.history = []
        self.made.append(self)

    @tool(price=2.0, latency=0.5, timeout=None)
    def double(self, number: int) -> str:
        """Doubles a number."""
        return str(2 * number)

    tools = (double,)

    def start(self, task):
        self.history.append(task["do"])
        if task["do"] == "raise in reset":
            raise ValueError("no such world")
        if task["do"] == "hang in reset":
            self.hang.wait(60)
        return f"go {task['do']}"

    def respond(self, message):
        if self.task["do"] == "raise in step":
            raise RuntimeError("it broke")
        if self.task["do"] == "hang in step":
            self.hang.wait(60)
        if self.task["do"] == "slow":
            time.sleep(0.15)
        if message.get("tool_calls"):
            return Reply(self.run_tools(message["tool_calls"]))
        if message["content"] == "bye":
            return Reply(rewards={"outcome": 1.0}, terminated=True)
        return Reply([{"role": "user", "content": "and"}], {"outcome": 0.25})


def say(chat, text="", *calls):
    """The ids of a turn, with its stop token."""
    message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [tool_call(name, arguments) for name, arguments in calls]
    return [*chat.tokenizer.encode(chat.render_assistant(message), add_special_tokens=False), chat.stop_ids[0]]


def make_rollout(chat, turns, *, env=Talk, vector=None, context=1 << 20, preferences=None, resources=None, **config):
    """A rollout in which every session says these turns; the last one over and over."""
    engine = ScriptedEngine(lambda session, turn: turns[min(turn, len(turns) - 1)], context)
    vector = vector or RewardVector(["outcome"])
    return Rollout(
        env, chat, engine, vector, RolloutConfig(**{"group_size": 1, **config}), env_name="Talk",
        preferences=preferences, resources=resources,
    )  # fmt: skip


def one(rollout, do="talk"):
    ((trajectory,),) = (group.trajectories for group in rollout.sample([{"do": do}], seed=0))
    return trajectory
