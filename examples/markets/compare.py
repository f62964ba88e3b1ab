"""Prices, tools and users that change from task to task: what each normalisation of rewards learns of them.

python examples/markets/compare.py                    rebuilds tables and picture of docs/orchestra.md
python examples/markets/compare.py --run 0 1 2 3 4    runs these seeds anew first, all methods or those of --methods

Every seed has a start of its own (sft), which reads what weighs most off the offer and then chooses at random. From
there each method learns from as many batches. Then each plays the same held-out questions four times: on the markets
of training, at prices that no tool had there, with tools that were never on offer together, and for users between
those of training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import picture
import tables
from measured import figures
from setting import BETWEEN
from transformers.utils import logging

from grpo_agents.build import build
from grpo_agents.config import load_config
from grpo_agents.sources import pick
from grpo_agents.trainer import train
from grpo_agents.trajectory import Trajectory

HERE = Path(__file__).parent
ENV = f"env.id={HERE / 'setting.py'}:make"
RESULTS = HERE / "results"
PICTURE = HERE.parent.parent / "docs" / "orchestra" / "front.svg"
QUESTIONS = 800
TEST_SEED = 2026
"""Of the questions, offers and users that are held out; settings were chosen on others."""

METHODS: dict[str, list[str]] = {
    "minmax": ["advantage.normalise=minmax"],
    "gdpo": ["method.name=gdpo"],
    "fixed": [],
    "batch": ["method.name=reinforce_pp"],
}
"""What each sets beyond grpo.toml: min-max within the group (ToolOrchestra), z-scores of each component within the
group (GDPO), a fixed scale and then GRPO's z-scores within the group, and the same without any group (REINFORCE++)."""

ORDER = ("sft", *METHODS)

TESTS: dict[str, list[str]] = {
    "seen": [],
    "unseen_prices": ["env.options={split = 'test', market = 'unseen_prices'}"],
    "unseen_subsets": ["env.options={split = 'test', market = 'unseen_subsets'}"],
    "between": [f"preference.choices={json.dumps(BETWEEN).replace(':', ' =')}"],
}


def main() -> None:
    """Runs seeds where asked, prints the tables and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, nargs="+", metavar="SEED", default=[], help="seeds to run anew")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="these alone")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    for seed in arguments.run:
        run_seed(seed, arguments.methods)
    runs = read_results()
    print(tables.all_of(runs))
    picture.draw(runs, PICTURE)


def run_seed(seed: int, methods: list[str]) -> None:
    """The start of a seed and every method from there, each into a file of ``results``."""
    folder = Path("runs") / "markets" / f"seed-{seed}"
    start = folder / "sft" / "model"
    if not (start.exists() and (RESULTS / f"sft-{seed}.json").exists()):
        subprocess.run([sys.executable, HERE / "model.py", folder / "start", str(seed)], check=True)
        own = [f"run={folder / 'sft'}", f"model.path={folder / 'start'}", f"seed={seed}"]
        own.append(f"source.path={HERE / 'demonstrations.py'}:demonstrate")
        measure("sft", seed, HERE / "sft.toml", own)
    for method in methods:
        own = [f"run={folder / method}", f"model.path={start}", f"seed={seed}", *METHODS[method]]
        measure(method, seed, HERE / "grpo.toml", own)


def measure(method: str, seed: int, config: Path, overrides: list[str]) -> None:
    """Trains, and writes what came out."""
    began = time.process_time()
    folder = train(load_config(config, [ENV, *overrides]), overwrite=True)
    found: dict[str, Any] = {"method": method, "seed": seed, "seconds": round(time.process_time() - began, 1)}
    for name, test in TESTS.items():
        found[name] = figures(play(folder / "model", test))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{method}-{seed}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def play(model: Path, test: list[str]) -> list[Trajectory]:
    """One episode of each of the first held-out questions."""
    own = [ENV, f"model.path={model}", f"seed={TEST_SEED}", "env.options={split = 'test'}"]
    config = load_config(HERE / "grpo.toml", [*own, *test])
    parts = build(config)
    player, tasks = parts.rollout()
    chosen = [pick(tasks, number, config.seed) for number in range(QUESTIONS)]
    groups = player.sample(chosen, seed=config.seed, group_size=1)
    player.close()
    parts.engine.close()
    return [trajectory for group in groups for trajectory in group.trajectories]


def read_results() -> dict[str, list[dict[str, Any]]]:
    """What was kept, by method."""
    found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return {name: some for name in ORDER if (some := [run for run in found if run["method"] == name])}


if __name__ == "__main__":
    main()
