"""Tools of MCP servers, through the official library: programs that are started here, or services behind a URL.

One session with a server is kept open for all who call its tools, on the event loop of async tools, until the program
ends. A server that has ended is started again by the next call; a call that it ends during is not made twice, as nobody
knows how far it came. What a server gets of the environment's variables is what the library passes on (``PATH``,
``HOME`` …) and what ``env`` names; those values, and the password and query of a URL, are in nothing that it is quoted
with.
"""

from __future__ import annotations

import asyncio
import atexit
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from grpo_agents.credentials import Credentials, credentials_in
from grpo_agents.tools.definition import Tool, WrongArguments, check_latency
from grpo_agents.tools.mcp_session import Session
from grpo_agents.tools.price import Price, check_amount
from grpo_agents.tools.running import event_loop

if TYPE_CHECKING:
    from mcp.types import CallToolResult

CLOSING_SECONDS = 15.0
"""How long closing a session is waited for; the library kills a program after some 7 s."""


def mcp_tools(
    *,
    command: Sequence[str] | None = None,
    url: str | None = None,
    env: Mapping[str, str] | None = None,
    price: float | Mapping[str, float] = 0.0,
    latency: float | Mapping[str, float] | None = None,
    timeout: float = 30.0,
) -> tuple[Tool, ...]:
    """The tools of an MCP server; see :class:`McpServer`, which also closes it before the program ends."""
    return McpServer(command=command, url=url, env=env, timeout=timeout).tools(price=price, latency=latency)


