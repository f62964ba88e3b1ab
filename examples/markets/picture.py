"""The picture of docs/orchestra.md: what each kind of user pays and gets, as SVG on white. It needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from measured import HINDSIGHT, RULES, USERS
from tables import DIRECTIONS, Runs, point

from grpo_agents.evaluation.fronts import front
from grpo_agents.report.pictures import COLOURS

INK, FAINT = "#333333", "#DDDDDD"
PAID = {"outcome": "cost", "cost": "cost", "latency": "latency"}
"""What a panel shows beside being right: what its user weighs most of the rest."""

UNITS = {"cost": "dollars", "latency": "seconds"}


def draw(runs: Runs, file: Path) -> None:
    """Writes it: a panel a kind of user, learned policies as dots, rules as crosses, the front of all as a line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure((11, 3.6), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(USERS), sharey=True)
    for axes, user in zip(panels, USERS, strict=True):
        paid = PAID[user]
        found = {name: point(some, "policy", user) for name, some in runs.items()}
        rules = {rule: point(runs["sft"], rule, user) for rule in (*RULES, HINDSIGHT)}
        for number, (name, entry) in enumerate(found.items()):
            colour = COLOURS[number % len(COLOURS)]
            axes.scatter(entry[paid], entry["outcome"], s=46, color=colour, zorder=3, label=name)
        for number, (rule, entry) in enumerate(rules.items()):
            marker = "x+1234"[number]
            axes.scatter(entry[paid], entry["outcome"], s=46, color=INK, marker=marker, zorder=2, label=rule)
        everyone = [*found.values(), *rules.values()]
        ahead = front(everyone, {"outcome": DIRECTIONS["outcome"], paid: DIRECTIONS[paid]})
        line = sorted((entry[paid], entry["outcome"]) for entry, on in zip(everyone, ahead, strict=True) if on)
        axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.8, linestyle=":", zorder=1)
        axes.set_title(f"{user} weighs most", loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xlabel(f"{paid} of an episode, {UNITS[paid]}", color=INK, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8.5)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("right", color=INK, fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "markets"}):  # the same file every time
        figure.savefig(file, metadata={"Date": None})
