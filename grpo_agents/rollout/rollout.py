"""Episodes and groups, many at once: the policy's tokens from an engine, the environment's answers from threads.

One loop serves every engine. What an engine sampled and what an environment answered comes into one inbox, as it
happens; an episode's next turn is handed over at once, so that nobody waits for the slowest. Only an engine in
lockstep is handed the turns of all episodes together. Which thread ran what never shows in a trajectory; an episode
depends on its seeds and on the engine's arithmetic alone.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from grpo_agents.chat import Chat
from grpo_agents.engines import Completion, EngineFailure, Sampling, TokenEngine, mix
from grpo_agents.env import AgentEnv
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.rewards.preference import Preferences, check_weights
from grpo_agents.rewards.watched import score_hiding_gold
from grpo_agents.rollout.environments import POLL_SECONDS, Environments
from grpo_agents.rollout.episode import Episode, Limits
from grpo_agents.rollout.orders import Batch, Order, Orders
from grpo_agents.rollout.settings import RolloutConfig
from grpo_agents.rollout.truncation import apply_truncation
from grpo_agents.threads import Outcome
from grpo_agents.trajectory import Group, Task, Trajectory

_Inbox = queue.SimpleQueue[Completion | EngineFailure | Outcome]


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
        self.env_name = env_name
        self.chat = chat
        self.engine = engine
        self.vector = vector
        self.config = config
        self.preferences = preferences
        self.resources = dict(resources or {})
        self.watched = tuple(watched)
        self.gold, self.hidden = tuple(gold), tuple(hidden)
        self._limits = Limits(config, engine.context_length)
        self._environments = Environments(
            make_env, env_name, config.threads, config.step_timeout, config.episode_timeout
        )
        self._sessions = 0
        self._playing = threading.Lock()
        self._closing = threading.Event()

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
        batch = Batch([Order(task, seed, number, size, temperature) for number, task in enumerate(tasks)])
        self.play(batch, progress)
        self.score(batch.groups)
        return batch.groups

    def begin(
        self, tasks: Sequence[Task], *, step: int, seed: int, progress: Callable[[int], None] | None = None
    ) -> Callable[[], list[Group]]:
        """:meth:`sample`, of which nothing is done before the result is asked for: this engine has one caller."""
        return partial(self.sample, tasks, seed=seed, progress=progress)

    def play(self, orders: Orders, progress: Callable[[int], None] | None = None) -> None:
        """Plays groups as they come, until nothing is under way and no other comes.

        Args:
            orders: Where they come from.
            progress: Called with the number of episodes that have just ended.

        Raises:
            EngineFailure: The engine cannot go on; what is under way is lost.
            RuntimeError: It was closed meanwhile.
            TimeoutError: It takes too long to make an environment, or one takes too long to vary a task.
        """
        playing: dict[int, _Playing] = {}  # by session
        with self._playing:
            try:
                self._play(orders, playing, progress)
            except BaseException:
                self._environments.break_off([one.episode for one in playing.values()])
                if self._closing.is_set():  # perhaps nobody waits for it any more
                    self._environments.close()
                raise

    def _play(self, orders: Orders, playing: dict[int, _Playing], progress: Callable[[int], None] | None) -> None:
        """The loop; what is under way is in ``playing``."""
        inbox: _Inbox = queue.SimpleQueue()
        jobs = self._set_up(orders.take(), playing)
        stepping = 0  # environments at work
        ready: list[Episode] = []  # their next turn can be sampled
        asked: dict[int, Episode] = {}  # it is being sampled, by session
        look = time.monotonic()
        try:
            while jobs or stepping or ready or asked:
                if self._closing.is_set():
                    raise RuntimeError(f"{self.env_name}: the rollout was closed while it played")
                self._environments.start(jobs, inbox.put)
                stepping, jobs = stepping + len(jobs), []
                if (between_turns := orders.between_turns) is not None and not asked:
                    between_turns()
                elif between_turns is None and ready and not (self.engine.lockstep and stepping):
                    asked |= {episode.session: episode for episode in ready}
                    self._submit(ready, inbox)
                    ready = []
                ended: list[Episode] = []
                for event in self._environments.receive(inbox):
                    if isinstance(event, EngineFailure):
                        raise event
                    if isinstance(event, Outcome):
                        stepping -= 1
                        (ready if self._observe(event.key, event.result) else ended).append(event.key)
                    elif episode := asked.pop(event.session, None):
                        if episode.take(event):
                            jobs.append((episode, episode.step_job()))
                        else:
                            ended.append(episode)
                if (now := time.monotonic()) - look >= POLL_SECONDS:
                    look = now
                    for episode in [episode for episode in asked.values() if episode.late]:
                        episode.expire()
                        ended.append(asked.pop(episode.session))
                for episode in ended:
                    episode.end()
                    self._environments.take_back(episode.env, episode.failed)
                    group = playing.pop(episode.session).group
                    group.left -= 1
                    if not group.left:
                        orders.hand_back(group.order, group.played)
                self.engine.release([episode.session for episode in ended])
                if progress is not None and ended:
                    progress(len(ended))
                jobs += self._set_up(orders.take(), playing)
        finally:
            self.engine.release(asked)

    def score(self, groups: Sequence[Group]) -> None:
        """Gives the trajectories of groups their reward vectors, and does with truncated ones what the config says."""
        score_hiding_gold(
            groups,
            self.vector,
            watched=self.watched,
            gold=self.gold,
            hidden=self.hidden,
            resources=self.resources,
        )
        apply_truncation(groups, [*self.vector, *self.watched], self.config.truncated)

    def judge(self, task: Task, text: str) -> dict[str, float]:
        """What the environment says of a text as the first message of an episode; empty where that does not end it.

        Empty as well, with a warning, where the environment fails or takes longer than a step may.
        """

        def job(env: AgentEnv) -> Any:
            env.reset(seed=0, options={"task": task})
            return env.step(text)

        result = self._environments.run(job)
        if isinstance(result, BaseException):
            warnings.warn(f"{self.env_name}: {text!r} could not be judged: {result!r}", stacklevel=2)
            return {}
        _, _, terminated, _, info = result
        return info["rewards"] if terminated else {}

    def close(self) -> None:
        """Closes the environments, which have the time of a step for it, and ends the threads; warns of what fails.

        What another thread plays meanwhile is broken off.
        """
        self._closing.set()
        if not self._playing.acquire(timeout=self.config.step_timeout):
            warnings.warn(
                f"{self.env_name}: the engine, or an environment that is made or asked, holds up what is played: "
                "environments are closed when it goes on",
                stacklevel=2,
            )
            return
        try:
            self._closing.clear()
            self._environments.close()
        finally:
            self._playing.release()

    def _set_up(self, orders: Sequence[Order], playing: dict[int, _Playing]) -> list[tuple[Episode, Callable[[], Any]]]:
        """Makes the episodes of new groups; gives the jobs that begin them."""
        jobs = []
        for order in orders:
            with self._environments.borrowed(order.size) as envs:
                task, drawn = self._environments.ask(partial(self._draw, envs[0], order))
                check_weights(drawn)
                self.vector.check_preference(drawn)
            sampling = self._sampling(order.temperature)
            group = _Group(order, Group(task, drawn, []), order.size)
            for index, env in enumerate(envs):
                trajectory = Trajectory(
                    env=self.env_name,
                    task=task,
                    seed=mix(order.seed, order.number, index),
                    preference=drawn,
                    group=order.number,
                    index=index,
                )
                group.played.trajectories.append(trajectory)
                self._sessions += 1
                deadline = time.monotonic() + self.config.episode_timeout
                episode = Episode(
                    self._sessions, env, trajectory, self._limits, sampling, time.perf_counter(), deadline
                )
                playing[self._sessions] = _Playing(episode, group)
                jobs.append((episode, episode.reset_job()))
        return jobs

    def _draw(self, env: AgentEnv, order: Order) -> tuple[Task, dict[str, float]]:
        """The task of a group as its environment varies it, and its preference."""
        preferences, rng = self.preferences or env.preferences, [order.seed, order.number]
        drawn = preferences.draw(np.random.default_rng(rng)) if preferences is not None else {}
        return env.vary(order.task, np.random.default_rng([*rng, 1])), drawn

    def _sampling(self, temperature: float | None) -> Sampling:
        """How tokens are drawn, at another temperature than the config's if there is one."""
        sampling = self.config.sampling(self.chat.stop_ids)
        if temperature is None:
            return sampling
        return Sampling(temperature, 0, 1.0, sampling.stop_ids, sampling.stop)

    def _submit(self, ready: list[Episode], inbox: _Inbox) -> None:
        """Has the next turns sampled."""
        ready.sort(key=lambda episode: episode.session)  # whoever was first: the same batch
        for sampling, episodes in groupby(ready, key=lambda episode: episode.sampling):
            self.engine.submit([episode.request() for episode in episodes], sampling, inbox.put)

    def _observe(self, episode: Episode, outcome: Any) -> bool:
        """Records what an environment answered; False where that ends the episode."""
        return episode.begin(outcome, self.chat) if episode.conversation is None else episode.observe(outcome)


@dataclass(slots=True)
class _Group:
    """A group under way, and how many of its episodes are."""

    order: Order
    played: Group
    left: int


@dataclass(slots=True)
class _Playing:
    """An episode under way, and its group."""

    episode: Episode
    group: _Group
