"""What tests ask about other processes."""

import os
import time
from pathlib import Path


def eventually(true, seconds=10.0):
    """What a function says as soon as that is true, or at last."""
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


def gone(pid):
    """Whether a process has ended; one that waits for its new parent to reap it has."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # just now, or a system without /proc
        return Path("/proc/self").exists()


def descendants(pid):
    """The processes under one, by pid."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*children, *(below for child in children for below in descendants(child))]
