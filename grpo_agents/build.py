"""From a config to the objects of a run. The only place that knows them all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_agents import rewards
from grpo_agents.advantage import check_gate, check_needed
from grpo_agents.backends import make_backend, make_chat
from grpo_agents.chat import Chat
from grpo_agents.chat_models import ChatModels, make_models
from grpo_agents.config import Config, PreferenceConfig, RewardsConfig, TasksConfig
from grpo_agents.curriculum import make_curriculum
from grpo_agents.engines import mix
from grpo_agents.env import AgentEnv, make_env
from grpo_agents.learner.model import load_model
from grpo_agents.pseudo_labels import PseudoLabels
from grpo_agents.remote import is_remote, make_remote
from grpo_agents.remote.client import RemoteTasks
from grpo_agents.rewards.component import Component, RewardVector, asked_by, from_environment
from grpo_agents.rewards.preference import Choices, Preferences, Simplex
from grpo_agents.rewards.watched import score_hiding_gold
from grpo_agents.rollout import Rollout, Sampler, apply_truncation
from grpo_agents.scoring import Scoring, check_maxima
from grpo_agents.sources import (
    WRITTEN,
    DemonstrationSource,
    Figures,
    FrozenSource,
    PairSource,
    PolicySource,
    Source,
    StoredSource,
    Weighing,
)
from grpo_agents.tasks import GeneratedTasks, Tasks, load_object, load_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grpo_agents.cluster.cluster import Cluster
    from grpo_agents.engines import TokenEngine
    from grpo_agents.learner.reward_model import RewardModel
    from grpo_agents.methods import Method
    from grpo_agents.trajectory import Group


@dataclass
class Parts:
    """What training, rollout and evaluation are made of; the model is the learner's, None where nothing learns."""

    config: Config
    model: PreTrainedModel | None
    chat: Chat
    engine: TokenEngine
    vector: RewardVector
    preferences: Preferences | None
    maxima: dict[str, float]
    reward_model: RewardModel | None = None
    watched: tuple[Component, ...] = ()
    gold: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    models: ChatModels = field(default_factory=ChatModels)
    cluster: Cluster | None = None
    _rollouts: list[Rollout] = field(default_factory=list, init=False, repr=False)

    @property
    def scoring(self) -> Scoring:
        """How its trajectories are scored."""
        return Scoring(self.vector, self.maxima, self.config.advantage.gate, self.watched)

    @property
    def resources(self) -> dict[str, Any]:
        """What reward components may ask for by name."""
        given = {"engine": self.engine, "chat": self.chat, **self.models.by_name}
        return given if self.reward_model is None else {**given, "reward_model": self.reward_model}

    def close(self) -> None:
        """Closes the rollouts, ends the engine and those of other models, and gives a cluster back."""
        with ExitStack() as closing:  # the last one first; each of them, whatever becomes of the others
            if self.cluster is not None:
                closing.callback(self.cluster.close)
            else:
                closing.callback(self.models.close)
                closing.callback(self.engine.close)
            for rollout in self._rollouts:
                closing.callback(rollout.close)

    @property
    def unprobed(self) -> bool:
        """Whether a worker plays that replaced another after the engine was probed last."""
        return self.cluster is not None and self.cluster.engine.unprobed

    @property
    def moving_reward_model(self) -> RewardModel | None:
        """The reward model, where it learns while the policy does."""
        reward_model = self.reward_model
        return reward_model if reward_model is not None and reward_model.config.retrain_every else None

    def rollout(self, *, evaluating: bool = False) -> tuple[Sampler, Tasks]:
        """What samples the training or the evaluation environment, and its tasks."""
        rollout, tasks = self.own_rollout(evaluating=evaluating)
        return (rollout if self.cluster is None else self.cluster.rollout(rollout, evaluating=evaluating)), tasks

    def own_rollout(self, *, evaluating: bool) -> tuple[Rollout, Tasks]:
        """A rollout in this process, and its tasks."""
        config = self.config
        options = config.env.made_with(config.eval.env_options if evaluating else None)
        own = evaluating and config.eval.source.source
        where, section = (config.eval.source, "eval.source") if own else (config.tasks, "tasks")
        make, tasks = environment(config.env.id, options, where, section, seed=mix(config.seed, 4 + evaluating))
        rollout = Rollout(
            make,
            self.chat,
            self.engine,
            self.vector,
            config.rollout,
            env_name=config.env.id,
            preferences=self.preferences,
            resources=self.resources,
            watched=self.watched,
            gold=self.gold,
            hidden=self.hidden,
        )
        self._rollouts.append(rollout)
        return rollout, tasks


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """Says of which key of the config something is wrong."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if type(error) not in (FileNotFoundError, ValueError):
            raise
        raise type(error)(f"{key}: {error}") from error


def build(config: Config, *, learning: bool = False, say: Callable[[str], None] = print) -> Parts:
    """Makes everything that a run needs but the learner; loads a model last.

    Args:
        config: The run's.
        learning: Whether a learner is to have a model of its own.
        say: Told what the user should know of the engine while it works.

    Raises:
        ValueError: Something of the config does not exist or does not fit; says which key.
    """
    if config.cluster.kind == "local":
        return _build(config, learning=learning, say=say)
    from grpo_agents.cluster.connection import connect

    leave = connect(config.cluster)  # before any environment is made, which may be in the same cluster
    try:
        return _build(config, leave, learning=learning, say=say)
    except BaseException:
        leave()
        raise


def _build(
    config: Config, leave: Callable[[], None] | None = None, *, learning: bool, say: Callable[[str], None]
) -> Parts:
    """The parts of a run, on a Ray cluster where there is something to leave."""
    with _blaming("env.id"):
        env = make_env(config.env.id, **config.env.made_with())
    vector, watched = make_vector(config.rewards, env)
    check_gate(config.advantage, vector)
    check_maxima(env.maxima, [*env.components, *vector.names])
    for weighed in config.preference.choices or [dict.fromkeys(config.preference.simplex or (), 0.0)]:
        vector.check_preference(weighed)
    preferences = make_preferences(config.preference)
    model = reward_model = cluster = None
    models = ChatModels()
    if leave is not None:  # its processes hold the models
        from grpo_agents.cluster.cluster import Cluster

        chat = make_chat(config)  # first, as it may be refused
        cluster = Cluster(config, leave, learning=learning, say=say)
        engine = cluster.engine
    else:
        reward_model = _make_reward_model(config, vector, watched)
        model = load_model(config.model) if learning else None
        chat, engine = make_backend(config, model, say)
        asked = [parameter.name for entry in (*vector, *watched) for parameter in asked_by(entry)]
        try:
            models = make_models(config, asked, model, chat, engine, say)
        except BaseException:
            engine.close()
            raise
    gc.unfreeze()  # what an earlier run in this process left
    gc.collect()
    gc.freeze()  # what was loaded stays: the collector, which would go through it again and again, need not look
    return Parts(
        config,
        model,
        chat,
        engine,
        vector,
        preferences,
        dict(env.maxima),
        reward_model,
        watched=watched,
        gold=tuple(env.gold),
        hidden=tuple(env.hidden),
        models=models,
        cluster=cluster,
    )


def _make_reward_model(config: Config, vector: RewardVector, watched: tuple[Component, ...]) -> RewardModel | None:
    if config.reward_model is None:
        if "reward_model" in vector.names:
            raise ValueError("rewards.vector names reward_model: say which one, reward_model.path")
        return None
    if config.reward_model.retrain_every and config.reward_model.label in [entry.name for entry in watched]:
        raise ValueError(
            f"reward_model.label is {config.reward_model.label!r}, which is in rewards.watch: nothing is to be learned "
            "from it. Name a component of rewards.vector, or leave reward_model.retrain_every out"
        )
    from grpo_agents.learner.reward_model import RewardModel

    return RewardModel(config.reward_model, device=config.model.device, seed=config.seed)


def environment(
    name: str, options: dict[str, Any], source: TasksConfig, section: str, *, seed: int
) -> tuple[Callable[[], AgentEnv], Tasks]:
    """A maker of environments and the tasks that they are to pose, as a section of the config says."""
    tasks = None
    if source.source is not None:
        with _blaming(f"{section}.source"):
            tasks = load_tasks(
                source.source, split=source.split, columns=source.columns, skip_broken=source.skip_broken, seed=seed
            )
        options = {**options, "tasks": tasks}
    # One that lives elsewhere is asked once what it is, so that a server may be away for a while later.
    make = make_remote(name, **options).another if is_remote(name) else partial(make_env, name, **options)
    if tasks is None:
        tasks = make().task_source
        if isinstance(tasks, GeneratedTasks | RemoteTasks):
            tasks = replace(tasks, seed=seed)
    return make, tasks


def make_vector(config: RewardsConfig, env: AgentEnv) -> tuple[RewardVector, tuple[Component, ...]]:
    """The reward vector that a config names, for an environment; and the components that are only watched.

    Raises:
        ValueError: A name that neither the environment nor this package knows, what makes no vector, a component that
            the environment hides from training, or one that is both learned from and watched.
    """
    given = {name: from_environment(name) for name in env.components}

    def read(named: list[str] | str, key: str) -> RewardVector:
        with _blaming(key):
            return rewards.as_vector(load_object(named) if isinstance(named, str) else named, given, repr(named))

    vector = read(config.vector, "rewards.vector")
    watched = tuple(read(config.watch, "rewards.watch")) if config.watch else ()
    for entry in vector:
        if entry.function is None and entry.name in env.hidden:
            raise ValueError(
                f"rewards.vector names {entry.name!r}, which {type(env).__name__} hides from training. Name it in "
                "rewards.watch, and in rewards.vector what needs no gold answer: reference, rubric, majority …"
            )
        if entry.name in [other.name for other in watched]:
            raise ValueError(f"{entry.name!r} is in rewards.vector and in rewards.watch: learn from it, or watch it")
    _check_uses([*vector, *watched], env)
    return vector, watched


def _check_uses(components: Sequence[Component], env: AgentEnv) -> None:
    """Refuses to count the uses of a tool that an environment never offers."""
    known = [tool.name for tool in env.tools]
    if not known and type(env.acting).offered is not AgentEnv.offered:
        return  # only the tasks say which there are
    for name in (entry.name for entry in components):
        tool = name.removeprefix(rewards.USES)
        if name.startswith(rewards.USES) and name not in env.components and tool not in known:
            raise ValueError(
                f"rewards name {name!r}, and the environment has no tool {tool!r}. It has: {', '.join(known) or 'none'}"
            )


def make_preferences(config: PreferenceConfig) -> Preferences | None:
    """The preferences that a config names; None leaves them to the environment."""
    if config.choices is not None:
        return Choices(config.choices)
    if config.simplex is not None:
        return Simplex(config.simplex, config.floor)
    return None


def make_source(parts: Parts, method: Method, trajectories: Path, progress: Callable[[int], None]) -> Source:
    """Where the batches of a run come from.

    Args:
        parts: Of the run.
        method: Reads the batches.
        trajectories: The folder for what is sampled before learning begins.
        progress: Told how many episodes have just ended.

    Raises:
        FileNotFoundError: ``source.path`` names nothing.
        ValueError: What is there cannot be learned from; or the vector lacks what the method reads.
    """
    config, size, seed = parts.config, parts.config.train.batch, parts.config.seed
    kind, path = config.source_kind, config.source.path
    if kind in WRITTEN:
        written = load_tasks(str(path), split=config.source.split, seed=seed)
        make = DemonstrationSource if kind == "demonstrations" else PairSource
        return make(written, parts.chat, size, seed)
    check_needed(method, parts.vector)
    watched = tuple(entry.name for entry in parts.watched)
    weigh = Weighing(parts.vector, config.advantage, parts.maxima, method, watched)
    if kind == "stored":
        rescore = partial(_rescore, parts) if config.source.rescore else None
        other = config.source.other_preference
        return StoredSource(str(path), weigh, size, seed, rescore=rescore, other_preference=other)
    rollout, tasks = parts.rollout()
    resample = method.most_resamples
    curriculum = make_curriculum(
        config.curriculum,
        tasks,
        parts.vector,
        gate=config.advantage.gate,
        seed=seed,
        size=size,
        resample=resample,
        steps=config.train.steps,
    )
    labels, cluster = PseudoLabels(parts.vector, parts.watched, rollout.judge), parts.cluster

    def watch(groups: Sequence[Group]) -> Figures:
        return labels(groups) | ({} if cluster is None else cluster.pool.figures())

    policy = PolicySource(
        rollout,
        curriculum,
        weigh,
        size,
        seed,
        resample=resample,
        ahead=config.cluster.max_staleness if kind == "policy" and cluster is not None else 0,
        steps=config.train.steps,
        progress=progress,
        watch=watch,
    )
    return policy if kind == "policy" else FrozenSource(policy, config.source.batches, trajectories, parts.scoring)


def _rescore(parts: Parts, groups: list[Group]) -> None:
    """Computes the rewards of groups as if they had been sampled by this run."""
    score_hiding_gold(
        groups,
        parts.vector,
        watched=parts.watched,
        gold=parts.gold,
        hidden=parts.hidden,
        resources=parts.resources,
    )
    apply_truncation(groups, [*parts.vector, *parts.watched], parts.config.rollout.truncated)
