"""What a soak leaves: tables on the terminal, and a file with every fault, series and verdict."""

import json
import os
import platform
import time
from dataclasses import asdict
from importlib import metadata

import psutil
from rich.table import Table
from soak_picture import draw
from soak_verdicts import left_in_shm, slopes, thinned, wrong_steps
from soak_watch import temporary

from grpo_agents import checkpoint
from grpo_agents.run_folder import RunFolder


def findings(soak, left, before, *, long):
    """Everything that was found.

    Args:
        soak: One that is over.
        left: Processes that did not end.
        before: The names in /dev/shm when it began.
        long: Whether it had time to show that everything is flat, and has to; else nothing may grow.
    """
    folder, damaged = RunFolder(soak.stage.run), []
    last = checkpoint.latest(folder.checkpoints, damaged.append)
    rows = folder.read_metrics()
    judged = slopes(soak.watch.lives.values())
    leftovers = {
        "processes": left,
        "/dev/shm": left_in_shm(before),
        "temporary files": [str(path.relative_to(folder.path)) for path in temporary(folder.path)],
        "steps not exactly once": wrong_steps(rows),
        "damaged checkpoints": damaged if last else [*damaged, "there is none"],
    }
    return {
        "minutes": soak.watch.seconds / 60,
        "steps": soak.watch.steps.made,
        "faults": [asdict(fault) for fault in soak.faults],
        "problems": soak.problems,
        "leftovers": leftovers,
        "slopes": [asdict(one) for one in judged],
        "passed": not soak.problems
        and not any(leftovers.values())
        and all(one.verdict == "flat" if long else one.verdict != "grows" for one in judged),
    }


def write(found, soak, out):
    """Writes it with machine, versions and series; and the picture beside it. Gives the path."""
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("grpo-agents", "ray", "torch", "numpy")},
    }
    lives = [life for life in soak.watch.lives.values() if len(life.samples) > 1]
    everything = {**about, **found, "together": thinned(soak.watch.moments, 500)}
    everything["lives"] = [{"role": life.role, "pid": life.pid, **thinned(life.samples)} for life in lives]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(everything) + "\n", encoding="utf-8")
    draw(lives, soak.watch.moments, soak.faults, out.with_suffix(".png"))
    return out


def show(found, console):
    """Prints what became of faults, of the longest lives, and what was left."""
    console.print(f"{found['steps']} steps in {found['minutes']:.1f} minutes", highlight=False)
    faults = Table("fault", "times", "recovered", "slowest, s")
    for kind in sorted({fault["kind"] for fault in found["faults"]}):
        own = [fault["recovered"] for fault in found["faults"] if fault["kind"] == kind]
        back = [took for took in own if took is not None]
        faults.add_row(kind, str(len(own)), str(len(back)), f"{max(back):.0f}" if back else "n/a")
    flat = Table("longest life", "hours", "first", "last", "an hour", "95 % interval", "verdict")
    for one in found["slopes"]:
        unit, what = (2**20, "MiB") if one["what"] == "own" else (1, one["what"])
        first, last, hourly, *ends = (f"{one[name] / unit:,.1f}" for name in ("first", "last", "hourly", "low", "high"))
        told = ("n/a", "n/a") if one["verdict"] == "too short" else (hourly, " to ".join(ends))
        flat.add_row(f"{one['role']}, {what}", f"{one['hours']:.2f}", first, last, *told, one["verdict"])
    left = Table("left behind", "what")
    for name, what in found["leftovers"].items():
        left.add_row(name, str(what) if what else "nothing")
    for table in (faults, flat, left):
        console.print(table)
    for problem in found["problems"]:
        console.print(f"{problem['seconds']:.0f} s: {problem['what']}", *problem["said"], sep="\n    ", soft_wrap=True)
    console.print("passed" if found["passed"] else "FAILED")
