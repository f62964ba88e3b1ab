"""One thread that does what comes to it in order, so that what it alone writes needs no locks; and its promises."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

TICK_SECONDS = 0.5
"""How often it looks after things while nothing comes."""


class Errands:
    """Things to do.

    Args:
        look_after: Done after each, and now and then while there is none.
        name: Of the thread.

    Attributes:
        failure: Why nobody can go on, if so.
    """

    def __init__(self, look_after: Callable[[], None], name: str):
        self.failure: Exception | None = None
        self._look_after = look_after
        self._promises: set[Future[Any]] = set()
        self._failing = threading.Lock()  # of both
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    def begin(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, work: Callable[[], None]) -> None:
        """Something to do, from any thread; what it raises fails everything."""
        self._inbox.put(work)

    def when(self, done: Future[Any], then: Callable[[Future[Any]], None]) -> None:
        """Something to do once something else is done; it is given that."""
        done.add_done_callback(lambda done: self._inbox.put(partial(then, done)))

    def promise(self) -> Future[Any]:
        """Something that somebody will wait for; it ends with a failure, too."""
        promised: Future[Any] = Future()
        promised.add_done_callback(self._promises.discard)
        with self._failing:
            failure = self.failure
            if failure is None:
                self._promises.add(promised)
        if failure is not None:
            promised.set_exception(failure)
        return promised

    def fail(self, error: Exception) -> None:
        """Nobody can go on: whoever waits is told."""
        with self._failing:
            self.failure = self.failure or error
            waiting = list(self._promises)
        for promised in waiting:
            if not promised.done():
                promised.set_exception(error)

    def close(self) -> None:
        """Ends the thread, with what came before this."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                with suppress(queue.Empty):
                    if (work := self._inbox.get(timeout=TICK_SECONDS)) is None:
                        return
                    work()
                self._look_after()
            except Exception as error:  # of what nobody can do anything about
                self.fail(error)
