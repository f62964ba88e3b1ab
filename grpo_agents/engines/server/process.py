"""A server that this run starts: its command in a process group of its own, which ends with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.02
SHOWN_LINES = 8
"""How much of what it wrote is quoted when it ends by itself."""

GRACE_SECONDS = 5.0
"""So long may it take to end by itself, and give back what it holds, as shared memory."""

_GUARD = """
import os, signal, subprocess, sys, threading, time

def end_with_the_parent():
    sys.stdin.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(float(sys.argv[1]))
    os.killpg(0, signal.SIGKILL)

signal.signal(signal.SIGTERM, lambda *_: None)  # the command has the default
threading.Thread(target=end_with_the_parent, daemon=True).start()
sys.exit(subprocess.call(sys.argv[2:], stdin=subprocess.DEVNULL))
"""
"""Runs the command, and ends the group when the pipe from this process closes, however it ended."""


class ServerProcess:
    """Starts, watches and kills a server.

    Args:
        command: The program and its arguments.

    Attributes:
        log: Where all that it writes goes.
    """

    def __init__(self, command: Sequence[str]):
        self.command = list(command)
        descriptor, path = tempfile.mkstemp(prefix="grpo-agents-server-", suffix=".log")
        os.close(descriptor)
        self.log = Path(path)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, in place of one that runs."""
        self.kill()
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _GUARD, str(GRACE_SECONDS), *self.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def death(self) -> str | None:
        """How it ended and what it wrote last; None while it runs."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        last = self.log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        return "\n".join([f"{self.command[0]} ended with exit code {code}; all it wrote is in {self.log}:", *last])

    def kill(self) -> None:
        """Ends it with all that it started; kills what does not end."""
        if self._process is None:
            return
        late = time.monotonic() + GRACE_SECONDS
        with suppress(ProcessLookupError):  # all of the group has ended
            os.killpg(self._process.pid, signal.SIGTERM)
            while time.monotonic() < late:
                self._process.poll()
                os.killpg(self._process.pid, 0)
                time.sleep(POLL_SECONDS)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None
