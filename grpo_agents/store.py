"""Trajectories in Parquet: one row a trajectory, token for token, readable by anything that reads Parquet.

:mod:`grpo_agents.schema` lists the columns. What is read equals what was written, but for text with lone surrogates,
for which UTF-8 has no form: it comes back escaped (inside JSON text it is exact).

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     write(f"{folder}/one.parquet", [Trajectory(rewards={"outcome": 1.0})])
...     read(f"{folder}/one.parquet")[0].rewards
{'outcome': 1.0}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grpo_agents.schema import (
    SCHEMA,
    SCHEMA_VERSION,
    SCORING_KEY,
    TEXTS,
    VERSION_KEY,
    to_json,
    to_row,
    to_samples,
    to_table,
    to_trajectory,
)
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Group, Sample, Trajectory
from grpo_agents.writing import naming

ROW_GROUP = 1024
"""Rows that lie together in a file; each such group is described in its footer, which is read as a whole."""

ROWS = 256
"""Rows that are read at once: what :func:`iterate` holds in memory."""


def write(
    path: str | Path,
    what: Sequence[Group] | Sequence[Trajectory],
    *,
    step: int = -1,
    phase: str = "rollout",
    scoring: Scoring | None = None,
) -> None:
    """Writes trajectories to one file: the whole of it, or, where something goes wrong, none of it.

    A file that was there before is replaced at the very end, after the new one is safe on the disk.

    Args:
        path: The file; its folder is made where it does not exist.
        what: Groups, whose notes are kept, or trajectories.
        step: The training step they belong to, or -1.
        phase: ``train``, ``eval`` or ``rollout``.
        scoring: How they were scored; noted in the file, and what :func:`read_scoring` gives.

    Raises:
        ValueError: Something that the file could not give back as it is; names the trajectory or group.
        NotWritten: The disk is full, the folder is read-only …; names the path.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    numbers: set[int] = set()
    before: tuple[Trajectory, dict[str, Any]] | None = None
    for entry in what:
        if isinstance(entry, Group):
            notes = _check_group(entry, numbers)
            trajectories = entry.trajectories
        else:
            trajectories, notes = [entry], None
        for trajectory in trajectories:
            try:
                row = {"run_step": step, "phase": phase, "group_notes": notes, **to_row(trajectory, before)}
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"trajectory {trajectory.id} cannot be stored in {path}: {error}. "
                    "Tasks, tool schemas and messages are plain JSON; token arrays have the types of Sample."
                ) from error
            before = trajectory, row
            rows.append(row)
    try:
        table = to_table(rows)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"{path}: a value does not fit its column of grpo_agents.schema: {error}") from error
    if scoring is not None:
        table = table.replace_schema_metadata({**table.schema.metadata, SCORING_KEY: to_json(scoring.as_dict())})
    _write_whole(path, table)


def iterate(paths: str | Path | Iterable[str | Path]) -> Iterator[Trajectory]:
    """Reads trajectories one after the other, with no more than :data:`ROWS` of them in memory.

    Args:
        paths: A file, a folder (its ``*.parquet``, by name), or several of either.

    Raises:
        FileNotFoundError: No such file, or a folder without any.
        ValueError: A file that is cut off, is not ours, is of a newer version, or lacks a column.
    """
    for path in files(paths):
        for row, samples in _rows(path):
            yield to_trajectory(row, samples)


def read(paths: str | Path | Iterable[str | Path]) -> list[Trajectory]:
    """Reads all trajectories of files and folders; see :func:`iterate`."""
    return list(iterate(paths))


def read_groups(paths: str | Path | Iterable[str | Path], *, without_phase: str | None = None) -> list[Group]:
    """Reads files and folders as groups: the trajectories of one file, step and phase that have the same group number.

    Args:
        paths: As for :func:`iterate`.
        without_phase: The phase whose trajectories are left out; None reads all.

    Raises:
        ValueError: As :func:`iterate`; or trajectories of one number that differ in task or preference.
    """
    groups: dict[tuple[Any, ...], Group] = {}
    for path in files(paths):
        for row, samples in _rows(path):
            if row["phase"] == without_phase:
                continue
            trajectory = to_trajectory(row, samples)
            key = (path, row["run_step"], row["phase"], trajectory.group)
            group = groups.setdefault(
                key, Group(trajectory.task, trajectory.preference, [], json.loads(row["group_notes"] or "{}"))
            )
            if (group.task, group.preference) != (trajectory.task, trajectory.preference):
                raise ValueError(
                    f"{path}: trajectories of different tasks or preferences have the group number {trajectory.group}. "
                    "Number them by task (Trajectory.group), or read them with grpo_agents.store.read."
                )
            group.trajectories.append(trajectory)
    return list(groups.values())


def scan(
    path: str | Path, columns: Sequence[str], rows: int, *, instead: Mapping[str, Sequence[str]] | None = None
) -> Iterator[pa.RecordBatch]:
    """Reads some columns of one file, some rows at a time, without making trajectories of them.

    Args:
        path: The file.
        columns: Which; of a struct or a list of them, some fields with dots between: ``steps.tools.name``.
        rows: How many at a time, at most.
        instead: Columns to read as well where a file of an earlier version lacks another one.

    Raises:
        FileNotFoundError: No such file.
        ValueError: As :func:`iterate`, but for columns that are not asked for.
    """
    path = Path(path)
    with _open(path, needed=[name.split(".")[0] for name in columns]) as file:
        stored = {_dotted(leaf): leaf for leaf in (file.schema.column(at).path for at in range(len(file.schema)))}
        wanted = [*columns]
        for name, others in (instead or {}).items():
            wanted += [] if name in stored else others
        chosen = [leaf for name, leaf in stored.items() if any(f"{name}.".startswith(f"{one}.") for one in wanted)]
        yield from file.iter_batches(rows, columns=chosen)


