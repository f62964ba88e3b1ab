"""Writes stored trajectories with other rewards or under another preference to a new file.

The values are computed span by span, by several processes where that is wanted, and those of each span are kept in a
small file beside the new one until they are all there. Then it is put together from the bytes of the old files and
those values: nothing else is decoded or encoded again.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

import grpo_agents
from grpo_agents import store
from grpo_agents.rescoring.components import given_by
from grpo_agents.rescoring.footer import MAGIC, Footer
from grpo_agents.rescoring.spans import FOUND_KEY, ROWS, Scorer, Span, score_spans, spans_of
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.rewards.preference import check_weights
from grpo_agents.schema import SCORING_KEY, to_json
from grpo_agents.scoring import Scoring

OTHER_PREFERENCE_KEY = b"grpo_agents.other_preference"
"""Where a file's metadata says that its preferences are not those that the policy was shown."""

PLAN = "plan.json"
"""In the folder for the values: what tells this rescoring from another."""

ARROW_KEY = b"ARROW:schema"
"""Where Arrow keeps its own schema."""


@dataclass(slots=True)
class Missing:
    """What of a component could not be computed.

    Attributes:
        count: Of how many trajectories.
        file: The file of the first of them.
        row: Its row there, counted from 0.
        reason: Why.
    """

    count: int
    file: Path
    row: int
    reason: str


@dataclass(slots=True)
class Rescored:
    """What a rescoring did.

    Attributes:
        trajectories: How many there are.
        resumed: How many of them an earlier attempt had done.
        computed: The components that were computed.
        replaced: Those of them that the files had already.
        missing: What could not be computed, by component.
        other_preference: Whether the preferences in the new file are not those that the policy was shown.
    """

    trajectories: int
    resumed: int = 0
    computed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    missing: dict[str, Missing] = field(default_factory=dict)
    other_preference: bool = False


