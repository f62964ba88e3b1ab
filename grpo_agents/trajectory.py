"""The nouns everybody shares: what was said, what it cost, which tokens it was, and what it was worth.

A :class:`Trajectory` is one episode, token for token; a :class:`Group` is the G episodes of one task.
Nothing here computes; nothing here needs more than numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grpo_agents.support import Support

Message = dict[str, Any]
"""An OpenAI-style chat message: ``role``, ``content``, and where they apply ``tool_calls``, ``tool_call_id``."""

Task = dict[str, Any]
"""What an environment is asked to pose. Plain JSON; the key ``id``, where present, names it."""


@dataclass(slots=True)
class Usage:
    """What something cost.

    Attributes:
        calls: Tool calls.
        dollars: Their price, and that of the policy's own tokens where they have one.
        latency: The calls' seconds: declared where the tool declares them, measured elsewhere.
    """

    calls: int = 0
    dollars: float = 0.0
    latency: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.calls + other.calls, self.dollars + other.dollars, self.latency + other.latency)


@dataclass(slots=True)
class ToolRun:
    """One tool call of a step.

    Attributes:
        name: The tool's own name; of a tool that does not exist, what the policy called it.
        dollars: What it cost.
        latency: Its seconds.
        error: Why it failed; None where it did not.
        called: What the policy called the tool, where that is another name.
    """

    name: str
    dollars: float = 0.0
    latency: float = 0.0
    error: str | None = None
    called: str | None = None


@dataclass(slots=True)
class Sample:
    """One token sequence exactly as the engine saw it. The learner sees only these.

    Attributes:
        ids: Token ids, shape (tokens,), int32.
        mask: True where the policy sampled the token *and* it is to be trained here, shape (tokens,).
        logprobs: Log-probability of each masked token under the distribution it was sampled from, 0 elsewhere,
            shape (tokens,), float32.
        shared: How many leading tokens this sample took over from the one it forked off (0 for the first).
        support: What could have been sampled in place of each token, (tokens,); None where nothing was cut.
    """

    ids: np.ndarray
    mask: np.ndarray
    logprobs: np.ndarray
    shared: int = 0
    support: Support | None = None


@dataclass(slots=True)
class Step:
    """One turn of the policy and the environment's answer to it.

    Attributes:
        message: What the assistant said, parsed.
        observation: The messages that the environment answered with.
        rewards: This step's own components, by name.
        tools: The tool calls it made.
        finish_reason: Why sampling ended: ``stop`` or ``length``.
        sample: Index into the trajectory's samples of the one that holds this turn's tokens.
        span: Where in that sample, as (start, stop).
        version: Version of the weights that sampled it.
        seconds: Measured time of the environment's step.
        tokens: How many tokens a server says that the turn has, where their ids are not known.
        advantage: What its tokens' advantage is beside that of the trajectory, with methods that look at turns; None
            where they are not learned from.
        read: How many tokens a server says that the prompt of the turn had.
        dollars: What the policy's own tokens of the turn cost: those of its whole prompt, read, and those written.
    """

    message: Message
    observation: tuple[Message, ...] = ()
    rewards: dict[str, float] = field(default_factory=dict)
    tools: list[ToolRun] = field(default_factory=list)
    finish_reason: str = "stop"
    sample: int = 0
    span: tuple[int, int] = (0, 0)
    version: int = 0
    seconds: float = 0.0
    tokens: int | None = None
    advantage: float | None = 0.0
    read: int | None = None
    dollars: float = 0.0


@dataclass(slots=True)
class Trajectory:
    """One episode.

    Attributes:
        env: Id of the environment.
        task: The task it posed.
        seed: The environment's seed.
        preference: What this user weighs, by component name.
        prompt: The messages at reset.
        tools: Schemas of the tools on offer.
        steps: The turns.
        samples: The token sequences; every sampled token is masked in exactly one of them.
        rewards: The vector, by component name; None where we failed to compute a component.
        missing: The reason for each None.
        stop_reason: ``terminated``, or what cut the episode short: ``turns``, ``tokens``, ``context``, ``budget``,
            ``deadline``, ``truncated`` (by the environment) or ``error``.
        error: What went wrong, for ``deadline`` and ``error``.
        masked: True where it is kept out of learning by choice (a truncated rollout, if the config says so).
        advantage: A of the whole trajectory; None before it is computed or where it carries no gradient.
        seconds: Measured time of the episode.
        group: Which group of its batch it belongs to.
        index: Which of the group's rollouts it is.
    """

    env: str = ""
    task: Task = field(default_factory=dict)
    seed: int = 0
    preference: dict[str, float] = field(default_factory=dict)
    prompt: tuple[Message, ...] = ()
    tools: list[dict[str, Any]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    rewards: dict[str, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    stop_reason: str = "terminated"
    error: str | None = None
    masked: bool = False
    advantage: float | None = None
    seconds: float = 0.0
    group: int = 0
    index: int = 0

    @property
    def id(self) -> str:
        """Unique within its batch: group and index."""
        return f"{self.group}.{self.index}"

    @property
    def truncated(self) -> bool:
        """True where the episode was cut short rather than ended."""
        return self.stop_reason != "terminated"

    @property
    def sampled_tokens(self) -> int:
        """|o|: the policy's own tokens, over all samples; as a server counted them where their ids are not known."""
        counted = sum(step.tokens or 0 for step in self.steps)
        return counted + sum(int(sample.mask.sum()) for sample in self.samples)

    @property
    def answered(self) -> bool:
        """False where it was cut short before an answer, or its last message neither says nor calls anything."""
        if self.truncated:  # the last message of an episode without budget left is judged, what else ends it is not
            return self.stop_reason == "budget" and bool(self.final.strip())
        return bool(self.final.strip() or (self.steps and self.steps[-1].message.get("tool_calls")))

    @property
    def learned_tokens(self) -> int:
        """The sampled tokens of the turns that are learned from."""
        return self.sampled_tokens - sum(step.span[1] - step.span[0] for step in self.steps if step.advantage is None)

    @property
    def trainable(self) -> bool:
        """False where turns have no token ids, as a hosted model gives none."""
        return bool(self.samples) or not self.steps

    @property
    def usage(self) -> Usage:
        """What its tools and its own tokens cost."""
        total = Usage()
        for step in self.steps:
            total.dollars += step.dollars
            for run in step.tools:
                total.calls += 1
                total.dollars += run.dollars
                total.latency += run.latency
        return total

    @property
    def final(self) -> str:
        """The text of the last assistant message, or an empty one."""
        return str(self.steps[-1].message.get("content") or "") if self.steps else ""

    def messages(self) -> list[Message]:
        """The whole conversation, as an environment or a person reads it."""
        said = list(self.prompt)
        for step in self.steps:
            said += [step.message, *step.observation]
        return said


@dataclass(slots=True)
class Group:
    """The rollouts of one task under one preference.

    Attributes:
        task: The task they share.
        preference: The preference they share.
        trajectories: The rollouts.
        notes: What group rewards leave behind (a reference, a rubric …), plain JSON.
    """

    task: Task
    preference: dict[str, float]
    trajectories: list[Trajectory]
    notes: dict[str, Any] = field(default_factory=dict)
