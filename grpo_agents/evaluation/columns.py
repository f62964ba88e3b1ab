"""From the rows of a trajectory file to columns of numbers, batch by batch.

See :mod:`grpo_agents.evaluation.episodes`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from grpo_agents.rewards.math_answer import extract
from grpo_agents.trajectory import Task

NONE = -1
"""The code of what is not there."""

COLUMNS = (
    *("run_step", "phase", "group", "index", "env", "task", "preference", "tools", "stop_reason", "error", "seconds"),
    *(
        "steps.message.content",
        "steps.tools.name",
        "steps.tools.called",
        "steps.tools.error",
        "samples.shared",
        "rewards",
        "usage",
    ),
)
"""What is read of a file."""

UNCOUNTED = ("steps.tokens", "samples.mask")
"""What is read as well of a file without ``usage.tokens``, to count them."""


@dataclass(slots=True)
class Coded:
    """A column of few different values.

    Attributes:
        codes: Of each entry, which of the values it is, or :data:`NONE`; (entries,), int32.
        values: The different values.
    """

    codes: np.ndarray
    values: list[Any]

    def __getitem__(self, chosen: np.ndarray) -> Coded:
        return Coded(self.codes[chosen], self.values)

    def counts(self) -> dict[Any, int]:
        """How many entries have each value, the commonest first."""
        counted = np.bincount(self.codes[self.codes != NONE], minlength=len(self.values))
        return {self.values[at]: int(counted[at]) for at in np.argsort(-counted, kind="stable") if counted[at]}


class _Growing:
    """An array that grows at its end: what many small ones would leave scattered in memory lies in one piece."""

    def __init__(self, dtype: Any):
        self.size = 0
        self._room = np.empty(1024, dtype)

    def add(self, values: np.ndarray) -> None:
        """Adds entries."""
        self.fill(len(values), values)

    def fill(self, count: int, value: Any) -> None:
        """Adds as many entries of one value."""
        if self.size + count > len(self._room):
            larger = np.empty(max(2 * len(self._room), self.size + count), self._room.dtype)
            larger[: self.size] = self._room[: self.size]
            self._room = larger
        self._room[self.size : self.size + count] = value
        self.size += count

    def whole(self) -> np.ndarray:
        """All of it, (entries,)."""
        return self._room[: self.size]


class Collected:
    """Columns that grow batch by batch."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: dict[str, int] = defaultdict(int)  # of each file, so far
        self._columns = {name: _Growing(dtype) for name, dtype in _PLAIN.items()}
        self._columns |= {name: _Growing(np.int32) for name in _CODED}
        self._books: dict[str, dict[Any, int]] = defaultdict(dict)  # of a coded column, the code of each value
        self._tasks: dict[tuple[str, str], int] = {}  # codes by environment and JSON text
        self._posed: dict[int, str] = {}
        self._rewards: dict[str, _Growing] = {}
        self._missing: dict[str, _Growing] = {}

    def add(self, file: str, batch: pa.RecordBatch) -> None:
        """The next rows of a file, with the columns of :data:`COLUMNS`."""
        count, start = len(batch), self._rows[file]
        self._rows[file] += count
        self._add("file", np.full(count, self._code("file", file), np.int32))
        self._add("row", np.arange(start, start + count))
        self._add("step", _numbers(batch["run_step"], np.int64))
        self._add("group", _numbers(batch["group"], np.int64))
        self._add("index", _numbers(batch["index"], np.int64))
        self._add("seconds", _numbers(batch["seconds"], np.float64))
        for name in ("phase", "stop_reason", "error"):
            self._add(name, self._codes(name, batch[name]))
        self._add("offered", self._codes("offered", batch["tools"], _names))
        self._add("task", self._task_codes(batch["env"], batch["task"]))
        self._add("preference", self._preference_codes(batch["preference"]))
        self._add_steps(batch)
        self._add_usage(batch)
        self._add_rewards(batch["rewards"])
        self.count += count

    def finish(self) -> dict[str, Any]:
        """The columns by name."""
        columns: dict[str, Any] = {name: self._columns[name].whole() for name in _PLAIN}
        columns |= {name: Coded(self._columns[name].whole(), list(self._books[name])) for name in _CODED}
        reasons = list(self._books["missing"])
        return columns | {
            "posed": [self._posed[code] for code in range(len(self._books["task"]))],
            "rewards": {name: values.whole() for name, values in self._rewards.items()},
            "missing": {name: Coded(codes.whole(), reasons) for name, codes in self._missing.items()},
        }

    def _add(self, name: str, values: np.ndarray) -> None:
        self._columns[name].add(values)

    def _code(self, name: str, value: Any) -> int:
        book = self._books[name]
        return book.setdefault(value, len(book))

    def _codes(self, name: str, texts: pa.Array, meaning: Callable[[str], Any] = str) -> np.ndarray:
        """Of each text the code of what it means; :data:`NONE` of null."""
        codes, values = _encoded(texts)
        return np.array([*(self._code(name, meaning(value)) for value in values), NONE], np.int32)[codes]

    def _task_codes(self, envs: pa.Array, texts: pa.Array) -> np.ndarray:
        env_codes, env_names = _encoded(envs)
        text_codes, tasks = _encoded(texts)
        pairs, places = np.unique(np.stack([env_codes, text_codes]), axis=1, return_inverse=True)
        known = [
            NONE if NONE in pair else self._task_code(env_names[pair[0]], tasks[pair[1]]) for pair in pairs.T.tolist()
        ]
        return np.array(known, np.int32)[places.ravel()]

    def _task_code(self, env: str, text: str) -> int:
        if (env, text) not in self._tasks:
            try:
                code = self._code("task", task_key(env, json.loads(text)))
                self._posed.setdefault(code, text)
            except (ValueError, AttributeError):  # no JSON, or no object
                code = NONE
            self._tasks[env, text] = code
        return self._tasks[env, text]

    def _preference_codes(self, column: pa.ListArray) -> np.ndarray:
        lengths, entries = _lists(column)
        names, weights = _field(entries, "name").to_pylist(), _field(entries, "weight").to_pylist()
        codes = np.empty(len(lengths), np.int32)
        start = 0
        for row, length in enumerate(lengths.tolist()):
            stop = start + length
            codes[row] = self._code("preference", tuple(zip(names[start:stop], weights[start:stop], strict=True)))
            start = stop
        return codes

    def _add_steps(self, batch: pa.RecordBatch) -> None:
        """Turns, calls and answers; and whether there are tokens to train."""
        turns, steps = _lists(batch["steps"])
        samples, _ = _lists(batch["samples"])
        self._add("turns", turns)
        self._add("trainable", (samples > 0) | (turns == 0))
        last = _field(steps, "message", "content").take(pa.array(np.cumsum(turns)[turns > 0] - 1))
        codes, texts = _encoded(last)
        said = np.array([*(hash(answer_of(text)) for text in texts), hash("")], np.int64)
        answers = np.full(len(turns), hash(""), np.int64)
        answers[turns > 0] = said[codes]
        self._add("answer", answers)
        calls, runs = _lists(_field(steps, "tools"))
        episodes = np.repeat(np.arange(self.count, self.count + len(turns)), turns)  # (steps,)
        self._add("call_of", np.repeat(episodes, calls))
        self._add("tool", self._codes("tool", _field(runs, "name")))
        known = runs.type.get_field_index("called") >= 0  # versions before 5 had none
        called = _field(runs, "called") if known else pa.nulls(len(runs), pa.string())
        self._add("called", self._codes("called", called))
        self._add("failed", _field(runs, "error").is_valid().to_numpy(zero_copy_only=False))

    def _add_usage(self, batch: pa.RecordBatch) -> None:
        usage = batch["usage"]
        for name, dtype in {"dollars": np.float64, "latency": np.float64, "calls": np.int64}.items():
            self._add(name, _numbers(_field(usage, name), dtype))
        if usage.type.get_field_index("tokens") >= 0:
            self._add("tokens", _numbers(_field(usage, "tokens"), np.int64))
        else:
            self._add("tokens", _count_tokens(batch))

    def _add_rewards(self, column: pa.ListArray) -> None:
        lengths, entries = _lists(column)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        codes, names = _encoded(_field(entries, "name"))
        given, reasons = _field(entries, "value"), _field(entries, "missing")
        values = _numbers(given, np.float64)
        said = self._codes("missing", reasons)
        infinite = ~np.isfinite(values) & given.is_valid().to_numpy(zero_copy_only=False)
        for place in np.flatnonzero(infinite):
            said[place] = self._code("missing", f"stored as {values[place]}, which is no finite number")
        values[infinite] = np.nan
        for name in names:
            if name not in self._rewards:
                self._rewards[name], self._missing[name] = _Growing(np.float64), _Growing(np.int32)
        for name in self._rewards:
            chosen = codes == names.index(name) if name in names else np.zeros(len(codes), bool)
            known, why = np.full(len(lengths), np.nan), np.full(len(lengths), NONE, np.int32)
            known[rows[chosen]], why[rows[chosen]] = values[chosen], said[chosen]
            before = self.count - self._rewards[name].size  # episodes without such a reward, before the first with it
            self._rewards[name].fill(before, np.nan)
            self._missing[name].fill(before, NONE)
            self._rewards[name].add(known)
            self._missing[name].add(why)


