"""Stored episodes played again without a model: does the environment still answer as it did?

An environment is reset with the stored task, seed and preference, stepped with the stored actions, and has to say, to
reward and to end the same. What a tool of the environment says is computed again: one that :meth:`~.tools.Tool.of`
binds, as a method of the environment or a session of Python. Any other is from outside (a search, a model, a service),
so that it need not say today what it said then: it is not called, and the policy reads the stored result again. Its
arguments are checked as before, and its price is the present one, unless only the call showed what it cost.

>>> from grpo_agents.env import make_env
>>> from grpo_agents.trajectory import Step, Trajectory
>>> task = {"id": "1+2", "question": "1+2", "answer": "3", "kind": "easy"}
>>> stored = Trajectory(task=task, prompt=({"role": "user", "content": "1+2"},), steps=[])
>>> stored.tools = [tool.schema for tool in make_env("grpo_agents/Orchestra-v0").tools]
>>> stored.steps = [Step({"role": "assistant", "content": "3"}, rewards={"outcome": 0.0})]
>>> replay = Replay(lambda: make_env("grpo_agents/Orchestra-v0"))
>>> found = replay.play(stored)
>>> replay.close()
>>> found.where, found.what, found.stored, found.now
('turn 0', 'rewards', ['outcome: 0.0'], ['outcome: 1.0'])
"""

from __future__ import annotations

import difflib
import json
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from grpo_agents.env import AgentEnv
from grpo_agents.threads import Abandoned, Outcome, StepThreads
from grpo_agents.tools import Price, Tool, run_calls
from grpo_agents.trajectory import Message, Step, ToolRun, Trajectory

if TYPE_CHECKING:
    from grpo_agents.remote.client import RemoteTable

STEP_SECONDS = 60.0
"""What a step may take where no run says it, as ``rollout.step_timeout``."""

POLL_SECONDS = 0.05
"""How often the deadline of a step is looked at."""

RAN_OUT = "(rollout.step_timeout)"
"""What the error of an episode ends with whose environment gave no answer in time."""

UNCHARGED = ": a turn cannot be charged (token_price): "
"""What is in the error of an episode whose last turn nobody could charge, so that the environment never got it."""


class CannotReplay(Exception):
    """What is stored does not say enough; the message says of what."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that an episode has otherwise now.

    Attributes:
        where: ``reset``, or ``turn`` and its number, from 0 as ``explain`` counts them.
        what: ``messages``, ``tools on offer``, ``rewards``, ``dollars`` (of the turn's calls) or ``end``.
        stored: As it was, line by line.
        now: As it is.
    """

    where: str
    what: str
    stored: list[str]
    now: list[str]

    def lines(self) -> list[str]:
        """Both, as the lines of a unified diff."""
        return list(difflib.unified_diff(self.stored, self.now, "stored", "now", lineterm=""))


@dataclass(slots=True)
class Tally:
    """What came of the episodes of a file.

    Attributes:
        same: How many are as they were.
        differences: The first difference of each other one, by the number of its row and its id.
        not_replayed: Why others could not be replayed, by row and id.
    """

    same: int = 0
    differences: dict[tuple[int, str], Difference] = field(default_factory=dict)
    not_replayed: dict[tuple[int, str], str] = field(default_factory=dict)

    @property
    def replayed(self) -> int:
        """How many were."""
        return self.same + len(self.differences)


