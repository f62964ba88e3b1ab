"""The supervisor: what a sandbox's worker runs. It starts interpreters for snippets, watches them and ends them.

It is the first process in its namespaces, where there are any, and runs no code of a snippet's. So whatever a snippet
does, the supervisor is there to say so; and when the supervisor is killed, all that a snippet started goes with it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from grpo_agents.sandbox.namespaces import isolate, mount_memory, unmount
from grpo_agents.sandbox.snippet import CONTROL_FD, Home, furnish, live
from grpo_agents.sandbox.syscalls import let_be_read
from grpo_agents.worker_process import REMOVE, die_with_parent

START_SECONDS = 10.0
"""How long an interpreter may take to contain itself."""

END_SECONDS = 0.1
"""How long an interpreter that has hung up may take to end."""

SYSTEM = (
    *("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)
"""What Python and its libraries may need of a Linux system."""

_home: Home
_interpreter: Interpreter | None = None  # one that waits for more


def enter() -> None:
    """Sets the worker up: its process stays behind to wait for the supervisor, which it forks into namespaces."""
    global _home
    os.umask(0o022)
    folder = os.getcwd()
    readable = _readable()
    isolated = isolate(readable, folder) if sys.platform == "linux" else set()
    if "namespaces" in isolated:
        die_with_parent()  # becoming somebody else has undone it
        if child := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
        die_with_parent()
    elif isolated:
        raise OSError("root may not make user namespaces here: run as an ordinary user")
    if sys.platform == "linux":
        let_be_read(False)
    _home = Home(readable, folder, isolated)
    furnish(_home)


def _readable() -> list[str]:
    """The Python installation and what it needs of the system; no path of them in another."""
    places = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *SYSTEM}
    places |= {path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")}
    places |= set(os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    places |= {os.path.realpath(place) for place in places if place}
    found: list[str] = []
    for place in sorted(place for place in places if len(place) > 1 and os.path.exists(place)):
        if not any(place.startswith(f"{other}/") for other in found):
            found.append(place)
    return found


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a snippet.

    Args:
        request: ``code``; ``keep``, whether the interpreter and its variables stay for the next request; ``limits``,
            the fields of :class:`grpo_agents.sandbox.Limits`; ``require``, what is to be contained.

    Returns:
        ``layers``, by what is contained; ``lacking``, what of the required is not: then nothing was run; else
        ``stdout`` and ``stderr``, what is left of them; their lengths in bytes; ``value``; ``ended``, how the snippet
        came to an unusual end, else empty; ``kept``, whether the interpreter waits for more.
    """
    global _interpreter
    interpreter = _interpreter or Interpreter(request["limits"], request["keep"])
    _interpreter = None
    try:
        lacking = [name for name in request["require"] if not interpreter.layers.get(name)]
        if lacking:
            return {"layers": interpreter.layers, "lacking": lacking}
        reply = interpreter.run(request["code"])
        if request["keep"] and interpreter.answers:
            _interpreter = interpreter
        return {**reply, "kept": _interpreter is not None}
    finally:
        if _interpreter is None:
            interpreter.end()


class Capture:
    """What comes through a pipe, of which a part is kept.

    Args:
        fd: The pipe's end to read.
        most: Bytes that are kept.
        last: Whether they are the last, not the first.
    """

    def __init__(self, fd: int, most: int, last: bool):
        self.fd = fd
        self._most = most
        self._last = last
        self._kept = b""
        self._seen = 0
        os.set_blocking(fd, False)

    def read(self) -> bool:
        """Reads what is there, or a part of it; False at the end."""
        try:
            new = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return False
        self._seen += len(new)
        whole = self._kept + new
        self._kept = whole[-self._most :] if self._last else whole[: self._most]
        return bool(new)

    def take(self) -> tuple[str, int]:
        """The text that is kept and how many bytes there were; begins anew."""
        taken = self._kept.decode("utf-8", "replace"), self._seen
        self._kept, self._seen = b"", 0
        return taken


class Silent(Exception):
    """An interpreter that gives no answer, and why."""


