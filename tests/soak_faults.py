"""The stage of a soak, a Ray cluster of two machines with a run on it, and what is done to them."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster
from soak_watch import processes, role_of

from grpo_agents.config import load_config, save_config

REPOSITORY = Path(__file__).parents[1]
DEMO = REPOSITORY / "examples" / "demo"
WORKERS = 2
STORE = 100 * 2**20
"""Bytes of each machine's object store: the weights of so small a model are a few."""

TERMINATED_CODES = (128 + signal.SIGTERM, -signal.SIGTERM)
"""With a line and a checkpoint; or at once, while it is loading."""

ENDING = 90.0
"""So many seconds may a run take to end where it is asked to."""

NOTICE = 30.0
"""So many seconds before a machine is taken away SIGTERM says so: a checkpoint has to be written by then."""

ENVIRONMENT = '''"""Orchestra-v0 on a bad day: what happens follows from the episode's seed."""

import time

import numpy as np

from grpo_agents.envs.orchestra import OrchestraEnv


class BadDay(OrchestraEnv):
    def reset(self, *, seed=None, options=None):
        self._fate = np.random.default_rng([seed or 0, 7])
        return super().reset(seed=seed, options=options)

    def step(self, action):
        fate = self._fate.random()
        if fate < 0.10:
            raise RuntimeError("the environment raises in a tenth of all steps")
        if fate < 0.11:
            time.sleep(30)  # hangs: many times rollout.step_timeout
        elif fate < 0.15:
            time.sleep(0.3)  # a slow tool
        return super().step(action)
'''

SETTINGS = {
    "cluster.kind": "ray",
    "cluster.workers": WORKERS,
    "cluster.max_staleness": 1,
    "cluster.restarts": 6,  # by chance one is hit again before it has played a group
    "method.tis": 2.0,
    "learner.old_logprobs": "recompute",
    "learner.optimizer.lr": 1e-8,  # it stays what it is: longer episodes would take more memory
    "advantage": "{}",
    "model.threads": 1,
    "engine.max_rows": 6,
    "engine.patience": 10,
    "alarms.stop_after_stuck": 0,  # it need not learn
    "rollout.group_size": 3,
    "rollout.step_timeout": 2,
    "train.steps": 10_000_000,
    "train.batch": 3,
    "train.save_every": 5,
    "train.keep": 2,
    "eval.every": 50,
    "eval.tasks": 4,
}


@dataclass
class Fault:
    """What was done, when, and how long it took until the run was whole and made steps again; None where it did not."""

    kind: str
    seconds: float
    what: str
    steps: int
    recovered: float | None = None


@dataclass
class Struck:
    """What is to come of a fault: who has to be gone; and the exit codes that suit, where the run itself is to end."""

    what: str
    victims: list[int] = field(default_factory=list)
    codes: tuple[int, ...] = ()


class Stage:
    """A cluster and a run.

    Args:
        folder: For everything that is written.
    """

    def __init__(self, folder):
        self.folder = folder
        self.run = folder / "run"
        self._said = deque(maxlen=100)
        self.driver = None
        (folder / "bad_day.py").write_text(ENVIRONMENT)
        start, warm = folder / "start", folder / "warm"
        self._finish([DEMO / "tiny_model.py", start])
        settings = {
            "run": warm,
            "model.path": start,
            "train.steps": 60,
            "train.batch": 16,
            "learner.optimizer.warmup": 5,
        }
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        self._finish(["-m", "grpo_agents", "train", DEMO / "sft.toml", *sets])
        machine = {"include_dashboard": False, "object_store_memory": STORE}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **machine})
        self._machine = self.cluster.add_node(num_cpus=2, object_store_memory=STORE)
        where = {"run": self.run, "model.path": warm / "model", "cluster.address": self.cluster.address}
        where["env.id"] = f"{folder / 'bad_day.py'}:BadDay"
        wanted = [f"{key}={value}" for key, value in {**SETTINGS, **where}.items()]
        save_config(load_config(DEMO / "grpo.toml", wanted), folder / "config.toml")

    def start(self, *, resume=False):
        """Starts the run, or goes on with it."""
        goal = (
            ["--resume", self.run] if resume and (self.run / "config.toml").exists() else [self.folder / "config.toml"]
        )
        command = [sys.executable, "-m", "grpo_agents", "train", *goal]
        self.driver = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # a pipe, which takes a line when no file does
        threading.Thread(target=self._said.extend, args=(self.driver.stdout,), daemon=True).start()

    def pids(self, role):
        """The processes of a role."""
        return sorted(process.pid for process, command in processes() if role_of(command) == role)

    def actors(self):
        """The processes that may be struck."""
        return {pid for role in ("worker", "rank", "driver") for pid in self.pids(role)}

    @property
    def whole(self):
        """Whether every process that a run has is there."""
        return len(self.pids("worker")) == WORKERS and len(self.pids("rank")) == 1

    def said(self, lines=10):
        """The end of what the run said."""
        return [line.rstrip() for line in list(self._said)[-lines:]]

    def close(self):
        """Ends the cluster."""
        self.cluster.shutdown()

    # What is done to it; each gives what is to come of it

    def strike(self, kind, rng):
        """One of :data:`KINDS`."""
        return getattr(self, kind)(rng)

    def worker_killed(self, rng):
        return self._signalled("worker", rng, signal.SIGKILL)

    def worker_stopped(self, rng):
        return self._signalled("worker", rng, signal.SIGSTOP)

    def rank_killed(self, rng):
        return self._signalled("rank", rng, signal.SIGKILL)

    def driver_killed(self, rng):
        self.driver.kill()
        return Struck(f"SIGKILL of driver {self.driver.pid}", [self.driver.pid], (-signal.SIGKILL,))

    def driver_terminated(self, rng):
        self.driver.terminate()
        return Struck(f"SIGTERM of driver {self.driver.pid}", [self.driver.pid], TERMINATED_CODES)

    def disk_full(self, rng):
        """No file of the driver may become longer; Python sees an error, as of a disk that is full."""
        psutil.Process(self.driver.pid).rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return Struck(f"driver {self.driver.pid} can write no more", [self.driver.pid], (2,))

    def machine_lost(self, rng):
        """The machine that is not the head is gone, and another one comes."""
        raylet = self._machine.all_processes["raylet"][0].process.pid
        on_it = [process.pid for process in psutil.Process(raylet).children(recursive=True)]
        self.cluster.remove_node(self._machine, allow_graceful=False)
        self._machine = self.cluster.add_node(num_cpus=2, object_store_memory=STORE)
        return Struck(f"a machine with {len(on_it)} processes lost, another added", on_it)

    def _signalled(self, role, rng, number):
        pids = self.pids(role)
        if not pids:  # it is being replaced
            return Struck(f"no {role} to strike")
        victim = int(rng.choice(pids))
        os.kill(victim, number)
        return Struck(f"{number.name} of {role} {victim}", [victim])

    def _finish(self, command):
        done = subprocess.run([sys.executable, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command} failed:\n{done.stderr}")


KINDS = (
    "worker_killed",
    "rank_killed",
    "driver_terminated",
    "machine_lost",
    "driver_killed",
    "disk_full",
    "worker_stopped",
)


def rounds(rng):
    """Kinds without end: each once in every round, first as they are listed, then in an order drawn anew."""
    yield from KINDS
    while True:
        yield from (KINDS[at] for at in rng.permutation(len(KINDS)))
