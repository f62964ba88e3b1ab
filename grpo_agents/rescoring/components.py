"""Which components are computed anew from what is stored, and which stay as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from grpo_agents.rewards import BUILT_IN, as_vector
from grpo_agents.rewards.component import Component, RewardVector, from_environment
from grpo_agents.scoring import Scoring
from grpo_agents.tasks import load_object
from grpo_agents.trajectory import Group


def given_by(scoring: Scoring | None, names: Iterable[str] = ()) -> dict[str, Component]:
    """The components that need no function, as they are stored or as the environment gave them.

    Args:
        scoring: How the trajectories were scored, where that is noted.
        names: Names of components that their environment gave.
    """
    given = {name: from_environment(name) for name in names}
    stored = (*scoring.vector, *scoring.watched) if scoring else ()
    return given | {entry.name: entry for entry in stored if entry.name not in BUILT_IN}


def read_vector(names: str, given: Mapping[str, Component], said: str) -> RewardVector:
    """The vector that a person names.

    Args:
        names: Names with commas between them, or one ``module:vector`` or ``file.py:vector``.
        given: What needs no function.
        said: What the person calls it.

    Raises:
        ValueError: No such component, or a module that does not run; says which, and of a file the line.
    """
    one = ":" in names and "," not in names
    wanted = load_object(names) if one else [name.strip() for name in names.split(",")]
    return as_vector(wanted, given, said)


def score_anew(vector: RewardVector, groups: Sequence[Group]) -> None:
    """Computes what has a function; what has none stays as it is stored, or comes from the steps where it is not.

    Args:
        vector: The components.
        groups: Whose trajectories get their values, beside those that they have.
    """
    if computed := [entry for entry in vector if entry.function is not None]:
        RewardVector(computed).score(groups)
    for entry in vector:
        if entry.function is None:
            everyone = [trajectory for group in groups for trajectory in group.trajectories]
            if lacking := [trajectory for trajectory in everyone if entry.name not in trajectory.rewards]:
                RewardVector([entry]).score([Group({}, {}, lacking)])