class Interpreter:
    """A process that runs snippets, as the supervisor sees it.

    Args:
        limits: The fields of :class:`grpo_agents.sandbox.Limits`.
        keep: Whether it is to run more than one snippet.

    Attributes:
        layers: What contains it, by what is contained.
        answers: Whether it waits for another snippet.
    """

    def __init__(self, limits: dict[str, Any], keep: bool):
        self._limits = limits
        self._alone = "namespaces" in _home.isolated
        self._in_memory = self._alone and "files" in _home.isolated
        self._folder = _home.folder if self._in_memory else tempfile.mkdtemp(dir=_home.folder)
        if self._in_memory:
            mount_memory(self._folder, limits["folder_bytes"])
        self._control, control = socket.socketpair()
        out, err = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.dup2(out[1], 1)
            os.dup2(err[1], 2)
            os.dup2(control.fileno(), CONTROL_FD, inheritable=False)
            live(_home, self._folder, limits, keep)
        control.close()
        os.close(out[1])
        os.close(err[1])
        self._control.setblocking(False)
        self._stdout = Capture(out[0], limits["output"], last=False)
        self._stderr = Capture(err[0], limits["output"], last=True)
        self._said = b""
        self.answers = True
        self.layers: dict[str, list[str]] = {}
        try:
            self.layers = self._listen(START_SECONDS)
        except Silent as reason:
            self._drain()
            self.end()
            raise OSError(f"an interpreter could not start: {reason}; {self._stderr.take()[0]}") from None

    def run(self, code: str) -> dict[str, Any]:
        """Runs a snippet until it has answered, has ended or is out of time."""
        self._signal(signal.SIGCONT)
        value, ended = None, ""
        try:
            answer = self._listen(self._limits["wall"], json.dumps(code).encode() + b"\n")
            match answer:
                case {"value": str() | None as value, "ended": str(ended)}:
                    pass
                case _:
                    raise Silent("its answer cannot be read")
        except Silent as reason:
            self.answers, ended = False, str(reason)
        self._signal(signal.SIGSTOP if self.answers else signal.SIGKILL)
        self._drain()
        (stdout, stdout_bytes), (stderr, stderr_bytes) = self._stdout.take(), self._stderr.take()
        return {
            "stdout": stdout,
            "stdout_bytes": stdout_bytes,
            "stderr": stderr,
            "stderr_bytes": stderr_bytes,
            "value": value,
            "ended": ended,
            "layers": self.layers,
        }

    def end(self) -> None:
        """Ends it and all that it started, and removes its folder."""
        self._signal(signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        self._control.close()
        os.close(self._stdout.fd)
        os.close(self._stderr.fd)
        if self._in_memory:
            unmount(self._folder)
        else:
            subprocess.run([*REMOVE, self._folder], check=False)

    def _signal(self, number: int) -> None:
        """Sends a signal to it and, where they can be known, to all that it started."""
        with suppress(ProcessLookupError):
            if self._alone:
                os.kill(-1, number)
            elif self._pid:
                os.kill(self._pid, number)

    def _listen(self, seconds: float, line: bytes = b"") -> Any:
        """Says a line and hears one, while it takes in what is printed."""
        deadline = time.monotonic() + seconds
        streams = {stream.fd: stream for stream in (self._stdout, self._stderr)}
        control = self._control.fileno()
        poll = select.poll()
        for fd in streams:
            poll.register(fd, select.POLLIN)
        while b"\n" not in self._said:
            if len(self._said) > 16 * self._limits["output"] + 4096:
                raise Silent("its answer is too long")
            poll.register(control, select.POLLIN | (select.POLLOUT if line else 0))
            left = deadline - time.monotonic()
            if left <= 0:
                raise Silent(f"it was stopped: no end within {seconds:g} s")
            for fd, event in poll.poll(left * 1000):
                if fd != control:
                    if not streams[fd].read():
                        poll.unregister(fd)
                    continue
                try:
                    if event & select.POLLOUT:
                        line = line[self._control.send(line) :]
                    if event & ~select.POLLOUT:
                        new = self._control.recv(1 << 16)
                        if not new:
                            raise Silent(self._obituary())
                        self._said += new
                except OSError:
                    raise Silent(self._obituary()) from None
        text, _, self._said = self._said.partition(b"\n")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Silent("its answer cannot be read") from None

    def _obituary(self) -> str:
        """What became of an interpreter that has hung up."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                code = os.waitstatus_to_exitcode(status)
                if code == -signal.SIGXCPU:
                    return f"it was stopped: more than {self._limits['cpu']} s of computing"
                if code < 0:
                    return f"it was killed by signal {-code} ({signal.strsignal(-code)})"
                return f"it ended with exit code {code}"
            time.sleep(0.001)
        return "it closed its connection"

    def _drain(self) -> None:
        """Takes in what is still in the pipes, but no more than a pipe can hold."""
        for stream in (self._stdout, self._stderr):
            for _ in range(16):
                if not stream.read():
                    break
