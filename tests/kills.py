"""Kills a run again and again: at random times, between accesses to its files, and in the middle of writes."""

import json
import mmap
import os
import random
import resource
import signal
import sys
import time

from grpo_agents.run_folder import RunFolder

HOW = ("time", "access", "sync", "cut")
"""Kinds of moments.

time: some time after its start. access: before a file of the run is opened, renamed or removed, so that what was
written before has perhaps not left the process. sync: when a file that is not in its place yet is to be put on the
disk. cut: in the middle of a write, so that half of it is there; it is the kernel that kills then, as a limit on the
size of files is reached.
"""
NOTE_BYTES = 512


def kill_again_and_again(forks, config, folder, count, seed):
    """Kills runs, each of which is resumed after every kill until it ends; then begins the next.

    Args:
        forks: Starts processes.
        config: Makes the config of a run in a folder, and gives its file.
        folder: Where the runs go.
        count: How many kills.
        seed: Of the moments.

    Returns:
        An entry for each kill, and the folders of the runs, all of which have ended.
    """
    chance, log, runs = random.Random(seed), [], []
    began, seconds = 0.0, 2.0
    while len(log) < count or began:
        if not began:
            place = folder / str(len(runs))
            place.mkdir(parents=True)
            file = config(place / "run", place / "wanted.toml")
            runs.append(place / "run")
        notes = place / "notes"
        notes.write_bytes(b" " * NOTE_BYTES)
        how = HOW[len(log) % len(HOW)] if len(log) < count else ""
        moment = {"access": chance.randrange(1, 60), "sync": chance.randrange(1, 12), "cut": chance.randrange(1, 20)}
        size = int(10 ** chance.uniform(0.5, 4.5))
        early = chance.random() < 0.25  # while it begins or goes on; else when it works
        settings = str(runs[-1]), str(notes), how, moment.get(how, 0), size, early
        before = f"import kills; kills.prepare{settings}"
        going_on = (runs[-1] / "config.toml").exists()
        then = f"kills.go({str(runs[-1] if going_on else file)!r}, {going_on})"
        began = time.monotonic()
        fork = forks.start(place, before=before, then=then)
        if how == "time":
            time.sleep(seconds * chance.uniform(0 if early else 0.4, 1))
            fork.kill()
        ended = fork.wait()
        assert ended <= 0, (place / "said.txt").read_text()
        if ended == 0:
            seconds, began = time.monotonic() - began, 0.0
            continue
        fork.kill()  # whoever is left of its group
        rows = RunFolder(runs[-1]).read_metrics()
        found = json.loads(notes.read_text())
        log.append({"run": len(runs) - 1, "how": how, "signal": signal.Signals(-ended).name, "rows": len(rows),
                    "step": max((row["step"] for row in rows), default=None), **found})  # fmt: skip
    return log, runs


# In the process that is killed


def go(path, going_on):
    from grpo_agents import trainer
    from grpo_agents.config import load_config

    trainer.resume(path) if going_on else trainer.train(load_config(path))


def prepare(folder, notes, how, moment, size, early):
    """Notes in shared memory what this process is at, and has it killed when the moment comes."""
    from grpo_agents.learner.learner import Learner
    from grpo_agents.periodic_evaluation import PeriodicEvaluation
    from grpo_agents.run_state import RunState
    from grpo_agents.sources import PolicySource

    with open(notes, "r+b") as file:
        memory = mmap.mmap(file.fileno(), NOTE_BYTES)
    at = {"phase": "starting", "file": ""}
    left = [moment]

    def note(**what):
        at.update(what)
        memory[:] = json.dumps(at).encode().ljust(NOTE_BYTES)

    def during(kind, name, phase):
        original = getattr(kind, name)

        def noted(*args, **kwargs):
            note(phase=phase)
            found = original(*args, **kwargs)
            note(phase=f"after {phase}")
            return found

        setattr(kind, name, noted)

    def come(kind):
        if how != kind or (at["phase"] in ("starting", "restoring") and not early):
            return False
        left[0] -= 1
        return left[0] == 0

    def accessed(event, args):
        """Audits what Python does with files."""
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree") or folder not in str(args):
            return
        place = str(args[0])
        note(file=f"{event} {place.removeprefix(folder)}")
        if come("access"):
            os.killpg(0, signal.SIGKILL)
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) and come("cut"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    fsync = os.fsync

    def sync(descriptor):
        note(file=f"fsync {os.readlink(f'/proc/self/fd/{descriptor}').removeprefix(folder)}")
        if come("sync"):
            os.killpg(0, signal.SIGKILL)
        fsync(descriptor)

    for kind, name, phase in ((PolicySource, "batch", "sampling"), (Learner, "learn", "learning"),
                              (RunState, "save", "saving"), (RunState, "restore", "restoring"),
                              (PeriodicEvaluation, "run", "evaluating")):  # fmt: skip
        during(kind, name, phase)
    note()
    os.fsync = sync
    sys.addaudithook(accessed)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and the write would fail
