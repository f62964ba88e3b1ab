"""The tables of docs/orchestra.md, from what was kept of each run and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from measured import HINDSIGHT, RULES, USERS

from grpo_agents.evaluation.fronts import front
from grpo_agents.evaluation.statistics import mean_interval

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
TESTS = ("seen", "unseen_prices", "unseen_subsets", "between")
WHEN = ("when_best", "when_a_model_is_better")
DIRECTIONS = {"outcome": "max", "cost": "min", "latency": "min"}


def all_of(runs: Runs) -> str:
    """Every table, in Markdown."""
    return "\n\n".join((shares(runs), users(runs), calculator(runs), differences(runs)))


def shares(runs: Runs) -> str:
    """The share of the best achievable reward in every test, of methods and rules."""
    rows = [
        [f"`{name}`", *(over([_share(run, test) for run in some]) for test in TESTS)] for name, some in runs.items()
    ]
    rows += [
        [rule, *(f"{np.mean([run[test][rule]['share_of_best']['mean'] for run in runs['sft']]):.3f}" for test in TESTS)]
        for rule in (*RULES, HINDSIGHT)
    ]
    return markdown(["share of the best reward", *(test.replace("_", " ") for test in TESTS)], rows)


def users(runs: Runs) -> str:
    """What each kind of user gets on the markets of training, and whether another policy is better in everything."""
    rows = []
    for user in USERS:
        points = {f"`{name}`": point(some, "policy", user) for name, some in runs.items()}
        points |= {rule: point(runs["sft"], rule, user) for rule in (*RULES, HINDSIGHT)}
        ahead = front([{name: point[name] for name in DIRECTIONS} for point in points.values()], DIRECTIONS)
        rows += [
            [user, name, *(f"{point[key]:.2f}" for key in ("share_of_best", *DIRECTIONS)), "yes" if on else ""]
            for (name, point), on in zip(points.items(), ahead, strict=True)
        ]
    return markdown(["weighs most", "policy", "share of best", "outcome", "cost", "latency", "on the front"], rows)


def calculator(runs: Runs) -> str:
    """How often the calculator is asked about hard arithmetic."""
    rows = [
        [f"`{name}`", *(over([run["seen"]["calculator"][when] for run in some]) for when in WHEN)]
        for name, some in runs.items()
    ]
    return markdown(["calculator asked", "where it is the best choice", "where a model is"], rows)


def differences(runs: Runs) -> str:
    """What normalising within the group changes, seed by seed, beside normalising over the batch alone."""
    alone = {run["seed"]: run for run in runs.get("batch", ())}
    rows = []
    for name in (name for name in runs if name not in ("sft", "batch")):
        pairs = [(run, alone[run["seed"]]) for run in runs[name] if run["seed"] in alone]
        if not pairs:
            continue
        shares = [over([_share(run, test) - _share(other, test) for run, other in pairs]) for test in TESTS]
        asked = [run["seen"]["calculator"][WHEN[1]] - other["seen"]["calculator"][WHEN[1]] for run, other in pairs]
        rows.append([f"`{name}`", *shares, over(asked)])
    tests = [test.replace("_", " ") for test in TESTS]
    return markdown(["less `batch`", *tests, "calculator asked where a model is better"], rows)


def _share(run: Mapping[str, Any], test: str) -> float:
    return run[test]["policy"]["share_of_best"]["mean"]


def point(runs: Sequence[Mapping[str, Any]], who: str, user: str) -> dict[str, float]:
    """Means over runs of what one kind of user gets of a policy or a rule on the markets of training."""
    found = [run["seen"][who]["by_user"][user] for run in runs]
    return {name: float(np.mean([entry[name] for entry in found])) for name in ("share_of_best", *DIRECTIONS)}


def over(values: Sequence[float]) -> str:
    """Mean over seeds and its 95 % interval as text."""
    interval = mean_interval(values)
    return f"{interval.mean:.3f} ({interval.low:.3f} … {interval.high:.3f})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(head) - 1), *lines[1:]])
