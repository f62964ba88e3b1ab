"""What every environment has to keep to, checked on one that a person wrote.

Episodes are played with made-up answers and made-up tool calls, so its tools are really called.

>>> from grpo_agents.envs.math import MathEnv
>>> [finding.problem for finding in check(MathEnv) if finding.problem]
[]
"""

from __future__ import annotations

import json
import math
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from grpo_agents.env import AgentEnv
from grpo_agents.scoring import check_maxima
from grpo_agents.spaces import tool_call
from grpo_agents.trajectory import Message

SEEDS = 5
"""Episodes that are played for each check."""

TURNS = 8
"""Turns after which a played episode is left."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOT_THEIRS = [Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]
_MADE_UP = {"integer": 3, "number": 1.5, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        checked: What was looked at.
        problem: What is wrong; None where nothing is.
        remedy: What to do about it.
    """

    checked: str
    problem: str | None = None
    remedy: str = ""


class _Broken(Exception):
    """A finding, on its way up."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem)
        self.remedy = remedy


Make = Callable[[], AgentEnv]


def check(make: Make) -> list[Finding]:
    """Runs every check.

    Args:
        make: Makes one environment; called anew for each check.

    Returns:
        One finding a check, in order, but for checks that come upon a problem again. Where no environment could be made
        there is only the first.
    """
    findings: list[Finding] = []
    for title, inspect in _CHECKS.items():
        finding = Finding(title)
        try:
            inspect(make)
        except _Broken as broken:
            finding = Finding(title, str(broken), broken.remedy)
        except Exception as error:  # whatever a user's code raises is what was to be found
            finding = Finding(title, f"{type(error).__name__}: {error}", _place(error))
        if finding.problem is None or finding.problem not in [earlier.problem for earlier in findings]:
            findings.append(finding)
        if inspect is _can_be_made and finding.problem:
            break
    return findings


def _can_be_made(make: Make) -> None:
    make().close()


def _has_tasks(make: Make) -> None:
    source = make().task_source
    for index in range(SEEDS if source.count is None else min(SEEDS, source.count)):
        task = source[index]
        if not isinstance(task, dict):
            raise _Broken(f"task {index} is a {type(task).__name__}", "make every task a dict")
        if source[index] != task:
            raise _Broken(
                f"task {index} is another one the second time",
                "draw with the generator that is passed in, and nothing else",
            )
        if not _is_json(task):
            raise _Broken(f"task {index} is not plain JSON: {task!r:.200}", "use text, numbers, lists and dicts only")


def _offers_tools(make: Make) -> None:
    env = make()
    for index in range(SEEDS if env.task_source.count is None else min(SEEDS, env.task_source.count)):
        offered = list(env.offered(env.task_source[index]))
        names = [entry.alias for entry in offered]
        if len(set(names)) < len(names):
            raise _Broken(f"two tools have one name: {', '.join(names)}", "rename one: @tool(name=…)")
        for entry in offered:
            if not _NAME.fullmatch(entry.name):
                raise _Broken(f"the tool name {entry.name!r} is not for models", "use letters, digits, _ and -")
            if not _is_json(entry.schema):
                raise _Broken(f"the schema of {entry.name!r} is not plain JSON", "give its parameters JSON defaults")


def _satisfies_gymnasium(make: Make) -> None:
    env = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            check_env(env, skip_render_check=env.spec is None)
        except (Warning, AssertionError) as found:
            raise _Broken(
                _COLOUR.sub("", str(found)).removeprefix("WARN: "), "see gymnasium.utils.env_checker.check_env"
            ) from found


def _is_deterministic(make: Make) -> None:
    again = make()
    for seed in range(SEEDS):
        first = list(_play(make(), seed))
        for how, env in (("another environment", make()), ("the same environment, reset,", again), ("it", again)):
            for turn, (one, other) in enumerate(zip(first, _play(env, seed), strict=False)):
                for part in one:
                    if one[part] != other[part]:
                        raise _Broken(
                            f"seed {seed}, {f'step {turn}' if turn else 'reset'}: {how} gives another {part}: "
                            f"{other[part]!r:.120} instead of {one[part]!r:.120}",
                            "draw with self.np_random only; no clocks, no uuids, nothing kept from the episode before",
                        )


def _says_messages(make: Make) -> None:
    for turn, seen in _turns(make):
        where = f"step {turn}" if turn else "start"
        said = seen["observation"]
        if not _is_json(list(said)):
            raise _Broken(f"{where} gives what is not plain JSON: {said!r:.200}", "use text in messages")
        if not _is_json(seen["info"]):
            raise _Broken(f"{where}: info is not plain JSON: {seen['info']!r:.200}", "keep other things off info")


def _comes_to_an_end(make: Make) -> None:
    env = make()
    for seed in range(SEEDS):
        env.reset(seed=seed)
        observation, _, terminated, truncated, _ = env.step("tree")
        if truncated and not terminated:
            raise _Broken(
                "an answer truncates the episode", "terminate it: truncated is for budgets, which are the rollout's"
            )
        if not terminated and not observation:
            raise _Broken(
                "after an answer the episode neither ends nor goes on with a message",
                "return Reply(…, terminated=True), or messages",
            )
        if terminated:
            try:
                env.step("tree")
            except gymnasium.error.ResetNeeded:
                continue
            raise _Broken("a step after the end is taken", "leave step() to AgentEnv and override respond()")


def _rewards_what_it_declares(make: Make) -> None:
    env = make()
    for turn, seen in _turns(make):
        if not turn:
            continue
        rewards = seen["info"].get("rewards", {})
        for name, value in rewards.items():
            if name not in env.components:
                raise _Broken(
                    f"step {turn} gives the reward {name!r}, and `components` declares {', '.join(env.components)}",
                    f"declare it: components = {(*env.components, name)}",
                )
            if not math.isfinite(value):
                raise _Broken(f"step {turn} gives the reward {name} = {value}", "give a finite number")
        shown = sum(value for name, value in rewards.items() if name not in env.hidden)
        if not math.isclose(seen["reward"], shown, abs_tol=1e-9) and not env.preferences:
            raise _Broken(
                f"step {turn}: the reward is {seen['reward']}, its components are {rewards}",
                "leave step() to AgentEnv and give components",
            )


def _gives_what_it_declares(make: Make) -> None:
    env, given = make(), set[str]()
    for turn, seen in _turns(make):
        given = given | seen["info"].get("rewards", {}).keys() if turn else set()
        if turn and seen["terminated"] and (lacking := [name for name in env.components if name not in given]):
            raise _Broken(
                f"an episode came to its end without the reward {lacking[0]!r}, which `components` declares",
                "give it when the episode ends, 0 where it earned nothing; or take it out of `components`",
            )


def _scales_its_costs(make: Make) -> None:
    env = make()
    try:
        check_maxima(env.maxima, env.components)
    except ValueError as error:
        raise _Broken(str(error), "set `maxima` to the most an episode can sensibly cost, by component") from error


def _shows_the_preference(make: Make) -> None:
    env = make()
    if not env.components and env.preferences is None:  # there is nothing to be weighed
        return
    weights = [dict.fromkeys(env.components, 1.0), dict.fromkeys(env.components, 0.5)]
    if env.preferences is not None:
        drawn = [env.preferences.draw(np.random.default_rng(seed)) for seed in range(100)]
        weights = [drawn[0], next((other for other in drawn if other != drawn[0]), drawn[0])]
        if weights[0] == weights[1]:  # a fixed preference: there is nothing to tell apart
            return
    task = env.task_source[0]
    one, other = (env.reset(seed=0, options={"task": task, "preference": chosen})[0] for chosen in weights)
    if one == other:
        raise _Broken(
            f"the opening messages are the same for {weights[0]} and {weights[1]}",
            "let describe_preference(preference) tell them apart: the policy cannot serve what it does not see",
        )


_CHECKS: dict[str, Callable[[Make], None]] = {
    "it can be made": _can_be_made,
    "tasks are plain JSON, and task i is always the same": _has_tasks,
    "tools have names and schemas of their own": _offers_tools,
    "gymnasium's check_env passes without a warning": _satisfies_gymnasium,
    "same seed, same everything, info included": _is_deterministic,
    "observations are messages in plain JSON": _says_messages,
    "an answer ends the episode, or is answered": _comes_to_an_end,
    "rewards are finite, declared in `components`, and add up": _rewards_what_it_declares,
    "an episode that ends has every reward that `components` declares": _gives_what_it_declares,
    "maxima are positive, and of reward components": _scales_its_costs,
    "the preference is shown to the policy": _shows_the_preference,
}


def _turns(make: Make) -> Iterator[tuple[int, dict[str, Any]]]:
    """What some episodes gave, turn by turn; 0 is the reset."""
    env = make()
    for seed in range(SEEDS):
        yield from enumerate(_play(env, seed))


def _play(env: AgentEnv, seed: int) -> Iterator[dict[str, Any]]:
    """One episode: every tool on offer is called once, and then words are said."""
    observation, info = env.reset(seed=seed)
    yield {"observation": observation, "info": info}
    actions: list[Message | str] = [
        {"role": "assistant", "content": "", "tool_calls": [tool_call(entry.name, _arguments(entry.schema))]}
        for entry in env.offer.values()
    ]
    for action in [*actions, *["tree"] * TURNS]:
        observation, reward, terminated, truncated, info = env.step(action)
        ended = {"terminated": terminated, "truncated": truncated}
        yield {"observation": observation, "reward": reward, **ended, "info": info}
        if terminated or truncated:
            return


def _arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments that fit the simple types; what they do not fit, the tool refuses."""
    properties = schema["function"]["parameters"].get("properties", {})
    return {
        name: entry["enum"][0] if "enum" in entry else _MADE_UP.get(entry.get("type", ""), "3 + 4")
        for name, entry in properties.items()
    }


def _is_json(value: Any) -> bool:
    """Whether it comes back from JSON as it was."""
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


def _place(error: Exception) -> str:
    """The last line of a user's own code that an error went through; empty where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(place) for place in _NOT_THEIRS)]
    return f"see {own[-1].filename}, line {own[-1].lineno}" if own else ""
