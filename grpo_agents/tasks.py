"""Where tasks come from: a list, a generator function, a JSONL or Parquet file, or a Hugging Face data set.

Every source answers two questions: how many tasks there are (``len``, None where they are generated without end) and
which one is number ``i``. Nothing else is state, so a run resumes from a number.

>>> tasks = as_tasks([{"question": "1 + 1", "answer": "2"}])
>>> tasks.count, tasks[0]["question"]
(1, '1 + 1')
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import sys
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from grpo_agents.trajectory import Task

GeneratorFunction = Callable[[np.random.Generator], Task]


class Tasks(Protocol):
    """A source of tasks."""

    @property
    def count(self) -> int | None:
        """How many there are; None where there is no end."""
        ...

    def __getitem__(self, index: int) -> Task:
        """Task number ``index``; the same one every time."""
        ...


@dataclass(frozen=True)
class ListTasks:
    """Tasks held in memory."""

    rows: Sequence[Task]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Task:
        return dict(self.rows[index])


@dataclass(frozen=True)
class GeneratedTasks:
    """Tasks drawn by a function of a random generator; number ``i`` depends on the seed and ``i`` alone."""

    function: GeneratorFunction
    seed: int = 0

    @property
    def count(self) -> None:
        """They have no end."""
        return

    def __getitem__(self, index: int) -> Task:
        return self.function(np.random.default_rng([self.seed, index]))


def as_tasks(source: Any, *, seed: int = 0) -> Tasks:
    """Makes a task source of a list, a generator function, or what is one already.

    Raises:
        TypeError: Something else.
        ValueError: An empty list.
    """
    if hasattr(source, "count") and hasattr(source, "__getitem__") and not isinstance(source, list | tuple | str):
        return source
    if callable(source):
        return GeneratedTasks(source, seed)  # type: ignore[arg-type]
    if isinstance(source, Sequence) and not isinstance(source, str):
        if not source:
            raise ValueError("the list of tasks is empty")
        return ListTasks(source)
    raise TypeError(f"tasks must be a list, a generator function or a task source, not {type(source).__name__}")


def index_of(count: int, number: int, seed: int) -> int:
    """Which of ``count`` tasks comes up ``number``-th, each round going through all in a new random order."""
    round_, place = divmod(number, count)
    return int(np.random.default_rng([seed, round_]).permutation(count)[place])


def load_tasks(
    source: str,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    skip_broken: bool = False,
    seed: int = 0,
) -> Tasks:
    """Loads tasks by name.

    Args:
        source: A ``.jsonl`` or ``.parquet`` file, ``module:function`` or ``file.py:function`` (a generator function
            or a list), or else a data set of the Hugging Face hub or on disk, as ``owner/name`` or
            ``owner/name:config``.
        split: Which split of a data set.
        columns: The task's key for each column to take, as ``{"answer": "final"}``: key ← column. All columns where
            None. Not for a function.
        skip_broken: Go on past broken lines of a JSONL file, with a warning for each.
        seed: For generator functions.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A broken line, an unknown column, columns of a function, or no tasks at all; names the file and the
            line.
    """
    path = Path(source)
    if path.suffix in {".jsonl", ".ndjson"}:
        rows = read_jsonl(path, skip_broken=skip_broken)
    elif path.suffix == ".parquet":
        rows = _read_parquet(path)
    elif ":" in source and "/" not in source.rsplit(":", 1)[1] and _is_code(source):
        if columns:
            raise ValueError(
                f"{source}: tasks.columns is for files and data sets; let the function give its keys itself"
            )
        return as_tasks(load_object(source), seed=seed)
    else:
        rows = _load_dataset(source, split)
    if not rows:
        raise ValueError(f"{source}: it holds no tasks")
    if columns:
        for number, row in enumerate(rows, 1):
            if missing := [column for column in columns.values() if column not in row]:
                found = ", ".join(row)
                raise ValueError(
                    f"{source}: task {number} has no column {missing[0]!r}; it has {found}. See tasks.columns."
                )
        rows = [{key: row[column] for key, column in columns.items()} for row in rows]
    return ListTasks(rows)


def read_jsonl(path: Path, *, skip_broken: bool = False) -> list[Task]:
    """Reads one JSON object a line.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line that is no JSON object, with its number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no task file {path.absolute()}")
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"a JSON object was expected, this is a {type(row).__name__}")
            except ValueError as error:
                where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                said = error.msg if isinstance(error, json.JSONDecodeError) else error
                problem = f"{path}, line {number}{where}: {said}"
                if not skip_broken:
                    raise ValueError(f"{problem}. Mend the line, or set tasks.skip_broken = true to go on.") from None
                print(f"skipped: {problem}", file=sys.stderr)
                continue
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[Task]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FileNotFoundError(f"no task file {path.absolute()}")
    try:
        return pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from None


def _load_dataset(source: str, split: str) -> list[Task]:
    import datasets

    name, _, config = source.partition(":")
    try:
        if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            loaded: Any = datasets.load_from_disk(name)
            loaded = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            loaded = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:
        raise ValueError(
            f"tasks {source!r}: no file, and no data set of that name could be loaded (split {split!r}): {error}"
        ) from error
    return loaded.to_list()


def _is_code(source: str) -> bool:
    """True for ``file.py:name``, and for ``module:name`` where the module can be found."""
    place = source.rsplit(":", 1)[0]
    if place.endswith(".py"):
        return True
    try:
        return importlib.util.find_spec(place) is not None
    except (ImportError, ValueError):
        return False


def load_object(name: str) -> Any:
    """Loads ``module:attribute`` or ``path/to/file.py:attribute``.

    Raises:
        ValueError: No colon, no such module or file, no such attribute in it, or a file that does not run; says which
            and, of a file, the line.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(f"{name!r} should read module:name or file.py:name")
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.glob("*.py")], n=1)
            hint = f". Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name!r}: there is no file {path.absolute()}{hint}")
        module = _load_file(path.resolve())
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise ValueError(f"{name!r}: {error}") from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name!r}: {place} defines no {attribute!r}{hint}")
    return getattr(module, attribute)


def _load_file(path: Path) -> ModuleType:
    """The module of a file, run once for each version of it: every environment of a run is made through here."""
    name = f"_user_{path.stem}_{zlib.crc32(str(path).encode()):08x}_{path.stat().st_mtime_ns}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise ValueError(f"{path}, line {_line(error, path)}: {type(error).__name__}: {error}") from error
    return module


def _line(error: Exception, path: Path) -> int | None:
    """The last line of a file that an error went through."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
