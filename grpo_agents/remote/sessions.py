"""Many environments at once, each in a session and a thread of its own.

An environment is made, used and closed by one thread, as some want it (browsers, games).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any
from uuid import uuid4

import grpo_agents
from grpo_agents.env import AgentEnv
from grpo_agents.remote.answering import Answer, Answering, error_answer


class Full(Exception):
    """There is no room for another session."""


class Session:
    """An environment in a thread of its own.

    Args:
        answering: Answers for it.
        ended: Called once the session has ended and its environment is closed.

    Attributes:
        over: Done when it has.
    """

    def __init__(self, answering: Answering, ended: Callable[[], None]):
        self.key = uuid4().hex
        self._answering = answering
        self._ended = ended
        self.over: Future[None] = Future()
        self._asked: queue.SimpleQueue[tuple[Any, Future[Answer]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="grpo-agents-session").start()

    @property
    def broken(self) -> bool:
        """Whether the environment answers no more."""
        return self._answering.broken

    def ask(self, request: Any) -> Future[Answer]:
        """Asks; requests are answered one after the other."""
        answer: Future[Answer] = Future()
        self._asked.put((request, answer))
        return answer

    def close(self) -> None:
        """Ends the session after what it is at; one that hangs keeps its place."""
        self._asked.put(None)

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            request, answer = asked
            if answer.set_running_or_notify_cancel():
                answer.set_result(self._answering.answer(request))
        try:
            self._answering.close()
        finally:
            self._ended()
            self.over.set_result(None)


class Sessions:
    """The sessions of one environment.

    Args:
        make: Makes an environment.
        name: What it is called.
        most: How many there may be at once; one whose environment hangs counts until it returns.
    """

    def __init__(self, make: Callable[[], AgentEnv], name: str, most: int):
        self.name = name
        self._make, self._most = make, most
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> Session:
        """A new session.

        Raises:
            Full: There are as many as there may be.
        """
        with self._lock:
            if len(self._open) >= self._most:
                raise Full(f"all {self._most} sessions are taken")
            session = Session(Answering(self._make, self.name, grpo_agents.__version__), lambda: self._forget(session))
            self._open[session.key] = session
        return session

    def ask(self, key: str, request: Any, seconds: float) -> Answer:
        """What a session answers, waiting for it; a session that is late is closed.

        The answer is of the type ``error`` also where there is no such session, or no answer in time.
        """
        session = self._open.get(key)
        if session is None:
            return error_answer("there is no such session: it has ended", "NO_SESSION")
        try:
            return session.ask(request).result(seconds)
        except TimeoutError:
            session.close()
            return late(seconds)

    def close(self, key: str | None = None, seconds: float = 0.0) -> None:
        """Ends one session, or all; waits so long for their environments to be closed."""
        closing = [session for session in list(self._open.values()) if key in (None, session.key)]
        for session in closing:
            session.close()
        wait([session.over for session in closing], seconds)

    def _forget(self, session: Session) -> None:
        with self._lock:
            self._open.pop(session.key, None)


def late(seconds: float) -> Answer:
    """The answer in place of one that did not come."""
    return error_answer(f"the environment gave no answer within {seconds:g} s", "DEADLINE")
