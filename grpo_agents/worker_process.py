"""The other side of a worker pool: the zygote that forks workers, and the worker that serves requests.

:mod:`grpo_agents.workers` runs this file as a script: it imports nothing of the package. The zygote has one thread, so
that forking it is safe; and it alone reaps its children, so that a pid which it kills is never somebody else's.

The zygote keeps a copy of each worker's socket. When the host closes its end, the zygote sees the hang-up and kills the
worker's process group; when a worker dies, the zygote says how on that socket. When the control socket closes, because
the host closed the pool or is gone, everything ends.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

CONTROL_FD = 3
"""Where the zygote finds its control socket."""

HEADER = struct.Struct("!I")
"""Before every frame: how many bytes of JSON follow."""

DEATH = struct.Struct("!Ii")
"""The zygote's last word on a worker's socket: :data:`DEAD`, and the exit code (negative: the signal)."""

DEAD = 0xFFFFFFFF
"""A length that no frame has."""

REMOVE = ("sh", "-c", 'rm -rf "$0" 2>/dev/null || { chmod -R u+rwx "$0"; rm -rf "$0"; }')
"""The command that removes the folder named after it, however deep it is and whatever its permissions."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True, slots=True)
class Program:
    """What the workers of a pool run.

    Attributes:
        module: The module's full name.
        packages: The packages above it, by name, with their folders. What is in them can be imported, but their own
            code is not run: it may import much that the module does not need.
        function: The function in it that turns a request into a reply.
        setup: A function in it that each worker calls before it serves; empty for none.
        preload: Modules imported before any worker is forked.
        path: Where modules are found, after the interpreter's own folders.
        memory: Bytes of address space that a worker may take beyond what it is forked with.
        cpu: Seconds of processor time that a request may take; 0 for any.
        most: Bytes that a reply may have.
        folder: An empty folder, in which each worker gets one of its own to start in.
    """

    module: str
    packages: dict[str, list[str]]
    function: str
    setup: str
    preload: tuple[str, ...]
    path: tuple[str, ...]
    memory: int
    cpu: float
    most: int
    folder: str

    def to_json(self) -> str:
        """As the zygote's command line carries it."""
        return json.dumps(asdict(self))

    def load(self) -> tuple[Callable[[Any], Any], Callable[[], None]]:
        """Imports everything; gives the target and the setup."""
        sys.path += [folder for folder in self.path if folder not in sys.path]
        for name in self.preload:
            importlib.import_module(name)
        for name, folders in self.packages.items():
            if name not in sys.modules:
                package = sys.modules[name] = ModuleType(name)
                package.__path__ = folders
        module = importlib.import_module(self.module)
        return getattr(module, self.function), getattr(module, self.setup) if self.setup else lambda: None


class Zygote:
    """The process that forks workers and ends them.

    Args:
        program: What they run.
        control: Brings a socket for each worker that the host wants.
    """

    def __init__(self, program: Program, control: socket.socket):
        self.program = program
        self._control = control
        self._workers: dict[int, tuple[socket.socket, str]] = {}  # pid → its socket and folder
        self._pids: dict[int, int] = {}  # the socket's file descriptor → pid, until it hangs up
        self._cleaners: set[int] = set()  # children that remove a folder
        self._poll = select.poll()
        self._bell, self._ringer = socket.socketpair()
        self._numbers = itertools.count()

    def run(self) -> None:
        """Forks and buries workers until the host goes away; leaves no process and no file."""
        try:
            loaded = self.program.load()
        except Exception as error:  # told to everybody who asks for a worker
            loaded = error
        gc.collect()
        gc.freeze()
        for end in (self._bell, self._ringer):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing rings
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._control.fileno():
                    said, handed, *_ = socket.recv_fds(self._control, 1, 1)
                    if not said:
                        return self._end()
                    for each in handed:
                        os.set_inheritable(each, False)
                        channel = socket.socket(fileno=each)
                        if isinstance(loaded, Exception):
                            refuse(channel, loaded)
                        elif self._fork(channel):
                            serve(channel, *loaded, self.program)
                elif fd == self._bell.fileno():
                    self._bell.recv(4096)
                elif fd in self._pids:  # nothing but a hang-up is polled for
                    self._poll.unregister(fd)
                    kill(self._pids.pop(fd))
            self._reap()

    def _fork(self, channel: socket.socket) -> bool:
        """Starts a worker in a folder of its own; True in the worker."""
        folder = os.path.join(self.program.folder, str(next(self._numbers)))
        try:
            os.mkdir(folder, 0o700)
            pid = os.fork()
        except OSError as error:  # for the caller who wanted this worker; the others go on
            refuse(channel, error)
            return False
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (self._control, self._bell, self._ringer, *(other for other, _ in self._workers.values())):
                other.close()
            os.chdir(folder)
            return True
        self._workers[pid] = channel, folder
        self._pids[channel.fileno()] = pid
        self._poll.register(channel, 0)
        return False

    def _reap(self) -> None:
        """Buries the children that have ended: the process group, the socket and the folder of each."""
        while (ended := bury()) is not None:
            pid, status = ended
            self._cleaners.discard(pid)
            if pid not in self._workers:
                continue
            channel, folder = self._workers.pop(pid)
            if self._pids.pop(channel.fileno(), None):
                self._poll.unregister(channel)
            with suppress(OSError):  # the host may have closed its end
                channel.send(DEATH.pack(DEAD, os.waitstatus_to_exitcode(status)), socket.MSG_DONTWAIT)
                channel.shutdown(socket.SHUT_RDWR)  # whoever else holds a copy
            channel.close()
            try:
                os.rmdir(folder)
            except OSError:  # not empty
                self._clean(folder)

    def _clean(self, folder: str) -> None:
        """Removes a folder, which may take long, in another process."""
        try:
            pid = os.fork()
        except OSError:
            return  # the pool's folder is removed in the end
        if pid == 0:
            remove(folder)
        self._cleaners.add(pid)

    def _end(self) -> None:
        """Kills all children, and theirs as they become orphans; then removes the pool's folder."""
        for pid in (*self._workers, *self._cleaners):
            kill(pid)
        while True:
            for pid in _children():
                kill(pid)
            if bury(wait=True) is None:
                return remove(self.program.folder)


