"""Environments over messages: a :class:`gymnasium.Env` whose observations and actions are chat messages.

A person writes what happens: how a task is posed (:meth:`AgentEnv.start`) and what an answer is worth
(:meth:`AgentEnv.finish`). Tools are run by the environment itself. Tokens, tensors and engines are unknown here.

>>> class Echo(AgentEnv):
...     '''Says a word and wants it back.'''
...     tasks = as_tasks([{"word": "tree"}])
...     def start(self, task):
...         return f"Repeat: {task['word']}"
...     def finish(self, task, message):
...         return {"outcome": float(message["content"] == task["word"])}
>>> env = Echo()
>>> observation, info = env.reset(seed=1)
>>> observation[-1]["content"]
'Repeat: tree'
>>> observation, reward, terminated, truncated, info = env.step("tree")
>>> reward, terminated, info["rewards"]
(1.0, True, {'outcome': 1.0})
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.utils import seeding

from grpo_agents.spaces import ROLES, Action, Messages
from grpo_agents.tasks import Tasks, as_tasks, load_object
from grpo_agents.tools import Price, Tool, run_calls
from grpo_agents.tools.price import check_amount
from grpo_agents.tools.running import ROUNDING
from grpo_agents.trajectory import Message, Task, ToolRun

if TYPE_CHECKING:
    from grpo_agents.rewards.preference import Preferences


@dataclass(slots=True)
class Reply:
    """An environment's answer to one message of the policy.

    Attributes:
        messages: What it says back; each a message, or text for a user message.
        rewards: This step's own components, by name.
        terminated: True where the episode has come to its end.
    """

    messages: Sequence[Message | str] = ()
    rewards: Mapping[str, float] = field(default_factory=dict)
    terminated: bool = False


class AgentEnv(gymnasium.Env[tuple[Message, ...], Message]):
    """Base of every environment.

    Subclasses set ``tasks`` and, where they have them, ``tools``; and write :meth:`start` and :meth:`finish`. One
    that is more than tools and a final answer (a user who talks back, a game) overrides :meth:`respond`.

    Attributes:
        tasks: Where tasks come from when none is handed in: a source, or what :func:`as_tasks` makes one of.
        tools: Tools on offer; :meth:`offered` can choose among them by task.
        preferences: How a preference is drawn when none is handed in; None weighs every component 1.
        components: Names of the rewards that :meth:`finish` and :meth:`respond` give: all of them, by an episode's end.
        maxima: The most an episode can sensibly cost, by component name (``cost``, ``latency``): the scale of savings.
        budget: Dollars that an episode may spend; None for any. :meth:`allowance` can choose it by task. A call that
            can cost more than is left is refused; an episode that has spent more, because a call or its own tokens came
            to more than could be known, ends after that step (:meth:`finish` judges its last message).
        token_price: What the policy's own tokens cost: a turn, the tokens of its whole prompt, and those it writes.
            The rollout counts them. None where they are free.
        hidden: Those of the components that nothing is to be learned from: a run can watch and evaluate them only, and
            they are no part of the scalar reward of a step.
        gold: Keys of tasks that rewards which are learned from do not get to see.
        repeats: False where the same seed and messages need not give the same episode: a language model plays a part.
        preference: The running episode's preference.
        runs: The tool calls of the last step, with their measured seconds (kept out of ``info``, which has no clock).
        spent: Dollars that the running episode has spent.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  Gymnasium declares it so
    tasks: ClassVar[Any] = None
    tools: ClassVar[Sequence[Tool]] = ()
    preferences: ClassVar[Preferences | None] = None
    components: ClassVar[tuple[str, ...]] = ("outcome",)
    maxima: Mapping[str, float] = {}
    budget: float | None = None
    token_price: Price | None = None
    repeats: bool = True
    hidden: ClassVar[tuple[str, ...]] = ()
    gold: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tasks: Any = None, *, render_mode: str | None = None):
        """Makes an environment.

        Args:
            tasks: Another task source than the class's.
            render_mode: ``ansi`` makes :meth:`render` give the conversation as text.

        Raises:
            ValueError: There are no tasks.
        """
        source = tasks if tasks is not None else type(self).__dict__.get("tasks", type(self).tasks)
        if source is None:
            raise ValueError(f"{type(self).__name__} has no tasks: set the class attribute `tasks` or pass `tasks=`")
        self.task_source: Tasks = as_tasks(source.__func__ if isinstance(source, staticmethod) else source)
        self.render_mode = render_mode
        self._generator: np.random.Generator | None = None
        self.observation_space = Messages()
        self.action_space = Action(self.tools)
        self.task: Task = {}
        self.preference: dict[str, float] = {}
        self.offer: dict[str, Tool] = {}
        self.runs: list[ToolRun] = []
        self.spent = 0.0
        self._allowance: float | None = None
        self._conversation: list[Message] = []
        self._running = False

    # What a user writes

    def start(self, task: Task) -> Sequence[Message | str] | Message | str:
        """Poses the task: the opening messages, one of them, or text for one user message."""
        raise TypeError(f"{type(self).__name__} does not define start(task), which poses a task")

    def finish(self, task: Task, message: Message) -> Mapping[str, float]:
        """What an answer without tool calls is worth, by component name."""
        raise TypeError(f"{type(self).__name__} defines neither finish(task, message) nor respond(message)")

    def respond(self, message: Message) -> Reply:
        """Answers one message: runs its tool calls, or takes it for the final answer."""
        calls = message.get("tool_calls")
        if not calls:
            return Reply(rewards=self._judged(message), terminated=True)
        return Reply(messages=self.run_tools(calls))

    def offered(self, task: Task) -> Sequence[Tool]:
        """The tools on offer for this task."""
        return self.tools

    def allowance(self, task: Task) -> float | None:
        """Dollars that an episode of this task may spend; None for any."""
        return self.budget

    def describe_preference(self, preference: Mapping[str, float]) -> str:
        """How the preference is shown to the policy, at the end of the opening messages; an empty text hides it."""
        return "Preference: " + ", ".join(f"{name} {weight:g}" for name, weight in preference.items())

    def vary(self, task: Task, rng: np.random.Generator) -> Task:
        """Draws what of a task differs each time it is posed (which tools, at which prices), as keys of the task.

        Called once for all rollouts of a group, which are compared; a task that has been varied stays as it is.
        """
        return task

    def expected_rewards(self, task: Task) -> Mapping[str, Mapping[str, float]]:
        """What each choice that a policy has earns on average, by component; none where that is not known.

        The best of them under a preference is what an evaluation measures a policy's reward by.
        """
        return {}

    # What Gymnasium and the rollout call

    @property
    def np_random(self) -> np.random.Generator:
        """The environment's random generator; made when first drawn from, since that costs as much as a whole step."""
        if self._generator is None:
            self._generator, self._np_random_seed = seeding.np_random(self._np_random_seed)
        return self._generator

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self._generator, self._np_random_seed = value, -1

    @property
    def np_random_seed(self) -> int:
        """The seed of :attr:`np_random`; −1 where a generator was set directly."""
        if self._np_random_seed is None:
            self._generator, self._np_random_seed = seeding.np_random()
        return self._np_random_seed

    @property
    def _np_random(self) -> np.random.Generator:  # type: ignore[override]  where Gymnasium's checker looks
        return self.np_random

    @property
    def acting(self) -> AgentEnv:
        """The environment that runs the tools: itself, or the one that it plays."""
        return self

    @property
    def left(self) -> float | None:
        """Dollars that are left of the episode's budget, below 0 where it is overdrawn; None without a budget."""
        return None if self._allowance is None else self._allowance - self.spent

    def charge(self, dollars: float) -> None:
        """Adds to what the episode has spent: by its tools, and by its own tokens, which the rollout counts."""
        self.spent += dollars

    def run_tools(self, calls: Sequence[Mapping[str, Any]]) -> list[Message]:
        """Runs tool calls and keeps what they cost; one that can cost more than is left is refused."""
        messages, self.runs = run_calls(self.offer, calls, self.left)
        self.charge(sum(run.dollars for run in self.runs))
        return messages

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds everything that the environment draws.
            options: ``task``: the task to pose, else one is drawn; ``preference``: the weights by component name.

        Returns:
            The opening messages; and ``info`` with the task, the schemas of the tools on offer and the preference.
        """
        if seed is not None:
            self._np_random_seed, self._generator = seed, None
        options = options or {}
        task = options.get("task")
        if task is None:
            count = self.task_source.count
            task = self.task_source[int(self.np_random.integers(2**31 if count is None else count))]
        preference = options.get("preference")
        if preference is None:
            preference = self.preferences.draw(self.np_random) if self.preferences is not None else {}
        if type(self).vary is not AgentEnv.vary:  # else no generator is made, which costs as much as a whole step
            task = self.vary(task, self.np_random)
        self.task, self.preference = task, dict(preference)
        offered = self.offered(task)
        self.offer = {tool.alias: tool.of(self) for tool in offered}
        if len(self.offer) < len(offered):
            names = [tool.alias for tool in offered]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"{type(self).__name__} offers two tools that are called {twice!r}: rename one, by @tool(name=…) or "
                "Tool.called(…)"
            )
        self.runs = []
        self.spent, self._allowance = 0.0, self.allowance(task)
        if self._allowance is not None:
            check_amount(self._allowance, f"{type(self).__name__}: the budget")
        said = self.start(task)
        if not isinstance(said, str | Mapping | Sequence):
            raise TypeError(
                f"{type(self).__name__}.start returned {_described(said)}; return the opening text, or messages"
            )
        opening = _as_messages(said)
        if not opening:
            raise ValueError(f"{type(self).__name__}.start gave no message")
        if self.preference and (shown := self.describe_preference(self.preference)):
            last = opening[-1]
            opening = (*opening[:-1], {**last, "content": f"{last['content']}\n{shown}"})
        self._conversation = list(opening)
        self._running = True
        tools = [tool.schema for tool in self.offer.values()]
        return opening, {"task": dict(task), "tools": tools, "preference": dict(self.preference)}

    def step(self, action: Message | str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """Takes one message of the policy.

        Returns:
            The new messages; the reward, which is this step's components weighed by the preference (each 1 where
            there is none); terminated; truncated (always False: limits of turns and tokens are the rollout's, or
            ``TimeLimit``'s); and ``info`` with ``rewards`` by component, and with the ``stop_reason`` ``budget`` where
            an overdrawn budget ended the episode.

        Raises:
            gymnasium.error.ResetNeeded: No episode is running.
            TypeError: The action is neither text nor an assistant message.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded(f"{type(self).__name__}: call reset() before step()")
        if isinstance(action, str):
            action = {"role": "assistant", "content": action}
        elif not self.action_space.contains(action):
            raise TypeError(f"{type(self).__name__}: an action is text or an assistant message, not {action!r:.200}")
        self.runs = []
        reply = self.respond(action)
        if not isinstance(reply, Reply):
            raise TypeError(f"{type(self).__name__}.respond returned {_described(reply)}; return a Reply(…)")
        overdrawn = not reply.terminated and self.left is not None and self.left < -ROUNDING
        observation = _as_messages(reply.messages)
        self._conversation += [action, *observation]
        terminated = reply.terminated or overdrawn
        self._running = not terminated
        rewards = {name: self._number(name, value) for name, value in reply.rewards.items()}
        for name, value in (self._judged(action) if overdrawn else {}).items():
            rewards[name] = rewards.get(name, 0.0) + self._number(name, value)
        weights = self.preference or dict.fromkeys(rewards, 1.0)
        reward = sum(
            [value * weights.get(name, 0.0) for name, value in rewards.items() if name not in self.hidden], 0.0
        )
        info = {"rewards": rewards, **({"stop_reason": "budget"} if overdrawn else {})}
        return observation, reward, terminated, False, info

    def _judged(self, message: Message) -> Mapping[str, float]:
        """What :meth:`finish` says of the last message."""
        rewards = self.finish(self.task, message)
        if not isinstance(rewards, Mapping):
            raise TypeError(
                f"{type(self).__name__}.finish returned {_described(rewards)}; return a dict such as {{'outcome': 1.0}}"
            )
        return rewards

    def _number(self, name: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"{type(self).__name__} gave the reward {name!r} as {value!r:.80}, which is no number"
            ) from None

    def render(self) -> str | None:  # type: ignore[override]
        """The conversation so far as text, in render mode ``ansi``."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(describe_message(message) for message in self._conversation)


def describe_message(message: Message) -> str:
    """One message as a line for people."""
    calls = "".join(
        f" → {call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls") or ()
    )
    return f"{message['role']}: {message.get('content') or ''}{calls}"


def _described(value: Any) -> str:
    """What a function returned that it should not have."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def _as_messages(said: Sequence[Message | str] | Message | str) -> tuple[Message, ...]:
    if isinstance(said, str | Mapping):
        said = [said]
    messages = tuple([{"role": "user", "content": entry} if isinstance(entry, str) else {**entry} for entry in said])
    for message in messages:
        if message.get("role") not in ROLES or "content" not in message:
            raise TypeError(f"a message has a role ({', '.join(ROLES)}) and a content, not {message!r:.200}")
    return messages


class VectorReward(gymnasium.Wrapper[tuple[Message, ...], Message, tuple[Message, ...], Message]):
    """The reward as a vector, in MO-Gymnasium's form.

    An array over the environment's components, and a ``reward_space``.
    """

    def __init__(self, env: gymnasium.Env[tuple[Message, ...], Message]):
        super().__init__(env)
        base = env.unwrapped
        assert isinstance(base, AgentEnv), "VectorReward wraps an AgentEnv"
        self.components = tuple(name for name in base.components if name not in base.hidden)
        self.reward_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.components),), np.float64)

    def step(self, action: Message) -> tuple[tuple[Message, ...], Any, bool, bool, dict[str, Any]]:
        """As the environment's, with the reward as an array (components,)."""
        observation, _, terminated, truncated, info = self.env.step(action)
        vector = np.array([info["rewards"].get(name, 0.0) for name in self.components])  # (components,)
        return observation, vector, terminated, truncated, info


