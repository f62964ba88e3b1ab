"""Asking an OpenAI-compatible server: what comes back is an answer, a refusal, or trouble that may pass."""

from __future__ import annotations

import os
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient

from grpo_agents.credentials import Credentials, check_address
from grpo_agents.engines import EngineFailure

CONNECT_SECONDS = 10.0
"""How long a server may take to accept a connection."""

KEPT_SECONDS = 2.0
"""How long an idle connection is kept: less than vLLM's 5 s, after which it closes it under the next request."""

PASSING = (408, 409, 429)
"""Status codes below 500 that another attempt may not see."""


class Trouble(Exception):
    """A server that is away, ill or busy; another attempt may find it well.

    Attributes:
        pause: Seconds that it asked to be left alone for.
    """

    def __init__(self, message: str, pause: float | None = None):
        super().__init__(message)
        self.pause = pause


class Refusal(EngineFailure):
    """A request that the server does not take, however often it is asked.

    Attributes:
        status: The HTTP status.
        reason: The server's own words.
        code: The server's name for the error, where it gives one.
        parameter: What of the request it does not take, where it says so.
    """

    def __init__(self, message: str, status: int, reason: str, code: str, parameter: str):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.code = code
        self.parameter = parameter

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, int, str, str, str]]:
        return type(self), (str(self), self.status, self.reason, self.code, self.parameter)


class Client:
    """Asks one server.

    Args:
        url: Its address up to ``/v1``.
        key_variable: The environment variable that holds the key; servers of one's own mostly want none. The key is
            in nothing that comes back, whatever the server repeats.
        connections: How many are kept.

    Raises:
        ValueError: The address holds a password, or the key is none.
    """

    def __init__(self, url: str, key_variable: str, connections: int):
        check_address(url, "engine.server.url")
        key = os.environ.get(key_variable, "").strip()  # a line's end would make a header that is refused and shown
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"the environment variable {key_variable} holds characters that no key has")
        self._credentials = Credentials(key)
        self.url = url.rstrip("/")
        self.key_variable = key_variable
        limits = httpx2.Limits(
            max_connections=None, max_keepalive_connections=connections, keepalive_expiry=KEPT_SECONDS
        )
        self._client = AsyncOpenAI(
            base_url=self.url,
            api_key=key or "none",
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(limits=limits),
        )

    async def ask(self, path: str, body: dict[str, Any] | None = None, *, seconds: float | None = None) -> Any:
        """Posts a body, or gets what is there where there is none.

        Args:
            path: Below the url; from the server's root where it begins with a slash, as vLLM's own endpoints do.
            body: Plain JSON.
            seconds: How long the answer may take; None waits as long as the caller does.

        Returns:
            The answer, parsed.

        Raises:
            Trouble: No connection, no answer in time, or status 408, 409, 429 or from 500.
            Refusal: Another status from 400.
            EngineFailure: An answer that is no JSON.
        """
        url = f"{self.url.removesuffix('/v1')}{path}" if path.startswith("/") else f"{self.url}/{path}"
        for attempt in (1, 2):
            try:
                return self._credentials.hide_in(await self._send(url, body, seconds))
            except APITimeoutError as error:
                raise Trouble(f"{url} gave no answer in time") from error
            except APIConnectionError as error:
                # a kept connection that the server has closed looks like a death: only another one tells
                if attempt == 1 and isinstance(error.__cause__, httpx2.NetworkError | httpx2.RemoteProtocolError):
                    continue
                reason = self._credentials.hide(str(error.__cause__ or error))
                raise Trouble(f"no connection to {url} ({reason})") from None
            except APIStatusError as error:
                reason = self._credentials.hide(_reason(error))[:1000]
                if error.status_code in PASSING or error.status_code >= 500:
                    raise Trouble(
                        f"{url} answered {error.status_code}: {reason}", _pause(error)
                    ) from None  # the server's own words may hold the key
                raise self._refusal(error, url, reason) from None
            except ValueError as error:
                reason = self._credentials.hide(str(error))
                raise EngineFailure(f"{url} did not answer with JSON: {reason}") from None
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.close()

    async def _send(self, url: str, body: dict[str, Any] | None, seconds: float | None) -> Any:
        timeout = httpx2.Timeout(seconds, connect=CONNECT_SECONDS)
        if body is None:
            return await self._client.get(url, cast_to=object, options={"timeout": timeout})
        return await self._client.post(url, cast_to=object, body=body, options={"timeout": timeout})

    def _refusal(self, error: APIStatusError, url: str, reason: str) -> Refusal:
        advice = ""
        if error.status_code in (401, 403):
            held = "holds a key that it does not take" if os.environ.get(self.key_variable) else "is not set"
            advice = f". The environment variable {self.key_variable} (engine.server.key_variable) {held}"
        elif error.status_code == 404:
            advice = ". Is engine.server.url its address up to /v1, and engine.server.model one that it has?"
        message = f"{url} refuses the request ({error.status_code}): {reason}{advice}"
        code, parameter = (self._credentials.hide(str(said or "")) for said in (error.code, error.param))
        return Refusal(message, error.status_code, reason, code, parameter)


def _reason(error: APIStatusError) -> str:
    """The server's own words, in whichever of the usual places they are."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    return f"{body or error.response.reason_phrase or error.message}"


def _pause(error: APIStatusError) -> float | None:
    """What ``Retry-After`` says, where that is a number of seconds."""
    try:
        return float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