class McpServer:
    """An MCP server: a program that speaks over its standard input and output, or a URL (streamable HTTP).

    Args:
        command: The program and its arguments.
        url: The service, as ``http://localhost:8000/mcp``.
        env: Further environment variables for the program.
        timeout: Seconds that a call, and the handshake, may take.

    Raises:
        ValueError: Neither a command nor a URL, or both.
        ImportError: The library is not installed.
    """

    def __init__(
        self,
        *,
        command: Sequence[str] | None = None,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ):
        if (command is None) == (url is None) or (command is not None and not command):
            raise ValueError("an MCP server is either a command=[program, …] or a url=, and one of them is needed")
        try:
            import mcp  # noqa: F401
        except ImportError as error:
            raise ImportError("MCP servers need the mcp library: pip install 'grpo-agents[mcp]'") from error
        self.credentials = Credentials(*credentials_in(url or ""), *(env or {}).values())
        self.shown = self.credentials.hide(url or " ".join(command or ()))
        self._command = list(command or ())
        self._url = url
        self._env = dict(env or {})
        self._timeout = timeout
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    def tools(
        self,
        *,
        price: float | Mapping[str, float] = 0.0,
        latency: float | Mapping[str, float] | None = None,
    ) -> tuple[Tool, ...]:
        """The tools that it lists, in its order, and with its schemas.

        Args:
            price: Dollars a call; of all, or by the name of a tool (0 for the others).
            latency: Declared seconds a call, likewise; measured for the others.

        Raises:
            ConnectionError: It cannot be started or reached, or does not answer; says what it wrote.
            ValueError: A price or latency of a tool that it does not have, or that is negative or no number.
        """
        listed = self._wait(self._listed())
        names = [each.name for each in listed]
        prices = price if isinstance(price, Mapping) else dict.fromkeys(names, price)
        latencies = latency if isinstance(latency, Mapping) else dict.fromkeys(names, latency)
        for name in [*prices, *latencies]:
            if name not in names:
                raise ValueError(f"the MCP server {self.shown} has no tool {name!r}. It has: {', '.join(names)}")
        for name, each in prices.items():
            check_amount(each, f"tool {name!r}: the price")
        for name, each in latencies.items():
            check_latency(name, each)
        made = []
        for each in listed:
            parameters = {"properties": {}, **each.input_schema}
            function = {"name": each.name, "description": each.description or each.name, "parameters": parameters}
            schema = {"type": "function", "function": function}
            made.append(
                Tool(
                    each.name,
                    partial(self._call, each.name),
                    schema,
                    Price(prices.get(each.name, 0.0)),
                    latencies.get(each.name),
                    self._timeout,
                    _read=_reader(each.input_schema),
                    _is_async=True,
                )
            )
        return tuple(made)

    def close(self) -> None:
        """Ends the session, and the program with it; a later call starts it again."""
        self._wait(self._leave())

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, event_loop()).result(self._timeout + CLOSING_SECONDS)

    # On the event loop

    async def _listed(self) -> list[Any]:
        session = await self._opened()
        found, cursor, seen = [], None, set()
        try:
            async with asyncio.timeout(self._timeout):
                client = await session.ready
                while True:
                    page = await client.list_tools(cursor=cursor)
                    found += page.tools
                    cursor = page.next_cursor
                    if cursor is None:
                        return found
                    if cursor in seen:
                        raise ConnectionError(f"the MCP server {self.shown} lists its tools without end")
                    seen.add(cursor)
        except TimeoutError as error:
            self._drop(session)
            await session.close()
            said = f"the MCP server {self.shown} gave no list of its tools within {self._timeout:g} s{session.said}"
            raise ConnectionError(said) from error

    async def _call(self, name: str, /, **arguments: Any) -> str:
        from mcp import MCPError

        session = await self._opened()
        client = await session.ready
        asked = asyncio.ensure_future(client.call_tool(name, arguments))
        try:
            result = await asyncio.shield(asked)
        except MCPError as error:
            session.silent = self._url is not None  # a service that was started again knows no old session
            if session.ended or not await session.answers():
                self._drop(session)
                await session.close()  # then it is known what the program wrote
                said = self.credentials.hide(f"the MCP server ended during the call ({error}){session.said}")
                raise RuntimeError(said) from None
            raise RuntimeError(self.credentials.hide(f"the MCP server refuses the call: {error}")) from None
        except asyncio.CancelledError:
            session.silent = True  # before the next call begins: telling the server takes its time
            asked.cancel()
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        text = self.credentials.hide(_text(result))
        if result.is_error:
            raise RuntimeError(text)
        return text

    async def _opened(self) -> Session:
        """The open session's; opens one where there is none, or where it has ended or hangs."""
        async with self._opening:
            session = self._session
            if session is not None and (session.ended or not await session.answers()):
                self._drop(session)
                session = None
            if session is None:
                session = self._session = Session(self._transport, self._timeout, self.shown, self.credentials)
                atexit.register(self.close)
            await asyncio.shield(session.ready)  # who waits no longer does not end it for others
            return session

    def _drop(self, session: Session) -> None:
        """Ends a session without waiting for the end of its program."""
        if self._session is session:
            self._session = None
        closing = asyncio.create_task(session.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _leave(self) -> None:
        """Ends the session that is open, and waits for the end of every program."""
        atexit.unregister(self.close)
        if self._session is not None:
            self._drop(self._session)
        await asyncio.gather(*self._closing)

    def _transport(self, log: TextIO) -> Any:
        from mcp import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self._url is not None:
            return streamable_http_client(self._url)
        program, *arguments = self._command
        return stdio_client(StdioServerParameters(command=program, args=arguments, env=self._env), errlog=log)


def _reader(schema: dict[str, Any]) -> Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]:
    """What reads the arguments of a call by a JSON schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for

    validator = validator_for(schema, Draft202012Validator)(schema)

    def read(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        arguments = given.kwargs or {}
        problems = sorted(validator.iter_errors(arguments), key=lambda problem: problem.json_path)
        if problems:
            raise WrongArguments("; ".join(f"{each.json_path}: {each.message}" for each in problems))
        return (), arguments

    return read


def _text(result: CallToolResult) -> str:
    """A result as text: its parts, or what is no text by its kind."""
    parts = [part.text if part.type == "text" else f"[{part.type}]" for part in result.content]
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)
