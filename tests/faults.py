"""What goes wrong with a machine, done by a process to itself: its disk is full, read-only or slow, its clock jumps."""

import ctypes
import os
import resource
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
EVENTS = ("open", "os.mkdir")
DAY = 86400.0
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REMOUNT, MS_REC_PRIVATE = 32, 0x44000


def when_touched(part, do):
    """Does something, once, before a file or folder whose path has this part is opened for writing or made."""
    left = [do]

    def hook(event, args):
        if not left or event not in EVENTS or part not in str(args[0]):
            return
        if event == "os.mkdir" or args[2] & (os.O_WRONLY | os.O_RDWR):
            left.pop()()

    sys.addaudithook(hook)


def full_disk(part):
    """From then on no file may become longer than a few bytes: for the kernel that is a write which fails."""
    when_touched(part, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8, resource.RLIM_INFINITY)))


def read_only(part, *folders):
    """From then on the folders take no new entries, not even root's."""

    def lock():
        for folder in folders:
            os.chmod(folder, 0o555)
        if os.geteuid() == 0:
            _give_up_overriding_permissions()

    when_touched(part, lock)


def _give_up_overriding_permissions():
    """Without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH the mode of a folder binds root as well."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if LIBC.capget(header, data) == 0:
        data[0] &= ~0b110
    if LIBC.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def slow_disk():
    """Everything that is put on the disk, and every file that is opened or made, takes its time."""
    fsync = os.fsync

    def sync(descriptor):
        time.sleep(0.02)
        fsync(descriptor)

    os.fsync = sync
    sys.addaudithook(lambda event, args: time.sleep(0.001) if event in EVENTS else None)


def slow_tools():
    """Every call of a tool takes 50 ms longer, which is far from its timeout."""
    from grpo_agents.tools import running

    call = running._call
    running._call = lambda *what: (time.sleep(0.05), call(*what))[1]


def jumping_clock():
    """The time of day is wrong by a day, now ahead and now behind, and right in between."""
    right, calls = time.time, [0]

    def jumped():
        calls[0] += 1
        return right() + DAY * (calls[0] % 3 - 1)

    time.time = jumped


def small_disk(folder, size):
    """Puts a disk of that many bytes in place of a folder, for this process and those that it starts."""
    user = 0 if os.geteuid() == 0 else CLONE_NEWUSER
    if LIBC.unshare(CLONE_NEWNS | user) or LIBC.mount(b"none", b"/", None, MS_REC_PRIVATE, None):
        raise PermissionError("this kernel gives no mounts of its own")
    resize(folder, size, 0)


def resize(folder, size, flags=MS_REMOUNT):
    """Sets how many bytes the disk has."""
    if LIBC.mount(b"none", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()):
        raise PermissionError(f"no disk can be mounted here: {os.strerror(ctypes.get_errno())}")


def in_a_child(do):
    """The exit code of something that a fork of this process does."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        do()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
