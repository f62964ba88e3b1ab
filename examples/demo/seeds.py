"""The demo with several seeds: what it reaches is no accident of one.

python examples/demo/seeds.py                rebuilds the tables from results/*.json, one for each engine
python examples/demo/seeds.py --run 0 1 2    runs these seeds anew first, with --engine vllm on that engine
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from grpo_agents.evaluation.statistics import mean_interval

RESULTS = Path(__file__).with_name("results")
ENGINES = ("transformers", "vllm")


def main() -> None:
    """Runs seeds where asked, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, nargs="+", metavar="SEED", default=[], help="seeds to run anew")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="what samples in these runs")
    arguments = parser.parse_args()
    for seed in arguments.run:
        import demo

        folder = Path("runs") / f"demo-{arguments.engine}-{seed}"
        demo.run(folder, seed, (f"engine.backend={arguments.engine}",))
        RESULTS.mkdir(exist_ok=True)
        shutil.copy(folder / "summary.json", RESULTS / f"{arguments.engine}-{seed}.json")
    for engine in ENGINES:
        found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"{engine}-*.json"))]
        Console(width=150, emoji=False).print(table(engine, found))


def table(engine: str, runs: list[dict[str, Any]]) -> Table:
    """One row a seed, and their mean with a 95 % interval over seeds."""
    shown = Table(title=f"Share of the best achievable reward on held-out tasks (95 % interval), sampled with {engine}")
    for column in (
        "seed",
        "before (SFT)",
        "blind at best",
        "after (GRPO)",
        "reward above blind, paired",
        "cost: users who weigh it / latency",
        "latency: users who weigh it / cost",
        "seconds",
    ):
        shown.add_column(column, justify="right")
    for run in runs:
        shown.add_row(
            str(run["seed"]),
            between(run["before"]["share_of_best"]),
            f"{run['share_of_best_blind']:.3f}",
            between(run["after"]["share_of_best"]),
            f"{between(run['above_blind'])}, p = {run['above_blind']['p_value']:.1g}",
            f"{run['users_who_weigh_cost_pay']['mean']:.2f} / {run['users_who_weigh_latency_pay']['mean']:.2f}",
            f"{run['users_who_weigh_latency_wait']['mean']:.2f} / {run['users_who_weigh_cost_wait']['mean']:.2f}",
            f"{run['seconds']:.0f}",
        )
    if len(runs) > 1:
        over = {
            when: mean_interval([run[when]["share_of_best"]["mean"] for run in runs]) for when in ("before", "after")
        }
        before, after = ({"mean": found.mean, "low": found.low, "high": found.high} for found in over.values())
        blind = float(np.mean([run["share_of_best_blind"] for run in runs]))
        shown.add_section()
        shown.add_row(f"mean of {len(runs)}", between(before), f"{blind:.3f}", between(after), "", "", "", "")
    return shown


def between(interval: dict[str, float]) -> str:
    """Mean and interval as text."""
    return f"{interval['mean']:.3f} ({interval['low']:.3f} … {interval['high']:.3f})"


if __name__ == "__main__":
    main()
