"""Whether a reward without gold answers goes astray: its labels against hidden gold ones, and how much rollouts differ.

What is watched here is seen by people alone. Rewards that agree with a reference fall for a policy that says the same
every time: then every rollout is right by the reference, and nobody knows whether it is by gold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_agents.rewards.component import Component
from grpo_agents.rewards.pseudo_label import winner
from grpo_agents.trajectory import Group, Task

RIGHT = 0.5
"""From which value on a reward says that a rollout is right."""

JUDGEMENTS = {"classes", "criteria", "refused"}
"""Of these keys one is in the note of a reward that knows no gold: a label, a rubric, or what judged nothing."""

Note = Mapping[str, Any]


@dataclass(frozen=True)
class PseudoLabels:
    """Figures about the labels that group rewards made, from the notes that they left.

    Attributes:
        vector: What is learned from.
        watched: What is not: gold is the first of it that the environment gives, or whose name begins with ``gold_``.
        judge: What the environment says of a text as an answer to a task, by component.
    """

    vector: Sequence[Component]
    watched: Sequence[Component]
    judge: Callable[[Task, str], Mapping[str, float]]

    @property
    def gold(self) -> str | None:
        """The component that says what is right; None where none is watched."""
        gold = (entry.name for entry in self.watched if entry.function is None or entry.name.startswith("gold_"))
        return next(gold, None)

    def __call__(self, groups: Sequence[Group]) -> dict[str, float]:
        """Figures of a batch, each a mean over the groups or rollouts of which it is known; see docs/teacher.md.

        Writes into the notes of each label whether it is right by gold.
        """
        figures: dict[str, list[float]] = {}
        for group in groups:
            for name, value in self._of_group(group):
                figures.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in figures.items()}

    def _of_group(self, group: Group) -> Iterator[tuple[str, float]]:
        noted = {name: note for name, note in group.notes.items() if isinstance(note, dict)}
        labels = {name: note for name, note in noted.items() if "classes" in note}
        for name, note in noted.items():
            counts = ((word, note.get(word)) for word in ("read", "written"))
            yield from ((f"{name}/{word}", float(count)) for word, count in counts if count is not None)
            if self.gold is not None and name in [entry.name for entry in self.vector]:
                yield from self._agreement(group, name, self.gold)
        if not any(JUDGEMENTS & note.keys() for note in noted.values()):
            return
        note = next(iter(labels.values()), None)
        # where no answers are read, as by a rubric, they are the same where they are the same to the letter
        said = [entry.final.strip() for entry in group.trajectories] if note is None else note["classes"]
        yield "diversity/answers", float(len({answer for answer in said if answer not in (None, "")}))
        yield "diversity/unanimous", float(len(set(said)) == 1)
        if self.gold is None or note is None:
            return
        voted = self._majority(group, note)
        if voted is not None:
            yield "gold/majority_right", voted
        for name, note in labels.items():
            right = self._right(group, note)
            note["gold"] = right
            if right is None or name == "majority":
                continue
            yield f"gold/{name}_right", right
            if voted is not None:
                differs = not _is_majority(note)
                yield f"gold/{name}_against_majority", float(differs)
                if differs and right != voted:
                    yield f"gold/{name}_wins", float(right > voted)

    def _agreement(self, group: Group, name: str, gold: str) -> Iterator[tuple[str, float]]:
        """Of each rollout whether a reward says of it what gold says."""
        for trajectory in group.trajectories:
            value, right = trajectory.rewards.get(name), trajectory.rewards.get(gold)
            if value is not None and right is not None:
                yield f"gold/{name}_agrees", float((value >= RIGHT) == (right >= RIGHT))

    def _majority(self, group: Group, note: Note) -> float | None:
        """Whether the answer that most rollouts give is right; of several, the one that was given first.

        It is not where nobody gives one.
        """
        number, *_ = winner(note["classes"])
        return 0.0 if number is None else self._of_class(group, note, number)

    def _right(self, group: Group, note: Note) -> float | None:
        """Whether a label is right: as rollouts that agree with it are, else as the environment says of its text."""
        if (number := _class_of(note)) is not None:
            return self._of_class(group, note, number)
        if note["answer"] is None:
            return 0.0
        value = self.judge(group.task, note["text"]).get(str(self.gold))
        return None if value is None else float(value >= RIGHT)

    def _of_class(self, group: Group, note: Note, number: int) -> float | None:
        rollout = note["rollouts"][note["classes"].index(number)]
        found = next(trajectory for trajectory in group.trajectories if trajectory.index == rollout)
        value = found.rewards.get(str(self.gold))
        return None if value is None else float(value >= RIGHT)


def _class_of(note: Note) -> int | None:
    """Which of the rollouts' answers the label is; None where it is none of them."""
    agreeing = [number for number, agrees in zip(note["classes"], note["agrees"], strict=True) if agrees]
    return agreeing[0] if agreeing else None


def _is_majority(note: Note) -> bool:
    return _class_of(note) is not None and _class_of(note) == winner(note["classes"])[0]
