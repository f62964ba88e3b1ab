"""LibraryDesk-v0: a desk with a database, and a member who talks back; judged by the state the database is left in.

In the manner of τ²-bench (arXiv 2506.07982): the policy is told the rules, some of which the tools do not enforce, and
what it says is worth nothing but for what the member then answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from grpo_agents.env import AgentEnv, Reply
from grpo_agents.envs.library_desk.checking import expected_end, solution
from grpo_agents.envs.library_desk.database import Library
from grpo_agents.envs.library_desk.model_user import ModelUser
from grpo_agents.envs.library_desk.policy import policy
from grpo_agents.envs.library_desk.tasks import LEVELS, Generator, Split
from grpo_agents.envs.library_desk.tools import LOOK_UPS, WRITES
from grpo_agents.envs.library_desk.user import ScriptedUser, User
from grpo_agents.tasks import GeneratedTasks, load_object
from grpo_agents.tools import Tool
from grpo_agents.trajectory import Message, Task

if TYPE_CHECKING:
    from grpo_agents.engines.chat_model import ChatModel


class LibraryDeskEnv(AgentEnv):
    """The desk of a library: a member wants books, and the database has to end as the rules have it.

    ``outcome`` is 1 where the database is as a right agent leaves it, else 0; ``progress`` is the share of what has to
    change that has: 1 − differences now / differences at the start, at least 0. Both come when the member leaves.

    Args:
        tasks: A task source; tasks are generated where there is none.
        levels: Levels of the generated tasks, of 1 to 5.
        split: Which generated tasks: ``train``, ``test`` (held out) or ``all``.
        user: A chat model that plays the member, or where one is defined, as ``file.py:name``; a script where None.
        render_mode: See :class:`AgentEnv`.
    """

    components: ClassVar[tuple[str, ...]] = ("outcome", "progress")
    maxima: Mapping[str, float] = {"cost": 0.3, "latency": 6.0}
    tools: ClassVar[Sequence[Tool]] = (*LOOK_UPS, *WRITES)
    database: Library

    def __init__(
        self,
        tasks: object = None,
        *,
        levels: Sequence[int] = tuple(LEVELS),
        split: Split = "all",
        user: ChatModel | str | None = None,
        render_mode: str | None = None,
    ):
        super().__init__(GeneratedTasks(Generator(levels, split)) if tasks is None else tasks, render_mode=render_mode)
        self._model = cast("ChatModel | None", load_object(user) if isinstance(user, str) else user)
        self.repeats = self._model is None
        self._user: User
        self._expected: Library
        self._distance = 0

    def start(self, task: Task) -> Sequence[Message]:
        """The rules, and what the member says first.

        Raises:
            ValueError: The task's solution cannot be carried out, or leaves everything as it was; names the task.
        """
        self._expected = expected_end(task)
        self.database = Library.from_dict(task["database"])
        self._distance = len(self.database.differences(self._expected))
        if not self._distance:
            raise ValueError(f"task {task.get('id')!r}: nothing is to be done, so that doing nothing would be right")
        rng = self.np_random
        self._user = ScriptedUser(task, rng) if self._model is None else ModelUser(self._model, task, rng)
        return [
            {"role": "system", "content": policy(self.database.today)},
            {"role": "user", "content": self._user.opening()},
        ]

    def respond(self, message: Message) -> Reply:
        """Runs tool calls; a message without any goes to the member, whose leaving ends the episode."""
        if calls := message.get("tool_calls"):
            return Reply(self.run_tools(calls))
        said = self._user.reply(str(message.get("content") or ""))
        return Reply([said.text], self.finish(self.task, message) if said.leaves else {}, said.leaves)

    def finish(self, task: Task, message: Message) -> dict[str, float]:
        """What the database is worth as it is: the end of an episode whose budget is used up, too."""
        left = len(self.database.differences(self._expected))
        return {"outcome": float(left == 0), "progress": max(0.0, 1 - left / self._distance)}

    def describe_preference(self, preference: Mapping[str, float]) -> str:
        """As the head of the library would put it, since it stands below what the member says."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in preference.items())
        return f"[The library weighs: {weights}]"

    def expected_rewards(self, task: Task) -> dict[str, dict[str, Any]]:
        """What doing right earns at the least cost: that of the writes alone, which no policy can go below."""
        prices = {tool.name: tool for tool in WRITES}
        used = [prices[call["name"]] for call in solution(task)] if "wishes" in task else []
        if not used:
            return {}
        return {
            "solution": {
                "outcome": 1.0,
                "progress": 1.0,
                "cost": sum(tool.price for tool in used),
                "latency": sum(tool.latency or 0.0 for tool in used),
                "tool_calls": float(len(used)),
            }
        }
