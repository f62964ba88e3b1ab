"""Pictures of a run as PNG or SVG files, as their names end: curves, distributions, fronts and tool use.

matplotlib is imported when a picture is drawn, and no state of it is touched: neither pyplot, nor a backend, nor the
defaults of the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_agents.report.figures import Histogram, Pareto
from grpo_agents.writing import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow, which white paper swallows."""

MANY = 25
"""A curve of more values is smoothed."""

_INK, _FAINT = "#333333", "#DDDDDD"
_TITLES = {
    "reward": ("Reward in training", "scalar reward"),
    "eval/reward": ("Reward in evaluation", "scalar reward"),
    "entropy": ("Entropy of the policy", "nats per token"),
    "kl": ("Divergence from the reference", "nats per token"),
    "grad_norm": ("Gradient norm", "L2, before clipping"),
}
_COMPONENT = "reward/"


def curves(metrics_rows: Iterable[Mapping[str, Any]], *paths: str | Path) -> None:
    """Draws the curves of a run: reward, evaluation, each component, entropy, KL and gradient norm, side by side.

    What the rows lack is left out; a value that is missing or no finite number is a gap. A long curve is drawn faintly,
    with its running mean over it.

    Args:
        metrics_rows: The rows of ``metrics.jsonl``, each with its ``step``. Components are the keys ``reward/<name>``;
            ``eval/reward_low`` and ``eval/reward_high`` draw the band of the evaluation's 95 % interval.
        paths: The files, as PNG or SVG; their folders are made where they do not exist.

    Raises:
        ValueError: No row has any of these keys; says what to do.
    """
    rows = sorted((row for row in metrics_rows if "step" in row), key=lambda row: row["step"])
    drawn = keys_of_curves(rows)
    if not drawn:
        raise ValueError(
            f"{paths[0]}: there are no curves to draw: no row has a step and one of reward, reward/<name>, "
            "eval/reward, entropy, kl or grad_norm. Train for at least one step, and hand over the rows of the run's "
            "metrics.jsonl."
        )
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(drawn))
    lines = math.ceil(len(drawn) / columns)
    figure = _figure(max(4.2, 3.6 * columns), 2.5 * lines)
    first, last = rows[0]["step"], rows[-1]["step"]
    margin = 0.03 * max(1, last - first)
    for place, key in enumerate(drawn):
        axes = figure.add_subplot(lines, columns, place + 1)
        title, unit = _TITLES.get(key, (key.removeprefix(_COMPONENT), "mean of the batch"))
        _frame(axes, title, unit)
        _curve(axes, rows, key, COLOURS[0] if key in _TITLES else COLOURS[2])
        axes.set_xlim(first - margin, last + margin)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        if place + columns >= len(drawn):
            axes.set_xlabel("training step", color=_INK, fontsize=9)
    _save(figure, paths)


