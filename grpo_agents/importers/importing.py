"""Reads files line by line, recognises what they are, and stores what is good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grpo_agents.importers import chat_logs, own, verifiers
from grpo_agents.importers.dialogue import BadRow
from grpo_agents.rescoring.new_file import OTHER_PREFERENCE_KEY
from grpo_agents.rewards.component import RewardVector
from grpo_agents.schema import SCHEMA, SCORING_KEY, to_json, to_row, to_table
from grpo_agents.scoring import Scoring
from grpo_agents.store import ROW_GROUP
from grpo_agents.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write trajectories.

    Attributes:
        said: What it is called, for people.
        fits: Whether a line looks like one of it.
        read: The trajectories of a line, each with an id that no other has, from it and from what lies beside its file.
    """

    said: str
    fits: Callable[[Any], bool]
    read: Callable[[Any, Mapping[str, Any]], Iterator[tuple[Trajectory, str | None]]]


FORMATS = {
    "own": Format(own.NAME, own.fits, own.read),
    "verifiers-traces": Format(verifiers.TRACES, verifiers.fits_traces, verifiers.read_traces),
    "verifiers": Format(verifiers.NAME, verifiers.fits, verifiers.read),
    "openai": Format(chat_logs.NAME, chat_logs.fits, chat_logs.read),
}
"""The formats by the names that a person gives them, in the order in which they are tried."""

FOLDER_FILES = ("traces.jsonl", "results.jsonl")
"""What is read of a folder."""

PARQUET = b"PAR1"
"""What a Parquet file begins with."""


@dataclass(slots=True)
class Imported:
    """What an import did.

    Attributes:
        trajectories: How many were stored.
        groups: Of how many tasks they are, as far as the files say; 0 where they are our own.
        formats: What each file was taken for.
        bad: What was left out: the file, the line, what is wrong and what to do.
    """

    trajectories: int = 0
    groups: int = 0
    formats: dict[Path, str] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


def import_files(paths: Iterable[str | Path], out: str | Path, form: str | None = None) -> Imported:
    """Stores the trajectories of files that others wrote, in Parquet; what cannot be read is left out, and said.

    Args:
        paths: The files, or folders in which verifiers saved results.
        out: The new file. It is not made where nothing is good.
        form: A name of :data:`FORMATS`; recognised where None.

    Raises:
        FileNotFoundError: No such file.
        FileExistsError: The new file is there already.
        ValueError: No such format, or a file that is Parquet.
    """
    out = Path(out)
    if form is not None and form not in FORMATS:
        raise ValueError(f"unknown format {form!r}. There are: {', '.join(FORMATS)}")
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or choose another --out")
    files = [_file(Path(path)) for path in paths]
    result = Imported()
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = _Writer(out.with_name(f".{out.name}.{os.getpid()}.unfinished"), result)
    try:
        for file in files:
            _read_file(file, form, writer, result)
        writer.close()
        if result.trajectories:
            writer.path.replace(out)
    finally:
        writer.path.unlink(missing_ok=True)
    return result


def _file(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: neither {' nor '.join(FOLDER_FILES)} in this folder; name the file")
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.absolute()}")
    with path.open("rb") as file:
        if file.read(len(PARQUET)) == PARQUET:
            raise ValueError(
                f"{path} is Parquet, and an import reads lines of JSON. If it holds trajectories, every command takes "
                "it as it is"
            )
    return path


def _read_file(path: Path, form: str | None, writer: _Writer, result: Imported) -> None:
    reader = None if form is None else FORMATS[form]
    about = _beside(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            try:
                row = _parse(line)
                reader = reader or _recognise(row)
                made = list(reader.read(row, about))
                writer.check(made, row, place)
                for trajectory, _ in made:
                    writer.add(trajectory, row if reader is FORMATS["own"] else None, place)
            except BadRow as error:
                result.bad.append(f"{place}: {error}")
            except (AttributeError, KeyError, TypeError, ValueError) as error:  # some part of it is of another kind
                assert reader is not None
                result.bad.append(
                    f"{place}: it is not in the form of {reader.said} ({type(error).__name__}: {error}): mend it, or "
                    "name another with --format"
                )
    if reader is not None:
        result.formats[path] = reader.said


def _beside(path: Path) -> dict[str, Any]:
    """What verifiers writes beside its results: the environment, the model."""
    file = path.with_name("metadata.json")
    try:
        about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file}: no JSON ({error}): mend it, or move it elsewhere") from None
    return about if isinstance(about, dict) else {}


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise BadRow(f"no JSON ({error}): mend the line; a file has one value a line") from None
    except RecursionError:
        raise BadRow("it is nested too deeply to be read") from None


