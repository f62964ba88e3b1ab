"""An engine in a process of its own, which is started again when it dies or stalls.

Requests and completions cross a pipe; weights do as handles of GPU memory (CUDA IPC) or, from a CPU, as bytes. A new
process gets the current weights and every request that was under way: with the same seeds, the same tokens.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from grpo_agents.credentials import without_keys
from grpo_agents.engines import Completion, Deliver, EngineFailure, Request, Sampling, check_requests
from grpo_agents.engines.weights import Weights

LOAD_SECONDS = 1800.0
"""So long may a process take to load its model."""

BEAT_SECONDS = 0.25
"""How often a process says how far its engine is."""


class _Lost(Exception):
    """A process that cannot be used any more; says why, as what comes after "the engine's process"."""


@dataclass
class _Call:
    """Something that the engine in the child is to do, and what it gave."""

    number: int
    name: str
    arguments: tuple[Any, ...]
    future: Future[Any] = field(default_factory=Future)


class ChildEngine:
    """A :class:`~grpo_agents.engines.TokenEngine` whose work another one does in a child process.

    Args:
        make: What makes that one, as ``module:name``. Its attribute ``progress`` grows as long as it works.
        settings: Its arguments; plain data.
        patience: Seconds without progress after which the process is killed and started again.
        restarts: How often in a row, without a completion between.
        say: Told of every restart.

    Raises:
        ValueError: The engine cannot be made there; its own words.
    """

    lockstep = False

    def __init__(
        self,
        make: str,
        settings: Mapping[str, Any],
        *,
        patience: float = 120.0,
        restarts: int = 3,
        say: Callable[[str], None] = print,
    ):
        self.version = 0
        self._make = (make, dict(settings))
        self._patience = patience
        self._restarts = restarts
        self._say = say
        self._lock = threading.RLock()  # of everything below; held through a restart
        self._under_way: dict[int, tuple[Request, Sampling, Deliver]] = {}
        self._calls: dict[int, _Call] = {}  # somebody waits for each
        self._numbers = itertools.count()
        self._weights: Weights | None = None
        self._lost = 0  # processes in a row
        self._failure: EngineFailure | None = None
        self._closed = False
        try:
            self._process = _Process(*self._make)
        except _Lost as lost:
            raise ValueError(f"the engine's process {lost}") from None
        self.context_length = self._process.context_length
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="grpo-agents-engine")
        self._watcher.start()

    @property
    def pid(self) -> int:
        """The process that holds the engine now."""
        return self._process.pid

    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Hands over requests.

        Raises:
            ValueError: See :func:`~grpo_agents.engines.check_requests`.
            EngineFailure: The process was lost too often.
        """
        with self._lock:
            self._check()
            check_requests(requests, self.context_length, self._under_way)
            self._under_way |= {request.session: (request, sampling, deliver) for request in requests}
            self._process.send("submit", list(requests), sampling)

    def release(self, sessions: Iterable[int]) -> None:
        """Forgets episodes that have ended."""
        with self._lock:
            ended = list(sessions)
            for session in ended:
                self._under_way.pop(session, None)
            if ended:
                self._process.send("release", ended)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probability at temperature 1 of every token of each sequence given those before it, shape (tokens,)."""
        return self._do("score", [list(ids) for ids in sequences])

    def update_weights(self, weights: Weights) -> None:
        """Takes over the weights; see :class:`~grpo_agents.engines.TokenEngine`.

        They are kept: a process that is started again gets what they are by then.
        """
        with self._lock:
            if self._under_way:
                raise ValueError(f"{len(self._under_way)} requests are under way; release them before new weights")
            self._weights = weights
        self._do("update_weights")

    def sleep(self) -> None:
        """Gives accelerator memory back while the learner works."""
        self._do("sleep")

    def wake(self) -> None:
        """Takes it again; the weights are those of the last update."""
        self._do("wake" if self._weights is None else "update_weights")

    def close(self) -> None:
        """Ends the process."""
        self._closed = True
        self._process.end()
        self._watcher.join(self._patience)

    def _check(self) -> None:
        if self._failure:
            raise self._failure

    def _do(self, name: str, *arguments: Any) -> Any:
        """Has the engine do something; again in a new process, where one is lost meanwhile."""
        with self._lock:
            self._check()
            call = _Call(next(self._numbers), name, arguments)
            self._calls[call.number] = call
            self._send(call)
        return call.future.result()  # what the watcher does about a process that is lost ends this

    def _send(self, call: _Call) -> None:
        if call.name == "update_weights":
            assert self._weights is not None
            with self._weights.reading() as (named, version):
                self.version = version
                for name, tensor in named.items():
                    self._process.send("weight", name, _portable(tensor))
                self._process.send("weights", call.number, version)
        else:
            self._process.send("call", call.number, call.name, call.arguments)

    # On the watcher's thread

    def _watch(self) -> None:
        """Delivers what comes back; starts a process again that died or makes no progress."""
        progress, since = -1, time.monotonic()
        while not (self._closed or self._failure):
            try:
                kind, *what = self._process.receive()
                if kind == "completion":
                    self._deliver(*what)
                elif kind == "refused":
                    self._refuse(*what)
                elif kind == "answer":
                    self._answer(*what)
                if not self._busy or kind not in ("beat", "silence") or (kind == "beat" and what[0] != progress):
                    since = time.monotonic()
                elif time.monotonic() - since > self._patience:
                    raise _Lost(f"made no progress for {self._patience:g} s (engine.patience)")
                progress = what[0] if kind == "beat" else progress
            except _Lost as lost:
                self._process.end()  # without the lock, which somebody may hold who is writing to it
                self._start_again(lost)
                progress, since = -1, time.monotonic()

    @property
    def _busy(self) -> bool:
        return bool(self._under_way or self._calls)

    def _deliver(self, completion: Completion) -> None:
        with self._lock:
            asked = self._under_way.pop(completion.session, None)
            self._lost = 0
        if asked:
            asked[2](completion)

    def _refuse(self, sessions: Sequence[int], reason: str) -> None:
        with self._lock:
            asked = [self._under_way.pop(session) for session in sessions if session in self._under_way]
        for _, _, deliver in asked:
            deliver(EngineFailure(reason))

    def _answer(self, number: int, value: Any, error: str | None) -> None:
        with self._lock:
            call = self._calls.pop(number, None)
        if call is None:  # nobody waits for the weights of a process that was started again
            if error is not None:
                raise _Lost(f"did not take the weights: {error}")
        elif error is not None:
            call.future.set_exception(ValueError(error))
        else:
            call.future.set_result(value)

    def _start_again(self, lost: _Lost) -> None:
        """Makes another process and brings it to where the lost one was, once there is something to do for it."""
        while not self._busy:
            if self._closed:
                return
            time.sleep(BEAT_SECONDS)
        with self._lock:
            while not self._closed:
                self._lost += 1
                if self._lost > self._restarts:
                    self._give_up(lost)
                    return
                self._say(
                    f"the engine's process {lost}\nIt is started again ({self._lost} of {self._restarts} in a row), "
                    f"with the weights of now; {len(self._under_way)} episodes go on where they were"
                )
                try:
                    self._process = _Process(*self._make)
                    break
                except _Lost as again:
                    lost = again
            if self._weights is not None:
                self._send(_Call(next(self._numbers), "update_weights", ()))
            for call in self._calls.values():
                self._send(call)
            for request, sampling, _ in self._under_way.values():
                self._process.send("submit", [request], sampling)

    def _give_up(self, lost: _Lost) -> None:
        self._failure = EngineFailure(
            f"the engine was started again {self._restarts} times without a completion between (engine.restarts); "
            f"lastly its process {lost}"
        )
        for _, _, deliver in self._under_way.values():
            deliver(self._failure)
        self._under_way.clear()
        for call in self._calls.values():
            call.future.set_exception(self._failure)


class _Process:
    """The child as its parent sees it.

    Args:
        make: What makes the engine.
        settings: Its arguments.

    Raises:
        _Lost: The engine cannot be made.
    """

    def __init__(self, make: str, settings: Mapping[str, Any]):
        ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed in end()
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "grpo_agents.engines.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            env=without_keys(os.environ),
            start_new_session=True,  # Ctrl-C is the trainer's; and its whole group is killed
        )
        theirs.close()
        self._pipe = Connection(ours.detach())
        self._writing = threading.Lock()
        try:
            self.send(make, settings)
            kind, *what = self.receive(LOAD_SECONDS)
            if kind == "silence":
                raise _Lost(f"did not load its model within {LOAD_SECONDS:g} s")
        except BaseException:
            self.end()
            raise
        self.context_length = int(what[0])

    @property
    def pid(self) -> int:
        return self._popen.pid

    def send(self, *message: Any) -> None:
        """Tells the child; one that is gone is noticed by who receives."""
        with self._writing, suppress(OSError):
            self._pipe.send(message)

    def receive(self, patience: float = BEAT_SECONDS) -> tuple[Any, ...]:
        """What the child says next, or ``("silence",)``.

        Raises:
            _Lost: It is gone, or said that it is.
        """
        try:
            if not self._pipe.poll(patience):
                return ("silence",)
            kind, *what = self._pipe.recv()
        except (EOFError, OSError):
            raise _Lost(f"died: {self._last_words()}") from None
        if kind == "lost":
            raise _Lost(what[0])
        return kind, *what

    def end(self) -> None:
        """Kills it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        with self._writing:
            self._pipe.close()
            self._said.close()

    def _last_words(self) -> str:
        """How it ended, and what it wrote lastly."""
        with self._writing:
            if self._said.closed:
                return "it was ended"
            code = self._popen.wait()
            ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 4000))
            lines = self._said.read().decode(errors="replace").strip().splitlines()
        return "\n  ".join([ended, *lines[-5:]])


