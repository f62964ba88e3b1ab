"""The way to an environment over a network: a WebSocket, as OpenEnv's clients open it."""

from __future__ import annotations

import json
import os
import ssl
import time
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

from grpo_agents.credentials import check_address
from grpo_agents.remote.wire import MAX_BYTES, RemoteFailure, SessionLost

TOKEN_VARIABLE = "GRPO_AGENTS_ENV_TOKEN"
"""The environment variable that holds a token, on both sides, unless told otherwise."""

CONNECT_SECONDS = 10.0
"""How long a server may take to accept a connection."""

CLOSE_SECONDS = 1.0
"""How long a server may take to say goodbye."""

PAUSE_SECONDS = 0.25
"""Between two attempts to reach a server."""

LOCAL = ("localhost", "127.0.0.1", "::1")


class WebSocketLink:
    """A session over a WebSocket.

    Args:
        url: The server's address, ``http://…`` or ``https://…``.
        timeout: Seconds an answer may take.
        token_variable: The environment variable that holds the server's token, where it wants one.

    Raises:
        ValueError: No such address.
        ModuleNotFoundError: websockets is missing.
    """

    def __init__(self, url: str, *, timeout: float, token_variable: str = TOKEN_VARIABLE):
        try:
            import websockets.sync.client  # noqa: F401
        except ModuleNotFoundError as error:
            message = f"{url}: websockets is not installed, and it takes that: pip install 'grpo-agents[serve]'"
            raise ModuleNotFoundError(message, name=error.name) from None
        check_address(url, "env.id", "token_variable")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url}: the address of an environment reads http://host:port or https://host:port")
        self.where = url.rstrip("/")
        self._timeout, self._variable = timeout, token_variable
        self._stack: ExitStack | None = None
        self._socket: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known here."""
        return self._stack is not None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, so that no proxy is between."""
        return urlsplit(self.where).hostname in LOCAL

    def headers(self) -> dict[str, str]:
        """What it shows a server: its token, where there is one."""
        token = os.environ.get(self._variable)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def open(self, patience: float) -> None:
        """Connects; tries again for ``patience`` seconds where nobody answers."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self._connect()
                return
            except _Away as error:
                if time.monotonic() > deadline:
                    raise RemoteFailure(
                        f"{self.where} cannot be reached: {error}. Is it running? `grpo-agents serve-env` starts one"
                    ) from None
            time.sleep(PAUSE_SECONDS)

    def ask(self, request: dict[str, Any]) -> Any:
        """Sends a request and waits for the answer."""
        from websockets.exceptions import ConnectionClosed

        try:
            text = json.dumps(request, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.where}: a {request['type']} is not plain JSON: {error}") from None
        if len(text) > MAX_BYTES:
            raise RemoteFailure(f"{self.where}: a {request['type']} has {len(text):,} bytes; {MAX_BYTES:,} may be sent")
        try:
            with suppress(ConnectionClosed):  # what a server said before it hung up is to be read
                self._socket.send(text)
            received = self._socket.recv(self._timeout)
        except TimeoutError:
            raise RemoteFailure(
                f"{self.where} gave no answer to a {request['type']} within {self._timeout:g} s: look whether it "
                "hangs, or give it more time (env.options.timeout)"
            ) from None
        except ConnectionClosed as closed:
            raise SessionLost(f"{self.where} ended the session: {_why(closed)}") from None
        try:
            return json.loads(received)
        except (ValueError, RecursionError) as error:
            raise RemoteFailure(f"{self.where} answers what is no JSON: {received!r:.80} ({error})") from None

    def close(self, seconds: float = 0.0) -> None:
        """Ends the connection, and with it the session, whose environment the server closes."""
        stack, connection = self._stack, self._socket
        self._stack = self._socket = None
        if stack is not None:
            from websockets.exceptions import ConnectionClosed

            with stack, suppress(ConnectionClosed, OSError):  # where it is gone already
                connection.send(json.dumps({"type": "close"}))

    def another(self) -> WebSocketLink:
        """A connection of its own to the same server."""
        return WebSocketLink(self.where, timeout=self._timeout, token_variable=self._variable)

    def _connect(self) -> None:
        from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
        from websockets.sync.client import connect

        headers, stack = self.headers(), ExitStack()
        try:
            self._socket = stack.enter_context(
                connect(
                    f"ws{self.where.removeprefix('http')}/ws",
                    additional_headers=headers,
                    proxy=None if self.is_local else True,
                    compression=None if self.is_local else "deflate",
                    open_timeout=CONNECT_SECONDS,
                    close_timeout=CLOSE_SECONDS,
                    ping_interval=None,  # a server that is gone is noticed when it is asked
                    max_size=MAX_BYTES,
                )
            )
        except InvalidStatus as refusal:
            status = refusal.response.status_code
            if status in (401, 403):
                given = f"the token in {self._variable} is not its token" if headers else f"{self._variable} is not set"
                raise RemoteFailure(
                    f"{self.where} refuses the connection (status {status}): {given}. Set it to the token that the "
                    "server was started with (env.options.token_variable names another variable)"
                ) from None
            if status >= 500:
                raise _Away(f"it answers with status {status}") from None
            raise RemoteFailure(
                f"{self.where} is no server of an environment: {self.where}/ws answers with status {status}"
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise RemoteFailure(
                f"{self.where} shows a certificate that is not trusted here ({error.verify_message}): name the file of "
                "its authority in SSL_CERT_FILE"
            ) from None
        except ssl.SSLError as error:
            raise RemoteFailure(f"{self.where} does not speak https ({error.reason or error})") from None
        except (OSError, TimeoutError) as error:
            raise _Away(str(error) or type(error).__name__) from None
        except InvalidHandshake as error:
            if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
                raise _Away(f"{error} ({error.__cause__})") from None  # it hung up while it answered
            raise RemoteFailure(f"{self.where} is no server of an environment: {error}") from None
        self._stack = stack


class _Away(Exception):
    """Nobody answers, which may pass."""


def _why(closed: Any) -> str:
    """What was said at the end of a connection."""
    frame = closed.rcvd
    if frame is None:
        return "the connection broke; is the server still running?"
    if frame.code == 1009:
        return f"a message was longer than {MAX_BYTES:,} bytes"
    return frame.reason or f"code {frame.code}"
