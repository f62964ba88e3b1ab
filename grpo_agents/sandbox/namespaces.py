"""Namespaces: a process that sees no network, no processes but its own, and few files."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from grpo_agents.sandbox.syscalls import check, let_be_read, libc, syscall

NOBODY = 65534
"""The user and group that root becomes: limits do not bind root."""

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_ALONE = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNET

_MS_NOSUID_NODEV, _MS_BIND_REC, _MS_PRIVATE_REC = 0x2 | 0x4, 0x1000 | 0x4000, 0x40000 | 0x4000
_MNT_DETACH = 2
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY_NOSUID = 442, -100, 0x8000, 0x1 | 0x2


def isolate(readable: Iterable[str], folder: str) -> set[str]:
    """Gives the process a file system and namespaces of its own, as far as the system allows.

    It then has a user namespace, in which it may mount (root is nobody in it), and no network. What it forks sees no
    processes but its own; the first child is their init. The file system is read-only, and has nothing but what is
    readable, and the folder.

    Args:
        readable: Files and folders to see.
        folder: An empty folder, no matter where.

    Returns:
        What came about: ``files`` for the file system, ``namespaces`` for the others.
    """
    done = set()
    own = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    root = os.getuid() == 0
    with suppress(OSError):
        if root:  # the files first, since those on the way to Python may be closed to nobody
            check(libc.unshare(_CLONE_NEWNS))
            _new_root(readable, folder)
            done.add("files")
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            let_be_read(True)  # else the maps below are root's
        user, group = os.getuid(), os.getgid()
        check(libc.unshare(_ALONE))
        done.add("namespaces")
        for name, text in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
            map = os.open(name, os.O_WRONLY, dir_fd=own)
            os.write(map, text.encode())
            os.close(map)
        if not root:
            _new_root(readable, folder)
            done.add("files")
    os.close(own)
    return done


def _new_root(readable: Iterable[str], folder: str) -> None:
    _mount(None, "/", None, _MS_PRIVATE_REC)
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID_NODEV, "size=1m,mode=0755")
    for path in readable:
        place = folder + path
        if os.path.isdir(path):
            os.makedirs(place, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            Path(place).touch()
        _mount(path, place, None, _MS_BIND_REC)
    os.makedirs(folder + folder, exist_ok=True)
    attributes = struct.pack("QQQQ", _READ_ONLY_NOSUID, 0, 0, 0)
    syscall(_MOUNT_SETATTR, _AT_FDCWD, folder.encode(), _AT_RECURSIVE, attributes, len(attributes))
    os.chdir(folder)
    check(libc.pivot_root(b".", b"."))
    check(libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def mount_memory(folder: str, size: int) -> None:
    """Puts an empty file system in memory over a folder; for a process that is isolated.

    Args:
        folder: Where.
        size: Bytes that it holds at most.
    """
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID_NODEV, f"size={size},nr_inodes={max(size >> 12, 64)},mode=0700")


def unmount(folder: str) -> None:
    """Takes it away again, whoever still uses it."""
    check(libc.umount2(folder.encode(), _MNT_DETACH))


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [text and text.encode() for text in (source, target, kind, options)]
    check(libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]))