def _recognise(row: Any) -> Format:
    for known in FORMATS.values():
        if known.fits(row):
            return known
    held = f"an object with {', '.join(map(str, row)) or 'nothing in it'}" if isinstance(row, dict) else "no object"
    raise BadRow(
        f"{held} is of no format that is known. A log has messages, results of verifiers have prompt and completion; "
        f"--format names one: {', '.join(FORMATS)}"
    )


class _Writer:
    """Writes trajectories as they come; each is of its line, which is named where it cannot be stored.

    Args:
        path: The file.
        result: Is told what is stored, and what is not.
    """

    def __init__(self, path: Path, result: Imported):
        self.path = path
        self.result = result
        self._file: pq.ParquetWriter | None = None
        self._rows: list[tuple[str, dict[str, Any]]] = []
        self._places: dict[str, str] = {}  # where each id was
        self._groups: dict[tuple[str, str], list[int]] = {}  # number and count of each task's
        self._before: tuple[Trajectory, dict[str, Any]] | None = None
        self._scoring: dict[str, Any] | None = None
        self._scored = self._other_preference = False

    def check(self, made: list[tuple[Trajectory, str | None]], row: Any, place: str) -> None:
        """Refuses a line with the id of another, or that was scored otherwise than those before.

        Raises:
            BadRow: It is one.
        """
        for _, identity in made:
            if identity is not None and (before := self._places.get(identity)):
                raise BadRow(f"it has the id of {before}: leave one of them out, or give it an id of its own")
        scoring = row["scoring"] if isinstance(row, dict) and own.fits(row) and "scoring" in row else _scoring(made)
        if self._scored and self._scoring != scoring and isinstance(row, dict) and own.fits(row):
            raise BadRow("it was scored otherwise than the lines before it: import it into a file of its own")
        if not self._scored:
            self._scored, self._scoring = True, scoring
        self._places.update((identity, place) for _, identity in made if identity is not None)

    def add(self, trajectory: Trajectory, row: Mapping[str, Any] | None, place: str) -> None:
        """Stores a trajectory.

        Args:
            trajectory: The trajectory.
            row: Its line, where that says where it belongs; else it is numbered by its task.
            place: Where the line is.

        Raises:
            BadRow: It is not to be stored.
        """
        if row is None:
            task = trajectory.env, json.dumps(trajectory.task, sort_keys=True)
            group = self._groups.setdefault(task, [len(self._groups), 0])
            trajectory.group, trajectory.index = group
            group[1] += 1
        row = row or {}
        notes = row.get("group_notes")
        place_of = {
            "run_step": row.get("run_step", -1),
            "phase": row.get("phase", "rollout"),
            "group_notes": None if notes is None else to_json(notes),
        }
        self._other_preference |= bool(row.get("other_preference"))
        try:
            written = {**place_of, **to_row(trajectory, self._before)}
        except (TypeError, ValueError, AttributeError) as error:
            raise BadRow(f"it cannot be stored: {error}") from error
        self._before = trajectory, written
        self._rows.append((place, written))
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what is left."""
        self._flush()
        self.result.groups = len(self._groups)
        if self._file is not None:
            if self._other_preference:
                self._file.add_key_value_metadata({OTHER_PREFERENCE_KEY: b"true"})
            self._file.close()

    def _flush(self) -> None:
        try:
            table = to_table([row for _, row in self._rows])
        except (pa.ArrowException, OverflowError, TypeError):
            table = to_table(self._storable())
        self._rows = []
        if not len(table):
            return
        if self._file is None:
            metadata = dict(SCHEMA.metadata)
            if self._scoring is not None:
                metadata[SCORING_KEY] = to_json(self._scoring).encode()
            self._file = pq.ParquetWriter(self.path, SCHEMA.with_metadata(metadata), compression="zstd")
        self._file.write_table(table.replace_schema_metadata(self._file.schema.metadata), ROW_GROUP)
        self.result.trajectories += len(table)

    def _storable(self) -> list[dict[str, Any]]:
        """The rows that fit their columns; the others are said."""
        good = []
        for place, row in self._rows:
            try:
                to_table([row])
                good.append(row)
            except (pa.ArrowException, OverflowError, TypeError) as error:
                self.result.bad.append(f"{place}: a value does not fit its column of grpo_agents.schema: {error}")
        return good


def _scoring(made: list[tuple[Trajectory, str | None]]) -> dict[str, Any] | None:
    """How a log scores: by what it calls the reward, of which more is better; of other numbers nobody says it."""
    names = [name for name in ("reward", "score") if made and name in made[0][0].rewards]
    return Scoring(RewardVector(names[:1]), {}).as_dict() if names else None
