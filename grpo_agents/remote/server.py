"""A server of one environment in OpenEnv's protocol: a WebSocket a session, each with an environment of its own.

What is defended: the number of sessions, the length of requests, how long a step may take and how long a session may be
idle; a token, compared in constant time; no web page gets in, since a browser's Origin is refused; JSON is all that is
read. What is not: the environment itself, whose tools run with the rights of this process.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpo_agents
from grpo_agents.env import AgentEnv
from grpo_agents.remote.answering import Answer, error_answer
from grpo_agents.remote.sessions import Full, Session, Sessions, late
from grpo_agents.remote.websocket import LOCAL
from grpo_agents.remote.wire import MAX_BYTES

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
    from starlette.responses import Response
    from starlette.websockets import WebSocket

LOG = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that may wait to be taken: a run opens hundreds at once."""

GRACE_SECONDS = 5
"""How long sessions have to end when the server does."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a server.

    Attributes:
        sessions: Environments at once.
        step_timeout: Seconds that an answer may take.
        idle_timeout: Seconds after which a session ends that asks for nothing.
        token: What clients have to show; None for nothing.

    Raises:
        ValueError: An empty token, which everybody has.
    """

    sessions: int = 256
    step_timeout: float = 60.0
    idle_timeout: float = 3600.0
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token == "":
            raise ValueError("Limits.token is empty, and would let everybody in: set it, or leave it out")


def make_app(make: Callable[[], AgentEnv], name: str, limits: Limits) -> Starlette:
    """The server's application, for any ASGI server.

    Args:
        make: Makes one environment.
        name: What it is called.
        limits: What bounds it.
    """
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    sessions = Sessions(make, name, limits.sessions)

    async def health(_: HTTPConnection) -> Response:
        return JSONResponse({"status": "healthy"})

    async def metadata(request: HTTPConnection) -> Response:
        if refusal := _refusal(request, limits.token):
            return refusal
        about = {"name": name, "description": f"{name}, served by grpo-agents", "version": grpo_agents.__version__}
        return JSONResponse(about)

    async def schema(request: HTTPConnection) -> Response:
        return _refusal(request, limits.token) or JSONResponse(SCHEMAS)

    async def session(web: WebSocket) -> None:
        if refusal := _refusal(web, limits.token):
            await web.send_denial_response(refusal)
            return
        await web.accept()
        try:
            opened = sessions.open()
        except Full as full:
            await _send(web, error_answer(str(full), "CAPACITY_REACHED"))
            with suppress(TimeoutError, WebSocketDisconnect):  # clients that are hung up on do not read what was said
                await asyncio.wait_for(_receive(web), GRACE_SECONDS)
                await asyncio.wait_for(_receive(web), GRACE_SECONDS)
                await web.close(1013, str(full))
            return
        try:
            await _converse(web, opened, limits)
        finally:
            opened.close()
            with suppress(TimeoutError):  # a server that ends waits for it, too
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(opened.over)), limits.step_timeout)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metadata", metadata),
            Route("/schema", schema),
            WebSocketRoute("/ws", session),
        ]
    )


async def _converse(web: WebSocket, session: Session, limits: Limits) -> None:
    """Answers what comes over a connection until it ends."""
    from starlette.websockets import WebSocketDisconnect

    with suppress(WebSocketDisconnect):
        while True:
            try:
                request = await asyncio.wait_for(_receive(web), limits.idle_timeout)
            except TimeoutError:
                await web.close(1000, f"it was idle for {limits.idle_timeout:g} s (serve-env --idle-timeout)")
                return
            if isinstance(request, dict) and request.get("type") == "close":
                await web.close(1000)
                return
            if isinstance(request, _NoJson):
                await _send(web, error_answer(request.why, "INVALID_JSON"))
                continue
            over = True
            try:
                asked = asyncio.shield(asyncio.wrap_future(session.ask(request)))
                answer = await asyncio.wait_for(asked, limits.step_timeout)
                over = session.broken
            except TimeoutError:
                LOG.warning("a session is given up: no answer within %g s", limits.step_timeout)
                answer = late(limits.step_timeout)
            await _send(web, answer)
            if over:
                await web.close(1011, "the environment failed, and its state is unknown")
                return


@dataclass(frozen=True, slots=True)
class _NoJson:
    """A message that is none."""

    why: str


async def _receive(web: WebSocket) -> Any:
    try:
        return json.loads(await web.receive_text())
    except (ValueError, RecursionError) as error:
        return _NoJson(f"no JSON: {error}")
    except KeyError:
        return _NoJson("no text")


async def _send(web: WebSocket, answer: Answer) -> None:
    text = json.dumps(answer, allow_nan=False)
    if len(text) > MAX_BYTES:
        text = json.dumps(error_answer(f"the answer has {len(text):,} bytes; {MAX_BYTES:,} may be sent", "TOO_LONG"))
    await web.send_text(text)


def _refusal(asked: HTTPConnection, token: str | None) -> Response | None:
    """Why a connection is not taken."""
    from starlette.responses import PlainTextResponse

    if "origin" in asked.headers:
        return PlainTextResponse("this server is not for browsers", 403)
    if token is None:
        return None
    shown = asked.headers.get("authorization", "").removeprefix("Bearer ")
    if hmac.compare_digest(shown.encode(), token.encode()):
        return None
    return PlainTextResponse("a token is wanted: Authorization: Bearer …", 401)


def make_server(make: Callable[[], AgentEnv], name: str, limits: Limits) -> uvicorn.Server:
    """The server, to be run with a socket that listens; see :func:`make_app`."""
    import uvicorn

    config = uvicorn.Config(
        make_app(make, name, limits),
        ws="websockets-sansio",
        ws_max_size=MAX_BYTES,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def serve(
    make: Callable[[], AgentEnv],
    name: str,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 8000,
    started: Callable[[str], None] = print,
) -> None:
    """Serves an environment until it is stopped (Ctrl-C, SIGTERM).

    Args:
        make: Makes one environment.
        name: What it is called.
        limits: What bounds it.
        host: Where it listens.
        port: At which port; 0 for a free one.
        started: Told the URL, once it listens.

    Raises:
        ValueError: Another host than this machine, and no token.
        OSError: It cannot listen there.
    """
    if host not in LOCAL and limits.token is None:
        raise ValueError(
            f"--host {host} lets others in, and there is no token. Put one into an environment variable and name it: "
            "--token-variable NAME"
        )
    server = make_server(make, name, limits)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror or error}. Try another --port") from None
    with listening:
        address = f"[{host}]" if ":" in host else host
        started(f"http://{address}:{listening.getsockname()[1]}")
        server.run(sockets=[listening])


SCHEMAS: Mapping[str, Any] = {
    "action": {
        "title": "Action",
        "type": "object",
        "properties": {
            "message": {
                "description": "The assistant's message: text, or role, content and tool_calls.",
                "anyOf": [{"type": "string"}, {"type": "object"}],
            },
            "charges": {"description": "Dollars spent outside.", "type": "array", "items": {"type": "number"}},
        },
        "required": ["message"],
    },
    "observation": {
        "title": "Observation",
        "type": "object",
        "properties": {
            "messages": {"description": "What is new to the policy.", "type": "array", "items": {"type": "object"}},
            "info": {"description": "Gymnasium's info.", "type": "object"},
        },
        "required": ["messages", "info"],
    },
    "state": {"title": "State", "type": "object", "properties": {"step_count": {"type": "integer"}}},
}