def serve(channel: socket.socket, target: Callable[[Any], Any], setup: Callable[[], None], program: Program) -> None:
    """The life of a worker: answers requests until the host hangs up; does not return."""
    try:
        try:
            die_with_parent()
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            limit_memory(program.memory)
            setup()
        except Exception as error:  # for the caller who wanted this worker
            return refuse(channel, error)
        send(channel, b'{"value": null}')  # it is ready
        while (request := receive(channel)) is not None:
            try:
                signal.setitimer(signal.ITIMER_PROF, program.cpu)  # which kills, also in the middle of C code
                reply = json.dumps({"value": target(json.loads(request))}).encode()
                if len(reply) > program.most:
                    raise ValueError(f"the reply has {len(reply)} bytes; {program.most} are allowed")
            except (Exception, SystemExit) as error:  # for the caller; the worker goes on
                reply = describe(error)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            send(channel, reply)
        os._exit(0)
    finally:
        os._exit(1)


def send(channel: socket.socket, text: bytes) -> None:
    """Sends one frame."""
    channel.sendall(HEADER.pack(len(text)) + text)


def receive(channel: socket.socket) -> bytes | None:
    """The text of the next frame; None when the host has hung up."""
    with channel.makefile("rb") as file:
        header = file.read(HEADER.size)
        return file.read(*HEADER.unpack(header)) if header else None


def describe(error: BaseException) -> bytes:
    """A frame that says what was raised."""
    return json.dumps({"error": [type(error).__name__, str(error)[:2000]]}).encode()


def refuse(channel: socket.socket, error: Exception) -> None:
    """Tells the host why there is no worker."""
    with suppress(OSError):  # it may have hung up
        send(channel, describe(error))
    channel.close()


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that forked it ends, where the kernel can (Linux)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended meanwhile
            os._exit(1)


def adopt() -> None:
    """Makes orphans below this process its children, so that none escapes (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _children() -> list[int]:
    """The children of this process with those that it has adopted, as far as the system tells."""
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        return []


def limit_memory(most: int) -> None:
    """Bounds the address space to what it is now and ``most`` bytes, where that can be known (Linux)."""
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + most, now + most))


def kill(pid: int) -> None:
    """Kills a child that is not reaped yet, and its process group."""
    with suppress(ProcessLookupError, PermissionError):  # it leads no group yet; macOS: all in it are dead
        os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def remove(folder: str) -> None:
    """Turns this process into one that removes a folder."""
    os.execvp(REMOVE[0], [*REMOVE, folder])


def bury(wait: bool = False) -> tuple[int, int] | None:
    """Reaps a child that has ended, with its process group; gives its pid and wait status, None where there is none.

    The group is killed before its leader is reaped, so that the number cannot be somebody else's. macOS cannot look
    first: there a group without survivors is gone, and one with survivors keeps its number.
    """
    patience = 0 if wait else os.WNOHANG
    try:
        if sys.platform == "darwin":
            pid, status = os.waitpid(-1, patience)
            if not pid:
                return None
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            return pid, status
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | patience)
        if ended is None:
            return None
        kill(ended.si_pid)
        return os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        return None


if __name__ == "__main__":
    os.setsid()  # a Ctrl-C at the terminal is for the host
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    adopt()
    os.closerange(CONTROL_FD + 1, os.sysconf("SC_OPEN_MAX"))  # what the host's C libraries left open
    Zygote(Program(**json.loads(sys.argv[1])), socket.socket(fileno=CONTROL_FD)).run()
