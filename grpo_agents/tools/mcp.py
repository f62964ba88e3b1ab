"""Tools of MCP servers, through the official library: programs that are started here, or services behind a URL.

One session with a server is kept open for all who call its tools, on the event loop of async tools, until the program
ends. A server that has ended is started again by the next call; a call that it ends during is not made twice, as nobody
knows how far it came. What a server gets of the environment's variables is what the library passes on (``PATH``,
``HOME`` …) and what ``env`` names.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from grpo_agents.tools.definition import Tool, WrongArguments, check_latency
from grpo_agents.tools.price import Price, check_amount
from grpo_agents.tools.running import event_loop

if TYPE_CHECKING:
    from anyio import CancelScope
    from mcp import Client
    from mcp.types import CallToolResult

PROBE_SECONDS = 2.0
"""How long a server that gave no answer in time may take for its list of tools before it is started again."""

CLOSING_SECONDS = 15.0
"""How long closing a session is waited for; the library kills a program after some 7 s."""

SHOWN_LINES = 3
"""How much of what a program wrote to its standard error is shown where it fails."""


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
        self.shown = url or " ".join(command or ())
        self._command = list(command or ())
        self._url = url
        self._env = dict(env or {})
        self._timeout = timeout
        self._session: _Session | None = None
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
        client = await self._client()
        found, cursor = [], None
        while True:
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def _call(self, name: str, /, **arguments: Any) -> str:
        from mcp import MCPError

        client = await self._client()
        session = self._session
        assert session is not None
        try:
            result = await client.call_tool(name, arguments)
        except MCPError as error:
            if session.ended or self._url is not None:  # a service that was started again knows no old session
                self._drop(session)
                await session.close()  # then it is known what the program wrote
                raise RuntimeError(f"the MCP server ended during the call ({error}){session.said}") from error
            raise RuntimeError(f"the MCP server refuses the call: {error}") from error
        except asyncio.CancelledError:
            session.silent = True
            raise
        text = _text(result)
        if result.is_error:
            raise RuntimeError(text)
        return text

    async def _client(self) -> Client:
        """The open session's; opens one where there is none, or where it has ended or hangs."""
        async with self._opening:
            session = self._session
            if session is not None and (session.ended or not await session.answers()):
                self._drop(session)
            if self._session is None:
                self._session = _Session(self._transport, self._timeout, self.shown)
                atexit.register(self.close)
            return await asyncio.shield(self._session.ready)  # who waits no longer does not end it for others

    def _drop(self, session: _Session) -> None:
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


class _Session:
    """A session with a server, opened and closed by one task, as the library's cancel scopes need it.

    Attributes:
        ready: The client, once the handshake is over; or what it failed of.
        silent: True where a call was given up since it last answered.
        said: What the program wrote to its standard error, once it has ended.
    """

    def __init__(self, transport: Callable[[Any], Any], seconds: float, shown: str):
        self.ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # perhaps nobody waits
        self.silent = False
        self.said = ""
        self._stream: _Watched | None = None
        self._scope: CancelScope | None = None
        self._left = asyncio.Event()
        self._task = asyncio.create_task(self._run(transport, seconds, shown))

    @property
    def ended(self) -> bool:
        """Whether the server has gone."""
        return self._task.done() or (self._stream is not None and self._stream.ended)

    async def answers(self) -> bool:
        """Whether a server that was silent still lives."""
        if self.silent:
            client = await self.ready
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await client.list_tools()
            except TimeoutError:
                return False
            self.silent = False
        return True

    async def close(self) -> None:
        """Ends it, and waits until the program is gone."""
        self._left.set()
        if self._scope is not None and not self.ready.done():
            self._scope.cancel()
        await asyncio.wait([self._task])

    async def _run(self, transport: Callable[[Any], Any], seconds: float, shown: str) -> None:
        import anyio
        from mcp import Client

        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            problem: BaseException = TimeoutError(f"no handshake within {seconds:g} s")
            try:
                with anyio.move_on_after(seconds) as self._scope:
                    async with Client(self._watched(transport(log)), cache=None) as client:
                        self._scope.deadline = math.inf
                        self.ready.set_result(client)
                        await self._left.wait()
            except Exception as error:  # handed to who waits for the handshake; after it, calls see that it ended
                problem = error
            log.seek(0)
            tail = [line.strip() for line in log if line.strip()][-SHOWN_LINES:]
            self.said = f". It wrote: {' '.join(tail)}" if tail else ""
        if not self.ready.done():
            while isinstance(problem, BaseExceptionGroup):
                problem = problem.exceptions[0]
            failure = ConnectionError(f"no session with the MCP server {shown}: {_described(problem)}{self.said}")
            failure.__cause__ = problem
            self.ready.set_exception(failure)

    @asynccontextmanager
    async def _watched(self, transport: Any) -> AsyncGenerator[tuple[Any, Any], None]:
        """The transport, with an eye on whether the server has closed it."""
        async with transport as (read, write):
            self._stream = _Watched(read)
            yield self._stream, write


class _Watched:
    """A stream that remembers that it came to its end."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException as error:
            self.ended = not isinstance(error, asyncio.CancelledError)
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        return await self._stream.__aexit__(*raised)


def _described(problem: BaseException) -> str:
    if isinstance(problem, FileNotFoundError):
        return f"there is no program {problem.filename!r}"
    return f"{type(problem).__name__}: {problem}"


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
    import json

    parts = [getattr(part, "text", None) or f"[{part.type}]" for part in result.content]
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)
