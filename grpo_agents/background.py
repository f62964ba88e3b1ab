"""A job in a thread of its own, for whose result one comes back later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(job: Callable[[], T]) -> Future[T]:
    """Runs a job once. Its thread keeps no program from ending, as one of an executor would.

    >>> in_background(lambda: 6 * 7).result()
    42

    Returns:
        The result to be; asking for it waits, and raises what the job raised.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(job())
        except BaseException as error:  # whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="grpo-agents-background").start()
    return future
