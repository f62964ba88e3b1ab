"""Landlock: a process that gives up files, TCP and signals (https://docs.kernel.org/userspace-api/landlock.html)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from grpo_agents.sandbox.syscalls import syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8


def landlock(readable: Iterable[str], folder: str) -> int:
    """Denies every file but those given, TCP, and signals to processes that were there before.

    Args:
        readable: Files and folders that may be read, and programs in them run.
        folder: The one folder in which anything may be done.

    Returns:
        The kernel's version of Landlock: TCP is denied from 4 on, signals from 6 on.
    """
    version = syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    files = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    rights = struct.pack("QQQ", files, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = syscall(_CREATE_RULESET, rights, len(rights), 0)
    for path, allowed in [*((path, _EXECUTE | _READ | _LIST) for path in readable), (folder, files)]:
        if not os.path.isdir(path):
            allowed = _READ | (_WRITE if path.startswith("/dev/") else _EXECUTE)
        place = os.open(path, os.O_PATH)
        syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    syscall(_RESTRICT_SELF, rules, 0)
    os.close(rules)
    return version
