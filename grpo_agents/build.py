"""From a config to the objects of a run. The only place that knows them all."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grpo_agents import rewards
from grpo_agents.advantage import check_gate, check_needed
from grpo_agents.chat import Chat
from grpo_agents.config import Config, PreferenceConfig, RewardsConfig, TasksConfig
from grpo_agents.curriculum import make_curriculum
from grpo_agents.engines import mix
from grpo_agents.env import AgentEnv, make_env
from grpo_agents.learner import ranks
from grpo_agents.learner.model import adapter_config, computing_in, load_model, load_tokenizer
from grpo_agents.rewards.component import RewardVector, from_environment
from grpo_agents.rewards.preference import Choices, Preferences, Simplex
from grpo_agents.rollout import Rollout, apply_truncation
from grpo_agents.scoring import Scoring, check_maxima
from grpo_agents.sources import (
    WRITTEN,
    DemonstrationSource,
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

    @property
    def scoring(self) -> Scoring:
        """How its trajectories are scored."""
        return Scoring(self.vector, self.maxima, self.config.advantage.gate)

    @property
    def resources(self) -> dict[str, Any]:
        """What reward components may ask for by name."""
        given = {"engine": self.engine, "chat": self.chat}
        return given if self.reward_model is None else {**given, "reward_model": self.reward_model}

    @property
    def moving_reward_model(self) -> RewardModel | None:
        """The reward model, where it learns while the policy does."""
        reward_model = self.reward_model
        return reward_model if reward_model is not None and reward_model.config.retrain_every else None

    def rollout(self, *, evaluating: bool = False) -> tuple[Rollout, Tasks]:
        """A rollout of the training or the evaluation environment, and its tasks."""
        config = self.config
        options = config.eval.env_options if evaluating and config.eval.env_options else config.env.options
        where = config.eval.source if evaluating and config.eval.source.source else config.tasks
        make, tasks = environment(config.env.id, options, where, seed=mix(config.seed, 4 + evaluating))
        rollout = Rollout(
            make,
            self.chat,
            self.engine,
            self.vector,
            config.rollout,
            env_name=config.env.id,
            preferences=self.preferences,
            resources=self.resources,
        )
        return rollout, tasks


def build(config: Config, *, learning: bool = False, say: Callable[[str], None] = print) -> Parts:
    """Makes everything that a run needs but the learner; loads a model last.

    Args:
        config: The run's.
        learning: Whether a learner is to have a model of its own.
        say: Told what the user should know of the engine while it works.

    Raises:
        ValueError: Something of the config does not exist or does not fit; says which key.
    """
    env = make_env(config.env.id, **config.env.options)
    vector = make_vector(config.rewards, env)
    check_gate(config.advantage, vector)
    check_maxima(env.maxima, [*env.components, *vector.names])
    for weighed in config.preference.choices or [dict.fromkeys(config.preference.simplex or (), 0.0)]:
        vector.check_preference(weighed)
    preferences = make_preferences(config.preference)
    reward_model = _make_reward_model(config, vector)
    model = load_model(config.model) if learning else None
    if config.engine.backend == "hosted":
        from grpo_agents.engines.hosted import HostedChat, HostedEngine

        hosted = HostedEngine(config.engine.server, patience=config.engine.patience)
        chat, engine = cast(Any, (HostedChat(), hosted))  # what a rollout needs of such a pair, and no more
    else:
        chat = make_chat(config)
        if model is not None:
            check_tokens(chat, int(model.config.get_text_config().vocab_size))
        engine = _make_engine(config, model, chat, say)
    gc.unfreeze()  # what an earlier run in this process left
    gc.collect()
    gc.freeze()  # what was loaded stays: the collector, which would go through it again and again, need not look
    return Parts(config, model, chat, engine, vector, preferences, dict(env.maxima), reward_model)


def _make_reward_model(config: Config, vector: RewardVector) -> RewardModel | None:
    if config.reward_model is None:
        if "reward_model" in vector.names:
            raise ValueError("rewards.vector names reward_model: say which one, reward_model.path")
        return None
    from grpo_agents.learner.reward_model import RewardModel

    return RewardModel(config.reward_model, device=config.model.device, seed=config.seed)


def make_chat(config: Config) -> Chat:
    """Messages and tokens as the config's model writes them."""
    tokenizer = load_tokenizer(config.model)
    if config.chat.template is not None:
        path = Path(config.chat.template)
        if not path.is_file():
            raise ValueError(f"chat.template: there is no file {path.absolute()}")
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    return Chat(tokenizer, tool_format=config.chat.tool_format, template_options=config.chat.options)


