"""Short runs of the demo, and what is left of them."""

import json
import os
import signal

from safetensors.torch import load_file
from tiny import DEMO, plain

from grpo_agents import store
from grpo_agents.config import load_config
from grpo_agents.run_folder import RunFolder

SMALL = {
    "train.steps": 4,
    "train.batch": 3,
    "train.save_every": 2,
    "train.keep": 3,
    "eval.every": 2,
    "eval.tasks": 5,
    "advantage": "{}",  # without a gate: so small a model is hardly ever right
    "method.name": "gdpo",
    "rollout.group_size": 3,
}
SFT = {
    "method.name": "sft",
    "source.path": f"{DEMO / 'demonstrations.py'}:demonstrate",
    "learner.optimizer.warmup": 1,
}


def grpo(run, warm, **settings):
    settings = {**SMALL, "run": run, "model.path": warm / "model", **settings}
    return load_config(DEMO / "grpo.toml", [f"{key}={value}" for key, value in settings.items()])


def sft(run, start, **settings):
    settings = {**SMALL, **SFT, "run": run, "model.path": start, **settings}
    return load_config(DEMO / "sft.toml", [f"{key}={value}" for key, value in settings.items()])


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


def tokens_of(folder):
    """The tokens of every episode, by file."""
    return {
        file.name: [[sample.ids.tolist() for sample in trajectory.samples] for trajectory in store.read(file)]
        for file in sorted((folder / "trajectories").glob("*.parquet"))
    }


def steps_of(rows, eval_):
    rows = [row for row in rows if "sync/max_difference" not in row]  # probes have rows of their own
    return [row["step"] for row in rows if any(key.startswith("eval/") for key in row) == eval_]


def left_behind(folder):
    """Everything that must not depend on when a run was killed."""
    latest = max((folder / "checkpoints").glob("step-*"))
    return {
        "weights": {name: value.tolist() for name, value in load_file(folder / "model" / "model.safetensors").items()},
        "optimizer": {name: value.tolist() for name, value in load_file(latest / "optimizer.safetensors").items()},
        "metrics": rows_of(folder),
        "trajectories": {
            file.name: [plain(trajectory) for trajectory in store.read(file)]
            for file in sorted((folder / "trajectories").glob("*.parquet"))
        },
    }


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    """Sends Ctrl-C, or another signal, while the figures of that step are written."""
    log = RunFolder.log

    def log_and_interrupt(self, row):
        log(self, row)
        if row["step"] == step and "lr" in row:
            monkeypatch.setattr(RunFolder, "log", log)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunFolder, "log", log_and_interrupt)