def keys_of_curves(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of metrics that :func:`curves` draws, in its order."""
    keys = dict.fromkeys(key for row in rows if "step" in row for key, value in row.items() if _finite(value))
    components = [key for key in keys if key.startswith(_COMPONENT)]
    return [key for key in ("reward", "eval/reward", *components, "entropy", "kl", "grad_norm") if key in keys]


def tool_use(table: Mapping[str, Mapping[str, float]], *paths: str | Path) -> None:
    """Draws grouped bars: how often each tool is called in an episode, by preference.

    Args:
        table: Calls an episode, by preference group and tool, as
            :attr:`grpo_agents.evaluation.summary.Summary.tool_calls_by_preference`.
        paths: As for :func:`curves`.

    Raises:
        ValueError: No tool in any group; says what to do.
    """
    tools = list(dict.fromkeys(tool for calls in table.values() for tool in calls))
    if not tools:
        raise ValueError(
            f"{paths[0]}: there is no tool use to draw: no tool was on offer or called. "
            "Evaluate an environment with tools."
        )
    figure = _figure(min(12.0, max(5.0, 1.6 + 0.42 * len(table) * (len(tools) + 1))), 3.6)
    axes = figure.add_subplot()
    _frame(axes, "Tool calls by what the user weighs most", "calls per episode")
    width = min(0.25, 0.8 / len(tools))
    for place, tool in enumerate(tools):
        left = [group + (place - (len(tools) - 1) / 2) * width for group in range(len(table))]
        heights = [calls.get(tool, 0.0) for calls in table.values()]
        # the hatch tells bars apart once the colours come round again
        hatch = "//" * (place // len(COLOURS))
        bars = axes.bar(left, heights, 0.9 * width, color=COLOURS[place % len(COLOURS)], label=tool, hatch=hatch)
        axes.bar_label(bars, [f"{height:.2g}" for height in heights], padding=2, fontsize=7.5, color=_INK)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, len(table) - 0.5)
    axes.set_xticks(range(len(table)), list(table), parse_math=False)
    axes.tick_params(axis="x", length=0)
    _legend(figure, len(tools))
    _save(figure, paths)


def distributions(histograms: Sequence[Histogram], *paths: str | Path) -> None:
    """Draws how values are distributed, a chart each, with the sets of trajectories side by side.

    Args:
        histograms: As :func:`grpo_agents.report.figures.histograms` gives them.
        paths: As for :func:`curves`.

    Raises:
        ValueError: There are none; says what to do.
    """
    if not histograms:
        raise ValueError(f"{paths[0]}: there is nothing to count: name a run or files with trajectories.")
    columns = min(3, len(histograms))
    lines = math.ceil(len(histograms) / columns)
    figure = _figure(max(4.2, 3.6 * columns), 2.5 * lines + 0.3)
    for place, histogram in enumerate(histograms):
        axes = figure.add_subplot(lines, columns, place + 1)
        _frame(axes, histogram.name, "share of episodes")
        _bars(axes, histogram, first=place == 0)
        axes.set_xlabel(histogram.unit, color=_INK, fontsize=9, parse_math=False)
    _legend(figure, len(histograms[0].shares))
    _save(figure, paths)


def _bars(axes: Axes, histogram: Histogram, *, first: bool) -> None:
    """The bars of each set beside each other; named once in the figure."""
    colours = ("#8B9199", COLOURS[1]) if len(histogram.shares) > 1 else (COLOURS[1],)
    width = 0.84 / len(histogram.shares)
    for place, (name, shares) in enumerate(histogram.shares.items()):
        left = [bar + (place - (len(histogram.shares) - 1) / 2) * width for bar in range(len(shares))]
        axes.bar(left, shares, width, color=colours[place % len(colours)], label=name if first else None)
    if histogram.edges:
        every = max(1, len(histogram.edges) // 5)
        named = range(0, len(histogram.edges), every)
        axes.set_xticks([place - 0.5 for place in named], [f"{histogram.edges[place]:.3g}" for place in named])
    else:
        axes.set_xticks(range(len(histogram.labels)), [f"{value:.3g}" for value in histogram.labels])


def pareto(found: Pareto, *paths: str | Path) -> None:
    """Draws accuracy against each cost: a point a preference, with 95 % intervals, and the front of the pair.

    Args:
        found: As :func:`grpo_agents.report.figures.pareto` gives it.
        paths: As for :func:`curves`.

    Raises:
        ValueError: There is nothing to draw; says why.
    """
    if found.why_not:
        raise ValueError(f"{paths[0]}: there is no front to draw: {found.why_not}.")
    figure = _figure(4.8 * len(found.costs), 3.8)
    for place, cost in enumerate(found.costs):
        axes = figure.add_subplot(1, len(found.costs), place + 1)
        _frame(axes, f"{found.accuracy} against {cost}", found.accuracy)
        axes.set_xlabel(f"{cost}, {found.units[cost]}", color=_INK, fontsize=9, parse_math=False)
        _front(axes, found, cost)
    _legend(figure, 3)
    _save(figure, paths)


def _front(axes: Axes, found: Pareto, cost: str) -> None:
    """The points with their intervals, and the staircase of those that are on the front of the two."""
    accuracy = found.accuracy
    for point in found.points:
        x, y = point.values[cost], point.values[accuracy]
        ends = [(point.low[name], point.high[name]) for name in (cost, accuracy)]
        lines = [[(end, y) for end in ends[0]], [(x, end) for end in ends[1]]]
        for line in lines:
            if all(None not in place for place in line):
                axes.plot(*zip(*line, strict=True), color=_FAINT, linewidth=1, zorder=1)
    first = cost == found.costs[0]  # each kind is named once in the figure
    kinds = {True: ("on the front", COLOURS[0], COLOURS[0]), False: ("another is as good for less", "white", "#8B9199")}
    for on_front, (label, face, edge) in kinds.items():
        kept = [point for point in found.points if point.on_front[f"{accuracy}|{cost}"] == on_front]
        places = sorted((point.values[cost], point.values[accuracy]) for point in kept)
        if places:
            xs, ys = zip(*places, strict=True)
            named = label if first else None
            axes.scatter(xs, ys, s=26, facecolors=face, edgecolors=edge, zorder=3, label=named)
            if on_front:
                axes.step(xs, ys, where="post", color=edge, linewidth=1, alpha=0.6)


def _legend(figure: Figure, entries: int) -> None:
    """Below everything; its texts are names, and no formulae."""
    legend = figure.legend(
        loc="outside lower center", ncols=min(entries, 5), frameon=False, fontsize=8.5, labelcolor=_INK
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=150, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr]  inches around each picture
    return figure


def _frame(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(
        title, loc="left", fontsize=10, fontweight="bold", color=_INK, parse_math=False
    )  # names may have a $
    axes.set_ylabel(unit, color=_INK, fontsize=9, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=8.5)
    axes.grid(axis="y", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter("{x:g}")


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, colour: str) -> None:
    """A line with its values marked, or where there are many their running mean; and a band where the rows have one."""
    known = [row for row in rows if key in row]
    steps, values = [row["step"] for row in known], _values(known, key)
    if len(known) <= MANY:
        axes.plot(steps, values, color=colour, linewidth=1.4, marker="o", markersize=3.5)
    else:
        reach = len(known) // MANY
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(steps, _running_mean(values, reach), color=colour, label=f"mean of {2 * reach + 1} values")
    low, high = f"{key}_low", f"{key}_high"
    if any(_finite(row.get(low)) and _finite(row.get(high)) for row in known):
        ends = steps, _values(known, low), _values(known, high)
        axes.fill_between(*ends, color=colour, alpha=0.2, linewidth=0, label="95 % interval")
        axes.vlines(*ends, color=colour, linewidth=0.8, alpha=0.5)  # a band of a single evaluation has no width
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=7.5, frameon=False, labelcolor=_INK)


def _running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and of ``reach`` on either side, as far as they are known."""
    windows = (values[max(0, place - reach) : place + reach + 1] for place in range(len(values)))
    known = [[value for value in window if not math.isnan(value)] for window in windows]
    return [sum(window) / len(window) if window else math.nan for window in known]


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(row[key]) if _finite(row.get(key)) else math.nan for row in rows]


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _save(figure: Figure, paths: Sequence[str | Path]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for path in map(Path, paths):
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".svg":
                FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})
            else:
                FigureCanvasAgg(figure).print_png(str(path))