class Replay:
    """Plays stored episodes again, one after the other, in one environment as long as it answers.

    Args:
        make_env: Makes the environment; called again after one that failed or hung, whose state is unknown.
        step_timeout: Seconds a reset or a step may take.
    """

    def __init__(self, make_env: Callable[[], AgentEnv], step_timeout: float = STEP_SECONDS):
        self._make_env = make_env
        self._timeout = step_timeout
        self._threads = StepThreads(1)
        self._table: Table | RemoteTable | None = None

    def play(self, trajectory: Trajectory) -> Difference | None:
        """Plays an episode as far as its environment took it; the first difference, None where there is none.

        Raises:
            CannotReplay: What is stored says too little.
        """
        abandoned = (trajectory.error or "").endswith(RAN_OUT)  # what it would have said nobody knows
        if abandoned and not trajectory.prompt:
            raise CannotReplay("its reset gave no answer in time, so that there is nothing to compare")
        table = self._table = self._table or table_of(self._make_env())
        failed = trajectory.stop_reason == "error"
        outcome = self._call(lambda: table.reset(trajectory))
        if failed and not trajectory.prompt:
            return _compare("reset", _ending(trajectory, "reset"), _ended(outcome, "reset"))
        if isinstance(outcome, BaseException):
            return Difference("reset", "end", _ending(None, "reset"), _ended(outcome, "reset"))
        said, info = outcome
        if difference := _first(
            ("messages", _said(trajectory.prompt), _said(said)),
            ("tools on offer", _json_lines(trajectory.tools), _json_lines(info["tools"])),
            where="reset",
        ):
            return difference
        # a turn that a budget cut short was not handed to the environment
        uncharged = UNCHARGED in (trajectory.error or "")
        taken = trajectory.steps[: len(trajectory.steps) - uncharged]
        steps = [step for step in taken if step.finish_reason != "length"]
        for number, step in enumerate(steps[: len(steps) - abandoned]):
            last = number == len(steps) - 1 and not uncharged
            ending = _ending(trajectory if last else None, f"step {number + 1}")
            if difference := self._step(table, step, number, ending, failed=failed and last):
                return difference
        return None

    def close(self) -> None:
        """Ends its thread and closes the environment; what hangs is left behind."""
        self._threads.close()
        if self._table is not None:
            self._table.env.close()

    def _step(
        self, table: Table | RemoteTable, step: Step, number: int, ending: list[str], *, failed: bool
    ) -> Difference | None:
        """Plays a turn; the first difference."""
        where = f"turn {number}"
        outcome = self._call(lambda: table.step(step))
        ended = _ended(outcome, f"step {number + 1}")
        if failed or isinstance(outcome, BaseException):
            return _compare(where, ending, ended)
        (observation, _, _, _, info), runs = outcome
        return _first(
            ("messages", _said(step.observation), _said(observation)),
            ("rewards", _numbers(step.rewards), _numbers(info["rewards"])),
            ("dollars", _dollars(step.tools), _dollars(runs)),
            ("end", ending, ended),
            where=where,
        )

    def _call(self, job: Callable[[], Any]) -> Any:
        """What a job returns or raises, or :class:`Abandoned`; an environment that did not answer is left."""
        inbox: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._threads.start([(None, job)], self._timeout, inbox.put)
        while True:
            try:
                result = inbox.get(timeout=POLL_SECONDS).result
                break
            except queue.Empty:
                self._threads.abandon_late()
        if isinstance(result, BaseException):
            self._table = None
        if isinstance(result, CannotReplay):
            raise result
        return result


def table_of(env: AgentEnv) -> Table | RemoteTable:
    """Where stored episodes of an environment are played: here, or where it lives.

    Raises:
        CannotReplay: It is played through one that is here, or a language model plays a part in it.
    """
    from grpo_agents.remote.client import RemoteEnv, RemoteTable

    if isinstance(env, RemoteEnv):
        return RemoteTable(env)
    if isinstance(env.acting, RemoteEnv):
        raise CannotReplay("its environment plays one that lives elsewhere: serve the whole of it there")
    return Table(env)