def rescore(
    paths: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    vector: str | RewardVector | None = None,
    preference: Mapping[str, float] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Rescored:
    """Writes trajectories with other rewards, or under another preference, to a new file; the files read stay.

    A component that is stored already is replaced in the new file; one without a function is taken as it is stored.
    Killed at any time, it goes on where it was when it is called again, and ends with the same file.

    Args:
        paths: Files of trajectories, or folders of them.
        out: The new file.
        vector: What to compute: names with commas between them, ``module:vector`` or ``file.py:vector``; or the vector
            itself, for one process, since functions cannot be sent to others.
        preference: What every trajectory is weighed by in the new file, in place of its own.
        workers: How many processes compute; 1 is this one.
        progress: Told how many trajectories are done, and of how many.

    Raises:
        FileNotFoundError: No such file to read.
        FileExistsError: The new file is there already.
        ValueError: A file that cannot be read, an unknown component, or what another rescoring left beside the new
            file.
        ChildProcessError: A process that computed was killed.
    """
    files, out = list({path.resolve(): path for path in store.files(paths)}.values()), Path(out)
    if vector is None and preference is None:
        raise ValueError("there is nothing to do: name rewards to compute, or another preference")
    if workers > 1 and isinstance(vector, RewardVector):
        raise ValueError(f"a vector cannot be sent to {workers} processes: give its name, or workers = 1")
    if out.resolve() in [path.resolve() for path in files]:
        raise ValueError(f"{out} is one of the files that are read, and they stay as they are: choose another file")
    scoring = store.read_scoring(files)
    scorer, stored = _prepare(files, scoring, vector, preference)
    components = scorer.components()
    folder = out.with_name(f".{out.name}.rescoring")
    plan = _plan(files, scorer)
    _check_begun(out, folder, plan)
    footers = [Footer(path) for path in files]
    _check_columns(footers)
    _check_places(files)
    whole_groups = any(entry.per == "group" for entry in components)
    spans = [
        span
        for number, footer in enumerate(footers)
        for span in spans_of(footer, folder / f"{number:04d}", whole_groups=whole_groups)
    ]
    total = sum(span.rows for span in spans)
    if not total:
        raise ValueError(f"there are no trajectories in {', '.join(map(str, files))}")
    _begin(folder, plan)
    lacking = [span for span in spans if not span.part.exists()]
    done = resumed = total - sum(span.rows for span in lacking)
    for count in score_spans(scorer, lacking, workers):
        done += count
        if progress is not None:
            progress(done, total)
    computed = tuple(entry.name for entry in components if entry.function is not None or entry.name not in stored)
    result = Rescored(total, resumed, computed, tuple(name for name in computed if name in stored))
    notes: dict[bytes, bytes] = {}
    if scoring is not None:
        notes[SCORING_KEY] = to_json(_merged(scoring, components).as_dict()).encode()
    result.other_preference = _gather(spans, result.missing) or any(
        OTHER_PREFERENCE_KEY in footer.notes for footer in footers
    )
    if result.other_preference:
        notes[OTHER_PREFERENCE_KEY] = b"true"
    _assemble(out, folder / "whole", footers, spans, _with_notes(footers[0].notes, notes))
    for part in folder.glob("*.parquet"):
        part.unlink()
    shutil.rmtree(folder)  # with the plan, without which the new file would be a stranger's
    return result


def files_of_other_preference(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Those of the files whose preferences are not what the policy was shown."""
    return [path for path in store.files(paths) if OTHER_PREFERENCE_KEY in pq.read_metadata(path).metadata]


def _prepare(
    paths: Sequence[Path],
    scoring: Scoring | None,
    vector: str | RewardVector | None,
    preference: Mapping[str, float] | None,
) -> tuple[Scorer, list[str]]:
    """What is to be done to every trajectory, and the names of the components that are stored.

    Raises:
        ValueError: An unknown component, a preference for one or one that weighs nothing, or a component that asks for
            what is not here, such as a model.
    """
    if scoring is None:
        stored, given = _scan_names(paths)
        scorer = Scorer(vector, given_by(None, given), preference)
        components = scorer.components()
    else:
        stored = list(scoring.vector.names)
        scorer = Scorer(vector, given_by(scoring), preference)
        try:
            components = scorer.components()
        except ValueError:  # a component that the environment gave and nobody counted is in the steps alone
            stored, given = _scan_names(paths)
            scorer = Scorer(vector, given_by(scoring, given), preference)
            components = scorer.components()
    if computed := [entry for entry in components if entry.function is not None]:
        RewardVector(computed).score([])
    if preference is not None:
        check_weights(preference)
        RewardVector(dict.fromkeys([*stored, *(entry.name for entry in components)])).check_preference(preference)
    return scorer, stored


def _scan_names(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The names of the components that are stored, and of those that the environments gave."""
    stored: dict[str, None] = {}
    given: dict[str, None] = {}
    for path in paths:
        for batch in store.scan(path, ["rewards.name", "steps.rewards.name"], ROWS):
            stored |= dict.fromkeys(batch["rewards"].values.field("name").unique().to_pylist())
            steps = batch["steps"].values.field("rewards")
            given |= dict.fromkeys(steps.values.field("name").unique().to_pylist())
    return list(stored), list(given)


def _merged(scoring: Scoring, components: Sequence[Component]) -> Scoring:
    """The scoring of the new file: with components that are new, or have another direction or unit."""
    entries = {entry.name: entry for entry in scoring.vector} | {entry.name: entry for entry in components}
    watched = tuple(entry for entry in scoring.watched if entry.name not in entries)
    return replace(scoring, vector=RewardVector(entries.values()), watched=watched)


def _plan(paths: Sequence[Path], scorer: Scorer) -> dict[str, Any]:
    """What tells a rescoring from another: the files, the components with their code, the preference."""
    components = scorer.components()
    code = {source for entry in components if (source := _source(entry.function))}
    if isinstance(scorer.vector, str) and ":" in scorer.vector:
        names = [name.strip().rpartition(":")[0] for name in scorer.vector.split(",") if ":" in name]
        code |= {name if name.endswith(".py") else str(sys.modules[name].__file__) for name in names}
    files = {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    return {
        "the files": files,
        "the rewards": [[entry.name, entry.per, entry.direction, entry.unit, entry.worst] for entry in components],
        "their code": {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(code)},
        "the preference": None if scorer.preference is None else dict(scorer.preference),
        "the version": [grpo_agents.__version__, ROWS],
    }


def _source(function: Callable[..., Any] | None) -> str | None:
    """The file that a function is written in; None where there is none."""
    if function is None:
        return None
    try:
        return inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # an object with __call__
        return inspect.getsourcefile(type(function))


def _check_begun(out: Path, folder: Path, plan: dict[str, Any]) -> None:
    """Refuses to go on with what another rescoring left.

    Raises:
        FileExistsError: The new file is there, and no attempt to write it.
        ValueError: There is an attempt, at another one.
    """
    file = folder / PLAN
    if not file.exists():
        if out.exists():
            raise FileExistsError(f"{out} exists; remove it, or choose another --out")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    if differing := [name for name, part in plan.items() if before.get(name) != part]:
        raise ValueError(
            f"{folder} holds what is done of a rescoring to {out} that differs in {' and in '.join(differing)}. Give "
            "the command that it was begun with, to go on; choose another --out; or remove that folder, to begin anew"
        )


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Makes the folder for the values."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "plan.unfinished"
    unfinished.write_text(json.dumps(plan), encoding="utf-8")
    unfinished.replace(folder / PLAN)


def _with_notes(before: Mapping[bytes, bytes], notes: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The metadata of the new file; Arrow keeps a copy of it within the schema that it stores there, and reads that."""
    if ARROW_KEY not in before:
        return {**before, **notes}
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(before[ARROW_KEY])))
    copied = schema.with_metadata({**(schema.metadata or {}), **notes}).serialize()
    return {**before, **notes, ARROW_KEY: base64.b64encode(copied)}


def _check_columns(footers: Sequence[Footer]) -> None:
    for footer in footers[1:]:
        if footer.schema != footers[0].schema:
            raise ValueError(
                f"{footers[0].path} and {footer.path} have not the same columns, as files of different versions have "
                "not: rescore them one by one"
            )


def _check_places(paths: Sequence[Path]) -> None:
    """Refuses files whose groups would be taken for the same ones in one file."""
    found: dict[tuple[Any, ...], Path] = {}
    for path in paths if len(paths) > 1 else ():
        for batch in store.scan(path, ["run_step", "phase", "group"], ROWS):
            for place in set(zip(*(column.to_pylist() for column in batch.columns), strict=True)):
                if found.setdefault(place, path) != path:
                    raise ValueError(
                        f"{found[place]} and {path} both have a group that is numbered {place[2]}, of step {place[0]}, "
                        f"phase {place[1]}, and in one file the two would be one: rescore them one by one"
                    )


def _gather(spans: Iterable[Span], missing: dict[str, Missing]) -> bool:
    """Adds up what could not be computed; gives whether a trajectory's preference is another one now."""
    other = False
    for span in spans:
        found = json.loads(Footer(span.part).notes[FOUND_KEY])
        other |= found["other_preference"]
        for name, (count, row, reason) in found["missing"].items():
            missing.setdefault(name, Missing(0, span.footer.path, row, reason)).count += count
    return other


def _assemble(
    out: Path, whole: Path, footers: Sequence[Footer], spans: Sequence[Span], notes: dict[bytes, bytes]
) -> None:
    """Writes the new file: the old files' bytes, the values', and a footer that names the latter for the columns."""
    try:
        with whole.open("wb") as file:
            file.write(MAGIC)
            shifts = {footer.path: _append(file, footer) for footer in footers}
            groups = []
            for span in spans:
                footer, part = span.footer, Footer(span.part)
                shift = _append(file, part)
                places: dict[int, int] = {}
                for column in ("rewards", "preference"):
                    if new := part.leaves(column):
                        places |= zip(footer.leaves(column), new, strict=True)
                for group, other in zip(span.groups, part.row_groups, strict=True):
                    groups.append(footer.with_chunks(group, shifts[footer.path], part, other, shift, places))
            file.write(footers[0].with_row_groups(groups, sum(span.rows for span in spans), notes))
            file.flush()
            os.fsync(file.fileno())
        whole.replace(out)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write trajectories: {os.strerror(error.errno or errno.EIO)}; free space, and give the command "
            "again: what is computed is kept",
            str(out),
        ) from error


def _append(file: BinaryIO, footer: Footer) -> int:
    """Copies what comes before the footer of a file; gives how much further on it is now."""
    shift = file.tell() - len(MAGIC)
    with footer.path.open("rb") as source:
        source.seek(len(MAGIC))
        left = footer.data_stop - len(MAGIC)
        while left:
            left -= file.write(source.read(min(left, 1 << 22)))
    return shift
