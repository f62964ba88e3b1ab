"""Files written whole or not at all, and what is said where a disk takes no more."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NotWritten(OSError):
    """Something could not be written: a full disk, a folder that is read-only or gone."""


@contextmanager
def naming(path: str | Path, what: str = "not written") -> Iterator[None]:
    """Names what is being written, which most errors of a full disk do not.

    Args:
        path: What is being written.
        what: What became of it.

    Raises:
        NotWritten: It could not be written; an error that says so already passes as it is.
    """
    try:
        yield
    except NotWritten:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and "I/O error" not in str(error):  # safetensors has an error of its own
            raise
        told = re.search(r"os error (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        reason = os.strerror(number) if number else str(error)
        raise NotWritten(number or errno.EIO, f"{what} ({reason})", str(path)) from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Puts a file into place at once, when all of it is on the disk: nobody reads half of it.

    Raises:
        NotWritten: It could not be written; what was there before stays.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
