"""Requests under way on an event loop of their own thread: many at once, each answered at most once.

What asks a server is a coroutine; who wants an answer is a thread that must not wait for it. A request may be dropped
at any time, and all of them may be held and begun anew, as when a server is started again under them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

from grpo_agents.engines import EngineFailure

T = TypeVar("T")

CLOSING_SECONDS = 1.0
"""How long requests that were given up may take to close their connections at the end."""


@dataclass(eq=False, slots=True)
class Job:
    """A request under way.

    Attributes:
        key: Tells it from others; hashable.
        ask: Gives its answer, or raises an :class:`EngineFailure`; called again where jobs are begun anew.
        deliver: Takes either, on the loop's thread.
        attempt: What is asking now.
        scope: What that is cancelled by, once it has begun.
    """

    key: Any
    ask: Callable[[], Awaitable[Any]]
    deliver: Callable[[Any], None]
    attempt: asyncio.Task[None] | None = None
    scope: anyio.CancelScope | None = None


class RequestLoop:
    """An event loop on a daemon thread, and the requests under way on it.

    Args:
        concurrency: How many ask at once; the others wait.
    """

    def __init__(self, concurrency: int):
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(concurrency)
        self._lock = threading.RLock()  # a deliver may begin the next request
        self._jobs: dict[Any, Job] = {}
        self._attempts: set[asyncio.Task[None]] = set()  # those that were given up, too, until they have ended
        self._held = False
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="grpo-agents-requests")
        self._thread.start()

    # From any thread

    @property
    def keys(self) -> list[Any]:
        """What is under way."""
        with self._lock:
            return list(self._jobs)

    def begin(self, jobs: Sequence[Job]) -> None:
        """Asks for them, at once or as soon as there is room."""
        with self._lock:
            self._jobs |= {job.key: job for job in jobs}
        self._loop.call_soon_threadsafe(self._start, jobs)

    def drop(self, keys: Iterable[Any]) -> None:
        """Ends those that are under way; nothing of theirs is delivered after this."""
        with self._lock:
            dropped = [self._jobs.pop(key) for key in keys if key in self._jobs]
        if dropped:
            self._loop.call_soon_threadsafe(_cancel, dropped)

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and gives what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self, last: Callable[[], Awaitable[Any]]) -> None:
        """Drops what is under way and ends the thread; once.

        Args:
            last: What is done on the loop after everything else on it has ended.
        """
        if self._loop.is_closed():
            return
        self.drop(self.keys)
        self.wait_for(self._wind_up(last))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # On the loop's thread

    def hold(self) -> None:
        """Gives up every attempt; jobs stay under way, and none is asked for until :meth:`resume`."""
        self._held = True
        with self._lock:
            _cancel(self._jobs.values())

    def resume(self) -> None:
        """Asks for everything again."""
        self._held = False
        with self._lock:
            self._start(list(self._jobs.values()))

    def fail(self, failure: EngineFailure) -> None:
        """Delivers a failure to everything that is under way."""
        with self._lock:
            for job in list(self._jobs.values()):
                self._settle(job, failure)

    def _start(self, jobs: Sequence[Job]) -> None:
        if not self._held:
            for job in jobs:
                if job.attempt is None and self._jobs.get(job.key) is job:
                    job.attempt = self._loop.create_task(self._attempt(job))
                    self._attempts.add(job.attempt)
                    job.attempt.add_done_callback(self._attempts.discard)

    async def _attempt(self, job: Job) -> None:
        attempt, answer = asyncio.current_task(), None
        if job.attempt is not attempt:  # given up before it began
            return
        try:
            with anyio.CancelScope() as job.scope:
                async with self._slots:
                    answer = await job.ask()
        except EngineFailure as failure:
            answer = failure
        except Exception as error:  # a mistake of ours: nobody awaits this task, so the error goes where answers go
            answer = EngineFailure(f"{type(error).__name__}: {error}")
            answer.__cause__ = error
        if job.attempt is attempt:
            self._settle(job, answer)

    async def _wind_up(self, last: Callable[[], Awaitable[Any]]) -> None:
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=CLOSING_SECONDS)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await last()

    def _settle(self, job: Job, answer: Any) -> None:
        with self._lock:
            if self._jobs.get(job.key) is job:
                del self._jobs[job.key]
                job.deliver(answer)


def _cancel(jobs: Iterable[Job]) -> None:
    """Gives attempts up by their scopes: ``Task.cancel()`` would also end the closing of connections, half-way."""
    for job in jobs:
        if job.scope is not None:
            job.scope.cancel()
        job.attempt = job.scope = None
