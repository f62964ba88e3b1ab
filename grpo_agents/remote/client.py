"""An environment that lives elsewhere, as one that is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from grpo_agents.env import AgentEnv
from grpo_agents.remote.connection import RemoteSession, read
from grpo_agents.remote.wire import Begun, Offered, RemoteFailure, Stepped, describe_generator, read_preferences
from grpo_agents.spaces import Action
from grpo_agents.tools import Price, Tool
from grpo_agents.trajectory import Message, Step, Task, Trajectory


@dataclass(frozen=True)
class RemoteTasks:
    """The tasks of an environment elsewhere, asked for one by one.

    Attributes:
        connection: To the environment.
        seed: Of tasks that are generated there; its own where None.
    """

    connection: RemoteSession
    seed: int | None = None

    @property
    def count(self) -> int | None:
        """How many there are; None where they are generated."""
        return self.connection.description.count

    def __getitem__(self, index: int) -> Task:
        task = self.connection.ask("task", index=int(index), seed=self.seed)
        if not isinstance(task, dict):
            raise RemoteFailure(f"{self.connection.where} answers with the task {task!r:.80}, which is no table")
        return task


@dataclass(frozen=True)
class RemotePreferences:
    """A distribution over preferences that only its owner can draw from."""

    connection: RemoteSession

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """One user's weights, drawn there with this generator."""
        drawn = self.connection.ask("draw", generator=describe_generator(rng))
        rng.bit_generator.state = drawn["generator"]
        return drawn["preference"]


