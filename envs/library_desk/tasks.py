"""Draws tasks: a library, a member and what the member wants, in five levels of difficulty.

A task is plain JSON: ``id``, ``level``, ``database`` (the state at the start), ``card`` (whose wishes they are),
``user`` (what the member says of themself) and ``wishes`` (each a :class:`Wish` as a dict). What a right agent does is
in the wishes; its end state comes from carrying that out.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from grpo_agents.envs.library_desk.checking import problem
from grpo_agents.envs.library_desk.wishes import CONDITIONAL, FORBIDDEN, PLAIN, Draft, Kind, Wish
from grpo_agents.envs.library_desk.world import MEMBERS, draw_birthday, draw_library
from grpo_agents.trajectory import Task

TEST_SHARE = 5
"""One task in so many is held out, whichever seed draws it."""

MOST_DRAWS = 1000
"""Draws after which a level is taken to have no such tasks."""

Split = Literal["train", "test", "all"]


@dataclass(frozen=True, slots=True)
class Level:
    """What makes a task harder.

    Attributes:
        plain: How many wishes can just be granted.
        conditional: How many need something else to be done first, or instead.
        forbidden: How many a rule forbids.
        by_name: The member knows no card number, and shares the name with another.
        on_request: The member says details only when asked, the date of birth included.
        later: The member speaks of the last wish only when the others are done.
    """

    plain: int
    conditional: int = 0
    forbidden: int = 0
    by_name: bool = False
    on_request: bool = False
    later: bool = False


LEVELS = {
    1: Level(1),
    2: Level(2),
    3: Level(2, by_name=True),
    4: Level(2, forbidden=1, by_name=True, on_request=True),
    5: Level(2, conditional=1, forbidden=1, by_name=True, on_request=True, later=True),
}


def held_out(identity: str) -> bool:
    """Whether a task belongs to the test split: decided by its content alone, so the splits cannot overlap."""
    return zlib.crc32(identity.encode()) % TEST_SHARE == 0


def draw(rng: np.random.Generator, level: int) -> Task:
    """Draws what may be a task; :func:`.checking.problem` says whether it is one."""
    wanted = LEVELS[level]
    library = draw_library(rng)
    card = str(rng.choice(sorted(library.members)))
    member = library.members[card]
    if wanted.by_name:
        namesake = sorted(library.members.keys() - {card})[int(rng.integers(MEMBERS - 1))]
        library.members[namesake] = replace(library.members[namesake], name=member.name, born=draw_birthday(rng))
    draft = Draft(library, card, rng, rng.permutation(sorted(library.books)).tolist())
    kinds = [
        kind
        for among, count in ((PLAIN, wanted.plain), (CONDITIONAL, wanted.conditional), (FORBIDDEN, wanted.forbidden))
        for kind in _some(rng, among, count)
    ]
    wishes = [kind(draft) for kind in kinds]
    wishes = [wishes[place] for place in rng.permutation(len(wishes)).tolist()]
    wishes[-1].later = wanted.later
    content = {
        "level": level,
        "card": card,
        "database": library.as_dict(),
        "user": _introduction(member.name, member.born, card, wanted),
        "wishes": [asdict(wish if wanted.on_request else _outspoken(wish)) for wish in wishes],
    }
    digest = hashlib.blake2s(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()
    return {"id": f"desk-{level}-{digest}", **content}


class Generator:
    """Draws tasks, and drops those that are none.

    Args:
        levels: Of these, each as often as the others.
        split: Which of them: ``train``, ``test`` (held out) or ``all``.
        draw: Draws what is then checked: (generator, level) → task.

    Raises:
        ValueError: No level, or one that there is not.
    """

    def __init__(
        self,
        levels: Sequence[int] = tuple(LEVELS),
        split: Split = "all",
        draw: Callable[[np.random.Generator, int], Task] = draw,
    ):
        unknown = [level for level in levels if level not in LEVELS]
        if unknown or not levels:
            wrong = f"there is no level {unknown[0]!r}" if unknown else "none is named"
            raise ValueError(f"levels: {wrong}; there are {', '.join(map(str, LEVELS))}")
        if split not in ("train", "test", "all"):
            raise ValueError(f"split: {split!r} is none; there are train, test and all")
        self.levels, self.split, self.draw = tuple(levels), split, draw

    def __call__(self, rng: np.random.Generator) -> Task:
        """Draws one task.

        Raises:
            RuntimeError: Nothing that was drawn is a task; says why the last was none.
        """
        level = self.levels[int(rng.integers(len(self.levels)))]
        reason = None
        for _ in range(MOST_DRAWS):
            task = self.draw(rng, level)
            if self.split != "all" and held_out(task["id"]) != (self.split == "test"):
                continue
            if (reason := problem(task)) is None:
                return task
        raise RuntimeError(f"level {level}: {MOST_DRAWS} draws, and no task among them; of the last, {reason}")


def _some(rng: np.random.Generator, among: Sequence[Kind], count: int) -> list[Kind]:
    return [among[place] for place in rng.choice(len(among), size=count, replace=False).tolist()]


def _outspoken(wish: Wish) -> Wish:
    """The same wish of a member who says the details at once; they are repeated to whoever asks."""
    says = " ".join([wish.says, *wish.details.values()])
    return replace(wish, says=says, details={}, answers={**wish.answers, **wish.details})


def _introduction(name: str, born: str, card: str, level: Level) -> dict[str, Any]:
    """How the member begins, and what the member answers about themself, by what is asked."""
    known = {"name": f"My name is {name}."}
    birth = {"born": f"I was born on {born}."}
    if not level.by_name:
        known |= {**birth, "card": f"My card number is {card}."}
        return {"name": name, "says": f"Hello, my card number is {card}.", "details": {}, "answers": known}
    if level.on_request:
        return {"name": name, "says": f"Hello, I am {name}.", "details": birth, "answers": known}
    return {"name": name, "says": f"Hello, I am {name}, born on {born}.", "details": {}, "answers": known | birth}
