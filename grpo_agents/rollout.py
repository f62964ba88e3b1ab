"""Episodes and groups, many at once: the policy's tokens from an engine, the environment's answers from threads.

One loop serves every engine. What an engine sampled and what an environment answered comes into one inbox, as it
happens; an episode's next turn is handed over at once, so that nobody waits for the slowest. Only an engine in
lockstep is handed the turns of all episodes together. Which thread ran what never shows in a trajectory; an episode
depends on its seeds and on the engine's arithmetic alone.
"""

from __future__ import annotations

import queue
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from grpo_agents.chat import Chat, Conversation
from grpo_agents.engines import Completion, EngineFailure, Request, Sampling, TokenEngine, mix
from grpo_agents.env import AgentEnv
from grpo_agents.rewards.component import FAILED, Component, RewardVector
from grpo_agents.rewards.preference import Preferences, check_weights
from grpo_agents.rewards.watched import score_hiding_gold
from grpo_agents.section import Section
from grpo_agents.threads import Abandoned, Outcome, StepThreads
from grpo_agents.trajectory import Group, Step, Task, Trajectory

POLL_SECONDS = 0.05
"""How often deadlines are looked at while nothing happens."""

_Inbox = queue.SimpleQueue[Completion | EngineFailure | Outcome]


class RolloutConfig(Section):
    """How episodes are sampled, and what bounds them."""

    group_size: int = Field(default=8, ge=1, description="G: rollouts of each task.")
    temperature: float = Field(default=1.0, ge=0, description="0 takes the likeliest token.")
    top_k: int = Field(
        default=0,
        ge=0,
        description="Only among the k likeliest tokens; 0 for all. They are kept with each token that is sampled, and "
        "the learner's distributions are cut in the same way.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Only among the likeliest tokens with this probability. Training needs top_k with it.",
    )
    stop: list[str] = Field(default=[], description="Texts that end a turn.")
    max_turns: int = Field(default=8, ge=1, description="Turns of the policy in one episode.")
    max_turn_tokens: int = Field(default=512, ge=1, description="Tokens the policy may write in one turn.")
    max_tokens: int = Field(default=4096, ge=1, description="Tokens the policy may write in one episode.")
    step_timeout: float = Field(default=60.0, gt=0, description="Seconds one step of an environment may take.")
    episode_timeout: float = Field(
        default=1800.0, gt=0, description="Seconds one episode may take; one that takes longer is left out of learning."
    )
    threads: int = Field(default=32, ge=1, description="Environments stepped at once.")
    truncated: Literal["keep", "mask", "worst"] = Field(
        default="keep",
        description="Episodes cut short: keep what they scored, mask them out of learning, or score the worst value.",
    )

    def sampling(self, stop_ids: Iterable[int]) -> Sampling:
        """The engine's part of it."""
        return Sampling(self.temperature, self.top_k, self.top_p, tuple(stop_ids), tuple(self.stop))


@dataclass(slots=True)
class _Episode:
    """An episode under way."""

    session: int
    env: AgentEnv
    trajectory: Trajectory
    seed: int
    began: float
    conversation: Conversation | None = None
    sampled: int = 0


