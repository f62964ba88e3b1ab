"""Where a report comes from: a run folder, a folder of trajectory files, or one such file; and which of it is shown."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_agents import store
from grpo_agents.run_folder import RunFolder

LIMIT = 5000
"""Trajectories on a page, where nobody says another number: it then opens in about a second."""


@dataclass(frozen=True, slots=True)
class Source:
    """What there is to report.

    Attributes:
        name: What it is called on the page.
        path: The run folder, folder or file.
        run: The run folder; None where it is none.
        files: The files of trajectories, by name.
    """

    name: str
    path: Path
    run: RunFolder | None
    files: list[Path]

    @property
    def out(self) -> Path:
        """Where the page goes, where nobody names another place."""
        return (self.path if self.path.is_dir() else self.path.parent) / "report.html"

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of the run's metrics; none where there is no run.

        Raises:
            ValueError: A line is no JSON; names the file.
        """
        if self.run is None:
            return []
        try:
            return self.run.read_metrics()
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.run.metrics}: a line is no JSON ({error}). Mend or remove it: it is a row of figures a line."
            ) from error

    def tables_of_the_lens(self) -> list[Path]:
        """What ``explain --save`` left."""
        return sorted(self.run.lens.glob("*.parquet")) if self.run else []

    def models(self) -> list[Path]:
        """Folders whose tokenizer may be that of the trajectories: the run's model, and the one it began with.

        Raises:
            ValueError: The run's config.toml is no TOML.
        """
        if self.run is None:
            return []
        folders = [self.run.model]
        if self.run.config.exists():
            try:
                began = tomllib.loads(self.run.config.read_text(encoding="utf-8")).get("model", {}).get("path")
            except tomllib.TOMLDecodeError as error:
                raise ValueError(f"{self.run.config}: not readable as TOML: {error}") from error
            folders += [Path(began)] if isinstance(began, str) else []
        return [folder for folder in folders if folder.is_dir()]

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """What changes whenever something to be shown does: names, sizes and times of all files."""
        watched = [*self.files, *self.tables_of_the_lens(), *([self.run.metrics] if self.run else [])]
        known = [(str(path), path.stat()) for path in watched if path.exists()]
        return tuple((path, about.st_size, about.st_mtime_ns) for path, about in known)


def find_source(path: str | Path) -> Source:
    """What lies at a path.

    Raises:
        FileNotFoundError: Nothing.
        ValueError: A folder that is neither a run nor one of trajectories; says what to name.
    """
    path = Path(path)
    name = path.resolve().name
    if path.is_file():
        return Source(name, path, None, [path])
    if not path.is_dir():
        raise FileNotFoundError(f"{path.absolute()} does not exist: name a run folder, or files of trajectories")
    run = RunFolder(path)
    if run.holds_run or run.trajectories.is_dir():
        return Source(name, path, run, sorted(run.trajectories.glob("*.parquet")))
    if files := sorted(path.glob("*.parquet")):
        return Source(name, path, None, files)
    raise ValueError(
        f"{path}: neither a run folder (there is no metrics.jsonl and no trajectories/) nor a folder with .parquet "
        "files of trajectories. Name what `grpo-agents train` or `grpo-agents rollout` wrote."
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """The trajectories of one file, phase and step.

    Attributes:
        file: The file.
        phase: ``train``, ``eval`` or ``rollout``.
        step: The training step, or -1.
        groups: How many trajectories each group has, by its number.
    """

    file: Path
    phase: str
    step: int
    groups: dict[int, int]

    @property
    def size(self) -> int:
        """How many trajectories."""
        return sum(self.groups.values())


def find_batches(files: Sequence[Path]) -> list[Batch]:
    """The batches of files, evaluations first, each kind by its steps.

    Raises:
        ValueError: A file is not readable as one of trajectories.
    """
    found: list[Batch] = []
    for file in files:
        counts = Counter((row["phase"], row["run_step"], row["group"]) for row in store.read_places(file))
        batches: dict[tuple[str, int], Batch] = {}
        for (phase, step, group), count in counts.items():
            batches.setdefault((phase, step), Batch(file, phase, step, {})).groups[group] = count
        found += batches.values()
    return sorted(found, key=lambda batch: (batch.phase != "eval", batch.phase, batch.step, batch.file.name))


def choose(batches: Sequence[Batch], limit: int) -> list[Batch]:
    """At most so many trajectories, as batches with the groups that are left.

    Where not all have room, evaluations come first: they may take half of it, and what training leaves. Of each kind,
    batches at evenly spread steps are taken whole, the last one among them; where not even that has room, evenly spread
    groups of it.

    Args:
        batches: What there is, in the order of :func:`find_batches`.
        limit: The most trajectories.
    """
    evaluations = [batch for batch in batches if batch.phase == "eval"]
    others = [batch for batch in batches if batch.phase != "eval"]
    rest = sum(batch.size for batch in others)
    kept = _spread(evaluations, max(limit - limit // 2, limit - rest))
    return kept + _spread(others, limit - sum(batch.size for batch in kept))


def _spread(batches: Sequence[Batch], room: int) -> list[Batch]:
    total = sum(batch.size for batch in batches)
    count = len(batches) if total <= room else min(len(batches), room * len(batches) // max(1, total))
    for number in range(count, 0, -1):
        kept = [batches[place] for place in evenly(len(batches), number)]
        if sum(batch.size for batch in kept) <= room:
            return kept
    return [cut] if batches and (cut := _cut(batches[-1], room)).groups else []


def _cut(batch: Batch, room: int) -> Batch:
    """A batch with as many of its groups, evenly spread, as have room."""
    numbers = sorted(batch.groups)
    for count in range(min(len(numbers), room), 0, -1):
        kept = {numbers[place]: batch.groups[numbers[place]] for place in evenly(len(numbers), count)}
        if sum(kept.values()) <= room:
            return Batch(batch.file, batch.phase, batch.step, kept)
    return Batch(batch.file, batch.phase, batch.step, {})


def evenly(count: int, number: int) -> list[int]:
    """So many places of 0 … count − 1, evenly spread: the first and the last, or where it is one the last.

    >>> evenly(10, 4), evenly(10, 1)
    ([0, 3, 6, 9], [9])
    """
    return [count - 1] if number == 1 else [place * (count - 1) // (number - 1) for place in range(number)]
