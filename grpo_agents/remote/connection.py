"""A connection to an environment elsewhere: one session at a time, begun again where it was lost."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from grpo_agents.remote.wire import (
    PROTOCOL,
    Description,
    Part,
    RemoteFailure,
    SessionLost,
    raised_there,
)
from grpo_agents.replay import CannotReplay

Answered = TypeVar("Answered", bound=Part)


CLOSE_SECONDS = 30.0
"""So long may an environment elsewhere take to close."""


class Link(Protocol):
    """A way to an environment elsewhere: over a network, or into an actor."""

    @property
    def where(self) -> str:
        """What errors call it, as its URL."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether there is a session, as far as is known here."""
        ...

    def open(self, patience: float) -> None:
        """Begins a session.

        Args:
            patience: Seconds to go on trying for where nobody answers.

        Raises:
            RemoteFailure: None could be begun.
        """
        ...

    def ask(self, request: dict[str, Any]) -> Any:
        """What the session answers.

        Raises:
            SessionLost: The session has ended.
            RemoteFailure: No answer came in time, or one that is no JSON.
        """
        ...

    def close(self, seconds: float = 0.0) -> None:
        """Ends the session, where there is one; waits so long for its environment, if that ends with this program."""
        ...

    def another(self) -> Link:
        """A link of its own to the same place."""
        ...


class RemoteSession:
    """Asks an environment elsewhere.

    Args:
        link: The way there.
        description: What it was when it was first seen; asked at once where None.
        patience: Seconds to wait for a server that is away, when a session is begun again.

    Raises:
        RemoteFailure: It cannot be reached, or speaks another protocol.
    """

    def __init__(self, link: Link, description: Description | None = None, patience: float = 0.0):
        self._link = link
        self._lock = threading.Lock()
        self._known = description
        self._patience = 0.0 if description is None else patience
        weakref.finalize(self, link.close)  # whoever forgets an environment ends its session
        if description is None:
            self.open()
        self._patience = patience

    @property
    def where(self) -> str:
        """What errors call it."""
        return self._link.where

    @property
    def description(self) -> Description:
        """What the environment exposes beside its episodes."""
        assert self._known is not None
        return self._known

    def another(self) -> RemoteSession:
        """One to the same environment, with a session of its own, begun when it is first used."""
        return RemoteSession(self._link.another(), self.description, self._patience)

    def open(self) -> None:
        """Begins a session, and looks whether the environment is still the one that it was.

        Raises:
            RemoteFailure: It is another one, or cannot be reached.
        """
        if not self._link.is_open:
            self._link.open(self._patience)
        try:
            data = self._ask("describe", {})
            protocol = data.get("protocol") if isinstance(data, dict) else None
            if protocol != PROTOCOL:
                raise RemoteFailure(
                    f"{self.where} speaks version {protocol!r} of the protocol, and here it is {PROTOCOL}: install the "
                    "same grpo-agents on both sides"
                )
            found = read(Description, data, self.where)
            if self._known is not None and found != self._known:
                raise RemoteFailure(
                    f"{self.where} serves {found.env} now, and served {self._known.env} before (or the same with other "
                    "options, tools or tasks): serve that again, or start a new run"
                )
            self._known = found
        except BaseException:
            self._link.close()
            raise

    def ask(self, kind: str, **data: Any) -> Any:
        """What the environment answers to a question beside episodes."""
        with self._lock:
            return self._afresh(kind, data)

    def begin(self, kind: str, **data: Any) -> Any:
        """Begins an episode, in a new session where the last one was lost."""
        with self._lock:
            return self._afresh(kind, data)

    def go_on(self, kind: str, **data: Any) -> Any:
        """Goes on with an episode.

        Raises:
            RemoteFailure: It is lost.
        """
        with self._lock:
            if not self._link.is_open:
                raise SessionLost(f"{self.where}: the session of this episode has ended: reset begins a new one")
            return self._ask(kind, data)

    def close(self) -> None:
        """Ends the session, and has the environment closed."""
        self._link.close(CLOSE_SECONDS)

    def _afresh(self, kind: str, data: dict[str, Any]) -> Any:
        if self._link.is_open:
            try:
                return self._ask(kind, data)
            except SessionLost:  # while nobody was looking: a server that was started again, or an idle session
                pass
        self.open()
        return self._ask(kind, data)

    def _ask(self, kind: str, data: dict[str, Any]) -> Any:
        """The data of the answer; an error of the environment ends the session, as its state is unknown."""
        try:
            answer = self._link.ask({"type": kind, "data": data})
            return self._data_of(answer)
        except BaseException:
            self._link.close()
            raise

    def _data_of(self, answer: Any) -> Any:
        if not isinstance(answer, dict) or not isinstance(answer.get("type"), str) or "data" not in answer:
            raise RemoteFailure(f"{self.where} answers {answer!r:.200}, which has no type and data")
        data = answer["data"]
        if answer["type"] != "error":
            return data
        if not isinstance(data, dict):
            raise RemoteFailure(f"{self.where} answers with the error {data!r:.200}")
        words, code = str(data.get("message", "unknown error")), data.get("code")
        if code == "CANNOT_REPLAY":
            raise CannotReplay(words)
        if code == "NO_SESSION":
            raise SessionLost(f"{self.where}: {words}")
        if isinstance(raised := data.get("raised"), list) and len(raised) == 2:
            raise raised_there(str(raised[0]), str(raised[1]), self.where)
        hint = _WAYS_OUT.get(str(code))
        raise RemoteFailure(f"{self.where}: {words}" + (f". {hint}" if hint else ""))


_WAYS_OUT = {
    "CAPACITY_REACHED": "Serve more (serve-env --sessions), or play fewer episodes at once",
    "DEADLINE": "Give it more time (serve-env --step-timeout), or look what it waits for",
    "UNKNOWN_TYPE": "Is it another kind of server?",
}


def read(kind: type[Answered], data: Any, where: str) -> Answered:
    """An answer as what was promised.

    Raises:
        RemoteFailure: It is not; says what of it.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "answer"
        raise RemoteFailure(
            f"{where} answers what was not promised: {place}: {first['msg']} (it is {first['input']!r:.80}). "
            "Is the same grpo-agents there?"
        ) from None
