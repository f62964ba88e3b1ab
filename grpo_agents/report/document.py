"""The page: one HTML file with everything in it, which needs no network and runs no text of a trajectory."""

from __future__ import annotations

import base64
import hashlib
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grpo_agents.evaluation.statistics import mean_interval
from grpo_agents.report import figures
from grpo_agents.report.collecting import calls_by_preference, collect, find_focus
from grpo_agents.report.contents import pack, to_json
from grpo_agents.report.facts import Facts
from grpo_agents.report.sources import LIMIT, Batch, Source, choose, find_batches
from grpo_agents.report.tokens import Vocabulary, load_tokenizer, read_lens
from grpo_agents.writing import write_whole

_READING = ("tokens", "notes", "reader")
SCRIPTS = ("data", "elements", "scales", "charts", "overview", "filter", "list", *_READING, "keys", "main")
"""The page's modules, in the order in which they are put together."""


class Report:
    """Builds the page of a source, as often as it changes.

    Args:
        source: What is shown.
        limit: The most trajectories on it.
    """

    def __init__(self, source: Source, limit: int = LIMIT):
        self.source = source
        self.limit = limit
        self._tokenizer: tuple[Any | None, str] | None = None

    def build(self, version: str = "") -> str:
        """The page as HTML.

        Args:
            version: Of a page that a server watches, and that asks it for a newer one; empty for one that stays.

        Raises:
            ValueError: There is nothing to show yet, or something cannot be read; says what, where and what to do.
        """
        source = self.source
        rows = source.metrics()
        batches = find_batches(source.files)
        if not rows and not batches and not version:
            raise ValueError(
                f"{source.path}: there is nothing to show yet, neither metrics nor trajectories. Let the run finish a "
                "step (train.store keeps its trajectories), or add --watch to see it come."
            )
        chosen = choose(batches, self.limit)
        focus = find_focus(batches)
        found = collect(chosen, focus, read_lens(source.tables_of_the_lens()))
        texts, why_no_text = self._texts(found.vocabulary)
        data = {
            "name": source.name,
            "about": _about(source),
            "made": time.strftime("%Y-%m-%d %H:%M"),
            "watched": version,
            "left_out": left_out(batches, chosen),
            "why_no_text": why_no_text,
            "tiles": tiles(found.sets),
            "panels": figures.panels(rows),
            "histograms": figures.histograms(found.sets, found.scoring),
            "pareto": figures.pareto(list(found.sets.values())[-1] if found.sets else [], found.scoring),
            "tool_use": calls_by_preference(focus),
            "ends": figures.ends(found.facts),
            "focus": list(found.sets),
            "directions": {entry.name: entry.direction for entry in found.scoring.vector} if found.scoring else {},
        }
        # names of components, tools and the like are values in there, and never keys
        data = {name: figures.as_data(value) for name, value in data.items()}
        return render(source.name, data, found.index.as_data(), texts, found.blocks, watched=bool(version))

    def _texts(self, vocabulary: Vocabulary) -> tuple[list[str], str]:
        if not len(vocabulary):
            return [], "these trajectories have no token ids: what a hosted model says comes as text alone"
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.source.models())
        tokenizer, why_not = self._tokenizer
        return ([] if tokenizer is None else vocabulary.texts(tokenizer)), why_not


def write_report(source: Source, out: Path, limit: int = LIMIT) -> int:
    """Writes the page to a file, whole or not at all; gives its size in bytes.

    Raises:
        ValueError: See :meth:`Report.build`.
        NotWritten: The file cannot be written.
    """
    content = Report(source, limit).build().encode()
    write_whole(out, content)
    return len(content)


def left_out(batches: Sequence[Batch], chosen: Sequence[Batch]) -> str:
    """What is not on the page, in words; empty where everything is."""
    total, shown = (sum(batch.size for batch in some) for some in (batches, chosen))
    if shown == total:
        return ""
    phases = dict.fromkeys(batch.phase for batch in batches)
    kinds = []
    for phase in phases:
        kept = [batch for batch in chosen if batch.phase == phase]
        here, there = (sum(batch.size for batch in some if batch.phase == phase) for some in (chosen, batches))
        kinds.append(f"{phase}: {here:,} of {there:,}{_steps(kept)}")
    return f"{shown:,} of {total:,} trajectories are on this page ({'; '.join(kinds)}). --limit takes another number."


def _steps(batches: Sequence[Batch]) -> str:
    steps = [str(batch.step) for batch in batches if batch.step >= 0]
    if len(steps) < 2:
        return f", of step {steps[0]}" if steps else ""
    return f", of {len(steps)} steps from {steps[0]} to {steps[-1]}"


@dataclass(frozen=True, slots=True)
class Tile:
    """A mean of the last set, with the ends of its interval, beside that of the first; None for what is not known."""

    name: str
    value: list[float | None]
    before: list[float | None] | None


def tiles(sets: Mapping[str, Sequence[Facts]]) -> list[Tile]:
    """The mean of each value in the last set, with its interval, and in the first set where there are two."""
    if not sets:
        return []
    everyone = list(sets.values())
    found = []
    for name in dict.fromkeys(name for facts in everyone for entry in facts for name in entry.values):
        values = [_interval(name, facts) for facts in everyone]
        found.append(Tile(name, values[-1], values[0] if len(values) > 1 else None))
    return found


def _interval(name: str, facts: Iterable[Facts]) -> list[float | None]:
    known = [(value, entry.task) for entry in facts if (value := entry.values.get(name)) is not None]
    found = mean_interval([value for value, _ in known], [task for _, task in known])
    return [None if number != number else number for number in (found.mean, found.low, found.high)]


def _about(source: Source) -> list[tuple[str, str]]:
    """What a run was, in a few words."""
    if source.run is None or not source.run.config.exists():
        return []
    config = tomllib.loads(source.run.config.read_text(encoding="utf-8"))
    keys = {"env": ("env", "id"), "method": ("method", "name"), "model": ("model", "path"), "steps": ("train", "steps")}
    known = {name: config.get(section, {}).get(key) for name, (section, key) in keys.items()}
    known["seed"] = config.get("seed")
    return [(name, str(value)) for name, value in known.items() if value is not None]


def render(
    title: str,
    data: Mapping[str, Any],
    index: Mapping[str, Any],
    texts: Sequence[str],
    blocks: Sequence[str],
    *,
    watched: bool,
) -> str:
    """Puts the page together: its policy lets nothing run or load but the script and the style in it."""
    style, script = part("style.css"), "\n".join(part(f"{name}.js") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    allowed = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "connect-src": "'self'" if watched else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    environment = Environment(
        loader=PackageLoader("grpo_agents.report", "page"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("index.html").render(
        title=title,
        policy="; ".join(f"{what} {where}" for what, where in allowed.items()),
        style=Markup(style),
        script=Markup(script),
        data=Markup(to_json(data)),
        index=Markup(to_json(index)),
        texts=pack(to_json(texts)),
        blocks=blocks,
    )


def part(name: str) -> str:
    """A file of the page's folder."""
    return (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
