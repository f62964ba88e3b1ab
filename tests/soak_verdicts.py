"""What a soak concludes: whether what it sampled is flat, and what it must not leave behind.

Flat. Samples that lie seconds apart are not independent, as the Theil-Sen interval assumes; so a life is cut into
equal pieces, and the slope goes through their medians. Memory is what no file backs: how much of the libraries
a process has alone depends on who else is there, and pages of the object store come once and are bounded. It is flat
where even the upper end of the interval comes to no more than 240 MiB in 24 hours. A week then takes less than 2 GiB;
and steps of this model take a second or so, so that an hour has as many as days or weeks of a run on a model of use.
Descriptors and threads: 96 in 24 hours, so that the usual limit of 1,024 is not reached within a week; how many
environments hang just now is noise that hides no more than that. What grows by more, with the whole interval, grows.
In between, and where no process lived for long enough, nothing can be said: so the second half of a long soak has no
faults but those of the environment.
"""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from scipy.stats import theilslopes

WARM_UP = 1800.0
"""Seconds of a life that do not count: the tokenizer's cache of words (10,000 at most) fills in some 3,000 steps, which
take half an hour here, and allocators take what they will use."""

LEAST = 1200.0
"""Seconds after them from which on something can be said."""

PIECES = 24

BOUNDS = {"own": 240 * 2**20, "descriptors": 96.0, "threads": 96.0}
"""The most that counts as flat, by the day."""

JUDGED = ("driver", "worker", "rank", "raylet", "gcs")


@dataclass
class Slope:
    """How something of a process changes, by the hour, with the 95 % interval; and what that means."""

    role: str
    pid: int
    what: str
    hours: float
    first: float
    last: float
    hourly: float
    low: float
    high: float
    verdict: str


def slope(seconds, values):
    """Change by the hour, and the ends of its 95 % interval: Theil-Sen through medians of equal pieces."""
    cuts = np.array_split(np.arange(len(seconds)), min(PIECES, len(seconds)))
    hours = [np.median(np.take(seconds, cut)) / 3600 for cut in cuts]
    middle = [np.median(np.take(values, cut)) for cut in cuts]
    found = theilslopes(middle, hours, 0.95)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def judge(life, what, warm_up=WARM_UP, least=LEAST):
    """The slope of one thing over a life after its warm-up; None where it has fewer than three samples."""
    begun = life.samples[0].seconds
    kept = [sample for sample in life.samples if sample.seconds - begun >= warm_up]
    short = not kept or kept[-1].seconds - kept[0].seconds < least
    kept = life.samples if short else kept
    if len(kept) < 3:
        return None
    seconds, values = [sample.seconds for sample in kept], [getattr(sample, what) for sample in kept]
    hourly, low, high = slope(seconds, values)
    bound = BOUNDS[what] / 24
    verdict = "too short" if short else "flat" if high <= bound else "grows" if low > bound else "undecided"
    hours = (seconds[-1] - seconds[0]) / 3600
    return Slope(life.role, life.pid, what, hours, values[0], values[-1], hourly, low, high, verdict)


def slopes(lives):
    """Of the longest life of every role that is judged."""
    found = []
    for role in JUDGED:
        own = [life for life in lives if life.role == role and life.samples]
        if own:
            longest = max(own, key=lambda life: life.samples[-1].seconds - life.samples[0].seconds)
            found += [one for what in BOUNDS if (one := judge(longest, what)) is not None]
    return found


def left_in_shm(before):
    """New names in /dev/shm that no process holds: others on this machine have theirs open."""
    held = {name for process in psutil.process_iter() for name in _held(Path(f"/proc/{process.pid}"))}
    return sorted(str(path) for path in Path("/dev/shm").iterdir() if path.name not in before and str(path) not in held)


def _held(process):
    """What a process has open or mapped in /dev/shm; nothing of one that has ended or is somebody else's."""
    with suppress(OSError):
        for line in (process / "maps").read_text().splitlines():
            if "/dev/shm/" in line:
                yield line.split(maxsplit=5)[-1]
        for descriptor in os.listdir(process / "fd"):
            with suppress(FileNotFoundError):
                yield os.readlink(process / "fd" / descriptor)


def wrong_steps(rows):
    """Steps that the metrics do not have exactly once, of those up to the last: number → times."""
    times = Counter(row["step"] for row in rows if "lr" in row)
    return {step: times[step] for step in range(max(times, default=-1) + 1) if times[step] != 1}


def thinned(samples, most=120):
    """Samples for JSON: columns of at most so many."""
    rows = [asdict(samples[at]) for at in np.unique(np.linspace(0, len(samples) - 1, most).astype(int))]
    return {name: [row[name] for row in rows] for name in rows[0]}
