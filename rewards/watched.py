"""What is computed and never learned from, and what is hidden from everything that is learned from.

>>> from grpo_agents.rewards.component import component
>>> from grpo_agents.trajectory import Trajectory
>>> @component
... def right(trajectory):
...     return float(trajectory.final == trajectory.task["answer"])
>>> group = Group({"question": "1 + 1", "answer": "2"}, {}, [Trajectory(task={"question": "1 + 1", "answer": "2"})])
>>> score_hiding_gold([group], RewardVector([right]), gold=["answer"])
>>> group.trajectories[0].missing["right"]
"KeyError: 'the task has an answer, which is hidden from what is learned from: name this reward in rewards.watch'"
>>> score_hiding_gold([group], RewardVector([right]), watched=[right], gold=["answer"])
>>> group.trajectories[0].rewards["right"]
0.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.trajectory import Group, Step, Task


class PublicTask(dict[str, Any]):
    """A task without its gold keys: asked for one of them it says that it is hidden.

    Args:
        task: The whole task.
        gold: The keys that are left out.
    """

    def __init__(self, task: Task, gold: Sequence[str]):
        super().__init__({key: value for key, value in task.items() if key not in gold})
        self._hidden = [key for key in gold if key in task]

    def __missing__(self, key: str) -> Any:
        """Raises for what is hidden, and for what the task never had."""
        if key in self._hidden:
            raise KeyError(
                f"the task has an {key}, which is hidden from what is learned from: name this reward in rewards.watch"
            )
        raise KeyError(key)


def score_hiding_gold(
    groups: Sequence[Group],
    vector: RewardVector,
    *,
    watched: Sequence[Component] = (),
    gold: Sequence[str] = (),
    hidden: Sequence[str] = (),
    resources: Mapping[str, Any] | None = None,
) -> None:
    """Computes what is learned from without the gold answers, then what is watched with them.

    Args:
        groups: Whose trajectories to score.
        vector: What is learned from.
        watched: What is not.
        gold: Keys of tasks that ``vector`` does not get to see.
        hidden: Components of the environment that it does not get to see.
        resources: What components may ask for by name.

    Raises:
        ValueError: A component asks for something that is not among the resources.
    """
    vector.score([_public(group, gold, hidden) for group in groups] if gold or hidden else groups, resources)
    if watched:
        RewardVector(watched).score(groups, resources)


def _public(group: Group, gold: Sequence[str], hidden: Sequence[str]) -> Group:
    """The group without gold answers; its rewards, reasons and notes are the group's own."""
    task = PublicTask(group.task, gold)

    def shown(step: Step) -> Step:
        return replace(step, rewards={name: value for name, value in step.rewards.items() if name not in hidden})

    public = [replace(entry, task=task, steps=list(map(shown, entry.steps))) for entry in group.trajectories]
    return replace(group, task=task, trajectories=public)
