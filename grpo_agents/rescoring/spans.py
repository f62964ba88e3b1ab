"""Spans of rows, each scored by itself, in this process or in others: its values go to a small file of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grpo_agents.rescoring.components import read_vector, score_anew
from grpo_agents.rescoring.footer import Footer, RowGroup
from grpo_agents.rescoring.stored_rows import StoredRows, open_rows
from grpo_agents.rewards import as_vector
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.schema import to_json
from grpo_agents.trajectory import Group, Trajectory

ROWS = 4096
"""Rows, at the least, that are scored together."""

FOUND_KEY = b"grpo_agents.found"
"""Where the file of a span says what there is to tell of it: ``missing`` (by component: how many, the row of the first
in its file, the reason) and ``other_preference``."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """What is done to every trajectory.

    Attributes:
        vector: The components to compute, or their name; None computes nothing.
        given: Components that need no function, for a name.
        preference: What every trajectory is to be weighed by; None leaves each its own.
    """

    vector: str | RewardVector | None
    given: Mapping[str, Component]
    preference: Mapping[str, float] | None

    def components(self) -> Sequence[Component]:
        """The components to compute."""
        if isinstance(self.vector, str):
            return read_vector(self.vector, self.given, f"--reward {self.vector}")
        return () if self.vector is None else as_vector(self.vector, self.given, "the vector")

    def score(self, rows: StoredRows) -> None:
        """Gives trajectories their new rewards."""
        if vector := self.components():
            groups = rows.groups()
            if any(entry.per == "group" for entry in vector):
                for group in groups:
                    _check_same(group)
            score_anew(RewardVector(vector), groups)


@dataclass(frozen=True, slots=True)
class Span:
    """Some row groups of a file, one after the other.

    Attributes:
        footer: Of the file.
        groups: The row groups.
        first: The number of their first row in the file.
        part: The file for their values.
    """

    footer: Footer
    groups: Sequence[RowGroup]
    first: int
    part: Path

    @property
    def rows(self) -> int:
        """How many trajectories."""
        return sum(group.rows for group in self.groups)


def spans_of(footer: Footer, parts: Path, *, whole_groups: bool) -> Iterator[Span]:
    """Cuts a file into spans of about :data:`ROWS` trajectories.

    Args:
        footer: Of the file.
        parts: What the names of the files for their values begin with.
        whole_groups: Whether no group of trajectories may be cut apart.
    """
    ends = np.cumsum([group.rows for group in footer.row_groups])
    cuts = _between_groups(footer, ends) if whole_groups else np.ones(len(ends), bool)
    start = first = 0
    for place, (end, cut) in enumerate(zip(ends.tolist(), cuts, strict=True)):
        if (end - first >= ROWS and cut) or place == len(ends) - 1:
            part = parts.with_name(f"{parts.name}-{place:06d}.parquet")
            yield Span(footer, footer.row_groups[start : place + 1], first, part)
            start, first = place + 1, end


def score_spans(scorer: Scorer, spans: Sequence[Span], workers: int) -> Iterator[int]:
    """Scores spans, in any order, and says of each that is done how many trajectories it has.

    Args:
        scorer: Scores them.
        spans: The spans.
        workers: How many processes; 1 is this one.

    Raises:
        ValueError: As the first span that cannot be scored raises it.
        ChildProcessError: A process was killed.
    """
    workers = min(workers, len(spans))
    if workers <= 1:
        for span in spans:
            _score(scorer, span.footer.path, span.footer.of_row_groups(span.groups), span.first, span.part)
            yield span.rows
        return
    context = multiprocessing.get_context("spawn")  # a fork would take over locks that threads of Arrow's hold
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker)
    waiting: dict[Future[None], int] = {}
    try:
        for span in spans:
            footer = span.footer.of_row_groups(span.groups)
            job = pool.submit(_score, scorer, span.footer.path, footer, span.first, span.part)
            waiting[job] = span.rows
            if len(waiting) > 2 * workers:
                yield from _take_done(waiting)
        while waiting:
            yield from _take_done(waiting)
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that computed rewards was killed, for want of memory perhaps. What is computed is kept: the "
            "same command goes on with it, also with fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _take_done(waiting: dict[Future[None], int]) -> Iterator[int]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for job in done:
        job.result()
        yield waiting.pop(job)


def _begin_worker() -> None:
    """In a new process: Ctrl-C is the parent's affair, and without the parent there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _score(scorer: Scorer, path: Path, footer: bytes, first: int, part: Path) -> None:
    """Scores the trajectories that a footer describes, and writes their values."""
    with open_rows(path, footer) as file:
        rows = StoredRows(file)
        scorer.score(rows)
        names = [entry.name for entry in scorer.components()]
        found: dict[str, Any] = {"missing": _missing(rows.trajectories, names, first), "other_preference": False}
        columns = {}
        if names:
            columns["rewards"] = _rewards_column(rows.trajectories, file.schema_arrow.field("rewards").type)
        if scorer.preference is not None:
            found["other_preference"] = any(entry != scorer.preference for entry in rows.values("preference"))
            entries = [{"name": name, "weight": float(weight)} for name, weight in scorer.preference.items()]
            columns["preference"] = pa.array([entries] * len(rows), file.schema_arrow.field("preference").type)
        schema = pa.schema([file.schema_arrow.field(name) for name in columns], {FOUND_KEY: to_json(found)})
        table = pa.table(columns, schema)
        unfinished = part.with_suffix(f".{os.getpid()}")
        with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            at = 0
            for place in range(file.num_row_groups):
                count = file.metadata.row_group(place).num_rows
                writer.write_table(table.slice(at, count), row_group_size=max(count, 1))
                at += count
    unfinished.replace(part)


