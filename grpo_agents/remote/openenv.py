"""Environments of servers that were written with OpenEnv, where they speak in text or in messages.

An episode begins with ``reset(**task)``, each message of the policy is one text field of an action, and one field of
the observation is what it reads: text, or messages. The reward of a step is ``outcome``. Tools of MCP, and actions that
hold more than text, are not played.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from grpo_agents.env import AgentEnv, Reply
from grpo_agents.remote.websocket import CONNECT_SECONDS, WebSocketLink
from grpo_agents.remote.wire import MAX_BYTES, RemoteFailure, SessionLost
from grpo_agents.trajectory import Message, Task

FIELDS = {"action", "observation"}
"""Options that say which field of an action the policy writes, and which of an observation it reads."""

_NOT_SAID = ("done", "reward", "metadata")


def is_openenv(link: WebSocketLink) -> bool:
    """Whether a server does not know what ours is asked first; leaves a session open, unless there is other trouble."""
    link.open(0.0)
    try:
        answer = link.ask({"type": "describe", "data": {}})
    except BaseException:
        link.close()
        raise
    if not isinstance(answer, dict) or answer.get("type") != "error":
        return False
    if isinstance(data := answer.get("data"), dict) and data.get("code") == "UNKNOWN_TYPE":
        return True
    link.close()
    return False


def draw_seed(rng: np.random.Generator) -> Task:
    """A task that is nothing but the seed of a reset."""
    return {"seed": int(rng.integers(2**31))}


class OpenEnvEnv(AgentEnv):
    """Plays an environment of a server that was written with OpenEnv.

    A task holds what ``reset`` is called with, as ``{"seed": 3}``.

    Args:
        link: The way to the server.
        tasks: A task source; seeds are drawn where there is none.
        action: The field of an action that the policy writes; ``message``, or the only text, where None.
        observation: The field of an observation that it reads; ``messages``, or the only text, where None.
        patience: Seconds to wait for a server that has gone away, before an episode begins.
        render_mode: See :class:`AgentEnv`.

    Raises:
        ValueError: The server's schemas have no such field, or do not say which; names those that there are.
    """

    tasks: ClassVar[Any] = draw_seed

    def __init__(
        self,
        link: WebSocketLink,
        tasks: Any = None,
        *,
        action: str | None = None,
        observation: str | None = None,
        patience: float = 0.0,
        render_mode: str | None = None,
    ):
        super().__init__(tasks, render_mode=render_mode)
        weakref.finalize(self, link.close)
        self._link, self._patience = link, patience
        try:
            schemas = _schemas(link) if action is None or observation is None else {}
            self._action = action or _choose(schemas, "action", "message", link.where)
            self._observation = observation or _choose(schemas, "observation", "messages", link.where)
        except BaseException:
            link.close()
            raise
        self._heard: list[Message] = []

    def another(self) -> OpenEnvEnv:
        """One like it, with a session of its own, begun at its first reset."""
        return OpenEnvEnv(
            self._link.another(),
            self.task_source,
            action=self._action,
            observation=self._observation,
            patience=self._patience,
            render_mode=self.render_mode,
        )

    def start(self, task: Task) -> list[Message]:
        """Begins an episode there, with what the task holds."""
        self._heard = []
        data = None
        if self._link.is_open:
            try:
                data = self._ask("reset", task)
            except SessionLost:  # the server was started again, or ended an idle session
                data = None
        if data is None:
            self._link.open(self._patience)
            data = self._ask("reset", task)
        if data.get("done"):
            raise RemoteFailure(f"{self._link.where} begins an episode that is over")
        return self._read(data, {})

    def respond(self, message: Message) -> Reply:
        """Takes a step there with the message's text."""
        if not self._link.is_open:
            raise SessionLost(f"{self._link.where}: the session of this episode has ended: reset begins a new one")
        data = self._ask("step", {self._action: str(message.get("content") or "")})
        reward = data.get("reward")
        rewards = {} if reward is None else {"outcome": float(reward)}
        return Reply(self._read(data, message), rewards, bool(data.get("done")))

    def close(self) -> None:
        """Ends the session."""
        self._link.close()

    def _ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        where = self._link.where
        try:
            answer = self._link.ask({"type": kind, "data": dict(data)})
            told = answer.get("data") if isinstance(answer, dict) else None
            if isinstance(told, dict) and answer.get("type") == "error":
                raise RemoteFailure(f"{where}: {told.get('message', 'unknown error')} ({told.get('code')})")
            if not isinstance(told, dict) or not isinstance(told.get("observation"), dict):
                raise RemoteFailure(f"{where} answers a {kind} with {answer!r:.200}, which has no observation")
        except BaseException:
            self._link.close()
            raise
        return told

    def _read(self, data: dict[str, Any], said: Message) -> list[Message]:
        """What is new of an observation: servers mostly repeat the messages so far."""
        found = data["observation"].get(self._observation)
        if isinstance(found, str):
            return [{"role": "user", "content": found}]
        if not isinstance(found, list) or not self.observation_space.contains(tuple(found)):
            raise RemoteFailure(
                f"{self._link.where}: the observation's {self._observation!r} is {found!r:.120}, and neither text nor "
                "messages (a role and a content each). Which field to read: env.options.observation"
            )
        before, self._heard = self._heard, found
        new = found[len(before) :] if found[: len(before)] == before else found
        own = new and new[0]["role"] == "assistant" and new[0]["content"] == said.get("content")
        return new[1:] if own else new


def _schemas(link: WebSocketLink) -> dict[str, Any]:
    """The schemas of a server, as OpenEnv gives them."""
    where = link.where
    request = urllib.request.Request(f"{where}/schema")
    for name, value in link.headers().items():
        request.add_unredirected_header(name, value)  # a token is for no other server
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({} if link.is_local else None))
    try:
        with opener.open(request, timeout=CONNECT_SECONDS) as reply:
            found = json.loads(reply.read(MAX_BYTES))
    except (OSError, ValueError) as error:
        detail = f"{type(error).__name__}: {error}"
        if isinstance(error, urllib.error.HTTPError):
            detail = str(error)
            error.close()  # it holds the connection
        raise RemoteFailure(
            f"{where}/schema does not say what is to be sent and read ({detail}): name the fields, "
            "env.options.action and env.options.observation"
        ) from None
    if not isinstance(found, dict):
        raise RemoteFailure(f"{where}/schema answers {found!r:.80}, which is no table")
    return found


def _choose(schemas: dict[str, Any], which: str, usual: str, where: str) -> str:
    """The field of a schema that is text or messages."""
    schema = schemas.get(which)
    fields = schema.get("properties") if isinstance(schema, dict) else None
    fields = {name: entry for name, entry in (fields or {}).items() if name not in _NOT_SAID}
    texts = [name for name, entry in fields.items() if isinstance(entry, dict) and entry.get("type") == "string"]
    found = usual if usual in fields else texts[0] if len(texts) == 1 else None
    if found is None:
        raise ValueError(
            f"{where}: the {which} has the fields {', '.join(fields) or 'none'}; say which is text"
            f"{' or messages' if which == 'observation' else ''}: env.options.{which}"
        )
    return found
