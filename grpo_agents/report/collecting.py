"""Reads what goes onto a page, file by file: conversations of the trajectories that are on it, facts of more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_agents import store
from grpo_agents.evaluation import evaluate
from grpo_agents.report import figures
from grpo_agents.report.contents import Blocks, group_data
from grpo_agents.report.facts import Facts, facts_of
from grpo_agents.report.index import Index
from grpo_agents.report.sources import Batch
from grpo_agents.report.tokens import Lens, Vocabulary
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Trajectory


@dataclass(slots=True)
class Collected:
    """What was read of a source.

    Attributes:
        index: Of the trajectories on the page.
        blocks: Their conversations, packed.
        vocabulary: The tokens in them.
        facts: Of every trajectory that was read.
        sets: Of those, the first and the last evaluation; without one, the first and last batch.
        scoring: Of the last set.
    """

    index: Index
    blocks: list[str]
    vocabulary: Vocabulary
    facts: list[Facts]
    sets: dict[str, list[Facts]]
    scoring: Scoring | None


def collect(chosen: Sequence[Batch], focus: Sequence[Batch], lens: Lens) -> Collected:
    """Reads what goes onto the page, file by file.

    Args:
        chosen: Batches with those of their groups that are on the page.
        focus: Batches that the charts are about; each is read whole.
        lens: Coefficients of single tokens.

    Raises:
        ValueError: A file that cannot be read; names it.
    """
    index, blocks, vocabulary = Index(), Blocks(), Vocabulary()
    facts: list[Facts] = []
    names = _set_names(focus)
    sets: dict[str, list[Facts]] = {name: [] for name in names.values()}
    last: Scoring | None = None
    wanted = {(batch.file, batch.phase, batch.step): (number, batch) for number, batch in enumerate(chosen)}
    index.batches = [(batch.phase, batch.step, batch.file.name) for batch in chosen]
    for file in dict.fromkeys(batch.file for batch in (*chosen, *focus)):
        scoring = store.read_scoring(file)
        groups: dict[tuple[Any, ...], list[tuple[Trajectory, Facts]]] = {}
        notes: dict[tuple[Any, ...], str] = {}
        texts = (text for rows in store.scan(file, ["group_notes"], store.ROWS) for text in rows["group_notes"])
        for place, text, trajectory in zip(store.read_places(file), texts, store.iterate(file), strict=True):
            key = (file, place["phase"], place["run_step"])
            number, batch = wanted.get(key, (-1, None))
            if key not in names and (batch is None or trajectory.group not in batch.groups):
                continue
            known = facts_of(trajectory, place["phase"], place["run_step"], scoring)
            facts.append(known)
            if key in names:
                sets[names[key]].append(known)
                last = scoring
            if batch is not None and trajectory.group in batch.groups:
                # files that no run wrote may number all groups alike, and what differs is shown apart
                same = (number, trajectory.group, known.task, figures.label(trajectory.preference))
                groups.setdefault(same, []).append((trajectory, known))
                notes.setdefault(same, text.as_py() or "{}")
        for same, rollouts in groups.items():
            trajectories, all_facts = zip(*rollouts, strict=True)
            number, batch = same[0], chosen[same[0]]
            places = [(batch.step, batch.phase, one.group, one.index) for one in trajectories]
            coefficients = [lens.get(place, {}) for place in places]
            at = blocks.add(group_data(trajectories, vocabulary, coefficients, json.loads(notes[same])))
            index.add_group(number, trajectories, all_facts, at)
    return Collected(index, blocks.finish(), vocabulary, facts, sets, last)


def _set_names(focus: Sequence[Batch]) -> dict[tuple[Path, str, int], str]:
    labels = [figures.batch_label(batch.phase, batch.step) for batch in focus]
    if len(set(labels)) < len(labels):
        labels = [f"{batch.file.stem} ({label})" for batch, label in zip(focus, labels, strict=True)]
    return {(batch.file, batch.phase, batch.step): label for batch, label in zip(focus, labels, strict=True)}


def find_focus(batches: Sequence[Batch]) -> list[Batch]:
    """The first and the last evaluation; without one, the first and the last batch."""
    subjects = [batch for batch in batches if batch.phase == "eval"] or list(batches)
    return [subjects[0], subjects[-1]] if len(subjects) > 1 else subjects


def calls_by_preference(focus: Sequence[Batch]) -> dict[str, dict[str, float]]:
    """Calls an episode by preference and tool, of the last evaluation; empty where there were no tools."""
    if not focus:
        return {}
    calls = evaluate(store.iterate(focus[-1].file)).tool_calls_by_preference
    return calls if any(calls.values()) else {}