def _missing(trajectories: Sequence[Trajectory], names: Sequence[str], first: int) -> dict[str, list[Any]]:
    """By component: how many trajectories have none, the row of the first of them, and why."""
    found: dict[str, list[Any]] = {}
    for row, trajectory in enumerate(trajectories, first):
        for name in names:
            if trajectory.rewards[name] is None:
                entry = found.setdefault(name, [0, row, trajectory.missing.get(name, "no reason given")])
                entry[0] += 1
    return found


def _rewards_column(trajectories: Sequence[Trajectory], kind: pa.ListType) -> pa.Array:
    names, values, reasons, ends = [], [], [], [0]
    for trajectory in trajectories:
        rewards, missing = trajectory.rewards, trajectory.missing
        names += rewards
        values += rewards.values()
        reasons += map(missing.get, rewards) if missing else [None] * len(rewards)
        ends.append(len(names))
    entries = [
        pa.array(part, field.type) for part, field in zip((names, values, reasons), kind.value_type, strict=True)
    ]
    structs = pa.StructArray.from_arrays(entries, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=kind)


def _check_same(group: Group) -> None:
    for trajectory in group.trajectories:
        if (trajectory.task, trajectory.preference) != (group.task, group.preference):
            raise ValueError(
                "trajectories of different tasks or preferences have the group number "
                f"{trajectory.group}, and a component looks at whole groups. Number them by task (Trajectory.group)."
            )


def _between_groups(footer: Footer, ends: np.ndarray) -> np.ndarray:
    """Of each row group, whether no group of trajectories goes on after it, (row groups,)."""
    keys: dict[tuple[Any, ...], int] = {}
    last = np.zeros(int(ends[-1]) if len(ends) else 0, np.int64)  # of each row, the last one of its group
    numbers = []
    for group in footer.row_groups:
        with open_rows(footer.path, footer.of_row_groups([group])) as file:
            columns = file.read(["run_step", "phase", "group"], use_threads=False)
            rows = zip(*(column.to_pylist() for column in columns.columns), strict=True)
            numbers += [keys.setdefault(key, len(keys)) for key in rows]
    number = np.array(numbers, np.int64)
    latest = np.zeros(len(keys), np.int64)
    np.maximum.at(latest, number, np.arange(len(number)))
    last = np.maximum.accumulate(latest[number])
    return last[ends - 1] < ends
