"""Episodes as columns: what an evaluation reads of a million stored trajectories, without making one of them.

>>> episodes = Episodes.of([Trajectory(env="shop", task={"id": 7}, rewards={"outcome": 1.0, "rubric": None})])
>>> len(episodes), episodes.task.values, episodes.rewards["rubric"].tolist()
(1, [('shop', '7')], [nan])
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from grpo_agents import store
from grpo_agents.evaluation.columns import COLUMNS, NONE, UNCOUNTED, Coded, Collected
from grpo_agents.schema import to_row, to_table
from grpo_agents.trajectory import Task, Trajectory

BATCH = store.ROW_GROUP
"""Rows that are looked at together: one that cannot be read costs no others than these."""

SHOWN = 5
"""How many rows a message names."""

_BY = ("preference", "run", "step", "env", "file", "phase")


@dataclass(slots=True)
class Episodes:
    """Columns with an entry an episode, but those of tool calls.

    Attributes:
        file: Where each is stored.
        row: Which row of its file it is, from 0.
        step: The training step of its weights; −1 of no run.
        phase: ``train``, ``eval`` or ``rollout``.
        group: Which group of its batch it belongs to.
        index: Which of the group's rollouts it is.
        task: Its task, as :func:`task_key` gives it.
        preference: Its weights by component, as a tuple of pairs.
        stop_reason: How it ended.
        error: In which error it ended.
        turns: The policy's messages.
        tokens: Those that the policy wrote.
        seconds: It took, measured.
        dollars: Its tools cost, and its own tokens where they have a price.
        latency: Seconds of its tools, declared or measured.
        calls: Tool calls that were run.
        trainable: Whether its token ids are known, or it has none.
        answer: Equal where :func:`answer_of` the last messages is; int64.
        offered: Names of the tools on offer, as a tuple.
        rewards: By component; NaN where there is none.
        missing: By component why there is none, where somebody said.
        posed: Of each value of ``task``, a task of that key as JSON text.
        call_of: Of each tool call, its episode, (calls,).
        tool: Which tool it asked for, (calls,).
        called: By what other name it asked, (calls,).
        failed: Whether it failed, (calls,).
    """

    file: Coded
    row: np.ndarray
    step: np.ndarray
    phase: Coded
    group: np.ndarray
    index: np.ndarray
    task: Coded
    preference: Coded
    stop_reason: Coded
    error: Coded
    turns: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    dollars: np.ndarray
    latency: np.ndarray
    calls: np.ndarray
    trainable: np.ndarray
    answer: np.ndarray
    offered: Coded
    rewards: dict[str, np.ndarray]
    missing: dict[str, Coded]
    posed: list[str]
    call_of: np.ndarray
    tool: Coded
    called: Coded
    failed: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory]) -> Episodes:
        """Of trajectories in memory: of no file and step.

        Raises:
            ValueError: One that could not be stored either.
            TypeError: The same.
        """
        collected = Collected()
        rows = ({"run_step": -1, "phase": "", "group_notes": None, **to_row(entry, None)} for entry in trajectories)
        while some := list(islice(rows, BATCH)):
            collected.add("", to_table(some).combine_chunks().to_batches()[0])
        return cls(**collected.finish())

    @classmethod
    def read(
        cls,
        paths: str | Path | Iterable[str | Path],
        problem: Callable[[str], None],
        progress: Callable[[int], None] | None = None,
    ) -> Episodes:
        """Of files and folders, each file once.

        What cannot be read is left out, and said: a file or the rest of one, a row whose task is no JSON, and one that
        repeats another of its file.

        Args:
            paths: As for :func:`grpo_agents.store.iterate`.
            problem: Told what is left out: the file, the rows, and the way out.
            progress: Told how many episodes are read.

        Raises:
            FileNotFoundError: No such file, or a folder without any.
            ValueError: Nothing can be read, since the only file is no file of trajectories.
        """
        collected = Collected()
        files = list({path.resolve(): path for path in store.files(paths)}.values())
        for path in files:
            before = collected.count
            try:
                for batch in store.scan(path, COLUMNS, BATCH, instead={"usage.tokens": UNCOUNTED}):
                    collected.add(str(path), batch)
                    if progress is not None:
                        progress(collected.count)
            except ValueError as error:
                if len(files) == 1 and not collected.count:
                    raise
                rows = collected.count - before
                problem(f"{error} {f'Its first {rows:,} rows are' if rows else 'Nothing of it is'} kept.")
        episodes = cls(**collected.finish())
        no_task = episodes.task.codes == NONE
        return episodes._without(no_task, "are left out: their task is no JSON", problem)._without_repeated(problem)

    def task_of(self, code: int) -> Task:
        """A task that has the key of this code."""
        return json.loads(self.posed[code])

    def where(self, kept: np.ndarray) -> Episodes:
        """Those that a mask keeps, (episodes,)."""
        calls = kept[self.call_of]
        chosen: dict[str, Any] = {
            "rewards": {name: values[kept] for name, values in self.rewards.items()},
            "missing": {name: reasons[kept] for name, reasons in self.missing.items()},
            "posed": self.posed,
            "call_of": (np.cumsum(kept) - 1)[self.call_of[calls]],
            "tool": self.tool[calls],
            "called": self.called[calls],
            "failed": self.failed[calls],
        }
        others = (field.name for field in fields(self) if field.name not in chosen)
        return Episodes(**{name: getattr(self, name)[kept] for name in others}, **chosen)

    def preferring(self, preference: Mapping[str, float]) -> Episodes:
        """The same under another preference."""
        return replace(self, preference=Coded(np.zeros(len(self), np.int32), [tuple(preference.items())]))

    def parts(self, by: str) -> dict[str, np.ndarray]:
        """Masks of the episodes that agree in something, (episodes,) each, by what it is.

        Args:
            by: ``preference``, ``run``, ``step``, ``env``, ``file``, ``phase``, or a key of the tasks; several with
                commas between them.

        Raises:
            ValueError: No task has this key; names the nearest.
        """
        masks = {"": np.ones(len(self), bool)}
        for key in by.split(","):
            labels = self._labels(key.strip())
            order = sorted(range(len(labels.values)), key=lambda code: _rank(labels.values[code]))
            masks = {
                ", ".join(filter(None, [before, str(labels.values[code])])): mask & (labels.codes == code)
                for before, mask in masks.items()
                for code in order
            }
        return {label: mask for label, mask in masks.items() if mask.any()}

    def _labels(self, by: str) -> Coded:
        if by == "step":
            steps, codes = np.unique(self.step, return_inverse=True)
            return Coded(codes.astype(np.int32), steps.tolist())
        if by in ("file", "phase"):
            return getattr(self, by)
        if by == "run":
            return _merged(self.file.codes, [_run_of(Path(file)) for file in self.file.values])
        if by == "preference":
            said = [", ".join(f"{name} {weight:.3g}" for name, weight in pairs) for pairs in self.preference.values]
            return _merged(self.preference.codes, [text or "none" for text in said])
        if by == "env":
            return _merged(self.task.codes, [env for env, _ in self.task.values])
        tasks = [json.loads(text) for text in self.posed]
        known = dict.fromkeys(key for task in tasks for key in task)
        if by not in known:
            near = difflib.get_close_matches(by, [*known, *_BY], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"They have: {', '.join(known) or 'none'}."
            raise ValueError(f"--by {by}: no task has such a key. {hint} Or split by {', '.join(_BY)}")
        return _merged(self.task.codes, [_plain(task.get(by)) for task in tasks])

    def _without(self, dropped: np.ndarray, why: str, problem: Callable[[str], None]) -> Episodes:
        """Without the rows of a mask, (episodes,); says which they are."""
        if not dropped.any():
            return self
        for code, count in enumerate(np.bincount(self.file.codes[dropped], minlength=len(self.file.values))):
            if count:
                rows = self.row[dropped & (self.file.codes == code)][:SHOWN].tolist()
                more = f" and {count - len(rows)} others" if count > len(rows) else ""
                problem(f"{self.file.values[code]}: rows {', '.join(map(str, rows))}{more} {why}")
        return self.where(~dropped)

    def _without_repeated(self, problem: Callable[[str], None]) -> Episodes:
        """Without the rows that say again what an earlier one of their file says."""
        same = (
            *(self.answer, self.tokens, self.seconds, self.task.codes),
            *(self.index, self.group, self.phase.codes, self.step, self.file.codes),
        )
        order = np.lexsort((self.row, *same))
        repeats = np.ones(len(self) - 1 if len(self) else 0, bool)
        for column in same:
            repeats &= column[order[1:]] == column[order[:-1]]
        dropped = np.zeros(len(self), bool)
        dropped[order[1:][repeats]] = True
        return self._without(
            dropped,
            "repeat earlier ones (step, phase, group, index, task, answer, tokens and seconds are the same) and are "
            "left out. Was a file appended to itself?",
            problem,
        )


def _merged(codes: np.ndarray, labels: list[str]) -> Coded:
    """A column by what its values are called."""
    book = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    return Coded(np.array([book[label] for label in labels] + [NONE], np.int32)[codes], list(book))


def _run_of(file: Path) -> str:
    """The run that a file belongs to; one that is of no run stands for itself."""
    return str(file.parents[1] if file.parent.name == "trajectories" else file)


def _plain(value: Any) -> Any:
    """A value of a task as a label: text, a number, or what JSON writes."""
    return value if isinstance(value, str | int | float) else "none" if value is None else json.dumps(value)


def _rank(label: Any) -> tuple[bool, Any]:
    """Numbers before texts, each in order."""
    return (True, label) if isinstance(label, str) else (False, label)