def _portable(tensor: Any) -> Any:
    """A GPU's tensor as it is, to be sent as a handle; a CPU's as an array."""
    import torch.multiprocessing  # teaches the pipe to send handles

    tensor = tensor.detach()
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)  # the child does not see this process's stream
        return tensor
    return tensor.float().numpy()


# In the child


def main(descriptor: int) -> None:
    """Makes the engine that the parent asks for, and does what it says until it is gone."""
    pipe = Connection(descriptor)
    writing = threading.Lock()

    def send(*message: Any) -> None:
        with writing:
            pipe.send(message)

    try:
        make, settings = pipe.recv()
        module, _, name = make.partition(":")
        try:
            engine = getattr(importlib.import_module(module), name)(**settings)
        except (ValueError, ImportError, OSError) as error:
            send("lost", f"says: {error}")
            os._exit(0)
        send("ready", engine.context_length)
        threading.Thread(target=_beat, args=(engine, send), daemon=True).start()
        _serve(engine, pipe, send)
    except (EOFError, OSError):  # the parent is gone
        pass
    except Exception:
        traceback.print_exc()  # the parent reads it
    os._exit(0)  # whatever its threads are at


def _beat(engine: Any, send: Callable[..., None]) -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        send("beat", engine.progress)


def _serve(engine: Any, pipe: Connection, send: Callable[..., None]) -> None:
    def deliver(done: Completion | EngineFailure) -> None:
        if isinstance(done, EngineFailure):
            send("lost", f"says: {done}")
        else:
            send("completion", done)

    def answer(number: int, work: Callable[[], Any]) -> None:
        try:
            value = work()
        except ValueError as error:
            send("answer", number, None, str(error))
        except EngineFailure as error:
            send("lost", f"says: {error}")
        else:
            send("answer", number, value, None)

    weights: dict[str, Any] = {}
    while True:
        kind, *what = pipe.recv()
        if kind == "submit":
            requests, sampling = what
            try:
                engine.submit(requests, sampling, deliver)
            except ValueError as error:
                send("refused", [request.session for request in requests], str(error))
        elif kind == "release":
            engine.release(what[0])
        elif kind == "weight":
            weights[what[0]] = _tensor(what[1])
        elif kind == "weights":
            number, version = what
            answer(number, partial(engine.update_weights, Weights(weights, version)))
            weights = {}  # a GPU's memory is the parent's
        else:
            number, name, arguments = what
            answer(number, partial(getattr(engine, name), *arguments))


def _tensor(value: Any) -> Any:
    import torch

    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


if __name__ == "__main__":
    main(int(sys.argv[1]))
