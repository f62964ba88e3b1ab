"""The tables of docs/theory.md, each as Markdown, from what experiments kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import landscapes
import numpy as np
import off_policy

from grpo_agents.evaluation.statistics import mean_interval

Results = dict[str, Any]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(values: Sequence[float], digits: int = 3) -> str:
    """Mean over seeds and 95 % interval; one number where all seeds agree to these digits."""
    found = mean_interval(values)
    mean, low, high = (f"{value:.{digits}f}" for value in (found.mean, found.low, found.high))
    return mean if low == high else f"{mean} ({low} … {high})"


def of_arms(runs: Sequence[dict[str, Any]], name: str) -> dict[str, list[float]]:
    """A figure of each arm, one value a seed."""
    return {arm: [float(run["arms"][arm][name]) for run in runs] for arm in runs[0]["arms"]}


def off_policy_table(results: Results) -> str:
    """Where each arm ends."""
    runs = results["off_policy"]
    final, longest = of_arms(runs, "final"), of_arms(runs, "longest")
    halfway = {arm: [run["arms"][arm]["curve"][off_policy.STEPS // 2] for run in runs] for arm in final}
    rows = [
        [arm, between(halfway[arm]), between(final[arm]), f"{min(longest[arm]):.0f} … {max(longest[arm]):.0f}"]
        for arm in final
    ]
    return markdown(["", "$J$ after half of the steps", "$J$ at the end", "longest task ever passed, over seeds"], rows)


def effective_samples_table(results: Results) -> str:
    """Exact and measured shares by length."""

    def measured(level: str, shift: float, length: int) -> str:
        cells = [cell for run in results["effective_samples"] for cell in run["shares"]]
        found = [cell[level] for cell in cells if (cell["shift"], cell["length"]) == (shift, length)]
        return f"{np.mean(found):.2g}"

    rows = []
    for length in off_policy.LENGTHS[::2]:
        row = [str(length)]
        for shift in off_policy.SHIFTS[1:]:
            row += [f"{off_policy.second_moment(shift) ** -length:.2g}", measured("sequence", shift, length)]
        rows.append([*row, measured("token", off_policy.SHIFTS[-1], length)])
    heads = [f"{what}, $a = {shift}$" for shift in off_policy.SHIFTS[1:] for what in ("exact", "measured")]
    return markdown(["length $T$", *heads, f"single tokens, $a = {off_policy.SHIFTS[-1]}$"], rows)


def landscapes_table(results: Results) -> str:
    """Each reward's corners, and where GRPO ends."""
    runs = results["landscapes"]
    success, calls, answers = (of_arms(runs, name) for name in ("success", "calls", "answers"))
    rows = []
    for name, reward in landscapes.REWARDS.items():
        corners = ["depends on the group", "", ""]
        if reward.config.normalise == "weighted_sum":
            corners = [f"{value:.2f}" for value in landscapes.corners(reward)]
        reached = [steps_to(run["arms"][name]["path"], 0.5) for run in runs]
        known = [float(steps) for steps in reached if steps is not None]
        took = between(known, 0) if known else "never"
        if 0 < len(known) < len(runs):
            took += f", {len(known)} of {len(runs)} seeds"
        rows.append([name, *corners, took, between(success[name]), between(calls[name]), between(answers[name])])
    head = ["reward", "at once", "call, answer", "call twice", "steps to half right", "right", "$c$", "$a$"]
    return markdown(head, rows)


def steps_to(path: Sequence[Sequence[float]], enough: float) -> int | None:
    """The first recorded step at which the answer is right so often; None where it never is."""
    reached = [step for step, (calls, answers) in enumerate(path) if landscapes.success(calls, answers) >= enough]
    return landscapes.EVERY * reached[0] if reached else None


def practice_table(results: Results) -> str:
    """What each sampler comes to, also beside the uniform one of the same seed."""
    runs = results["practice"]
    final, informative = of_arms(runs, "final"), of_arms(runs, "informative")
    halfway = {arm: [run["arms"][arm]["curve"][len(run["arms"][arm]["curve"]) // 2] for run in runs] for arm in final}
    rows = []
    for arm, values in final.items():
        above = [value - uniform for value, uniform in zip(values, final["uniform"], strict=True)]
        compared = "" if arm == "uniform" else between(above)
        rows.append([f"`{arm}`", between(halfway[arm]), between(values), compared, between(informative[arm])])
    head = ["sampler", "success after half", "success at the end", "above uniform, paired", "informative groups"]
    return markdown(head, rows)


def costs_table(results: Results) -> str:
    """Operations in N·D and bytes in N."""
    rows = []
    for found in results["costs"]:
        flops, state = found["flops"], found["bytes"]
        forward = {
            name: flops.get(name, 0.0) for name in ("sampling", "old log-probs", "reference", "critic", "training")
        }
        forward["training"] += flops.get("critic training", 0.0)
        cells = [f"{value:.2f}" if value else "" for value in forward.values()]
        total, kept = sum(flops.values()), sum(state.values())
        figures = [f"{total:.1f}", f"{found['textbook_flops']:g}", f"{kept:.1f}", str(found["textbook_bytes"])]
        rows.append([found["method"], *cells, *figures])
    head = ["", "sample", "old", "ref.", "critic", "train", "FLOPs / ND", "textbook", "bytes / N", "textbook"]
    return markdown(head, rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "off_policy": off_policy_table,
    "effective_samples": effective_samples_table,
    "landscapes": landscapes_table,
    "practice": practice_table,
    "costs": costs_table,
}
"""By the name that the page has in ``<!-- table NAME -->``."""
