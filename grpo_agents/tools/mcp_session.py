"""One session with an MCP server: opened, watched and closed."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from grpo_agents.credentials import Credentials

if TYPE_CHECKING:
    from anyio import CancelScope
    from mcp import Client

PROBE_SECONDS = 2.0
"""How long a server that gave no answer in time may take for its list of tools before it is started again."""

SHOWN_LINES = 3
"""How much of what a program wrote to its standard error is shown where it fails."""


class Session:
    """A session with a server, opened and closed by one task, as the library's cancel scopes need it.

    Attributes:
        ready: The client, once the handshake is over; or what it failed of.
        silent: True where a call was given up since it last answered.
        said: What the program wrote to its standard error, once it has ended.
    """

    def __init__(self, transport: Callable[[Any], Any], seconds: float, shown: str, credentials: Credentials):
        self.ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # perhaps nobody waits
        self.silent = False
        self.said = ""
        self._credentials = credentials
        self._stream: Watched | None = None
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
            from mcp import MCPError

            client = await self.ready
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await client.list_tools()
            except (TimeoutError, MCPError):
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
            self.said = self._credentials.hide(f". It wrote: {' '.join(tail)}") if tail else ""
        if not self.ready.done():
            while isinstance(problem, BaseExceptionGroup):
                problem = problem.exceptions[0]
            reason = self._credentials.hide(_described(problem))
            failure = ConnectionError(f"no session with the MCP server {shown}: {reason}{self.said}")
            self.ready.set_exception(failure)

    @asynccontextmanager
    async def _watched(self, transport: Any) -> AsyncGenerator[tuple[Any, Any], None]:
        """The transport, with an eye on whether the server has closed it."""
        async with transport as (read, write):
            self._stream = Watched(read)
            yield self._stream, write


class Watched:
    """A stream that remembers that it came to its end."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException as error:
            self.ended = not isinstance(error, asyncio.CancelledError)
            raise

    async def __aenter__(self) -> Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        return await self._stream.__aexit__(*raised)


def _described(problem: BaseException) -> str:
    if isinstance(problem, FileNotFoundError):
        return f"there is no program {problem.filename!r}"
    return f"{type(problem).__name__}: {problem}"
