"""What speaks for a run that can no longer speak: Ray ends a process at once when it loses its cluster."""

from __future__ import annotations

import subprocess
import sys

_WATCH = """
import os, sys
said = sys.stdin.buffer.read()
if not said:
    sys.stderr.write(sys.argv[1] + "\\n")
"""


class Witness:
    """A process that waits for the end of this one, and says a line if that came without a word.

    Args:
        line: What it says.
    """

    def __init__(self, line: str):
        self._process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _WATCH, line], stdin=subprocess.PIPE, start_new_session=True
        )

    def dismiss(self) -> None:
        """This process goes on, or ends with words of its own."""
        self._process.communicate(b"heard")
