"""Worker processes that may be killed: for code that hangs, runs out of memory or is not to be trusted.

>>> pool = WorkerPool("math:factorial", workers=1)  # from a request to a reply, both of them JSON
>>> pool.call(20, timeout=5.0)
2432902008176640000
>>> pool.call(-1, timeout=5.0)
Traceback (most recent call last):
    ...
grpo_agents.workers.WorkerError: ValueError: factorial() not defined for negative values
>>> pool.call(10**12, timeout=0.1)
Traceback (most recent call last):
    ...
grpo_agents.workers.WorkerTimeout: no reply within 0.1 s
>>> pool.close()

A call past its deadline kills the worker and what it started; the next call gets a fresh one, forked in milliseconds
by a process of one thread, the zygote, that has imported what the workers need (:mod:`grpo_agents.worker_process`).
The host is neither forked nor imported again: it may have threads, a running event loop, a script without a main
guard. No process is started before the first call, and none is left when the host closes the pool, forgets it or ends
in whatever way. Replies are not trusted; but a worker is not contained: what it may touch is the target's affair.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from grpo_agents import worker_process
from grpo_agents.worker_process import CONTROL_FD, DEAD, DEATH, HEADER, REMOVE, Program

START_SECONDS = 60.0
"""How long a worker may take to be ready, with all that is to be imported."""

CLOSE_SECONDS = 10.0
"""How long the processes of a closed pool may take to end and tidy up."""

KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TZ")
"""What workers see of the host's environment: what an interpreter may need to start."""

_ERROR_BYTES = 1 << 15


class WorkerFailure(Exception):
    """A call that brought no reply."""


class WorkerTimeout(WorkerFailure):
    """The worker took too long, and is killed."""


class WorkerDied(WorkerFailure):
    """The worker ended, or broke the protocol and is killed."""


class WorkerError(WorkerFailure):
    """The target raised; the worker goes on.

    Attributes:
        type: The exception's type, by name.
        message: Its message, of at most 2,000 characters.
    """

    def __init__(self, type: str, message: str):
        super().__init__(f"{type}: {message}")
        self.type = type
        self.message = message

    def __reduce__(self) -> tuple[type[WorkerError], tuple[str, str]]:
        return WorkerError, (self.type, self.message)


class WorkerPool:
    """Worker processes that run one function.

    Args:
        target: ``module:function``; the function takes a request and returns a reply.
        workers: How many calls may run at once; more of them wait their turn.
        memory: Bytes of address space that a worker may take beyond what it starts with (Linux only).
        cpu: Seconds of processor time that a call may take, which are the same on a busy machine; 0 for any.
        preload: Modules that are imported once, for all workers.
        setup: A function of the target's module that each worker calls before it serves; empty for none.
        reply_bytes: A longer reply is refused.

    Raises:
        ValueError: The target is no function of a module that can be imported elsewhere.
    """

    def __init__(
        self,
        target: str,
        *,
        workers: int = 2,
        memory: int = 256 << 20,
        cpu: float = 0.0,
        preload: Sequence[str] = (),
        setup: str = "",
        reply_bytes: int = 1 << 20,
    ):
        module, _, function = target.partition(":")
        found = None
        with suppress(ImportError, ValueError):
            found = importlib.util.find_spec(module)
        if found is None or not function or module == "__main__":
            raise ValueError(f"{target!r} is no `module:function` that another process could import")
        above = [module[:end] for end, letter in enumerate(module) if letter == "."]
        packages = {name: list(sys.modules[name].__path__) for name in above}
        self._program = Program(module, packages, function, setup, tuple(preload), (), memory, cpu, reply_bytes, "")
        self._count = workers
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(self._count)
        self._zygote: _Zygote | None = None
        self._idle: list[Worker] = []
        self._workers: weakref.WeakSet[Worker] = weakref.WeakSet()

    def call(self, request: Any, timeout: float) -> Any:
        """Has one of the workers answer a request; from any thread.

        Args:
            request: What the target is given; JSON-able.
            timeout: Seconds that the worker may take once it is ready.

        Returns:
            The target's reply.

        Raises:
            WorkerError: The target raised, or the worker could not be set up.
            WorkerTimeout: The worker took too long.
            WorkerDied: The worker ended on the way.
            TypeError: The request is not JSON-able.
        """
        with self._slots:
            worker = self._rested() or self.worker()
            try:
                return worker.call(request, timeout)
            finally:
                if worker.alive:
                    with self._lock:
                        self._idle.append(worker)

    def worker(self) -> Worker:
        """Starts a worker that is the caller's own and counts as none of the pool's.

        Raises:
            WorkerError: It could not be set up.
            WorkerDied: It ended on the way.
        """
        with self._lock:
            if self._zygote is None or not self._zygote.alive:
                self._zygote = _Zygote(self._program)
            worker = Worker(self._zygote, self._program.most)
            self._workers.add(worker)
        worker.wait_until_ready()
        return worker

    def close(self) -> None:
        """Ends all processes, also under calls that are running; a later call starts new ones."""
        with self._lock:
            zygote, self._zygote = self._zygote, None
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()
        if zygote is not None:
            zygote.close()

    def _rested(self) -> Worker | None:
        """A worker that has served before; those that have died meanwhile are dropped."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.close()
        return None

    def _abandon(self) -> None:
        """In a forked child of the host: leaves the parent's processes to the parent."""
        for worker in list(self._workers):
            worker.close()
        if self._zygote is not None:
            self._zygote.abandon()
        self._begin()


