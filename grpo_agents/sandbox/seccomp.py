"""seccomp: a process that gives up system calls that a snippet of Python does not need."""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Mapping

from grpo_agents.sandbox.syscalls import prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_MACHINES: Mapping[str, tuple[int, int]] = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""How seccomp calls a machine, and its column in the tables below."""

_DENIED = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "unshare": (272, 97),
    "setns": (308, 268),
    "shmget": (29, 194),  # memory beyond RLIMIT_AS
    "memfd_create": (319, 279),  # as well
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
_CLONE, _CLONE3 = (56, 220), 435
_NEW_NAMESPACES, _CLONE_THREAD = 0x7E020000, 0x10000
_FORKS = {"x86_64": (57, 58), "aarch64": ()}


def filter_calls(processes: bool) -> None:
    """Denies the system calls that open sockets, look into processes or make namespaces, and some of use to attackers.

    Args:
        processes: Whether processes may be started; threads always may.
    """
    name = platform.machine()
    if name not in _MACHINES:
        raise OSError(f"no filter is written for {name}")
    machine, column = _MACHINES[name]
    denied = [numbers[column] for numbers in _DENIED.values()] + ([] if processes else list(_FORKS[name]))
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, missing = 0x00050001, 0x00050026  # EPERM; ENOSYS, whereupon the C library takes clone for clone3
    program = [(load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, kill), (load, 0, 0, 0)]
    program += [(at_least, 0, 1, 0x40000000), (end, 0, 0, refuse)]  # x86's other calling convention
    for number in denied:
        program += [(equal, 0, 1, number), (end, 0, 0, refuse)]
    program += [(equal, 0, 1, _CLONE3), (end, 0, 0, missing)]
    program += [(equal, 1, 0, _CLONE[column]), (end, 0, 0, allow), (load, 0, 0, 16)]  # the flags of clone
    program += [(any_bit, 0, 1, _NEW_NAMESPACES), (end, 0, 0, refuse)]
    if not processes:
        program += [(any_bit, 1, 0, _CLONE_THREAD), (end, 0, 0, refuse)]
    program += [(end, 0, 0, allow)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    kept = ctypes.create_string_buffer(code, len(code))
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, struct.pack("HxxxxxxQ", len(program), ctypes.addressof(kept)))
