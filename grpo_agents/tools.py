"""Tools: typed Python functions that a policy may call, what a call costs, and how one is run without harm.

>>> @tool(price=1.0, latency=3.0, timeout=None)
... def double(number: int) -> int:
...     '''Doubles a number.
...
...     Args:
...         number: The number to double.
...     '''
...     return 2 * number
>>> double.schema["function"]["parameters"]["properties"]
{'number': {'type': 'integer', 'description': 'The number to double.'}}
>>> call = {"id": "call00000", "type": "function", "function": {"name": "double", "arguments": {"number": 4}}}
>>> messages, runs = run_calls({"double": double}, [call])
>>> messages[0]["content"], runs[0].dollars
('8', 1.0)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, wraps
from types import MethodType
from typing import Any, overload

from docstring_parser import parse as parse_docstring
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from grpo_agents.trajectory import Message, ToolRun

UNREADABLE = "unreadable"
"""What a call is counted under whose tool could not be made out."""

MAX_RESULT_CHARS = 20_000
"""A longer result is cut there, and says so."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a policy may call.

    Attributes:
        name: What the policy calls it.
        function: The typed function, sync or async.
        schema: Its OpenAI-style description.
        price: Dollars a call.
        latency: Declared seconds a call; None measures them.
        timeout: Seconds after which a call is given up; None trusts the function to return.
        method: True for a method of an environment (its first parameter is ``self``), which :meth:`of` binds.
    """

    name: str
    function: Callable[..., Any]
    schema: dict[str, Any]
    price: float = 0.0
    latency: float | None = None
    timeout: float | None = 30.0
    method: bool = False
    _read: Callable[[ArgsKwargs], tuple[tuple[Any, ...], dict[str, Any]]] = field(repr=False, default=None)  # type: ignore[assignment]
    _is_async: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, for people who call it from Python."""
        return self.function(*args, **kwargs)

    def of(self, owner: Any) -> Tool:
        """The tool bound to the environment that offers it; itself where it is no method."""
        return replace(self, function=MethodType(self.function, owner), method=False) if self.method else self

    def costing(self, *, price: float | None = None, latency: float | None = None) -> Tool:
        """The same tool at another price or latency."""
        changes = {"price": price, "latency": latency}
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    @property
    def alias(self) -> str:
        """What the policy calls it."""
        return self.schema["function"]["name"]

    def called(self, alias: str, note: str = "") -> Tool:
        """The same tool under another name for the policy; its calls go on being counted under its own.

        Args:
            alias: What the policy is to call it.
            note: Added to the description that the policy reads.
        """
        function = self.schema["function"]
        description = " ".join(part for part in (function["description"], note) if part)
        return replace(
            self, schema={**self.schema, "function": {**function, "name": alias, "description": description}}
        )


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *, name: str | None = None, price: float = 0.0, latency: float | None = None, timeout: float | None = 30.0
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    price: float = 0.0,
    latency: float | None = None,
    timeout: float | None = 30.0,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Makes a tool of a typed, documented function; bare or with settings.

    The JSON schema comes from the signature through pydantic, descriptions from the docstring.

    Args:
        function: The function, sync or async.
        name: Another name than the function's.
        price: Dollars a call.
        latency: Declared seconds a call; measured where None.
        timeout: Seconds a call may take before it is given up. None runs the call in place, without a thread:
            quickest, for functions that are known to return.

    Raises:
        ValueError: A missing docstring, an unannotated parameter or a negative price.
    """
    if function is None:
        return lambda function: _make(function, name, price, latency, timeout)
    return _make(function, name, price, latency, timeout)


def _make(
    function: Callable[..., Any], name: str | None, price: float, latency: float | None, timeout: float | None
) -> Tool:
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if price < 0 or (latency or 0) < 0:
        raise ValueError(f"tool {name!r}: price and latency must not be negative (price={price}, latency={latency})")
    if not (function.__doc__ or "").strip():
        raise ValueError(f"tool {name!r} has no docstring: the policy would not know what it does. Write one line.")
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    method = bool(parameters) and parameters[0].name == "self"
    parameters = parameters[method:]
    for parameter in parameters:
        if parameter.annotation is parameter.empty:
            raise ValueError(f"tool {name!r}: parameter {parameter.name!r} has no type. Write `{parameter.name}: str`.")

    @wraps(function)
    def read(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    read.__signature__ = signature.replace(parameters=parameters, return_annotation=Any)  # type: ignore[attr-defined]
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(read)  # type: ignore[arg-type]  pydantic takes functions too
        arguments = adapter.json_schema()
    except (PydanticUserError, NameError) as error:
        raise ValueError(f"tool {name!r}: no JSON schema for its signature: {error}") from error
    documented = parse_docstring(function.__doc__ or "")
    described = {entry.arg_name: entry.description for entry in documented.params}
    for key, entry in arguments.get("properties", {}).items():
        entry.pop("title", None)
        if described.get(key):
            entry.setdefault("description", described[key])
    arguments.pop("additionalProperties", None)
    summary = "\n".join(part for part in (documented.short_description, documented.long_description) if part)
    schema = {"type": "function", "function": {"name": name, "description": summary, "parameters": arguments}}
    is_async = inspect.iscoroutinefunction(function)
    return Tool(name, function, schema, price, latency, timeout, method, adapter.validator.validate_python, is_async)


def run_calls(tools: Mapping[str, Tool], calls: Iterable[Mapping[str, Any]]) -> tuple[list[Message], list[ToolRun]]:
    """Runs the calls of one assistant message.

    A call that cannot be parsed, has wrong arguments, raises or runs out of time becomes a message that says so.

    Args:
        tools: What is on offer, by name.
        calls: OpenAI-style tool calls; one with the key ``invalid`` could not be parsed, for that reason.

    Returns:
        The tool messages, in call order and each with its ``tool_call_id``, and what each call cost.
    """
    messages: list[Message] = []
    runs: list[ToolRun] = []
    for call in calls:
        name = call["function"]["name"]
        content, run = _run_one(tools, name, call)
        messages.append({"role": "tool", "tool_call_id": call.get("id", ""), "name": name, "content": content})
        runs.append(run)
    return messages, runs


def _run_one(tools: Mapping[str, Tool], name: str, call: Mapping[str, Any]) -> tuple[str, ToolRun]:
    """Runs one call; returns what the policy reads and what it cost (nothing, where nothing was run)."""

    def refused(reason: str) -> tuple[str, ToolRun]:
        reason = _cut(reason)
        return f"Error: {reason}", ToolRun(tools[name].name if name in tools else name or UNREADABLE, error=reason)

    if "invalid" in call:
        return refused(f"the tool call could not be read: {call['invalid']}")
    chosen = tools.get(name)
    if chosen is None:
        return refused(f"there is no tool {name!r}. Available: {', '.join(tools) or 'none'}")
    arguments = call["function"]["arguments"]
    try:
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(arguments, Mapping):
            raise TypeError(f"they are a {type(arguments).__name__}")
        args, kwargs = chosen._read(ArgsKwargs((), dict(arguments)))
    except ValidationError as error:
        return refused(f"wrong arguments for {name!r}: {_explain(error)}")
    except (ValueError, TypeError, RecursionError) as error:
        return refused(f"the arguments of {name!r} are not a JSON object: {error}")
    started = time.perf_counter()
    content, problem = "", None
    try:
        content = _as_text(_call(chosen, args, kwargs))
    except _OutOfTime:
        problem = f"tool {name!r} gave no answer within {chosen.timeout:g} s"
    except (Exception, SystemExit) as error:  # what a tool raises is for the policy to read, and on record
        problem = _cut(f"tool {name!r} failed: {type(error).__name__}: {error}")
    seconds = time.perf_counter() - started if chosen.latency is None else chosen.latency
    run = ToolRun(chosen.name, chosen.price, seconds, problem)
    return (content if problem is None else f"Error: {problem}"), run


class _OutOfTime(Exception):
    pass


def _call(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if tool._is_async:
        future = asyncio.run_coroutine_threadsafe(_shielded(tool.function(*args, **kwargs)), _event_loop())
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
def _event_loop() -> asyncio.AbstractEventLoop:
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
