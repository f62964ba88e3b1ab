"""The sandbox as the host sees it: limits, results, sessions, and the tool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from grpo_agents.tools import Tool, tool
from grpo_agents.workers import Worker, WorkerDied, WorkerPool, WorkerTimeout

SPARE_SECONDS = 0.8
"""How long a worker may take beyond a snippet's wall time before it is killed as well."""

REMEDY = (
    "It takes Linux 5.13 or later with Landlock, on x86-64 or ARM, and user namespaces: where `unshare --user true` "
    "fails, allow them (Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; Ubuntu: "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0)."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a snippet may use.

    Attributes:
        wall: Seconds until it is stopped.
        cpu: Seconds of computing, of each process.
        memory: Bytes of address space, of each process, beyond what the interpreter starts with.
        output: Bytes that are kept of standard output and of standard error, and characters of the value.
        processes: Processes and threads at once.
        open_files: Open files of each process.
        file_bytes: Size of each file that is written.
        folder_bytes: Size of all of them together.
    """

    wall: float = 5.0
    cpu: int = 5
    memory: int = 512 << 20
    output: int = 4_000
    processes: int = 16
    open_files: int = 64
    file_bytes: int = 16 << 20
    folder_bytes: int = 32 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a snippet; ``str`` of it is what a policy reads.

    Attributes:
        stdout: The first that it printed.
        stderr: The last of its standard error, with the traceback of what it raised.
        value: The value of its last line, where that is an expression, as ``repr`` shows it; else None.
        ended: How it came to an unusual end; empty where it did not.
        lost: Whether the variables of a session are gone.
        stdout_bytes: How much it printed.
        stderr_bytes: How much there was of standard error.
    """

    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    ended: str = ""
    lost: bool = False
    stdout_bytes: int = 0
    stderr_bytes: int = 0

    def __str__(self) -> str:
        """The parts that there are, each under its name."""
        parts = []
        for name, text, whole, end in (
            ("stdout", self.stdout, self.stdout_bytes, "first"),
            ("stderr", self.stderr, self.stderr_bytes, "last"),
        ):
            if text:
                shown = len(text.encode())
                cut = f" (the {end} {shown} of {whole} bytes)" if shown < whole else ""
                parts.append(f"{name}{cut}:\n{text.rstrip()}")
        if self.value is not None:
            parts.append(f"value:\n{self.value}")
        if self.ended:
            parts.append(f"ended: {self.ended}")
        if self.lost:
            parts.append("The variables of earlier calls are lost.")
        return "\n".join(parts) or "no output"


