"""System calls that Python has no name for, through the C library. Linux only."""

from __future__ import annotations

import ctypes
import os
import struct

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> int:
    """What a system call gave.

    Raises:
        OSError: It failed.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Makes a system call by its number."""
    whole = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return check(libc.syscall(ctypes.c_long(number), *whole))


def prctl(option: int, *arguments: int | bytes) -> None:
    """Sets one of the process's attributes."""
    whole = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    check(libc.prctl(option, *whole, *[ctypes.c_ulong(0)] * (4 - len(whole))))


def give_up_rights() -> None:
    """Drops all capabilities, and the means to gain any by running a program."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    check(libc.capset(struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)))


def let_be_read(others: bool) -> None:
    """Whether others of the same user may read and trace this process, and write its files in ``/proc``."""
    prctl(_PR_SET_DUMPABLE, int(others))
