"""Whether a task is one: its solution can be carried out, is needed, and leads to one end state.

>>> from grpo_agents.envs.library_desk import LibraryDeskEnv
>>> task = LibraryDeskEnv(levels=[1]).task_source[0]
>>> problem(task)
>>> problem({**task, "wishes": []})
'nothing is to be done: the right end state is the one that it starts from'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

from grpo_agents.envs.library_desk.database import Library
from grpo_agents.envs.library_desk.policy import objection
from grpo_agents.envs.library_desk.tools import WRITES, Desk
from grpo_agents.envs.library_desk.wishes import Call
from grpo_agents.spaces import tool_call
from grpo_agents.tools import run_calls
from grpo_agents.trajectory import Task


class NotAllowed(Exception):
    """A call that the system refuses, or that the policy forbids; says which and why."""


def carry_out(library: Library, calls: Iterable[Call]) -> Library:
    """The state after some calls, made with the very tools that a policy has.

    Args:
        library: The state before; it is not changed.
        calls: What is done, in order.

    Raises:
        NotAllowed: One of them is refused or forbidden.
    """
    desk = Desk(library.copy())
    tools = {tool.name: tool.of(desk) for tool in WRITES}
    for call in calls:
        if reason := objection(desk.database, call):
            raise NotAllowed(f"{call['name']}({call['arguments']}): {reason}")
        _, (run,) = run_calls(tools, [tool_call(call["name"], call["arguments"])])
        if run.error:
            raise NotAllowed(f"{call['name']}({call['arguments']}): {run.error}")
    return desk.database


def solution(task: Task) -> list[Call]:
    """What a right agent does, in order."""
    return [call for wish in task["wishes"] for call in wish["calls"]]


def expected_end(task: Task) -> Library:
    """The state in which a right agent leaves the database.

    Raises:
        ValueError: The solution cannot be carried out, or the database is none; names the task.
    """
    try:
        return carry_out(Library.from_dict(task["database"]), solution(task))
    except (NotAllowed, ValueError) as error:
        raise ValueError(f"task {task.get('id')!r}: {error}") from None


def problem(task: Task) -> str | None:
    """Why a task is none; None where it is well.

    A task is dropped whose solution is refused or forbidden, that needs no action, whose end depends on the order in
    which its actions are taken (of the orders that are allowed), or that forbids what is allowed at some point.
    """
    library, calls = Library.from_dict(task["database"]), solution(task)
    try:
        end = carry_out(library, calls)
    except NotAllowed as error:
        return f"it cannot be solved: {error}"
    if not end.differences(library):
        return "nothing is to be done: the right end state is the one that it starts from"
    if any(other.differences(end) for other in _ends(library, calls)):
        return "its end depends on the order of actions"
    for done in range(len(calls) + 1):
        state = carry_out(library, calls[:done])
        for wish in task["wishes"]:
            for call in wish["forbidden"]:
                if _allowed(state, call):
                    return f"it forbids what is allowed after {done} actions: {call['name']}({call['arguments']})"
    return None


def _ends(library: Library, calls: Sequence[Call]) -> Iterable[Library]:
    """The states to which each allowed order of some calls leads."""
    for order in permutations(calls):
        try:
            yield carry_out(library, order)
        except NotAllowed:
            continue


def _allowed(library: Library, call: Call) -> bool:
    try:
        carry_out(library, [call])
    except NotAllowed:
        return False
    return True