class Worker:
    """One worker process, as :meth:`WorkerPool.worker` gives it; for one thread at a time.

    Attributes:
        most: Bytes that a reply may have.
    """

    def __init__(self, zygote: _Zygote, most: int):
        self.most = most
        self._zygote = zygote  # which would end with its pool
        self._channel = zygote.fork()
        weakref.finalize(self, self._channel.close)

    @property
    def alive(self) -> bool:
        """Whether the worker waits for a request."""
        try:
            self._channel.settimeout(0)
            self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:  # closed
            pass
        return False  # it has hung up, or said what nobody asked

    def wait_until_ready(self) -> None:
        """Waits for the worker to be set up."""
        try:
            self._receive(START_SECONDS)
        except BaseException:
            self.close()
            raise

    def call(self, request: Any, timeout: float) -> Any:
        """As :meth:`WorkerPool.call`; any failure but :class:`WorkerError` closes the worker."""
        text = json.dumps(request).encode()
        try:
            return self._receive(timeout, HEADER.pack(len(text)) + text)
        except WorkerError:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Has the worker killed."""
        self._channel.close()

    def _receive(self, timeout: float, request: bytes = b"") -> Any:
        """Sends a request and reads the reply."""
        deadline = time.monotonic() + timeout
        reply = bytearray()
        try:
            try:
                self._channel.settimeout(max(timeout, 1e-6))
                self._channel.sendall(request)
            except (BrokenPipeError, ConnectionResetError):
                pass  # what it died of is still to be read
            while (missing := self._missing(reply)) > 0:
                self._channel.settimeout(max(deadline - time.monotonic(), 1e-6))
                part = self._channel.recv(min(missing, 1 << 16))
                if not part:
                    raise _ended(reply)
                reply += part
        except TimeoutError:
            raise WorkerTimeout(f"no reply within {timeout:g} s") from None
        except OSError as error:
            raise WorkerDied(f"the worker cannot be reached: {error}") from None
        if HEADER.unpack_from(reply) == (DEAD,):
            raise _ended(reply)
        return _read(reply[HEADER.size :])

    def _missing(self, reply: bytearray) -> int:
        """How many bytes to read yet."""
        if len(reply) < HEADER.size:
            return HEADER.size - len(reply)
        (length,) = HEADER.unpack_from(reply)
        if length == DEAD:
            return DEATH.size - len(reply)
        if length > self.most + _ERROR_BYTES:
            raise WorkerDied(f"the worker sent {length} bytes; {self.most} are allowed")
        return HEADER.size + length - len(reply)


class _Zygote:
    """The process that forks workers, as the host sees it."""

    def __init__(self, program: Program):
        folder = tempfile.mkdtemp(prefix="grpo-agents-")
        self._control, theirs = socket.socketpair()
        path = tuple(map(os.path.abspath, sys.path))
        told = replace(program, path=path, folder=folder).to_json()
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        # The same hashes every time, so that what prints a set prints it the same; and no threads before a fork.
        environment |= {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-s", "-B", worker_process.__file__, told]
        files = [
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        try:
            self._pid = os.posix_spawn(sys.executable, command, environment, file_actions=files, setsigmask=())
        except OSError:
            self._control.close()
            os.rmdir(folder)
            raise
        finally:
            theirs.close()
        self.close = weakref.finalize(self, _end, os.getpid(), self._pid, self._control, folder)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return _runs(self._pid)

    def fork(self) -> socket.socket:
        """Asks for a worker; gives the host's end of its socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise WorkerDied(f"no worker could be started: {error}") from None
        return ours

    def abandon(self) -> None:
        """Lets go of a process that is the parent's."""
        self._control.close()


def _end(host: int, pid: int, control: socket.socket, folder: str) -> None:
    """Ends a zygote, and waits until it has ended its workers."""
    if os.getpid() != host:
        return
    control.close()
    deadline = time.monotonic() + CLOSE_SECONDS
    while _runs(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    if os.path.exists(folder):  # it was killed
        subprocess.run([*REMOVE, folder], check=False)


def _runs(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def _read(text: bytearray) -> Any:
    """The value in a frame.

    Raises:
        WorkerError: It says what was raised.
        WorkerDied: It is none that a worker sends.
    """
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        frame = None
    match frame:
        case {"value": value}:
            return value
        case {"error": [str(name), str(message)]}:
            raise WorkerError(name, message)
    raise WorkerDied("the worker's reply cannot be read")


def _ended(last: bytearray) -> WorkerFailure:
    """The end of a worker that has hung up: of processor time, or of something else."""
    if len(last) >= DEATH.size and DEATH.unpack(last[-DEATH.size :]) == (DEAD, -signal.SIGPROF):
        return WorkerTimeout("no reply within the processor time that it may take")
    return WorkerDied(_obituary(last))


def _obituary(last: bytearray) -> str:
    """What a worker that has hung up died of, from the last that its socket gave."""
    if len(last) >= DEATH.size:
        dead, code = DEATH.unpack(last[-DEATH.size :])
        if dead == DEAD and code >= 0:
            return f"the worker ended with exit code {code}"
        if dead == DEAD and -code in signal.valid_signals():
            return f"the worker was killed by signal {-code} ({signal.strsignal(-code)})"
    return "the worker is gone, and the process that forked it"


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()  # for forked children alone


def _abandon_all() -> None:
    for pool in list(_pools):
        pool._abandon()


os.register_at_fork(after_in_child=_abandon_all)
