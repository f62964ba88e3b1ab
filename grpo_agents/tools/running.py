"""Running the tool calls of a message without harm: whatever goes wrong is for the policy to read."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ArgsKwargs

from grpo_agents.tools.definition import Tool, ToolResult, WrongArguments
from grpo_agents.tools.price import check_amount
from grpo_agents.trajectory import Message, ToolRun

UNREADABLE = "unreadable"
"""What a call is counted under whose tool could not be made out."""

MAX_RESULT_CHARS = 20_000
"""A longer result is cut there, and says so."""

ROUNDING = 1e-9
"""Dollars that no budget counts: sums of prices are rounded."""


def run_calls(
    tools: Mapping[str, Tool], calls: Iterable[Mapping[str, Any]], left: float | None = None
) -> tuple[list[Message], list[ToolRun]]:
    """Runs the calls of one assistant message.

    A call that cannot be parsed, has wrong arguments, could cost more than is left, raises or runs out of time becomes
    a message that says so.

    Args:
        tools: What is on offer, by what the policy calls it.
        calls: OpenAI-style tool calls; one with the key ``invalid`` could not be parsed, for that reason.
        left: Dollars that may be spent on all of them; None for any. A call that is not known to cost more is run.

    Returns:
        The tool messages, in call order and each with its ``tool_call_id``, and what each call cost.
    """
    messages: list[Message] = []
    runs: list[ToolRun] = []
    for call in calls:
        name = call["function"]["name"]
        content, run = _run_one(tools, name, call, left)
        left = None if left is None else left - run.dollars
        messages.append({"role": "tool", "tool_call_id": call.get("id", ""), "name": name, "content": content})
        runs.append(run)
    return messages, runs


def _run_one(tools: Mapping[str, Tool], name: str, call: Mapping[str, Any], left: float | None) -> tuple[str, ToolRun]:
    """Runs one call; returns what the policy reads and what it cost (nothing, where nothing was run)."""
    chosen = tools.get(name)
    own_name = (name or UNREADABLE) if chosen is None else chosen.name
    called = None if own_name == (name or UNREADABLE) else name

    def refused(reason: str) -> tuple[str, ToolRun]:
        reason = _cut(reason)
        return f"Error: {reason}", ToolRun(own_name, error=reason, called=called)

    if "invalid" in call:
        return refused(f"the tool call could not be read: {call['invalid']}")
    if chosen is None:
        return refused(f"there is no tool {name!r}. Available: {', '.join(tools) or 'none'}")
    arguments = call["function"]["arguments"]
    try:
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(arguments, Mapping):
            raise TypeError(f"they are a {type(arguments).__name__}")
        args, kwargs = chosen._read(ArgsKwargs((), dict(arguments)))
    except WrongArguments as error:
        return refused(f"wrong arguments for {name!r}: {error}")
    except ValidationError as error:
        return refused(f"wrong arguments for {name!r}: {_explain(error)}")
    except (ValueError, TypeError, RecursionError) as error:
        return refused(f"the arguments of {name!r} are not a JSON object: {error}")
    if left is not None:
        try:
            most = chosen.most(*args, **kwargs)
        except Exception as error:  # what a tool raises is for the policy to read
            return refused(f"what {name!r} can cost could not be said: {type(error).__name__}: {error}")
        if most is None and left < ROUNDING:
            return refused(f"nothing is left of the budget to pay {name!r} from")
        if most is not None and most > left + ROUNDING:
            return refused(f"{name!r} can cost ${most:g}, and ${max(0.0, left):g} of the budget is left")
    started = time.perf_counter()
    result, content, problem = ToolResult(""), "", None
    dollars, latency = chosen.declared(*args, **kwargs)
    try:
        returned = _call(chosen, args, kwargs)
        result = returned if isinstance(returned, ToolResult) else ToolResult(returned)
        dollars = _dollars(chosen, result)
        content = _as_text(result.content)
    except _OutOfTime:
        problem = f"tool {name!r} gave no answer within {chosen.timeout:g} s"
    except (Exception, SystemExit) as error:  # what a tool raises is for the policy to read, and on record
        problem = _cut(f"tool {name!r} failed: {type(error).__name__}: {error}")
    seconds = next(each for each in (latency, result.latency, time.perf_counter() - started) if each is not None)
    run = ToolRun(own_name, dollars, seconds, problem, called)
    return (content if problem is None else f"Error: {problem}"), run


def _dollars(tool: Tool, result: ToolResult) -> float:
    """What a call really cost."""
    if tool.prices is not None:
        if result.dollars is not None:
            raise TypeError("it says what the call cost, and has a price of its own: declare price=None")
        return tool.prices.of(result.read, result.written)
    if result.dollars is None:
        raise TypeError("it does not say what the call cost, as a tool without a price must: ToolResult(…, dollars=…)")
    check_amount(result.dollars, "what it says that the call cost")
    return result.dollars


class _OutOfTime(Exception):
    pass


def _call(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if tool._is_async:
        future = asyncio.run_coroutine_threadsafe(_shielded(tool.function(*args, **kwargs)), event_loop())
        done, _ = concurrent.futures.wait([future], tool.timeout)
        if not done:
            future.cancel()
            raise _OutOfTime
        return future.result()
    if tool.timeout is None:
        return tool.function(*args, **kwargs)
    return _in_a_thread(lambda: tool.function(*args, **kwargs), tool.timeout)


async def _shielded(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except SystemExit as error:  # it would stop the loop under every other tool
        raise RuntimeError(f"SystemExit: {error}") from error


def _in_a_thread(function: Callable[[], Any], timeout: float) -> Any:
    """Runs a function in a thread of its own, which is abandoned when it takes longer than the timeout."""
    outcome: list[tuple[bool, Any]] = []

    def target() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as error:  # handed to the caller's thread and raised there
            outcome.append((False, error))

    thread = threading.Thread(target=target, daemon=True, name="grpo-agents-tool")
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise _OutOfTime
    succeeded, value = outcome[0]
    if succeeded:
        return value
    raise value


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The one loop on which async tools live, so that their clients and connections survive between calls."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="grpo-agents-async-tools").start()
    return loop


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"it returned a {type(value).__name__}, which is neither text nor JSON ({error})") from None
    return _cut(value)


def _cut(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]}\n[cut: {len(text)} characters, {MAX_RESULT_CHARS} shown]"


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in entry['loc']) or 'call'}: {entry['msg']}" for entry in error.errors()
    )