class Table:
    """An environment whose tools from outside give what is stored."""

    def __init__(self, env: AgentEnv):
        if not env.repeats:
            raise CannotReplay("a language model plays a part in its environment, and would be asked anew")
        self.env = env
        self._acting = env.acting
        self._offered = self._acting.offered
        self._step: Step | None = None
        self._outside: dict[str, Tool] = {}  # as they are offered, by what they are called
        self._reached = False  # whether a tool from outside was called since it was last looked
        self._acting.offered = self._offer  # type: ignore[method-assign]
        self._acting.run_tools = self._run_tools  # type: ignore[method-assign]

    def reset(self, trajectory: Trajectory) -> Any:
        """Poses the stored task as it was posed."""
        options = {"task": trajectory.task, "preference": trajectory.preference}
        outcome = self.env.reset(seed=trajectory.seed, options=options)
        self._refuse_other_calls()
        return outcome

    def step(self, step: Step) -> Any:
        """Takes the stored message; what the environment answers, and the tool calls of the turn."""
        self._step = step
        self.env.charge(step.dollars)
        outcome = self.env.step(step.message)
        self._refuse_other_calls()
        return outcome, self.env.runs

    def _refuse_other_calls(self) -> None:
        if self._reached:
            raise CannotReplay("its environment calls a tool from outside itself, and not by run_tools")

    def _offer(self, task: Any) -> Sequence[Tool]:
        """The tools on offer; one from outside only notes that it was called."""

        def note(*args: Any, **kwargs: Any) -> str:  # noqa: ARG001  as any tool
            self._reached = True
            return ""

        offered = self._offered(task)
        self._outside = {tool.alias: tool for tool in offered}
        return [
            replace(tool, function=note, prices=Price(tool.price), timeout=None, _is_async=False, _most=tool.most)
            if tool.of(self._acting) is tool
            else tool
            for tool in offered
        ]

    def _run_tools(self, calls: Sequence[Mapping[str, Any]]) -> list[Message]:
        """Runs what belongs to the environment, and takes the rest from the stored turn."""
        self._refuse_other_calls()
        said: list[Message] = []
        runs: list[ToolRun] = []
        for place, call in enumerate(calls):
            (message,), (run,) = run_calls(self._acting.offer, [call], self._acting.left)
            if self._reached:
                self._reached = False
                message["content"], was = self._stored(place, len(calls))
                chosen = self._outside[message["name"]]
                run.dollars = was.dollars if chosen.metered else run.dollars
                run.latency = was.latency if chosen.latency is None else run.latency
                run.error = was.error
            self._acting.charge(run.dollars)
            said.append(message)
            runs.append(run)
        self._acting.runs = runs
        return said

    def _stored(self, place: int, calls: int) -> tuple[Any, ToolRun]:
        """The stored result of a call of this turn, and what is stored of its run."""
        assert self._step is not None
        results = [message["content"] for message in self._step.observation if message.get("role") == "tool"]
        if not len(results) == len(self._step.tools) == calls:
            raise CannotReplay(f"a turn has {calls} tool calls, and {len(results)} results of them are stored")
        return results[place], self._step.tools[place]


def _ending(trajectory: Trajectory | None, where: str) -> list[str]:
    """How an episode is stored to have gone on after a reset or a step; None for one that went on."""
    if trajectory is not None and trajectory.stop_reason in ("terminated", "truncated", "budget"):
        return [trajectory.stop_reason]
    if trajectory is not None and trajectory.stop_reason == "error":
        return (trajectory.error or "").removeprefix(f"{trajectory.env} {where}: ").splitlines()
    return ["goes on"]


def _ended(outcome: Any, where: str) -> list[str]:
    """How it goes on now."""
    if isinstance(outcome, Abandoned):
        return [str(outcome)]
    if isinstance(outcome, BaseException):
        return f"{type(outcome).__name__}: {outcome}".splitlines()
    if where == "reset":
        return ["goes on"]
    (_, _, terminated, truncated, info), _ = outcome
    if terminated:
        return [info.get("stop_reason", "terminated")]
    return ["truncated" if truncated else "goes on"]


def _first(*parts: tuple[str, list[str], list[str]], where: str) -> Difference | None:
    """The first of some parts that is not the same."""
    return next((Difference(where, what, stored, now) for what, stored, now in parts if stored != now), None)


def _compare(where: str, stored: list[str], now: list[str]) -> Difference | None:
    return _first(("end", stored, now), where=where)


def _said(messages: Sequence[Message]) -> list[str]:
    """Messages as lines: the number and role of each, its text, and whatever else it has as JSON."""
    lines = []
    for number, message in enumerate(messages):
        lines.append(f"{number} {message.get('role')}:")
        content = message.get("content")
        lines += _storable(content).split("\n") if isinstance(content, str) else _json_lines(content)
        for key in sorted(message.keys() - {"role", "content"}):
            lines.append(f"{key}: {_storable(json.dumps(message[key], ensure_ascii=False, sort_keys=True))}")
    return lines


def _storable(text: str) -> str:
    """Text as a file gives it back: with lone surrogates written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _json_lines(value: Any) -> list[str]:
    return _storable(json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1)).split("\n")


def _numbers(rewards: Mapping[str, float]) -> list[str]:
    return [f"{name}: {value!r}" for name, value in sorted(rewards.items())]


def _dollars(runs: Sequence[ToolRun]) -> list[str]:
    return [f"{run.name}: {run.dollars!r}" for run in runs]
