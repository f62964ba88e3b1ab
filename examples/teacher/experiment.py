"""Compute as Teacher where everything can be computed on two cores: what synthesis, votes and training come to.

python examples/teacher/experiment.py                    prints the tables of docs/teacher.md from results/*.json
python examples/teacher/experiment.py --run 0 1 2 3 4    runs these seeds anew first, from the repository's root
python examples/teacher/experiment.py --run 0 1 2 3 4 --imitation 140    the same from starts of so many steps

Each seed has a model made from scratch that imitates column addition (addition.py) until two of three sums are right,
or for so many steps as --imitation says, and goes on from there twice: taught by references that a script synthesises
of its rollouts, and by the gold answers themselves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from grpo_agents.build import build
from grpo_agents.config import load_config
from grpo_agents.evaluation.statistics import mean_interval
from grpo_agents.pseudo_labels import PseudoLabels
from grpo_agents.sources import pick
from grpo_agents.trainer import train
from grpo_agents.trajectory import Group

HERE = Path(__file__).parent
DEMO = HERE.parent / "demo"
RESULTS = HERE / "results"
QUESTIONS = 400
TEST_SEED = 2026
"""Of the questions that are played; settings were chosen on others."""

LENGTHS = (140, 170, 200, 240, 280, 330)
"""Steps of imitation that are tried, each from the beginning, until the start is right often enough."""

ENOUGH, TRIALS, TRIAL_SEED = 0.65, 100, 7
"""How often that is, and on which questions it is looked at."""

IMITATION = [f"source.path={HERE / 'addition.py'}:demonstrate", "env.id=grpo_agents/Math-v0", "env.options={}"]
GOLD = [f"env.id={HERE / 'addition.py'}:Addition", "env.options={}", 'rewards={vector=["outcome"]}']
ROWS = ("initial", "majority", "synthesis", "taught", "gold")


def main() -> None:
    """Runs seeds where asked, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, nargs="+", metavar="SEED", default=[], help="seeds to run anew")
    parser.add_argument("--imitation", type=int, metavar="STEPS", help="so many, whatever the start is then")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    for seed in arguments.run:
        run_seed(seed, arguments.imitation)
    print("\n\n".join(tables()))


def run_seed(seed: int, imitation: int | None) -> None:
    """The start of a seed and both ways on, into a file of ``results``."""
    folder = Path("runs") / "teacher" / f"seed-{seed}"
    maker = [sys.executable, DEMO / "tiny_model.py", folder / "start", "--seed", str(seed)]
    subprocess.run(maker, check=True)
    steps, start = imitate(folder, seed, LENGTHS if imitation is None else (imitation,))
    first = play(start)
    labels = {name: [group.notes[note]["gold"] for group in first] for name, note in NOTES.items()}
    pairs = list(zip(labels["synthesis"], labels["majority"], strict=True))
    found: dict[str, Any] = {"seed": seed, "imitation": steps, "initial": rate(first)}
    found |= {name: share(values) for name, values in labels.items()}
    found["differ"] = share(group.notes["reference"]["answer"] != group.notes["majority"]["answer"] for group in first)
    found["synthesis_alone_right"] = share(one > other for one, other in pairs)
    found["majority_alone_right"] = share(one < other for one, other in pairs)
    for name, settings in {"taught": [], "gold": GOLD}.items():
        own = [f"run={folder / name}", f"model.path={start}", f"seed={seed}", *settings]
        found[name] = rate(play(train(load_config(HERE / "addition.toml", own), overwrite=True) / "model"))
    RESULTS.mkdir(exist_ok=True)
    name = f"seed-{seed}.json" if imitation is None else f"imitation-{imitation}-seed-{seed}.json"
    (RESULTS / name).write_text(json.dumps(found, indent=1) + "\n")


def imitate(folder: Path, seed: int, lengths: Sequence[int]) -> tuple[int, Path]:
    """The first start of these lengths that is right often enough, or the last; and how long it is."""
    own = ["model.threads=1", f"seed={seed}", 'rewards={vector=["outcome"]}', "advantage={}", *IMITATION]
    own += [f"run={folder / 'sft'}", f"model.path={folder / 'start'}"]
    for steps in lengths:
        start = train(load_config(DEMO / "sft.toml", [*own, f"train.steps={steps}"]), overwrite=True) / "model"
        if steps == lengths[-1] or rate(play(start, TRIALS, TRIAL_SEED))["mean"] >= ENOUGH:
            return steps, start
    raise ValueError("no length of imitation is given")


NOTES = {"synthesis": "reference", "majority": "majority"}


def play(model: Path, questions: int = QUESTIONS, seed: int = TEST_SEED) -> list[Group]:
    """Eight rollouts of the same held-out questions, with what synthesis and votes make of them."""
    own = [f"model.path={model}", f"seed={seed}", f"rewards.vector={HERE / 'addition.py'}:compared"]
    parts = build(load_config(HERE / "addition.toml", own))
    player, tasks = parts.rollout(evaluating=True)
    groups = player.sample([pick(tasks, number, seed) for number in range(questions)], seed=seed)
    PseudoLabels(parts.vector, parts.watched, player.judge)(groups)
    player.close()
    parts.close()
    return groups


def rate(groups: list[Group]) -> dict[str, float]:
    """The share of rollouts that are right, with its 95 % interval over questions.

    Raises:
        ValueError: One could not be judged.
    """
    known = [entry.rewards["gold_outcome"] for group in groups for entry in group.trajectories]
    if None in known:
        raise ValueError(f"{known.count(None)} rollouts could not be judged")
    return share(np.array(known, float), np.repeat(np.arange(len(groups)), [len(g.trajectories) for g in groups]))


def share(values: Iterable[float], questions: np.ndarray | None = None) -> dict[str, float]:
    """A mean with its 95 % interval; of which question each value is, where there are several of one."""
    found = mean_interval(values, questions)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def tables() -> list[str]:
    """Of what was kept: means over seeds, every run, and every run from starts of a given length; in Markdown."""
    until, given = (
        [json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"{name}*.json"))]
        for name in ("seed", "imitation")
    )
    return [over_seeds(until), each(until), each(given)]


def each(runs: Sequence[Mapping[str, Any]]) -> str:
    """A row a run, with 95 % intervals over its questions."""
    lines = [f"| seed | imitation steps | {' | '.join(ROWS)} |", "| --- | ---: |" + " ---: |" * len(ROWS)]
    for run in runs:
        cells = (f"{run[name]['mean']:.3f} ({run[name]['low']:.3f} … {run[name]['high']:.3f})" for name in ROWS)
        lines.append(f"| {run['seed']} | {run['imitation']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds with 95 % intervals."""
    lines = ["| | right |", "| --- | ---: |"]
    for name in (*ROWS, "differ", "synthesis_alone_right", "majority_alone_right"):
        interval = mean_interval(run[name]["mean"] for run in runs)
        lines.append(f"| {name.replace('_', ' ')} | {interval.mean:.3f} ({interval.low:.3f} … {interval.high:.3f}) |")
    for name in ("taught", "gold"):
        gain = mean_interval(run[name]["mean"] - run["initial"]["mean"] for run in runs)
        lines.append(f"| {name} less initial | {gain.mean:.3f} ({gain.low:.3f} … {gain.high:.3f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