def make_env(name: str, **kwargs: Any) -> AgentEnv:
    """Makes an environment by its Gymnasium id, by ``module:Class`` or ``file.py:Class``, or by where it lives.

    That is ``http://host:port`` of a server, or ``ray:ENV``: see :func:`grpo_agents.remote.make_remote`.

    Raises:
        ValueError: An unknown name or option; says what comes nearest, or what there is.
        TypeError: It is no :class:`AgentEnv`.
    """
    import grpo_agents.envs  # noqa: F401  registers the built-in ones
    from grpo_agents.remote import is_remote, make_remote

    if is_remote(name):
        return make_remote(name, **kwargs)
    if ":" in name and not name.startswith("grpo_agents/"):
        maker = load_object(name)
        _check_options(name, maker, kwargs)
        made = maker(**kwargs)
    else:
        if name not in gymnasium.registry:
            near = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            if name.endswith(".py"):
                hint = f" Name the class as well: {name}:Class."
            raise ValueError(f"unknown environment {name!r}.{hint} `grpo-agents envs` lists them.")
        entry = gymnasium.spec(name).entry_point
        _check_options(name, load_env_creator(entry) if isinstance(entry, str) else entry, kwargs)
        made = gymnasium.make(name, disable_env_checker=True, **kwargs).unwrapped
    if not isinstance(made, AgentEnv):
        raise TypeError(f"{name!r} is a {type(made).__name__}; grpo_agents.AgentEnv was expected")
    return made


def _check_options(name: str, maker: Any, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(maker).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            near = difflib.get_close_matches(option, parameters, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{name} takes no option {option!r} (env.options, eval.env_options). {hint}"
                f"There are: {', '.join(parameters) or 'none'}"
            )
