"""One episode under way: what its policy is asked next, what became of that, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpo_agents.chat import Chat, Conversation
from grpo_agents.engines import Completion, Request, Sampling, mix
from grpo_agents.env import AgentEnv
from grpo_agents.rollout.settings import RolloutConfig
from grpo_agents.threads import Abandoned
from grpo_agents.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds every episode of a rollout.

    Attributes:
        config: Budgets of tokens, turns and seconds.
        context_length: The most tokens that the engine takes.
    """

    config: RolloutConfig
    context_length: int


@dataclass(slots=True)
class Episode:
    """An episode under way.

    Attributes:
        session: What the engine knows it by.
        env: Its environment.
        trajectory: What is kept of it.
        sampling: How its tokens are drawn.
        began: When it began to be set up, of ``time.perf_counter``.
        deadline: When it is given up, of ``time.monotonic``.
        conversation: Its tokens, once it has its prompt.
        sampled: How many tokens the policy has written.
        failed: What its environment raised, or that it took too long; it must not be used any more.
    """

    session: int
    env: AgentEnv
    trajectory: Trajectory
    limits: Limits
    sampling: Sampling
    began: float
    deadline: float
    conversation: Conversation | None = None
    sampled: int = 0
    failed: BaseException | None = None

    # What is to be done next

    def reset_job(self) -> Callable[[], Any]:
        """Begins the episode, in a thread."""
        trajectory, env = self.trajectory, self.env
        options = {"task": trajectory.task, "preference": trajectory.preference}
        return lambda: env.reset(seed=trajectory.seed, options=options)

    def step_job(self) -> Callable[[], Any]:
        """Hands the environment the policy's last message, in a thread."""
        env, message = self.env, self.trajectory.steps[-1].message

        def step() -> Any:
            began = time.perf_counter()
            outcome = env.step(message)
            return outcome, env.runs, time.perf_counter() - began

        return step

    def request(self) -> Request:
        """The next turn of the policy."""
        assert self.conversation is not None
        config = self.limits.config
        room = min(
            config.max_turn_tokens,
            config.max_tokens - self.sampled,
            self.limits.context_length - self.conversation.length,
        )
        seed = mix(mix(self.trajectory.seed, 1), len(self.trajectory.steps))
        return self.conversation.request(self.session, seed, room)

    # What became of it: each says whether the episode goes on

    def take(self, completion: Completion) -> bool:
        """Records what was sampled; a turn that a budget cut ends the episode."""
        assert self.conversation is not None
        step = self.conversation.take(completion)
        self.trajectory.steps.append(step)
        self.sampled += completion.tokens
        if not self._charge(step):
            return False
        if completion.finish_reason == "length":
            full = self.conversation.length >= self.limits.context_length
            self.trajectory.stop_reason = "context" if full else "tokens"
            return False
        return True

    def observe(self, outcome: Any) -> bool:
        """Records what the environment answered, or what it raised."""
        trajectory, config = self.trajectory, self.limits.config
        if isinstance(outcome, BaseException):
            self._fail(outcome, f"step {len(trajectory.steps)}")
            return False
        (observation, _, terminated, truncated, info), runs, seconds = outcome
        step = trajectory.steps[-1]
        step.observation, step.rewards, step.tools, step.seconds = observation, info["rewards"], runs, seconds
        if terminated:
            trajectory.stop_reason = info.get("stop_reason", "terminated")
            return False
        if truncated:
            trajectory.stop_reason = "truncated"
        elif len(trajectory.steps) >= config.max_turns:
            trajectory.stop_reason = "turns"
        elif self.sampled >= config.max_tokens:
            trajectory.stop_reason = "tokens"
        elif self.late:
            self.expire()
        else:
            assert self.conversation is not None
            self.conversation.observe(observation)
            return self._fits()
        return False

    def begin(self, outcome: Any, chat: Chat) -> bool:
        """Records how the environment began, or what it raised."""
        if isinstance(outcome, BaseException):
            self._fail(outcome, "reset")
            return False
        self.trajectory.prompt, info = outcome
        self.trajectory.tools = info["tools"]
        self.conversation = chat.start(self.trajectory.prompt, self.trajectory.tools)
        return self._fits()

    # How it ends

    @property
    def late(self) -> bool:
        """Whether it has taken too long."""
        return time.monotonic() > self.deadline

    def expire(self) -> None:
        """Gives up an episode that has taken too long."""
        self.trajectory.stop_reason = "deadline"
        self.trajectory.error = (
            f"the episode took longer than {self.limits.config.episode_timeout:g} s (rollout.episode_timeout)"
        )

    def end(self) -> None:
        """Puts what was said and how long it took on the trajectory."""
        if self.conversation is not None:
            self.trajectory.samples = self.conversation.finished_samples()
        self.trajectory.seconds = time.perf_counter() - self.began

    def _fits(self) -> bool:
        """Whether there is room for one more token; else says why the episode ends."""
        assert self.conversation is not None
        if self.conversation.length + 1 > self.limits.context_length:
            self.trajectory.stop_reason = "context"
            return False
        return True

    def _charge(self, step: Step) -> bool:
        """Charges the policy's own tokens, where they have a price; False where nobody counted them."""
        price = self.env.token_price
        if price is None:
            return True
        start, stop = step.span
        read, written = (start, stop - start) if stop else (step.read, step.tokens)
        try:
            step.dollars = price.of(read, written)
        except ValueError as error:
            self.trajectory.stop_reason = "error"
            self.trajectory.error = f"{self.trajectory.env}: a turn cannot be charged (token_price): {error}"
            return False
        self.env.charge(step.dollars)
        return True

    def _fail(self, error: BaseException, where: str) -> None:
        """Keeps the error on the trajectory. The environment, whose state is unknown now, is never used again."""
        if isinstance(error, Abandoned):
            self.trajectory.stop_reason = "deadline"
            self.trajectory.error = f"{self.trajectory.env} {where}: {error} (rollout.step_timeout)"
        else:
            self.trajectory.stop_reason = "error"
            self.trajectory.error = f"{self.trajectory.env} {where}: {type(error).__name__}: {error}"
        self.failed = error