class Rollout:
    """Samples groups of episodes.

    Args:
        make_env: Makes one environment; called as often as there are episodes at once.
        env_name: What trajectories call it.
        chat: Between messages and token ids.
        engine: Samples the tokens.
        vector: The reward vector.
        config: Budgets and sampling.
        preferences: How a task's preference is drawn; None leaves it to the environment.
        resources: What reward components may ask for by name.
        watched: Components that are computed beside the vector.
        gold: Keys of tasks that the vector's components do not get to see.
        hidden: Components of the environment that they do not get to see.
    """

    def __init__(
        self,
        make_env: Callable[[], AgentEnv],
        chat: Chat,
        engine: TokenEngine,
        vector: RewardVector,
        config: RolloutConfig,
        *,
        env_name: str = "",
        preferences: Preferences | None = None,
        resources: Mapping[str, Any] | None = None,
        watched: Sequence[Component] = (),
        gold: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ):
        self.make_env = make_env
        self.env_name = env_name
        self.chat = chat
        self.engine = engine
        self.vector = vector
        self.config = config
        self.preferences = preferences
        self.resources = dict(resources or {})
        self.watched = tuple(watched)
        self.gold, self.hidden = tuple(gold), tuple(hidden)
        self._threads = StepThreads(config.threads)
        self._envs: list[AgentEnv] = []
        self._sessions = 0

    def sample(
        self,
        tasks: Sequence[Task],
        *,
        seed: int,
        group_size: int | None = None,
        temperature: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Group]:
        """Plays ``group_size`` episodes of every task and scores them.

        Args:
            tasks: One a group.
            seed: All randomness comes from it: preferences, environments, tokens.
            group_size: Another G than the config's.
            temperature: Another one than the config's (0 for a greedy evaluation).
            progress: Called with the number of episodes that have just ended.

        Returns:
            One group a task, in order, every trajectory with its reward vector.
        """
        size = group_size or self.config.group_size
        sampling = self.config.sampling(self.chat.stop_ids)
        if temperature is not None:
            sampling = Sampling(temperature, 0, 1.0, sampling.stop_ids, sampling.stop)
        groups, episodes = self._set_up(tasks, seed, size)
        self._play(episodes, sampling, progress)
        score_hiding_gold(
            groups,
            self.vector,
            watched=self.watched,
            gold=self.gold,
            hidden=self.hidden,
            resources=self.resources,
        )
        apply_truncation(groups, [*self.vector, *self.watched], self.config.truncated)
        return groups

    def judge(self, task: Task, text: str) -> dict[str, float]:
        """What the environment says of a text as the first message of an episode; empty where that does not end it.

        Empty as well, with a warning, where the environment fails or takes longer than a step may.
        """
        env = self._envs.pop() if self._envs else self.make_env()

        def job() -> Any:
            env.reset(seed=0, options={"task": task})
            return env.step(text)

        inbox: _Inbox = queue.SimpleQueue()
        self._threads.start([(None, job)], self.config.step_timeout, inbox.put)
        outcome = None
        while outcome is None:
            outcome = next(self._receive(inbox), None)
        assert isinstance(outcome, Outcome)
        if isinstance(outcome.result, BaseException):
            warnings.warn(f"{self.env_name}: {text!r} could not be judged: {outcome.result!r}", stacklevel=2)
            return {}
        self._envs.append(env)
        _, _, terminated, _, info = outcome.result
        return info["rewards"] if terminated else {}

    def close(self) -> None:
        """Ends the threads and closes the environments."""
        self._threads.close()
        for env in self._envs:
            env.close()
        self._envs.clear()

    # Before the first token

    def _set_up(self, tasks: Sequence[Task], seed: int, size: int) -> tuple[list[Group], list[_Episode]]:
        groups, episodes = [], []
        for number, task in enumerate(tasks):
            envs = [self._envs.pop() if self._envs else self.make_env() for _ in range(size)]
            preferences = self.preferences or envs[0].preferences
            drawn = preferences.draw(np.random.default_rng([seed, number])) if preferences is not None else {}
            check_weights(drawn)
            self.vector.check_preference(drawn)
            task = envs[0].vary(task, np.random.default_rng([seed, number, 1]))
            group = Group(task, drawn, [])
            for index, env in enumerate(envs):
                trajectory = Trajectory(
                    env=self.env_name,
                    task=task,
                    seed=mix(seed, number, index),
                    preference=drawn,
                    group=number,
                    index=index,
                )
                self._sessions += 1
                episodes.append(_Episode(self._sessions, env, trajectory, mix(trajectory.seed, 1), time.perf_counter()))
                group.trajectories.append(trajectory)
            groups.append(group)
        return groups, episodes

    # The loop

    def _play(self, episodes: Sequence[_Episode], sampling: Sampling, progress: Callable[[int], None] | None) -> None:
        """Plays episodes to their ends."""
        deadline = time.monotonic() + self.config.episode_timeout
        inbox: _Inbox = queue.SimpleQueue()
        jobs = [(episode, _reset_job(episode)) for episode in episodes]
        stepping = 0  # environments at work
        ready: list[_Episode] = []  # their next turn can be sampled
        asked: dict[int, _Episode] = {}  # it is being sampled, by session
        try:
            while jobs or stepping or ready or asked:
                self._threads.start(jobs, self.config.step_timeout, inbox.put)
                stepping, jobs = stepping + len(jobs), []
                if ready and not (self.engine.lockstep and stepping):
                    ready.sort(key=lambda episode: episode.session)  # whoever was first: the same batch
                    asked |= {episode.session: episode for episode in ready}
                    self.engine.submit([self._request(episode) for episode in ready], sampling, inbox.put)
                    ready = []
                ended: list[_Episode] = []
                for event in self._receive(inbox):
                    if isinstance(event, EngineFailure):
                        raise event
                    if isinstance(event, Outcome):
                        stepping -= 1
                        (ready if self._observe(event.key, event.result, deadline) else ended).append(event.key)
                    elif episode := asked.pop(event.session, None):
                        if self._take(episode, event):
                            jobs.append((episode, _step_job(episode)))
                        else:
                            ended.append(episode)
                if asked and time.monotonic() > deadline:
                    for episode in asked.values():
                        self._expire(episode)
                    ended += asked.values()
                    asked = {}
                for episode in ended:
                    self._end(episode)
                self.engine.release([episode.session for episode in ended])
                if progress is not None and ended:
                    progress(len(ended))
        finally:
            self.engine.release(asked)

    # One turn

    def _receive(self, inbox: _Inbox) -> Iterator[Completion | EngineFailure | Outcome]:
        """What has come in, waiting a moment for the first of it."""
        with suppress(queue.Empty):
            yield inbox.get(timeout=POLL_SECONDS)
        self._threads.abandon_late()
        for _ in range(inbox.qsize()):
            yield inbox.get()

    def _fits(self, episode: _Episode) -> bool:
        """Whether there is room for one more token; else says why the episode ends."""
        assert episode.conversation is not None
        if episode.conversation.length + 1 > self.engine.context_length:
            episode.trajectory.stop_reason = "context"
            return False
        return True

    def _request(self, episode: _Episode) -> Request:
        assert episode.conversation is not None
        room = min(
            self.config.max_turn_tokens,
            self.config.max_tokens - episode.sampled,
            self.engine.context_length - episode.conversation.length,
        )
        return episode.conversation.request(episode.session, mix(episode.seed, len(episode.trajectory.steps)), room)

    def _take(self, episode: _Episode, completion: Completion) -> bool:
        """Records what was sampled; False where the turn was cut by a budget, which ends the episode."""
        conversation = episode.conversation
        assert conversation is not None
        step = conversation.take(completion)
        episode.trajectory.steps.append(step)
        episode.sampled += completion.tokens
        if not self._charge(episode, step):
            return False
        if completion.finish_reason == "length":
            full = conversation.length >= self.engine.context_length
            episode.trajectory.stop_reason = "context" if full else "tokens"
            return False
        return True

    def _charge(self, episode: _Episode, step: Step) -> bool:
        """Charges the policy's own tokens, where they have a price; False where nobody counted them."""
        price = episode.env.token_price
        if price is None:
            return True
        start, stop = step.span
        read, written = (start, stop - start) if stop else (step.read, step.tokens)
        try:
            step.dollars = price.of(read, written)
        except ValueError as error:
            episode.trajectory.stop_reason = "error"
            episode.trajectory.error = f"{self.env_name}: a turn cannot be charged (token_price): {error}"
            return False
        episode.env.charge(step.dollars)
        return True

    def _observe(self, episode: _Episode, outcome: Any, deadline: float) -> bool:
        """Records what the environment answered, or how it began; False where that ends the episode."""
        trajectory = episode.trajectory
        if isinstance(outcome, BaseException):
            self._fail(episode, outcome, f"step {len(trajectory.steps)}" if episode.conversation else "reset")
            return False
        if episode.conversation is None:
            trajectory.prompt, info = outcome
            trajectory.tools = info["tools"]
            episode.conversation = self.chat.start(trajectory.prompt, trajectory.tools)
            return self._fits(episode)
        (observation, _, terminated, truncated, info), runs, seconds = outcome
        step = trajectory.steps[-1]
        step.observation, step.rewards, step.tools, step.seconds = observation, info["rewards"], runs, seconds
        if terminated:
            trajectory.stop_reason = info.get("stop_reason", "terminated")
            return False
        if truncated:
            trajectory.stop_reason = "truncated"
        elif len(trajectory.steps) >= self.config.max_turns:
            trajectory.stop_reason = "turns"
        elif episode.sampled >= self.config.max_tokens:
            trajectory.stop_reason = "tokens"
        elif time.monotonic() > deadline:
            self._expire(episode)
        else:
            episode.conversation.observe(observation)
            return self._fits(episode)
        return False

    # How an episode ends

    def _fail(self, episode: _Episode, error: BaseException, where: str) -> None:
        """Keeps the error on the trajectory. The environment, whose state is unknown now, is never used again."""
        trajectory = episode.trajectory
        if isinstance(error, Abandoned):
            trajectory.stop_reason = "deadline"
            trajectory.error = f"{self.env_name} {where}: {error} (rollout.step_timeout)"
        else:
            trajectory.stop_reason = "error"
            trajectory.error = f"{self.env_name} {where}: {type(error).__name__}: {error}"
        episode.env = None  # type: ignore[assignment]

    def _expire(self, episode: _Episode) -> None:
        episode.trajectory.stop_reason = "deadline"
        episode.trajectory.error = (
            f"the episode took longer than {self.config.episode_timeout:g} s (rollout.episode_timeout)"
        )

    def _end(self, episode: _Episode) -> None:
        trajectory = episode.trajectory
        if episode.conversation is not None:
            trajectory.samples = episode.conversation.finished_samples()
        trajectory.seconds = time.perf_counter() - episode.began
        if episode.env is not None:
            self._envs.append(episode.env)


def apply_truncation(
    groups: Sequence[Group], vector: Sequence[Component], truncated: Literal["keep", "mask", "worst"]
) -> None:
    """Does with truncated rollouts, once they are scored, what ``rollout.truncated`` says."""
    for group in groups:
        for trajectory in group.trajectories:
            if not trajectory.truncated or trajectory.stop_reason in FAILED:
                continue
            if truncated == "mask":
                trajectory.masked = True
            elif truncated == "worst":
                for entry in vector:
                    if entry.worst is not None:
                        trajectory.rewards[entry.name] = entry.worst
                        trajectory.missing.pop(entry.name, None)


def _reset_job(episode: _Episode) -> Callable[[], Any]:
    trajectory = episode.trajectory
    options = {"task": trajectory.task, "preference": trajectory.preference}
    return lambda: episode.env.reset(seed=trajectory.seed, options=options)


def _step_job(episode: _Episode) -> Callable[[], Any]:
    env, message = episode.env, episode.trajectory.steps[-1].message

    def step() -> Any:
        began = time.perf_counter()
        outcome = env.step(message)
        return outcome, env.runs, time.perf_counter() - began

    return step
