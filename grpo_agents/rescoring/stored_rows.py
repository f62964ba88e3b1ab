"""Trajectories of a file whose columns are read when they are first asked for.

What looks at a few fields of many trajectories, as a reward component does, takes no longer than reading those columns:
tokens and messages that nobody asks for are not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grpo_agents.schema import DECODERS, SCHEMA, to_samples
from grpo_agents.trajectory import Group, Trajectory, Usage

_FIELDS = frozenset(field.name for field in fields(Trajectory))


@contextmanager
def open_rows(path: Path, footer: bytes) -> Iterator[pq.ParquetFile]:
    """Opens the rows of a file that a footer describes (:meth:`~grpo_agents.rescoring.footer.Footer.of_row_groups`)."""
    with pq.ParquetFile(path, metadata=pq.read_metadata(pa.BufferReader(footer))) as file:
        yield file


class StoredRows:
    """The rows of an open file, all of which a column is read for.

    Args:
        file: The file, open as long as the trajectories are used.

    Attributes:
        trajectories: A trajectory for each row.
    """

    def __init__(self, file: pq.ParquetFile):
        self._file = file
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._values: dict[str, list[Any]] = {}
        self.trajectories = [StoredTrajectory.of(self, place) for place in range(len(self))]

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def groups(self) -> list[StoredGroup]:
        """The trajectories of one step and phase that have the same group number, as groups."""
        groups: dict[tuple[Any, ...], StoredGroup] = {}
        keys = zip(*(self.column(name).to_pylist() for name in ("run_step", "phase", "group")), strict=True)
        for place, key in enumerate(keys):
            if key not in groups:
                groups[key] = StoredGroup.of(self, place)
            groups[key].trajectories.append(self.trajectories[place])
        return list(groups.values())

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as it is stored, with what its version did not have yet as null."""
        if name not in self._columns:
            table = self._file.read([name], use_threads=False).select([name])
            self._columns[name] = table.cast(pa.schema([SCHEMA.field(name)]))[name]
        return self._columns[name]

    def values(self, name: str) -> list[Any]:
        """A field of a trajectory or group, or what is derived of it: that of each row."""
        if name not in self._values:
            self._values[name] = self._read(name)
        return self._values[name]

    def _read(self, name: str) -> list[Any]:
        if name in _READERS:
            return _READERS[name](self)
        if name == "samples":
            return to_samples(self.column(name).combine_chunks())
        if name in DECODERS:
            column, decode = DECODERS[name]
            return [decode(cell) for cell in self.column(column).to_pylist()]
        return self.column(name).to_pylist()

    def _usages(self) -> list[Usage]:
        column = self.column("usage").combine_chunks()
        parts = (column.field(name).to_pylist() for name in ("calls", "dollars", "latency"))
        return [Usage(*entry) for entry in zip(*parts, strict=True)]

    def _sampled_tokens(self) -> list[int]:
        """As they are stored, or counted where the file is of a version that did not store them."""
        tokens = self.column("usage").combine_chunks().field("tokens")
        if not tokens.null_count:
            return tokens.to_pylist()
        samples = self._file.read(["samples.list.element.mask"], use_threads=False)["samples"].combine_chunks()
        masks = samples.values.field("mask")
        sampled = _sums(_sums(masks.values, masks.offsets), samples.offsets)
        steps = self.column("steps").combine_chunks()
        return (sampled + _sums(steps.values.field("tokens").fill_null(0), steps.offsets)).tolist()

    def _rewards(self) -> list[dict[str, float | None]]:
        names, values, ends = self._reward_parts("value")
        return [dict(zip(names[start:stop], values[start:stop], strict=True)) for start, stop in pairwise(ends)]

    def _missing(self) -> list[dict[str, str]]:
        names, reasons, ends = self._reward_parts("missing")
        return [
            {name: reasons[place] for place, name in enumerate(names[start:stop], start) if reasons[place] is not None}
            for start, stop in pairwise(ends)
        ]

    def _reward_parts(self, part: str) -> tuple[list[str], list[Any], list[int]]:
        """The names and a part of all rewards, one after the other, and where those of each row end."""
        column = self.column("rewards").combine_chunks()
        entries = column.values
        return entries.field("name").to_pylist(), entries.field(part).to_pylist(), column.offsets.to_pylist()

    def _notes(self) -> list[dict[str, Any]]:
        return [json.loads(text or "{}") for text in self.column("group_notes").to_pylist()]


_READERS: dict[str, Callable[[StoredRows], list[Any]]] = {
    "usage": StoredRows._usages,
    "sampled_tokens": StoredRows._sampled_tokens,
    "notes": StoredRows._notes,
    "rewards": StoredRows._rewards,
    "missing": StoredRows._missing,
}


def _sums(values: Any, offsets: pa.Array) -> np.ndarray:
    """The sum of each list."""
    numbers = values if isinstance(values, np.ndarray) else values.to_numpy(zero_copy_only=False)
    total = np.concatenate([[0], np.cumsum(numbers, dtype=np.int64)])
    return np.diff(total[offsets.to_numpy()])


class StoredTrajectory(Trajectory):
    """A trajectory whose fields are read when they are first asked for; a copy of it is a plain one."""

    __slots__ = ("_place", "_rows")

    def __new__(cls, *given: Any, **named: Any) -> Trajectory:
        """A plain one, where it is made of fields: what dataclasses.replace asks for."""
        return Trajectory(*given, **named)

    @classmethod
    def of(cls, rows: StoredRows, place: int) -> StoredTrajectory:
        """The trajectory of a row."""
        made = object.__new__(cls)
        made._rows, made._place = rows, place
        return made

    def __getattr__(self, name: str) -> Any:
        """A field that nobody has asked for yet."""
        if name not in _FIELDS:
            raise AttributeError(f"a trajectory has no {name!r}")
        value = self._rows.values(name)[self._place]
        setattr(self, name, value)
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return Trajectory, tuple(getattr(self, field.name) for field in fields(Trajectory))

    @property
    def usage(self) -> Usage:
        """What its tools cost, as it is stored."""
        return self._rows.values("usage")[self._place]

    @property
    def sampled_tokens(self) -> int:
        """|o|, as it is stored."""
        return self._rows.values("sampled_tokens")[self._place]


class StoredGroup(Group):
    """A group whose task, preference and notes are read when they are first asked for; a copy of it is a plain one."""

    __slots__ = ("_place", "_rows")

    def __new__(cls, *given: Any, **named: Any) -> Group:
        """A plain one, where it is made of fields: what dataclasses.replace asks for."""
        return Group(*given, **named)

    @classmethod
    def of(cls, rows: StoredRows, place: int) -> StoredGroup:
        """A group without trajectories yet, whose first is that of a row."""
        made = object.__new__(cls)
        made._rows, made._place, made.trajectories = rows, place, []
        return made

    def __getattr__(self, name: str) -> Any:
        """What nobody has asked for yet."""
        if name not in ("task", "preference", "notes"):
            raise AttributeError(f"a group has no {name!r}")
        value = self._rows.values(name)[self._place]
        setattr(self, name, value)
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return Group, (self.task, self.preference, self.trajectories, self.notes)
