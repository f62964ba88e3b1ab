r"""Answers for one environment: plain data in, plain data out.

>>> from grpo_agents.envs.math import MathEnv
>>> answering = Answering(lambda: MathEnv([{"question": "6 times 7?", "answer": "42"}]), "math")
>>> begun = answering.answer({"type": "reset", "data": {"seed": 1}})
>>> begun["data"]["observation"]["messages"][-1]["content"].splitlines()[0]
'6 times 7?'
>>> ended = answering.answer({"type": "step", "data": {"message": "That is \\boxed{42}."}})
>>> ended["data"]["reward"], ended["data"]["done"]
(1.0, True)
>>> answering.answer({"type": "step", "data": {"message": "Again!"}})["data"]["code"]
'NO_EPISODE'
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from gymnasium.utils import seeding
from pydantic import Field, ValidationError

from grpo_agents.env import AgentEnv
from grpo_agents.remote.wire import Part, Run, describe, describe_generator, describe_tool, read_generator
from grpo_agents.replay import CannotReplay, Table
from grpo_agents.tasks import GeneratedTasks
from grpo_agents.trajectory import Message, Step, Task, Trajectory

LOG = logging.getLogger(__name__)

Answer = dict[str, Any]


class _Refused(Exception):
    """A request that makes no sense; the environment is as it was."""

    def __init__(self, message: str, code: str = "VALIDATION_ERROR"):
        super().__init__(message)
        self.code = code


class _Reset(Part):
    seed: int | None = Field(default=None, ge=0)
    task: Task | None = None
    preference: dict[str, float] | None = None
    drawn_from: int | None = Field(default=None, ge=1)


class _Step(Part):
    message: Message | str
    charges: list[float] = Field(default=[])


class _Episode(Part):
    """Which stored episode is to be played again."""

    seed: int
    task: Task
    preference: dict[str, float]


class _Turn(Part):
    """One of its turns."""

    message: Message
    observation: tuple[Message, ...]
    tools: tuple[Run, ...]
    dollars: float


class _Question(Part):
    """What may be asked beside an episode, in one form for all."""

    task: Task = Field(default={})
    preference: dict[str, float] = Field(default={})
    index: int = 0
    seed: int | None = None
    most: int = Field(default=1, ge=1)
    generator: dict[str, Any] = Field(default={})


class Answering:
    """One environment and where its episode stands: none, running, or over; or broken, after an error of its own.

    Args:
        make: Makes the environment, when it is first asked for something.
        name: What it is called.
        version: Of grpo-agents, for who asks.

    Attributes:
        broken: Whether the environment raised or could not be made. Its state is unknown then, and it answers no more.
    """

    def __init__(self, make: Callable[[], AgentEnv], name: str, version: str = ""):
        self._make, self._name, self._version = make, name, version
        self._env: AgentEnv | None = None
        self._table: Table | None = None
        self._running = False
        self._steps = 0
        self.broken = False

    def answer(self, request: Any) -> Answer:
        """The answer to one request; one of the type ``error`` where something is wrong with it, or goes wrong."""
        if self.broken:
            return error_answer("the environment failed before, and its state is unknown", "SESSION_ERROR")
        kind = request.get("type") if isinstance(request, dict) else None
        data = request.get("data", {}) if isinstance(request, dict) else None
        if not isinstance(kind, str) or not isinstance(data, dict):
            return error_answer('a request reads {"type": …, "data": {…}}', "VALIDATION_ERROR")
        if kind not in _ANSWERS:
            return error_answer(f"unknown type {kind!r}; there are {', '.join(_ANSWERS)}", "UNKNOWN_TYPE")
        try:
            answer = _ANSWERS[kind](self, data)
            json.dumps(answer, allow_nan=False)
        except _Refused as refusal:
            return error_answer(str(refusal), refusal.code)
        except CannotReplay as reason:
            return error_answer(str(reason), "CANNOT_REPLAY")
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors()]
            return error_answer(f"{kind}: {'; '.join(problems)}", "VALIDATION_ERROR")
        except (Exception, SystemExit) as error:  # whatever a user's code raises is for the other side to read
            self.broken = kind in _OF_EPISODES or self._env is None
            LOG.info("%s, %s: %s", self._name, kind, error, exc_info=True)
            return error_answer(
                f"{type(error).__name__}: {error}",
                "FACTORY_ERROR" if self._env is None else "EXECUTION_ERROR",
                raised=[type(error).__name__, str(error)],
            )
        return answer

    def close(self) -> None:
        """Closes the environment."""
        self.broken = True
        if self._env is not None:
            self._env.close()

    @property
    def env(self) -> AgentEnv:
        """The environment."""
        if self._env is None:
            self._env = self._make()
        return self._env

    # Episodes

    def _reset(self, data: Mapping[str, Any]) -> Answer:
        wanted, env = _Reset(**data), self.env
        self._running = False
        options = {"task": wanted.task, "preference": wanted.preference}
        seed = wanted.seed
        if wanted.drawn_from is not None and seed is not None:  # as if the task had been drawn here
            env.np_random = seeding.np_random(seed)[0]
            env.np_random.integers(wanted.drawn_from)
            seed = None
        said, info = env.reset(seed=seed, options=options)
        self._running, self._steps = True, 0
        return self._begun(said, info)

    def _begun(self, said: tuple[Message, ...], info: dict[str, Any]) -> Answer:
        offer = [describe_tool(tool) for tool in self.env.offer.values()]
        allowance = self.env.acting._allowance
        observation = {"messages": list(said), "info": info, "offer": offer, "allowance": allowance}
        return {"type": "observation", "data": {"observation": observation, "reward": None, "done": False}}

    def _step(self, data: Mapping[str, Any]) -> Answer:
        wanted, env = _Step(**data), self.env
        if not self._running:
            raise _Refused("no episode is running: reset first", "NO_EPISODE")
        if not env.action_space.contains(wanted.message):
            raise _Refused("step: message: it is text or an assistant message")
        for dollars in wanted.charges:
            env.charge(dollars)
        return self._stepped(env.step(wanted.message))

    def _stepped(self, outcome: Any) -> Answer:
        said, reward, terminated, truncated, info = outcome
        self._running, self._steps = not (terminated or truncated), self._steps + 1
        observation = {
            "messages": list(said),
            "info": info,
            "runs": [asdict(run) for run in self.env.runs],
            "spent": self.env.acting.spent,
            "terminated": terminated,
            "truncated": truncated,
        }
        done = terminated or truncated
        return {"type": "observation", "data": {"observation": observation, "reward": reward, "done": done}}

    def _state(self, _: Mapping[str, Any]) -> Answer:
        return {"type": "state", "data": {"episode_id": None, "step_count": self._steps, "running": self._running}}

    # Stored episodes, played again

    def _replay(self, data: Mapping[str, Any]) -> Answer:
        wanted = _Episode(**data)
        self._table = self._table or Table(self.env)
        episode = Trajectory(seed=wanted.seed, task=wanted.task, preference=wanted.preference)
        return self._begun(*self._table.reset(episode))

    def _replay_step(self, data: Mapping[str, Any]) -> Answer:
        wanted = _Turn(**data)
        if self._table is None:
            raise _Refused("no episode is being played again: send replay first", "NO_EPISODE")
        runs = [run.tool_run() for run in wanted.tools]
        step = Step(wanted.message, wanted.observation, tools=runs, dollars=wanted.dollars)
        return self._stepped(self._table.step(step)[0])

    # What is asked beside

    def _describe(self, _: Mapping[str, Any]) -> Answer:
        return _answer(describe(self.env, self._name, self._version))

    def _task(self, data: Mapping[str, Any]) -> Answer:
        wanted, source = _Question(**data), self.env.task_source
        if wanted.seed is not None and isinstance(source, GeneratedTasks):
            source = replace(source, seed=wanted.seed)
        return _answer(source[wanted.index])

    def _number(self, data: Mapping[str, Any]) -> Answer:
        return _answer(int(self.env.np_random.integers(_Question(**data).most)))

    def _vary(self, data: Mapping[str, Any]) -> Answer:
        wanted = _Question(**data)
        rng = read_generator(wanted.generator)
        return _answer({"task": self.env.vary(wanted.task, rng), "generator": describe_generator(rng)})

    def _draw(self, data: Mapping[str, Any]) -> Answer:
        rng, preferences = read_generator(_Question(**data).generator), self.env.preferences
        drawn = {} if preferences is None else preferences.draw(rng)
        return _answer({"preference": drawn, "generator": describe_generator(rng)})

    def _offered(self, data: Mapping[str, Any]) -> Answer:
        return _answer([describe_tool(tool) for tool in self.env.offered(_Question(**data).task)])

    def _allowance(self, data: Mapping[str, Any]) -> Answer:
        return _answer(self.env.allowance(_Question(**data).task))

    def _expected(self, data: Mapping[str, Any]) -> Answer:
        found = self.env.expected_rewards(_Question(**data).task)
        return _answer({choice: dict(earned) for choice, earned in found.items()})

    def _shown(self, data: Mapping[str, Any]) -> Answer:
        return _answer(self.env.describe_preference(_Question(**data).preference))


_OF_EPISODES = ("reset", "step", "replay", "replay_step")

_ANSWERS: dict[str, Callable[[Answering, Mapping[str, Any]], Answer]] = {
    "reset": Answering._reset,
    "step": Answering._step,
    "state": Answering._state,
    "replay": Answering._replay,
    "replay_step": Answering._replay_step,
    "describe": Answering._describe,
    "task": Answering._task,
    "number": Answering._number,
    "vary": Answering._vary,
    "draw": Answering._draw,
    "offered": Answering._offered,
    "allowance": Answering._allowance,
    "expected_rewards": Answering._expected,
    "describe_preference": Answering._shown,
}


def _answer(value: Any) -> Answer:
    return {"type": "answer", "data": value}


def error_answer(message: str, code: str, **more: Any) -> Answer:
    """An answer that says what went wrong, in OpenEnv's form."""
    return {"type": "error", "data": {"message": message, "code": code, **more}}
