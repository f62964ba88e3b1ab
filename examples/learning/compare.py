"""One start, eleven methods, as many sampled tokens: what each learns, in and out of its domain.

python examples/learning/compare.py                    rebuilds the table of docs/learning.md from results/*.json
python examples/learning/compare.py --run 0 1 2 3 4    runs these seeds anew first, all methods or those of --methods

Every seed has a start of its own (sft): the demo's model, which imitates dialogues that choose a tool at random. From
there the online methods learn from 60 batches that they sample, and the offline ones from as many tokens as GRPO's,
sampled by the start. One goes on imitating for as many updates (sft_longer). Then each answers the same held-out
questions of the training kind, and the same questions of a kind that nobody trained on (tasks.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from grpo_agents.build import build
from grpo_agents.config import Config, load_config
from grpo_agents.evaluation.statistics import mean_interval
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.model import load_model
from grpo_agents.run_folder import RunFolder
from grpo_agents.sources import pick
from grpo_agents.store import read_groups
from grpo_agents.trainer import train
from grpo_agents.trajectory import Trajectory

HERE = Path(__file__).parent
DEMO = HERE.parent / "demo"
RESULTS = HERE / "results"
QUESTIONS = 1000
EPISODES = 128
"""Of a batch: base.toml has 16 groups of 8."""

DEMONSTRATIONS = f"source.path={HERE / 'tasks.py'}:demonstrate"
METHODS: dict[str, list[str]] = {
    "grpo": ["method.name=grpo", "method.kl_weight=0.01"],
    "sft_longer": ["method.name=sft", DEMONSTRATIONS, "train.batch=128"],
    "rft": ["method.name=rft", "source.kind=frozen"],
    "online_rft": ["method.name=online_rft"],
    "dpo": ["method.name=dpo", "source.kind=frozen", "learner.optimizer.lr=1e-4"],
    "ppo": ["method.name=ppo", "method.kl_weight=0.01"],
    "dr_grpo": ["method.name=dr_grpo", "method.max_length=72"],
    "dapo": ["method.name=dapo", "method.resample=0"],
    "gspo": ["method.name=gspo"],
    "rloo": ["method.name=rloo"],
}
"""What each method sets beyond base.toml. Resampling is off in DAPO: it would sample more than the others."""

ORDER = ("sft", "sft_longer", "rft", "online_rft", "dpo", "ppo", "grpo", "dr_grpo", "dapo", "gspo", "rloo")
"""That of the table."""


def main() -> None:
    """Runs seeds where asked, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, nargs="+", metavar="SEED", default=[], help="seeds to run anew")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="these alone")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    for seed in arguments.run:
        run_seed(seed, arguments.methods)
    print(table(read_results()))


def run_seed(seed: int, methods: list[str]) -> None:
    """The start of a seed and every method from there, each into a file of ``results``."""
    folder = Path("runs") / "learning" / f"seed-{seed}"
    start = folder / "sft" / "model"
    if not start.exists():
        maker = [sys.executable, DEMO / "tiny_model.py", folder / "start", "--seed", str(seed)]
        subprocess.run(maker, check=True)
        own = [
            f"run={folder / 'sft'}",
            f"model.path={folder / 'start'}",
            f"seed={seed}",
            "model.threads=1",
            DEMONSTRATIONS,
        ]
        measure("sft", seed, load_config(DEMO / "sft.toml", own), start)
    for method in methods:
        own = [f"run={folder / method}", f"model.path={start}", f"seed={seed}", *METHODS[method]]
        config = load_config(HERE / "base.toml", own)
        if config.source_kind == "frozen":
            batches = round(read("grpo", seed)["sampled_tokens"] / read("sft", seed)["tokens_an_episode"] / EPISODES)
            config = load_config(HERE / "base.toml", [*own, f"source.batches={batches}", f"train.steps={batches}"])
        measure(method, seed, config, start)


def measure(method: str, seed: int, config: Config, start: Path) -> None:
    """Trains, and writes what came out."""
    began = time.process_time()
    folder = RunFolder(train(config, overwrite=True))
    seconds = time.process_time() - began
    found: dict[str, Any] = {"method": method, "seed": seed, "seconds": round(seconds, 1)}
    found["sampled_tokens"] = sum(
        trajectory.sampled_tokens
        for file in sorted(folder.trajectories.glob("*.parquet"))
        for group in read_groups(file)
        for trajectory in group.trajectories
    )
    test = {
        "in_domain": "env.options={split = 'test'}",
        "out_of_domain": f"tasks.source={HERE / 'tasks.py'}:out_of_domain",
    }
    for name, questions in test.items():
        config = load_config(HERE / "base.toml", [f"model.path={folder.model}", "seed=1234", questions])
        everyone = play(config)
        interval = mean_interval([trajectory.rewards["outcome"] or 0.0 for trajectory in everyone])
        found[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
        if name == "in_domain":
            found["kl_per_token"] = kl_from(config, everyone, start)
            found["tokens_an_episode"] = float(np.mean([trajectory.sampled_tokens for trajectory in everyone]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{method}-{seed}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def play(config: Config) -> list[Trajectory]:
    """One episode of each of the first questions."""
    parts = build(config)
    player, tasks = parts.rollout()
    chosen = [pick(tasks, number, config.seed) for number in range(QUESTIONS)]
    groups = player.sample(chosen, seed=config.seed, group_size=1)
    player.close()
    parts.engine.close()
    return [trajectory for group in groups for trajectory in group.trajectories]


def kl_from(config: Config, trajectories: list[Trajectory], start: Path) -> float:
    """The mean of log π − log π_start over what π sampled: KL(π‖π_start) a token."""
    for trajectory in trajectories:
        trajectory.advantage = 0.0
    first = load_config(HERE / "base.toml", [f"model.path={start}"])
    learner = Learner(load_model(first.model), config.learner, config.chosen_method, steps=1)
    rows = learner.score(make_batch(trajectories).rows)
    return float(np.concatenate([row.sampler - logprobs for row, logprobs in rows]).mean())


def read(method: str, seed: int) -> dict[str, Any]:
    """What was kept of a run."""
    return json.loads((RESULTS / f"{method}-{seed}.json").read_text())


def read_results() -> dict[str, list[dict[str, Any]]]:
    """What was kept, by method."""
    found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return {name: some for name in ORDER if (some := [run for run in found if run["method"] == name])}


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Means over seeds with 95 % intervals, in Markdown; seconds are medians, as other work disturbs some runs."""
    columns = ("in domain", "out of domain", "KL from the start", "tokens", "seconds")
    lines = [f"| method | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for method, some in runs.items():
        shown = [between([run[name]["mean"] for run in some]) for name in ("in_domain", "out_of_domain")]
        shown.append(between([run["kl_per_token"] for run in some]))
        shown.append(f"{np.mean([run['sampled_tokens'] for run in some]):,.0f}")
        shown.append(f"{np.median([run['seconds'] for run in some]):.0f}")
        lines.append(f"| `{method}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def between(values: list[float]) -> str:
    """Mean and interval over seeds as text."""
    interval = mean_interval(values)
    return f"{interval.mean:.3f} ({interval.low:.3f} … {interval.high:.3f})"


if __name__ == "__main__":
    main()
