"""The pictures of docs/theory.md, as SVG on white, which can be read on dark pages too. They need matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

import landscapes
import numpy as np
import off_policy

from grpo_agents.evaluation.statistics import mean_interval
from grpo_agents.methods.baselines import centred, relative_to_mean
from grpo_agents.report.pictures import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#333333", "#DDDDDD"


def draw(results: dict[str, Any], folder: Path) -> None:
    """Writes every picture into a folder."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "pushes": pushes(),
        "off_policy": sampling(results["off_policy"]),
        "effective_samples": effective_samples(results["effective_samples"]),
        "landscapes": surfaces(results["landscapes"]),
        "practice": practised(results["practice"]),
    }
    with mpl.rc_context({"svg.hashsalt": "theory"}):  # the same file every time
        for name, figure in pictures.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def canvas(width: float, height: float) -> Figure:
    """An empty picture, in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=150, layout="constrained", facecolor="white")


def frame(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and axes."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8.5)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def legend(axes: Axes, **where: Any) -> None:
    """Without a box."""
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, **where)


def band(axes: Axes, curves: Sequence[Sequence[float] | np.ndarray], colour: str, label: str, style: str = "-") -> None:
    """Mean over seeds and 95 % interval, by step."""
    found = [mean_interval(values) for values in zip(*curves, strict=True)]
    steps = range(len(found))
    axes.plot(steps, [value.mean for value in found], style, color=colour, linewidth=1.6, label=label)
    low, high = [value.low for value in found], [value.high for value in found]
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


# Section 2


def expected_push(p: float, size: int, advantages: Any) -> float:
    """E[Σ Â ∇log π]/G of a yes/no task in units of ∂θ, p = σ(θ), over every group of this size."""
    total = 0.0
    for right in range(size + 1):
        found = advantages(np.array([1.0] * right + [0.0] * (size - right)))
        slopes = np.array([1 - p] * right + [-p] * (size - right))  # ∂log π/∂θ
        total += comb(size, right) * p**right * (1 - p) ** (size - right) * float(found @ slopes) / size
    return total


def pushes() -> Figure:
    """How hard a task is pushed by its pass rate, and a token by its distance from the reference."""
    figure = canvas(9.6, 3.5)
    rates = np.linspace(0.005, 0.995, 199)
    axes = figure.add_subplot(1, 2, 1)
    ways = {
        "GRPO": (lambda values: centred(values, divide_by_std=True), lambda p: np.sqrt(p * (1 - p))),
        "Dr. GRPO": (lambda values: centred(values, divide_by_std=False), lambda p: p * (1 - p)),
        "MaxRL": (relative_to_mean, lambda p: 1 - p),
    }
    for (name, (advantages, limit)), colour in zip(ways.items(), COLOURS, strict=False):
        axes.plot(rates, [expected_push(p, 8, advantages) for p in rates], color=colour, label=f"{name}, G = 8")
        axes.plot(rates, limit(rates), ":", color=colour, linewidth=1.2)
    axes.plot([], [], ":", color=INK, label="G → ∞")
    frame(axes, "How hard a task is pushed", "pass rate p", "expected push on the logit")
    legend(axes)
    axes = figure.add_subplot(1, 2, 2)
    log_ratio = np.linspace(-3, 3, 201)
    axes.plot(log_ratio, np.exp(-log_ratio) - 1, color=COLOURS[0], label="k3: $\\pi_{ref}/\\pi - 1$")
    axes.plot(log_ratio, -log_ratio, color=COLOURS[1], label="unbiased and k2, on-policy: $-\\log(\\pi/\\pi_{ref})$")
    axes.set_ylim(-4, 12)
    frame(axes, "What the KL term gives to a token", "$\\log(\\pi/\\pi_{ref})$", "coefficient, in units of β")
    legend(axes)
    return figure


# Section 3


STYLES = ("-", "--", "-.", ":", "--", "-", "-.")


def sampling(runs: Sequence[dict[str, Any]]) -> Figure:
    """J by step, and how well each skill is known at the end."""
    figure = canvas(9.6, 3.8)
    left, right = figure.subplots(1, 2)
    for place, arm in enumerate(runs[0]["arms"]):
        colour, style = COLOURS[place], STYLES[place]
        band(left, [run["arms"][arm]["curve"] for run in runs], colour, arm, style)
        skills = np.mean([run["arms"][arm]["right"] for run in runs], 0)
        right.plot(range(1, off_policy.SKILLS + 1), skills, style, color=colour, marker="o", markersize=3, label=arm)
    frame(left, "Expected reward, exact", "updates on 96 episodes (with 5 passes: a fifth)", "J, mean over tasks")
    frame(right, "What is known at the end", "skill (task k needs skills 1 … k)", "π(right), mean over seeds")
    right.set_ylim(0, 1.04)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def effective_samples(runs: Sequence[dict[str, Any]]) -> Figure:
    """The share of a sample that weights leave, by length."""
    figure = canvas(6.4, 3.6)
    axes = figure.add_subplot()
    for shift, colour in zip(off_policy.SHIFTS, COLOURS, strict=False):
        cells = [[cell for cell in run["shares"] if cell["shift"] == shift] for run in runs]
        measured = np.mean([[cell["sequence"] for cell in row] for row in cells], 0)
        single = np.mean([[cell["token"] for cell in row] for row in cells], 0)
        lengths = np.array(off_policy.LENGTHS)
        axes.plot(lengths, off_policy.second_moment(shift) ** -lengths.astype(float), color=colour, linewidth=1.4)
        axes.plot(lengths, measured, "o", color=colour, markersize=4.5, label=f"sequences, a = {shift}")
        axes.plot(lengths, single, "x--", color=colour, markersize=5, linewidth=0.8, label=f"tokens, a = {shift}")
    axes.plot([], [], color=INK, linewidth=1.4, label="exact")
    axes.axhline(1 / off_policy.DRAWS, color=INK, linewidth=0.8, linestyle=":")
    axes.text(1, 1.15 / off_policy.DRAWS, "one sequence of the 4,000", fontsize=8, color=INK)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.6)
    axes.set_xticks(off_policy.LENGTHS, [str(length) for length in off_policy.LENGTHS])
    frame(axes, "What importance weights leave of a sample", "length T", "effective share of the samples")
    legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# Section 4


def surfaces(runs: Sequence[dict[str, Any]]) -> Figure:
    """E[R] over the two probabilities, and the paths of GRPO."""
    rewards = {name: reward for name, reward in landscapes.REWARDS.items() if reward.config.normalise == "weighted_sum"}
    figure = canvas(9.6, 6.2)
    calls, answers = np.meshgrid(np.linspace(0, 1, 51), np.linspace(0, 1, 51))
    for axes, (name, reward) in zip(figure.subplots(2, 3).flat, rewards.items(), strict=True):
        height = landscapes.surface(reward, calls, answers)
        drawn = axes.imshow(height, origin="lower", extent=(0, 1, 0, 1), cmap="Greys_r", aspect="auto")
        axes.contour(calls, answers, height, 9, colors=INK, linewidths=0.4, linestyles="-")
        figure.colorbar(drawn, ax=axes, format="%.2f", pad=0.02).ax.tick_params(labelsize=7.5, colors=INK)
        for run in runs:
            path = np.array(run["arms"][name]["path"])
            axes.plot(*path.T, color=COLOURS[1], linewidth=1.2)
            axes.plot(*path[-1], "o", color=COLOURS[1], markersize=5, markeredgecolor="white", clip_on=False, zorder=5)
        axes.plot(landscapes.START_CALLS, landscapes.START_ANSWERS, "s", color=COLOURS[5], markersize=6, zorder=5)
        frame(axes, name.replace(": ", ":\n"), "c: calls the tool", "a: answers from the result")
        axes.title.set_fontsize(9)
        axes.grid(visible=False)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
    return figure


# Section 6


def practised(runs: Sequence[dict[str, Any]]) -> Figure:
    """How likely a group teaches something, by pass rate; and by step what samplers gain."""
    figure = canvas(9.6, 3.5)
    left, right = figure.subplots(1, 2)
    rates = np.linspace(0, 1, 201)
    for size, colour in zip((2, 4, 8, 16, 64), COLOURS, strict=False):
        left.plot(rates, 1 - rates**size - (1 - rates) ** size, color=colour, label=f"G = {size}")
    frame(left, "How likely a group is informative", "pass rate p", "$1 - p^G - (1 - p)^G$")
    legend(left, loc="lower center")
    for place, arm in enumerate(runs[0]["arms"]):
        above = [np.subtract(run["arms"][arm]["curve"], run["arms"]["uniform"]["curve"]) for run in runs]
        band(right, above, COLOURS[place], arm, STYLES[place])
    right.set_ylim(top=0.06)
    frame(right, "Mean success beside uniform sampling", "steps of 64 episodes", "difference, paired by seed")
    legend(right)
    return figure
