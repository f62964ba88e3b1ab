"""How a run is stopped from outside: Ctrl-C waits for the step under way, SIGTERM for nothing that can be repeated."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Preempted(KeyboardInterrupt):
    """SIGTERM came, as schedulers send it before they take a machine away: what can be done again is left at once."""


class Stop:
    """Whether a run is to stop, as signals say. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.urgent = False
        self._asked = False
        self._repeatable = False
        self._previous: Any = signal.default_int_handler

    def __call__(self) -> bool:
        """Whether it is to stop when the step under way is done."""
        return self._asked

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """Marks work that follows from the seed and the step, such as sampling: SIGTERM ends it in its middle.

        Raises:
            Preempted: SIGTERM came.
        """
        self._repeatable = True
        try:
            if self.urgent:
                raise Preempted
            yield
        except KeyboardInterrupt as stop:  # what waits in other languages has but this for whatever a handler raised
            if self.urgent and not isinstance(stop, Preempted):
                raise Preempted from stop
            raise
        finally:
            self._repeatable = False

    def interrupted(self, signum: int, frame: Any) -> None:
        """Ctrl-C came."""
        if self._asked:
            self._previous(signum, frame) if callable(self._previous) else signal.default_int_handler(signum, frame)
        self._asked = True

    def terminated(self, signum: int, frame: Any) -> None:
        """SIGTERM came."""
        self._asked = self.urgent = True
        if self._repeatable:
            self._repeatable = False
            raise Preempted


@contextmanager
def stopping() -> Iterator[Stop]:
    """Listens to signals, where this is the main thread: elsewhere they are not ours to handle."""
    stop = Stop()
    try:
        stop._previous = signal.signal(signal.SIGINT, stop.interrupted)
    except ValueError:
        yield stop
        return
    terminated = signal.signal(signal.SIGTERM, stop.terminated)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, stop._previous)
        signal.signal(signal.SIGTERM, terminated)
