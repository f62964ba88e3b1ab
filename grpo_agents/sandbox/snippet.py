"""The interpreter that runs snippets: contains itself, then takes code and says what became of it.

Nothing that it says is believed: the supervisor reads its pipes, bounds what it reads, and ends it.
"""

from __future__ import annotations

import ast
import json
import linecache
import math
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from grpo_agents.sandbox.landlock import landlock
from grpo_agents.sandbox.seccomp import filter_calls
from grpo_agents.sandbox.syscalls import give_up_rights
from grpo_agents.worker_process import die_with_parent

CONTROL_FD = 3
"""Where code comes in and answers go out, a line of JSON each; programs that the snippet starts do not have it."""

_WORKER_PROCESSES = 2
"""The worker and its supervisor count as processes of the snippet's user."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where snippets run.

    Attributes:
        readable: Files and folders that they may read.
        folder: The folder in which they start, and may write.
        isolated: What namespaces keep from them, as :func:`grpo_agents.sandbox.namespaces.isolate` says it.
    """

    readable: Sequence[str]
    folder: str
    isolated: set[str]


def furnish(home: Home) -> None:
    """Makes the supervisor, from which interpreters are forked, look like an interpreter that was just started."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "grpo_agents"]:
        del sys.modules[name]
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    os.environ.clear()
    os.environ.update(libraries, PATH="/usr/local/bin:/usr/bin:/bin", LANG="C.UTF-8")
    sys.argv = [""]
    sys.path = ["", *(path for path in sys.path if any(_within(path, place) for place in home.readable))]


def live(home: Home, folder: str, limits: dict[str, Any], keep: bool) -> None:
    """The life of an interpreter, whose pipes are in place; does not return.

    Args:
        home: What it sees.
        folder: Its own folder.
        limits: The fields of :class:`grpo_agents.sandbox.Limits`.
        keep: Whether it runs more than one snippet.
    """
    try:
        try:
            _begin(folder)
            layers = contain(home, folder, limits)
        except Exception:  # the supervisor tells what was printed
            return traceback.print_exc()
        names = sys.modules["__main__"] = ModuleType("__main__")
        with socket.socket(fileno=CONTROL_FD) as control, control.makefile("rb") as lines:
            control.sendall(json.dumps(layers).encode() + b"\n")
            own = os.getpid()
            for number, line in enumerate(lines, 1):
                seconds = math.ceil(time.process_time()) + limits["cpu"]
                _limit("CPU", seconds, math.inf if keep else seconds + 1)
                answer = run(json.loads(line), f"<call {number}>", vars(names), limits["output"])
                if os.getpid() != own:
                    break  # a fork that the snippet made
                control.sendall(json.dumps(answer).encode() + b"\n")
    finally:
        os._exit(0)


def _begin(folder: str) -> None:
    """Sets up what a fork of the supervisor cannot have from it."""
    os.closerange(CONTROL_FD + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR=folder)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "numpy.random" in sys.modules:  # as the random module does by itself
        sys.modules["numpy.random"].seed()
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    for name, fd in ("stdout", 1), ("stderr", 2):
        stream = open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def contain(home: Home, folder: str, limits: dict[str, Any]) -> dict[str, list[str]]:
    """Gives up for good what a snippet is not to have; says what keeps each of these from it."""
    isolated = home.isolated
    layers = {
        "files": ["namespace"] * ("files" in isolated),
        "network": ["namespace"] * ("namespaces" in isolated),
        "processes": ["namespace"] * ("namespaces" in isolated),
        "forks": [],
        "memory": [],
        "calls": [],
    }
    _limit("FSIZE", limits["file_bytes"], limits["file_bytes"])
    _limit("NOFILE", limits["open_files"], limits["open_files"])
    if "namespaces" in isolated:  # elsewhere all that the user runs would count
        most = limits["processes"] + _WORKER_PROCESSES
        _limit("NPROC", most, most)
        layers["forks"].append("limit")
    if sys.platform == "linux":
        layers["memory"].append("limit")  # the worker's
        give_up_rights()
        with suppress(OSError):
            version = landlock(home.readable, folder)
            layers["files"].append("landlock")
            layers["network"] += ["landlock"] * (version >= 4)
            layers["processes"] += ["landlock"] * (version >= 6)
        die_with_parent()
        with suppress(OSError):
            filter_calls(processes="namespaces" in isolated)
            layers["calls"].append("seccomp")
            layers["network"].append("seccomp")
            layers["forks"] += ["seccomp"] * ("namespaces" not in isolated)
    return layers


def run(code: str, name: str, names: dict[str, Any], most: int) -> dict[str, str | None]:
    """Runs a snippet; what it raises goes to standard error.

    Args:
        code: The snippet.
        name: What tracebacks call it.
        names: Its variables.
        most: Characters of the value to give.

    Returns:
        ``value``: the last expression's, as ``repr`` shows it, None where there is none; ``ended``: how the snippet
        ended itself, empty where it did not.
    """
    linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name
    errors, value, ended = sys.stderr, None, ""
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec", dont_inherit=True), names)
        if isinstance(last, ast.Expr):
            found = eval(compile(ast.Expression(last.value), name, "eval", dont_inherit=True), names)
            value = None if found is None else repr(found)[: most + 1]
    except BaseException as error:  # whatever it is: the policy reads it
        if isinstance(error, SystemExit):
            ended = "" if error.code is None else f"it exited with {error.code!r:.200}"
        else:
            place = error.__traceback__
            while place is not None and place.tb_frame.f_code.co_filename != name:
                place = place.tb_next
            traceback.print_exception(type(error), error, place, file=errors)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the snippet may have closed it, or put anything in its place
            stream.flush()
    return {"value": value, "ended": ended}


def _limit(name: str, soft: float, hard: float) -> None:
    """Lowers one of the limits of this process, as far as it is not lower already."""
    which = getattr(resource, f"RLIMIT_{name}")
    ceiling = resource.getrlimit(which)[1]
    ceiling = math.inf if ceiling == resource.RLIM_INFINITY else ceiling
    soft, hard = (
        resource.RLIM_INFINITY if each == math.inf else int(each) for each in (min(soft, ceiling), min(hard, ceiling))
    )
    resource.setrlimit(which, (soft, hard))


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
