"""A run on a Ray cluster of this machine that is disturbed at random, and watched for all that it should not do.

A tiny model learns without end in an environment that raises, hangs and is slow. At random moments a worker, the
learner or the whole run is killed, stopped or asked to end, a machine is lost, or the disk is full. After each, the run
must be whole and make steps again; in the end nothing may be left of it, its metrics must have every step once, and
memory, descriptors and threads of its processes must be flat (see soak_verdicts.py). Linux only.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from grpo_agents.run_folder import RunFolder

SAMPLE_SECONDS = 5.0
BOUND_SECONDS = 180.0
"""After a fault the run has to be whole again, and to have made steps, within so long."""

STEPS_AGAIN = 2
PAUSE_SECONDS = 15.0
"""Between a recovery and the next fault, in the mean; exponentially distributed."""

LONG_MINUTES = 60.0
"""A soak of so long has no faults but those of the environment in its second half: slopes need lives that long."""

GONE_SECONDS = 20.0
"""So long may processes take to end after the cluster was shut down."""

ENDS = 3
"""A run that has ended by itself so often is not gone on with."""

STOPPED = 128 + signal.SIGTERM
"""The exit code of a run that ended by itself as it was asked to."""

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""

console = Console(emoji=False)


class Soak:
    """A stage, what was done on it, and what was seen.

    Args:
        folder: For everything that is written.
        seed: Of what is done, and when.
    """

    def __init__(self, folder, seed):
        from soak_faults import Stage
        from soak_watch import Watch

        self.rng = np.random.default_rng(seed)
        self.faults, self.problems = [], []
        self.stage = Stage(folder)
        self.watch = Watch(self.stage.run)
        self._sampled = -SAMPLE_SECONDS
        self._ended = 0

    def run(self, minutes):
        """The soak, from the first steps to the last."""
        from soak_faults import TERMINATED_CODES, rounds

        self.stage.start()
        if not self._steps():
            raise RuntimeError(f"the run makes no steps: {self.stage.said()}")
        end = self.watch.seconds + 60 * minutes
        last = end - 30 * minutes if minutes >= LONG_MINUTES else end
        for kind in rounds(self.rng):
            pause = self.rng.exponential(PAUSE_SECONDS)
            self._until(lambda: False, min(pause, last - self.watch.seconds))
            if self.watch.seconds >= last:
                break
            self._strike(kind)
        self._until(lambda: False, end - self.watch.seconds)
        self._strike("driver_terminated")  # what it left must restore once more
        self.stage.driver.terminate()
        self._end("SIGTERM", TERMINATED_CODES)

    def _until(self, done, seconds):
        """Watches until something is so, or time is up; says which. A run that ends by itself is a problem."""
        stop = self.watch.seconds + seconds
        while not done():
            if self.watch.seconds > stop:
                return False
            if self.watch.seconds - self._sampled >= SAMPLE_SECONDS:
                self._sampled = self.watch.seconds
                self.watch.sample()
            self.watch.steps.poll()
            if (code := self.stage.driver.poll()) is not None:
                self._ended += 1
                self.note(f"the run ended by itself with {code}")
                if self._ended == ENDS:
                    raise RuntimeError(f"the run ended by itself {ENDS} times: {self.stage.said()}")
                self.stage.start(resume=True)
            time.sleep(0.2)
        return True

    def _steps(self):
        """Waits until the run is whole and has made steps since then; says whether it has."""
        if not self._until(lambda: self.stage.whole, BOUND_SECONDS):
            return False
        begun = self.watch.steps.made
        return self._until(lambda: self.watch.steps.made >= begun + STEPS_AGAIN, BOUND_SECONDS)

    def _strike(self, kind):
        """Does one thing to the run, and sees it recover."""
        from soak_faults import Fault

        began, clock = self.watch.seconds, time.time()
        struck = self.stage.strike(kind, self.rng)
        fault = Fault(kind, began, struck.what, self.watch.steps.made)
        self.faults.append(fault)
        if struck.codes:
            if self._end(struck.what, struck.codes) == STOPPED:
                self._saved(struck.what, clock)
            self.stage.start(resume=True)
        victims = set(struck.victims)
        gone = self._until(lambda: not victims & self.stage.actors(), BOUND_SECONDS)
        again = self._steps()
        took = self.watch.seconds - began
        if gone and again and took <= BOUND_SECONDS:
            fault.recovered = took
            console.print(f"{began:7.0f} s  {struck.what}: steps again after {took:.0f} s", highlight=False)
        else:
            why = "and it does not end" if not gone else f"steps only after {took:.0f} s" if again else "and no steps"
            self.note(f"{struck.what}, {why}")

    def _end(self, what, codes):
        """Waits until the driver, which was made to, has ended; gives its exit code."""
        from soak_faults import ENDING

        try:
            code = self.stage.driver.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.note(f"{what}, and the driver has not ended after {ENDING:g} s")
            self.stage.driver.kill()
            self.stage.driver.wait()
        else:
            if code not in codes:
                self.note(f"{what}, and the driver ended with {code}, not {' or '.join(map(str, codes))}")
            return code

    def _saved(self, what, asked):
        """Looks whether a run that was asked to end, by the clock of files, saved in time all that it had learned."""
        from soak_faults import NOTICE

        run = RunFolder(self.stage.run)
        learned = max((row["step"] + 1 for row in run.read_metrics() if "lr" in row), default=0)
        folder = run.checkpoints / f"step-{learned:06d}"
        if learned and not folder.is_dir():
            self.note(f"{what}, and no checkpoint of step {learned}, which it had learned, was saved")
        elif learned and (took := folder.stat().st_mtime - asked) > NOTICE:
            self.note(f"{what}, and its checkpoint was there only after {took:.0f} s")

    def note(self, what):
        """A problem."""
        self.problems.append({"seconds": self.watch.seconds, "what": what, "said": self.stage.said()})
        console.print(f"{self.watch.seconds:7.0f} s  [red]{what}[/]", highlight=False, soft_wrap=True)


def stopped(stage):
    """Shuts the cluster down; ends what does not end then, and gives it."""
    from soak_watch import processes

    stage.close()
    deadline = time.monotonic() + GONE_SECONDS
    while (left := processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process, _ in left:
        process.kill()
    return [f"{process.pid} {command}" for process, command in left]


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long, from the first steps on.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of what is done to the run, and when.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Every fault, series and verdict; a picture goes beside it.")
    ] = Path("runs/bench/soak.json"),
):
    """Trains a tiny model on a Ray cluster of this machine, disturbs it at random, and says what goes wrong.

    From 60 minutes on, the second half has no faults but the environment's: slopes of memory need lives that long.

    A shorter one says nothing of memory, but whether the run recovers, and what is left behind.

    Ends with 1 where anything was found.

    Example: [bold]python tests/soak.py --minutes 10 --out runs/soak.json[/]
    """
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0):  # else it would lose sight of orphans
        raise OSError(ctypes.get_errno(), "this process cannot adopt orphans")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and ends what it started
    before = {path.name for path in Path("/dev/shm").iterdir()}
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        os.environ["RAY_TMPDIR"] = name  # before Ray is imported; the paths of its sockets must be short
        soak = Soak(Path(name), seed)
        left = []
        try:
            soak.run(minutes)
        except Exception as error:  # what was seen until then is written
            soak.note(f"{type(error).__name__}: {error}")
        finally:
            left += stopped(soak.stage)
        from soak_results import findings, show, write

        found = findings(soak, left, before, long=minutes >= LONG_MINUTES)
    path = write(found, soak, out)
    show(found, console)
    console.print(f"written: {path}, {path.with_suffix('.png')}", soft_wrap=True)
    if not found["passed"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(rich_markup_mode="rich", add_completion=False)
    app.command()(main)
    app()
