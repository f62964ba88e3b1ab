"""A tool: what the policy is told of it, the function behind it, and what a call costs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from types import MethodType
from typing import Any, overload

from docstring_parser import parse as parse_docstring
from pydantic import PydanticUserError, TypeAdapter
from pydantic_core import ArgsKwargs

from grpo_agents.tools.price import FREE, Price, check_amount

CALLABLE_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What a tool may be called in OpenAI's protocol."""


class WrongArguments(ValueError):
    """Arguments that a tool does not take; the message says which and why."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returns of which only a call shows what it costs.

    Attributes:
        content: What the policy reads: text, or what is JSON.
        read: Tokens that it read; None where nobody counted them.
        written: Tokens that it wrote; None where nobody counted them.
        dollars: What the call cost; None for what the tool's :class:`Price` makes of the tokens.
        latency: Seconds that count for it where the tool declares none; None for the measured ones.
    """

    content: Any
    read: int | None = None
    written: int | None = None
    dollars: float | None = None
    latency: float | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a policy may call.

    Attributes:
        name: Its own name: what trajectories and rewards count it under.
        function: The typed function, sync or async.
        schema: Its OpenAI-style description, with the name that the policy calls it by.
        prices: What a call costs; None where the function says so of each (:attr:`ToolResult.dollars`).
        latency: Declared seconds a call; None measures them.
        timeout: Seconds after which a call is given up; None trusts the function to return.
        method: True for a method of an environment (its first parameter is ``self``), which :meth:`of` binds.
    """

    name: str
    function: Callable[..., Any]
    schema: dict[str, Any]
    prices: Price | None = FREE
    latency: float | None = None
    timeout: float | None = 30.0
    method: bool = False
    _read: Callable[[ArgsKwargs], tuple[tuple[Any, ...], dict[str, Any]]] = field(repr=False, default=None)  # type: ignore[assignment]
    _is_async: bool = False
    _most: Callable[..., float | None] | None = field(repr=False, default=None)
    _declared: Callable[..., tuple[float, float | None]] | None = field(repr=False, default=None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, for people who call it from Python."""
        return self.function(*args, **kwargs)

    @property
    def alias(self) -> str:
        """What the policy calls it."""
        return self.schema["function"]["name"]

    @property
    def price(self) -> float:
        """Dollars a call, without its tokens; 0 where only a call shows what it costs."""
        return 0.0 if self.prices is None else self.prices.call

    @property
    def metered(self) -> bool:
        """Whether only a call shows what it costs."""
        return self.prices is None or self.prices.by_tokens

    def most(self, *args: Any, **kwargs: Any) -> float | None:
        """The most dollars that a call with these arguments can cost; None where that is not known before."""
        if self._most is not None:
            return self._most(*args, **kwargs)
        return None if self.metered else self.price

    def declared(self, *args: Any, **kwargs: Any) -> tuple[float, float | None]:
        """The dollars and seconds that are declared for a call with these arguments: what one takes that fails."""
        dollars, latency = (self.price, None) if self._declared is None else self._declared(*args, **kwargs)
        return dollars, latency if self.latency is None else self.latency

    def of(self, owner: Any) -> Tool:
        """The tool bound to the environment that offers it; itself where it is no method."""
        return replace(self, function=MethodType(self.function, owner), method=False) if self.method else self

    def costing(self, *, price: float | Price | None = None, latency: float | None = None) -> Tool:
        """The same tool at another price or latency.

        Raises:
            ValueError: A negative one, or no number; or the price of a tool of which each call says what it cost.
        """
        changed = self
        if price is not None:
            if self.prices is None:
                raise ValueError(f"tool {self.name!r}: each of its calls says what it cost; no other price can be set")
            changed = replace(changed, prices=_as_price(self.name, price), _most=None)
        if latency is not None:
            check_latency(self.name, latency)
            changed = replace(changed, latency=latency)
        return changed

    def called(self, alias: str) -> Tool:
        """The same tool under another name for the policy; rewards count it under its own.

        >>> from grpo_agents.tools import tool
        >>> @tool
        ... def search(query: str) -> str:
        ...     '''Searches.'''
        ...     return query
        >>> hidden = search.called("assistant-3")
        >>> hidden.schema["function"]["name"], hidden.name
        ('assistant-3', 'search')

        Raises:
            ValueError: A name that OpenAI's protocol does not take.
        """
        if not CALLABLE_NAME.fullmatch(alias):
            raise ValueError(
                f"tool {self.name!r} cannot be called {alias!r}: a name is of at most 64 letters, digits, _ and -"
            )
        return self._described(name=alias)

    def with_price_shown(self) -> Tool:
        """The same tool, with its price and declared latency at the end of the description that the policy reads."""
        told = [f"Price: {'by use' if self.prices is None else self.prices}."]
        if self.latency is not None:
            told.append(f"Time: about {self.latency:g} s.")
        return self._described(description="\n".join([self.schema["function"]["description"], " ".join(told)]))

    def _described(self, **changes: str) -> Tool:
        return replace(self, schema={**self.schema, "function": {**self.schema["function"], **changes}})


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    price: float | Price | None = 0.0,
    latency: float | None = None,
    timeout: float | None = 30.0,
    most: Callable[..., float | None] | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    price: float | Price | None = 0.0,
    latency: float | None = None,
    timeout: float | None = 30.0,
    most: Callable[..., float | None] | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Makes a tool of a typed, documented function; bare or with settings.

    The JSON schema comes from the signature through pydantic, descriptions from the docstring.

    Args:
        function: The function, sync or async.
        name: Another name than the function's.
        price: Dollars a call, or a :class:`Price`. One by tokens needs a function that returns a :class:`ToolResult`
            with their numbers; None one that says the dollars of each call.
        latency: Declared seconds a call; measured where None.
        timeout: Seconds a call may take before it is given up. None runs the call in place, without a thread:
            quickest, for functions that are known to return.
        most: Of a tool whose price shows only afterwards: the most dollars that a call with the same arguments can
            cost, or None where that is not known.

    Raises:
        ValueError: A missing docstring, an unannotated parameter, a price or latency that is negative or no number.
    """
    if function is None:
        return lambda function: _make(function, name, price, latency, timeout, most)
    return _make(function, name, price, latency, timeout, most)


def _make(
    function: Callable[..., Any],
    name: str | None,
    price: float | Price | None,
    latency: float | None,
    timeout: float | None,
    most: Callable[..., float | None] | None,
) -> Tool:
    name = name or str(getattr(function, "__name__", type(function).__name__))
    prices = None if price is None else _as_price(name, price)
    check_latency(name, latency)
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
    validate = adapter.validator.validate_python
    return Tool(name, function, schema, prices, latency, timeout, method, validate, is_async, most)


def _as_price(name: str, price: float | Price) -> Price:
    if isinstance(price, Price):
        return price
    check_amount(price, f"tool {name!r}: the price")
    return Price(price)


def check_latency(name: str, latency: float | None) -> None:
    """Refuses seconds that cannot be.

    Raises:
        ValueError: They are negative or no number; names the tool.
    """
    if latency is not None:
        check_amount(latency, f"tool {name!r}: the latency")