class RemoteEnv(AgentEnv):
    """Plays an environment that lives elsewhere.

    What it exposes beside its episodes was asked when it was made. Its random generator lives there: :attr:`np_random`
    is one that was seeded alike.

    Args:
        connection: To it.
        tasks: Another task source than its own.
        render_mode: See :class:`AgentEnv`.
    """

    def __init__(self, connection: RemoteSession, tasks: Any = None, *, render_mode: str | None = None):
        said = connection.description
        super().__init__(RemoteTasks(connection) if tasks is None else tasks, render_mode=render_mode)
        self.connection = connection
        self.tools = _tools(said.tools)  # type: ignore[misc]  # here and below: of each environment its own
        self.action_space = Action(self.tools)
        self.components, self.hidden, self.gold = said.components, said.hidden, said.gold  # type: ignore[misc]
        self.maxima, self.budget, self.repeats = said.maxima, said.budget, said.repeats
        self.token_price = None if said.token_price is None else Price(**said.token_price)
        if said.preferences is not None:
            given = said.preferences
            self.preferences = read_preferences(given) if given else RemotePreferences(connection)  # type: ignore[misc]
        self._own_tasks = tasks
        self._charges: list[float] = []

    def another(self) -> RemoteEnv:
        """One like it, with a session of its own, begun at its first reset."""
        return RemoteEnv(self.connection.another(), self._own_tasks, render_mode=self.render_mode)

    def vary(self, task: Task, rng: np.random.Generator) -> Task:
        """As the environment varies it, drawing with this generator."""
        if not self.connection.description.varies:
            return task
        varied = self.connection.ask("vary", task=task, generator=describe_generator(rng))
        rng.bit_generator.state = varied["generator"]
        return varied["task"]

    def offered(self, task: Task) -> Sequence[Tool]:
        """The tools that it offers for this task; they run there."""
        offered = self.connection.ask("offered", task=task)
        return _tools([read(Offered, entry, self.connection.where) for entry in offered])

    def allowance(self, task: Task) -> float | None:
        """Dollars that an episode of this task may spend."""
        return self.connection.ask("allowance", task=task)

    def expected_rewards(self, task: Task) -> Mapping[str, Mapping[str, float]]:
        """What each choice earns on average, where it says so."""
        if not self.connection.description.expects:
            return {}
        return self.connection.ask("expected_rewards", task=task)

    def describe_preference(self, preference: Mapping[str, float]) -> str:
        """As it shows one."""
        return self.connection.ask("describe_preference", preference=dict(preference))

    def charge(self, dollars: float) -> None:
        """Adds to what the episode has spent; it is told with the next step."""
        super().charge(dollars)
        self._charges.append(dollars)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Starts an episode there; see :meth:`AgentEnv.reset`.

        Raises:
            RemoteFailure: It cannot be reached.
            RemoteRaised: It raised this error.
        """
        self._running = False
        options = options or {}
        task, drawn_from = options.get("task"), None
        if task is None and self._own_tasks is not None:
            count = self.task_source.count
            drawn_from = 2**31 if count is None else count
            if seed is None:
                number = self.connection.ask("number", most=drawn_from)
            else:
                number = seeding.np_random(seed)[0].integers(drawn_from)
            task = self.task_source[int(number)]
        data = {"seed": seed, "task": task, "preference": options.get("preference"), "drawn_from": drawn_from}
        return self.begun(self.connection.begin("reset", **data), seed)

    def step(self, action: Message | str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Takes one message of the policy there; see :meth:`AgentEnv.step`.

        Raises:
            gymnasium.error.ResetNeeded: No episode is running.
            TypeError: The action is neither text nor an assistant message.
            RemoteFailure: The episode is lost.
            RemoteRaised: The environment raised this error.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded(f"{type(self).__name__}: call reset() before step()")
        if not self.action_space.contains(action):
            raise TypeError(f"{type(self).__name__}: an action is text or an assistant message, not {action!r:.200}")
        message: Message = {"role": "assistant", "content": action} if isinstance(action, str) else action
        return self.stepped(self.go_on("step", message=message, charges=self._charges), message)

    def close(self) -> None:
        """Ends the session."""
        self.connection.close()

    # What answers come to

    def go_on(self, kind: str, **data: Any) -> Any:
        """What the environment answers to a turn; the episode is over where it does not."""
        self.runs, self._running = [], False
        return self.connection.go_on(kind, **data)

    def begun(self, data: Any, seed: int | None) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """The answer to a reset, as Gymnasium has it."""
        begun = read(Begun, _observation(data, self.connection.where), self.connection.where)
        for key, kind in (("task", dict), ("tools", list), ("preference", dict)):
            if not isinstance(begun.info.get(key), kind):
                raise RemoteFailure(f"{self.connection.where} begins an episode without its {key} in info")
        self._check(begun.messages)
        if seed is not None:
            self._np_random_seed, self._generator = seed, None
        self.task, self.preference = begun.info["task"], begun.info["preference"]
        self.offer = {tool.alias: tool for tool in _tools(begun.offer)}
        self.runs, self._charges = [], []
        self.spent, self._allowance = 0.0, begun.allowance
        self._conversation, self._running = list(begun.messages), True
        return begun.messages, begun.info

    def stepped(self, answer: Any, message: Message) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """The answer to a message, as Gymnasium has it."""
        where = self.connection.where
        stepped = read(Stepped, _observation(answer, where), where)
        reward = answer.get("reward")
        if not isinstance(reward, float) or not isinstance(stepped.info.get("rewards"), dict):
            raise RemoteFailure(f"{where} answers a step without a reward and its components (info.rewards)")
        self._check(stepped.messages)
        self._charges = []
        self.runs, self.spent = [run.tool_run() for run in stepped.runs], stepped.spent
        self._conversation += [message, *stepped.messages]
        self._running = not (stepped.terminated or stepped.truncated)
        return stepped.messages, reward, stepped.terminated, stepped.truncated, stepped.info

    def _check(self, messages: tuple[Message, ...]) -> None:
        if not self.observation_space.contains(messages):
            raise RemoteFailure(f"{self.connection.where} says {messages!r:.200}, which are no messages")


class RemoteTable:
    """Plays stored episodes in an environment elsewhere, whose tools from outside give there what is stored."""

    def __init__(self, env: RemoteEnv):
        self.env = env

    def reset(self, trajectory: Trajectory) -> Any:
        """Poses the stored task as it was posed."""
        told = {"seed": trajectory.seed, "task": trajectory.task, "preference": trajectory.preference}
        return self.env.begun(self.env.connection.begin("replay", **told), trajectory.seed)

    def step(self, step: Step) -> Any:
        """Takes the stored message; what the environment answers, and the tool calls of the turn."""
        tools = [
            {"name": run.name, "dollars": run.dollars, "latency": run.latency, "error": run.error, "called": run.called}
            for run in step.tools
        ]
        told = {"message": step.message, "observation": list(step.observation), "tools": tools, "dollars": step.dollars}
        answer = self.env.go_on("replay_step", **told)
        return self.env.stepped(answer, step.message), self.env.runs


def _tools(described: Sequence[Offered]) -> tuple[Tool, ...]:
    return tuple(entry.tool() for entry in described)


def _observation(data: Any, where: str) -> Any:
    if not isinstance(data, dict) or "observation" not in data:
        raise RemoteFailure(f"{where} answers {data!r:.200}, which has no observation")
    return data["observation"]