def _dotted(leaf: str) -> str:
    """What a column of Parquet is called here: without what it calls the entries of a list.

    >>> _dotted("steps.list.element.tools.list.element.name")
    'steps.tools.name'
    """
    return leaf.replace(".list.element", "").replace(".list.item", "")


def read_scoring(paths: str | Path | Iterable[str | Path]) -> Scoring | None:
    """How the trajectories of files and folders were scored; None where no file says so, as old ones do not.

    Raises:
        ValueError: As :func:`iterate`; or two files that were scored differently.
    """
    found: tuple[Path, Scoring] | None = None
    for path in files(paths):
        with _open(path) as file:
            noted = (file.schema_arrow.metadata or {}).get(SCORING_KEY)
        if noted is None:
            continue
        try:
            scoring = Scoring.from_dict(json.loads(noted))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: what it says about its scoring ({SCORING_KEY.decode()}) cannot be read: {error!r}. Take the "
                "file as grpo-agents wrote it."
            ) from error
        if found is not None and found[1].as_dict() != scoring.as_dict():
            raise ValueError(
                f"{found[0]} and {path} were scored differently: their components, maxima or gates are not the same. "
                "Evaluate them one by one."
            )
        found = path, scoring
    return found[1] if found else None


def read_places(path: str | Path) -> list[dict[str, Any]]:
    """Where each trajectory of a file belongs: its ``run_step``, ``phase``, ``group`` and ``index``."""
    with _open(Path(path)) as file:
        return file.read(["run_step", "phase", "group", "index"]).to_pylist()


def _check_group(group: Group, numbers: set[int]) -> str:
    """Refuses a group that :func:`read_groups` could not put together again; returns its notes as JSON text."""
    if not group.trajectories:
        raise ValueError("a group without trajectories cannot be stored: leave it out")
    number = group.trajectories[0].group
    if number in numbers:
        raise ValueError(f"two groups are numbered {number}: set Trajectory.group to the group's place in the batch")
    numbers.add(number)
    for trajectory in group.trajectories:
        if (trajectory.group, trajectory.task, trajectory.preference) != (number, group.task, group.preference):
            raise ValueError(
                f"trajectory {trajectory.id} is in group {number}, but its number, task or preference is another's"
            )
    try:
        return to_json(group.notes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the notes of group {number} cannot be stored: {error}. They are plain JSON.") from error


def _write_whole(path: Path, table: pa.Table) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with naming(path, "trajectories not written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                pq.write_table(table, file, compression="zstd", use_dictionary=TEXTS, row_group_size=ROW_GROUP)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def files(paths: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """The files that are meant: each as it is, and of a folder its ``*.parquet``, by name.

    Raises:
        FileNotFoundError: A folder without any.
    """
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not path.is_dir():
            yield path
        elif found := sorted(path.glob("*.parquet")):
            yield from found
        else:
            runs = [str(run.parent) for run in sorted(path.glob("*/trajectories"))]
            hint = f"Name a run in it: {', '.join(runs)}" if runs else "A run keeps them under trajectories/"
            raise FileNotFoundError(f"{path}: no .parquet file in this folder. {hint}")


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], list[Sample]]]:
    """The rows of one file without their samples, and the samples."""
    with _open(path) as file:
        for batch in file.iter_batches(ROWS, columns=SCHEMA.names):
            table = pa.Table.from_batches([batch]).select(SCHEMA.names).cast(SCHEMA)
            samples = to_samples(table["samples"].combine_chunks())
            yield from zip(table.drop_columns("samples").to_pylist(), samples, strict=True)


@contextmanager
def _open(path: Path, needed: Sequence[str] = SCHEMA.names) -> Iterator[pq.ParquetFile]:
    """A trajectory file with the columns that are needed; whatever of it cannot be read is said in one way."""
    if not path.is_file():
        raise FileNotFoundError(f"no trajectory file {path.absolute()}")
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(path, file.schema_arrow, needed)
            yield file
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a readable trajectory file ({said}). It was cut off or damaged, or something else wrote it: "
            "copy it again, or leave it out."
        ) from error


def _check_schema(path: Path, schema: pa.Schema, needed: Sequence[str]) -> None:
    version = (schema.metadata or {}).get(VERSION_KEY)
    if version is None:
        raise ValueError(
            f"{path}: a Parquet file, but not of trajectories ({VERSION_KEY.decode()} is not in its metadata). "
            "Name files that grpo_agents.store.write wrote; task files go to tasks.source."
        )
    if int(version) > SCHEMA_VERSION:
        raise ValueError(
            f"{path}: its schema version is {int(version)}, this grpo-agents reads up to {SCHEMA_VERSION}. "
            "Install the grpo-agents that wrote it, or a later one."
        )
    missing = [name for name in dict.fromkeys(needed) if name not in schema.names]
    if missing:
        raise ValueError(f"{path}: it lacks the column {', '.join(missing)}. Take the file as grpo-agents wrote it.")