class Sandbox:
    """Runs snippets of Python; from any thread.

    No process is started before the first snippet, and none is left when the sandbox is closed or forgotten.

    Args:
        limits: What each snippet may use.
        workers: How many snippets may run at once; more wait their turn. Sessions have workers of their own.
        preload: Modules that need not be imported anew for each snippet.
        require: What must be contained: names that :meth:`containment` gives.

    Raises:
        RuntimeError: What is required cannot be contained here.
        ValueError: It requires what is unknown.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        workers: int = 2,
        preload: Sequence[str] = ("numpy", "sympy"),
        require: Sequence[str] = (),
    ):
        self.limits = limits or Limits()
        self.require = tuple(require)
        self._pool = WorkerPool(
            "grpo_agents.sandbox.supervisor:run",
            setup="enter",
            workers=workers,
            memory=self.limits.memory,
            preload=preload,
            reply_bytes=24 * self.limits.output + (1 << 16),
        )
        if require:
            layers = self.containment()
            unknown = [name for name in require if name not in layers]
            if unknown:
                raise ValueError(f"require has {unknown}; known are {list(layers)}")
            self._refuse([name for name in require if not layers[name]])

    def run(self, code: str) -> Result:
        """Runs a snippet in an interpreter of its own."""
        return self._ask(self._pool.call, code, keep=False)

    def session(self) -> Session:
        """An interpreter that keeps its variables from one snippet to the next."""
        return Session(self)

    def tool(self, session: bool = False) -> Tool:
        """The tool ``python``.

        Args:
            session: Whether it keeps its variables: in each environment that offers it, until the next episode.
        """
        if not session:
            return tool(name="python", timeout=None)(_fresh(self))
        made = tool(name="python", timeout=None)(_kept(self.session()))
        return _SessionTool(**{each.name: getattr(made, each.name) for each in fields(made)}, sandbox=self)

    def containment(self) -> dict[str, list[str]]:
        """What is contained here, each with the layers that do it; none where nothing does."""
        return self._pool.call(self._request("", keep=False, require=()), self.limits.wall + SPARE_SECONDS)["layers"]

    def close(self) -> None:
        """Ends all processes, also those of sessions; a later snippet starts new ones."""
        self._pool.close()

    def _request(self, code: str, keep: bool, require: Sequence[str]) -> dict[str, Any]:
        return {"code": code, "keep": keep, "require": require, "limits": asdict(self.limits)}

    def _ask(self, call: Callable[[Any, float], Any], code: str, keep: bool) -> Result:
        try:
            reply = call(self._request(code, keep, self.require), self.limits.wall + SPARE_SECONDS)
        except WorkerTimeout:
            return Result(ended=f"it was stopped: no end within {self.limits.wall:g} s", lost=keep)
        except WorkerDied as error:
            return Result(ended=str(error), lost=keep)
        self._refuse(reply.get("lacking", ()))
        value, most = reply["value"], self.limits.output
        if value is not None:
            value = _legible(value if len(value) <= most else f"{value[:most]} … (cut)")
        return Result(
            stdout=reply["stdout"],
            stderr=reply["stderr"],
            value=value,
            ended=_legible(reply["ended"]),
            lost=keep and not reply["kept"],
            stdout_bytes=reply["stdout_bytes"],
            stderr_bytes=reply["stderr_bytes"],
        )

    def _refuse(self, lacking: Sequence[str]) -> None:
        if lacking:
            raise RuntimeError(f"the sandbox cannot contain {', '.join(lacking)} here. {REMEDY}")


class Session:
    """An interpreter that keeps its variables; :meth:`Sandbox.session` makes one.

    Its process starts with the first snippet, and ends when the session is closed or forgotten. When a snippet ends it,
    the next one starts another.
    """

    def __init__(self, sandbox: Sandbox):
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def run(self, code: str) -> Result:
        """Runs a snippet."""
        with self._lock:
            lost = self._worker is not None and not self._worker.alive
            if lost or self._worker is None:
                self._worker = self._sandbox._pool.worker()
            result = self._sandbox._ask(self._worker.call, code, keep=True)
            return replace(result, lost=lost or result.lost)

    def close(self) -> None:
        """Ends the interpreter; a later snippet starts another."""
        with self._lock:
            if self._worker is not None:
                self._worker.close()
            self._worker = None


@dataclass(frozen=True, slots=True)
class _SessionTool(Tool):
    """A tool that begins a session with each environment's episode: environments bind their tools at every reset.

    The session ends with the bound tool, which the environment drops at the next reset.
    """

    sandbox: Sandbox | None = None

    def of(self, owner: Any) -> Tool:
        assert self.sandbox is not None
        return replace(self, function=_kept(self.sandbox.session()))


def _fresh(sandbox: Sandbox) -> Callable[[str], str]:
    def python(code: str) -> str:
        """Runs Python code and shows what it prints, what it raises and the value of its last line.

        Args:
            code: The code to run.
        """
        return str(sandbox.run(code))

    return python


def _kept(session: Session) -> Callable[[str], str]:
    def python(code: str) -> str:
        """Runs Python code and shows what it prints, what it raises and the value of its last line.

        Variables are kept for the next call.

        Args:
            code: The code to run.
        """
        return str(session.run(code))

    return python


def _legible(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()