_CODED = ("file", "phase", "task", "preference", "stop_reason", "error", "offered", "tool", "called")
_PLAIN = {
    **dict.fromkeys(("row", "step", "group", "index", "turns", "tokens", "calls", "answer", "call_of"), np.int64),
    **dict.fromkeys(("seconds", "dollars", "latency"), np.float64),
    **dict.fromkeys(("trainable", "failed"), np.bool_),
}


def task_key(env: str, task: Task) -> tuple[str, str]:
    """What tells a task from others: its environment and its ``id``, or where it has none all of it as JSON text."""
    name = task.get("id")
    return env, json.dumps(task if name is None else name, sort_keys=True)


def answer_of(text: str) -> str:
    r"""The answer in a last message: what is in its ``\boxed{}``, or else all of it, with single spaces.

    >>> answer_of(r"It is \boxed{42}."), answer_of("  forty   two ")
    ('42', 'forty two')
    """
    found = extract(text) if "boxed" in text else None
    return " ".join((text if found is None else found).split())


def _names(tools: str) -> tuple[str, ...]:
    """The names in the tool schemas of an episode."""
    return tuple(schema["function"]["name"] for schema in json.loads(tools))


def _encoded(texts: pa.Array) -> tuple[np.ndarray, list[str]]:
    """Of each text the place of its value, −1 of null; and the different values."""
    encoded = texts.dictionary_encode()
    return encoded.indices.fill_null(NONE).to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def _lists(column: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
    """How long each list is, and all of their entries."""
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64), column.flatten()


def _field(structs: pa.StructArray, *path: str) -> pa.Array:
    for name in path:
        structs = structs.flatten()[structs.type.get_field_index(name)]
    return structs


def _numbers(column: pa.Array, dtype: Any) -> np.ndarray:
    """Numbers of a column; null is NaN where it can be, else 0."""
    if dtype is not np.float64:
        column = column.fill_null(0)
    return np.array(column.to_numpy(zero_copy_only=False), dtype)


def _count_tokens(batch: pa.RecordBatch) -> np.ndarray:
    """The policy's tokens of each episode, (rows,), of a file that does not say them."""
    lengths, samples = _lists(batch["samples"])
    sizes, masks = _lists(_field(samples, "mask"))
    rows = np.repeat(np.repeat(np.arange(len(batch)), lengths), sizes)
    counted = np.bincount(rows[masks.to_numpy(zero_copy_only=False)], minlength=len(batch))
    turns, steps = _lists(batch["steps"])
    if steps.type.get_field_index("tokens") >= 0:  # version 1 had none
        told = np.repeat(np.arange(len(batch)), turns)
        counted = counted + np.bincount(told, _numbers(_field(steps, "tokens"), np.int64), minlength=len(batch))
    return counted.astype(np.int64)