def check_tokens(chat: Chat, vocabulary: int) -> None:
    """Refuses a tokenizer with tokens that the model does not have.

    Special ones may be beyond it where neither the template nor padding writes them: Gemma 3 has one for pictures.

    Raises:
        ValueError: There are some; names one.
    """
    special = chat.tokenizer.added_tokens_decoder
    beyond = {
        token: number
        for token, number in chat.tokenizer.get_vocab().items()
        if number >= vocabulary
        and not (number in special and special[number].special and token not in str(chat.tokenizer.chat_template))
    }
    if chat.pad_id >= vocabulary:
        beyond[chat.tokenizer.convert_ids_to_tokens(chat.pad_id)] = chat.pad_id
    if beyond:
        token, number = min(beyond.items(), key=lambda entry: entry[1])
        raise ValueError(
            f"model.path: the tokenizer knows {token!r} as number {number}, and the model's vocabulary is of "
            f"{vocabulary} ({len(beyond)} tokens are beyond it). The tokenizer is another model's, or tokens were "
            "added without model.resize_token_embeddings"
        )


def environment(
    name: str, options: dict[str, Any], source: TasksConfig, *, seed: int
) -> tuple[Callable[[], AgentEnv], Tasks]:
    """A maker of environments and the tasks that they are to pose."""
    tasks = None
    if source.source is not None:
        tasks = load_tasks(
            source.source, split=source.split, columns=source.columns, skip_broken=source.skip_broken, seed=seed
        )
        options = {**options, "tasks": tasks}
    else:
        tasks = make_env(name, **options).task_source
        if isinstance(tasks, GeneratedTasks):
            tasks = replace(tasks, seed=seed)
    return lambda: make_env(name, **options), tasks


def make_vector(config: RewardsConfig, env: AgentEnv) -> RewardVector:
    """The reward vector that a config names, for an environment.

    Raises:
        ValueError: A name that neither the environment nor this package knows, or what makes no vector.
    """
    wanted = load_object(config.vector) if isinstance(config.vector, str) else config.vector
    given = {name: from_environment(name) for name in env.components}
    vector = rewards.as_vector(wanted, given, f"rewards.vector {config.vector!r}")
    _check_uses(vector, env)
    return vector


def _check_uses(vector: RewardVector, env: AgentEnv) -> None:
    """Refuses to count the uses of a tool that an environment never offers, where it offers the same in every task."""
    if type(env).offered is not AgentEnv.offered:
        return
    known = [tool.name for tool in env.tools]
    for name in vector.names:
        tool = name.removeprefix(rewards.USES)
        if name.startswith(rewards.USES) and name not in env.components and tool not in known:
            raise ValueError(
                f"rewards.vector names {name!r}, and the environment has no tool {tool!r}. "
                f"It has: {', '.join(known) or 'none'}"
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
    weigh = Weighing(parts.vector, config.advantage, parts.maxima, method)
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
    policy = PolicySource(rollout, curriculum, weigh, size, seed, resample=resample, progress=progress)
    return policy if kind == "policy" else FrozenSource(policy, config.source.batches, trajectories, parts.scoring)


def _rescore(parts: Parts, groups: list[Group]) -> None:
    """Computes the rewards of groups as if they had been sampled by this run."""
    parts.vector.score(groups, parts.resources)
    apply_truncation(groups, parts.vector, parts.config.rollout.truncated)


def _make_engine(config: Config, model: PreTrainedModel | None, chat: Chat, say: Callable[[str], None]) -> TokenEngine:
    engine = config.engine
    if model is None or config.samples:  # a warm start without evaluations needs none of its own
        if engine.backend == "vllm":
            return _make_vllm(config, model, say)
        if engine.backend == "server":
            from grpo_agents.engines.server import ServerEngine

            return ServerEngine(engine.server, patience=engine.patience, restarts=engine.restarts, say=say)
    from grpo_agents.engines.transformers import TransformersEngine

    if model is None or not ranks.alone():  # of several ranks each has but a shard of the learner's
        model = load_model(config.model)
    device = model.device
    return TransformersEngine(
        model,
        chat.pad_id,
        decode=chat.tokenizer.decode,
        max_rows=engine.max_rows,
        computing=lambda: computing_in(config.model.dtype, device),
    )


def _make_vllm(config: Config, model: PreTrainedModel | None, say: Callable[[str], None]) -> TokenEngine:
    from grpo_agents.engines.child import ChildEngine
    from grpo_agents.engines.vllm import VllmEngine, check_version

    check_version()
    engine, vllm = config.engine, config.engine.vllm
    settings = {
        "model": os.path.expanduser(config.model.path),
        "dtype": config.model.dtype,
        "context_length": vllm.context_length,
        "max_rows": engine.max_rows,
        "memory": vllm.memory,
        "cpu_cache_gib": vllm.cpu_cache_gib,
        "eager": vllm.eager,
        "sleep": vllm.sleep,
        "lora": adapter_config(model) if model is not None else None,
        "patience": engine.patience,
        "trust_remote_code": config.model.trust_remote_code,
    }
    if vllm.process == "this":
        return VllmEngine(**settings)
    return ChildEngine(
        "grpo_agents.engines.vllm:VllmEngine",
        settings,
        patience=engine.patience,
        restarts=engine.restarts,
        say=say,
    )
