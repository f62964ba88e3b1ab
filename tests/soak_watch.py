"""What a soak looks at: every process under it by role, their part of /dev/shm, temporary files, and the steps made."""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SHM = "/dev/shm/"
ROLES = {  # the first whose mark begins, or is in, a command line
    "worker": "ray::WorkerActor",
    "rank": "ray::RankActor",
    "dashboard agent": "ray::DashboardAgent",
    "runtime env agent": "ray::RuntimeEnvAgent",
    "idle worker of Ray": "ray::",
    "driver": "-m grpo_agents",
    "witness": " -IS -c ",
    "raylet": "/raylet/raylet ",
    "gcs": "/gcs_server ",
    "log monitor": "log_monitor.py",
    "monitor": "autoscaler/_private/monitor.py",
    "reaper": "ray_process_reaper.py",
}
PASSING = ("idle worker of Ray", "other")
"""What a process may be before it becomes something else."""

TEMPORARY = (".partial*", "*.partial", "*.unfinished")
"""Names that a run gives to what it has not finished writing."""


@dataclass
class Sample:
    """A process at one time: bytes and counts; ``seconds`` since the soak began, ``own`` what no file backs."""

    seconds: float
    rss: int
    own: int
    descriptors: int
    threads: int


@dataclass
class Life:
    """A process from its first sample to its last."""

    pid: int
    role: str
    samples: list[Sample] = field(default_factory=list)


@dataclass
class Moment:
    """All of the soak at one time: how many processes and temporary files, bytes in /dev/shm, steps made."""

    seconds: float
    processes: int
    shm: int
    temporary: int
    steps: int


def role_of(command):
    """What a process is, by its command line."""
    return next((role for role, mark in ROLES.items() if mark in f"{command} "), "other")


def processes():
    """Those under this one, with their command lines; without such as have ended and wait to be reaped."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, " ".join(process.cmdline())))
        except psutil.NoSuchProcess:
            continue
    return found


def temporary(folder):
    """Files and folders of a run that are not finished; folders may go while this looks."""
    named = (Path(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files))
    return sorted(path for path in named if any(path.match(pattern) for pattern in TEMPORARY))


class Steps:
    """The steps of a run, as its metrics come in; those made again after a kill count again."""

    def __init__(self, file):
        self.file = file
        self.made = 0
        self._inode = self._read = 0

    def poll(self):
        """Reads what is new; of a file that was put in place of the old one, only what comes after."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            now = os.fstat(file.fileno())
            if now.st_ino != self._inode or now.st_size < self._read:
                self._inode, self._read = now.st_ino, now.st_size if self._inode else 0
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                self._read += len(line)
                self.made += "lr" in json.loads(line)


class Watch:
    """Samples, from its making on.

    Args:
        run: The run's folder.
    """

    def __init__(self, run):
        self.run = run
        self.steps = Steps(run / "metrics.jsonl")
        self.lives = {}
        self.moments = []
        self._began = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self._began

    def sample(self):
        """Looks at everything once."""
        shm, found, now = {}, processes(), self.seconds
        for process, command in found:
            try:
                life = self.lives.setdefault((process.pid, process.create_time()), Life(process.pid, "other"))
                rss, descriptors = process.memory_info().rss, _descriptors(process.pid, shm)
                life.samples.append(Sample(now, rss, _own(process.pid), descriptors, process.num_threads()))
            except (psutil.Error, OSError):  # it has just ended
                continue
            if life.role in PASSING:
                life.role = role_of(command)
        self.moments.append(Moment(now, len(found), sum(shm.values()), len(temporary(self.run)), self.steps.made))


def _own(pid):
    """Bytes of a process that no file backs: its heaps and stacks, whoever else maps libraries and object store."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended and has no memory")


def _descriptors(pid, shm):
    """How many a process has open; notes the bytes of those in /dev/shm by inode."""
    folder = Path(f"/proc/{pid}/fd")
    names = os.listdir(folder)
    for name in names:
        try:
            if os.readlink(folder / name).startswith(SHM):
                held = os.stat(folder / name)
                shm[held.st_ino] = held.st_blocks * 512
        except FileNotFoundError:
            continue
    return len(names)
