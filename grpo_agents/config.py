"""One TOML file says what a run is. Every key has a default that works, but for the model and the environment."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from grpo_agents.advantage import AdvantageConfig
from grpo_agents.alarms import AlarmsConfig
from grpo_agents.cluster.settings import ClusterConfig
from grpo_agents.credentials import check_address
from grpo_agents.curriculum import CurriculumConfig
from grpo_agents.engines.settings import ChatModelConfig, EngineConfig
from grpo_agents.learner.settings import LearnerConfig, ModelConfig, RewardModelConfig
from grpo_agents.loggers import LoggerName
from grpo_agents.methods import Method, available, make_method
from grpo_agents.methods.method import SourceKind
from grpo_agents.remote import Place
from grpo_agents.remote.making import RAY
from grpo_agents.rollout import RolloutConfig
from grpo_agents.section import Key, Section, keys_of, problems, unknown_key
from grpo_agents.writing import write_whole

GIVEN_NAMES = ("engine", "chat", "reward_model")
"""What reward components are handed by name beside models."""


class ChatConfig(Section):
    """How messages become tokens."""

    template: str | None = Field(default=None, description="A Jinja file instead of the tokenizer's own chat template.")
    tool_format: str | None = Field(
        default=None, description="hermes, llama3, mistral or pythonic; the template's own where not set."
    )
    options: dict[str, Any] = Field(default={}, description="Handed to the template, as {enable_thinking = false}.")


class EnvConfig(Section):
    """Which environment."""

    id: str = Field(
        description="A Gymnasium id, module:Class or file.py:Class; see `grpo-agents envs`. Or where one lives: "
        "http://… of a server (`grpo-agents serve-env`), or ray: and any id."
    )
    options: dict[str, Any] = Field(default={}, description="Handed to the environment when it is made.")
    place: Place | None = Field(default=None, description="What Ray gives the actors of an environment ray:….")

    @field_validator("id")
    @classmethod
    def _holds_no_secret(cls, name: str) -> str:
        if name.startswith(("http://", "https://")):
            check_address(name, "env.id", "token_variable")
        return name

    @model_validator(mode="after")
    def _only_ray_has_a_place(self) -> EnvConfig:
        if self.place is not None and not self.id.startswith(RAY):
            raise ValueError(f'env.place is of environments that Ray holds: env.id = "{RAY}{self.id}"')
        return self

    def made_with(self, other: dict[str, Any] | None = None) -> dict[str, Any]:
        """What it is made with: other options, where there are any, or its own; and its place."""
        options = other or self.options
        return options if self.place is None else {**options, "place": self.place}


class TasksConfig(Section):
    """Which tasks; the environment's own where no source is named."""

    source: str | None = Field(
        default=None, description="A .jsonl or .parquet file, module:function, or a data set of the hub or on disk."
    )
    split: str = Field(default="train", description="Which split of a data set.")
    columns: dict[str, str] | None = Field(default=None, description="Key ← column, as {answer = 'final'}.")
    skip_broken: bool = Field(default=False, description="Go on past broken lines of a JSONL file.")


class RewardsConfig(Section):
    """What a trajectory is worth."""

    vector: list[str] | str = Field(
        default=["outcome"],
        description="Components in order: the environment's or built-in names (cost, latency, tool_calls, length, "
        "format, math_answer, reward_model, reference, rubric, majority, perplexity, self_judged, first) or "
        "module:component; or one module:vector or file.py:vector.",
    )
    watch: list[str] | str = Field(
        default=[],
        description="Components that are computed, stored, shown and evaluated, and never learned from; as vector.",
    )

    @field_validator("vector", "watch")
    @classmethod
    def _one_name_is_a_list(cls, named: list[str] | str, info: ValidationInfo) -> list[str] | str:
        key = info.field_name
        if isinstance(named, str) and ":" not in named:
            raise ValueError(f'rewards.{key} is "{named}", and a list is wanted: {key} = ["{named}"]')
        return named


class PreferenceConfig(Section):
    """What users weigh; the environment's own preferences where nothing is set."""

    choices: list[dict[str, float]] | None = Field(default=None, description="One of these is drawn for each task.")
    simplex: list[str] | None = Field(default=None, description="Weights of these that sum to 1, drawn uniformly.")
    floor: dict[str, float] = Field(default={}, description="The least weight by component, with simplex.")

    @model_validator(mode="after")
    def _one_of_them(self) -> PreferenceConfig:
        if self.choices is not None and self.simplex is not None:
            raise ValueError("preference.choices and preference.simplex exclude each other")
        if self.floor and self.simplex is None:
            raise ValueError("preference.floor is of preference.simplex, which is not set")
        return self


class SourceConfig(Section):
    """Where the batches come from."""

    kind: SourceKind | None = Field(
        default=None,
        description="policy: groups sampled from the present weights; frozen: from the first ones, before learning "
        "begins; stored: trajectories of an earlier run; demonstrations, pairs: what people wrote. The method's usual "
        "one where not set.",
    )
    path: str | None = Field(
        default=None,
        description="stored: a file or folder of trajectories. demonstrations, pairs: as tasks.source; each a dict "
        "with messages, or with prompt, chosen and rejected (messages or texts); and tools, where it has them.",
    )
    split: str = Field(default="train", description="Which split of a data set.")
    batches: int = Field(default=10, ge=1, description="frozen: batches to sample, gone through again and again.")
    rescore: bool = Field(default=False, description="stored: compute the rewards again instead of taking them over.")
    other_preference: bool = Field(
        default=False,
        description="stored: learn also from files whose preference is not what the policy was shown "
        "(`grpo-agents rescore --preference`).",
    )


class TrainConfig(Section):
    """How long, and what is kept."""

    steps: int = Field(default=100, ge=1, description="Batches to learn from.")
    batch: int = Field(default=16, ge=1, description="Tasks (each a group) or demonstrations in a batch.")
    save_every: int = Field(default=50, ge=1, description="Steps between checkpoints; the last step has one always.")
    keep: int = Field(default=2, ge=1, description="How many checkpoints are kept.")
    store: bool = Field(default=True, description="Keep every trajectory, in Parquet.")
    log: list[LoggerName] = Field(
        default=[],
        description="Where figures go beside metrics.jsonl and TensorBoard: wandb, trackio (extras of the same name).",
    )
    overlap: bool = Field(
        default=False,
        description="Sample the next batch while the learner works on this one, with weights one step old. Takes an "
        "engine with weights of its own, which never sleeps then, and a correction (method.tis).",
    )


class EvalConfig(Section):
    """Evaluation while training."""

    every: int | None = Field(default=None, ge=1, description="Steps between evaluations; one before and after, too.")
    tasks: int = Field(default=256, ge=1, description="How many tasks, the same ones every time.")
    rollouts: int = Field(default=1, ge=1, description="Rollouts of each.")
    temperature: float = Field(default=1.0, ge=0, description="0 evaluates greedily.")
    source: TasksConfig = Field(
        default_factory=TasksConfig, description="Tasks that are held out, as [tasks]; else those of [tasks]."
    )
    env_options: dict[str, Any] = Field(default={}, description="Options of the environment instead of env.options.")


class Config(Section):
    """A run."""

    seed: int = Field(default=0, ge=0, description="All randomness comes from it.")
    run: str = Field(default="runs/run", description="The run folder.")
    model: ModelConfig = Field(description="Which model.")
    env: EnvConfig = Field(description="Which environment.")
    chat: ChatConfig = Field(default_factory=ChatConfig, description="How messages become tokens.")
    tasks: TasksConfig = Field(default_factory=TasksConfig, description="Which tasks.")
    rewards: RewardsConfig = Field(default_factory=RewardsConfig, description="What a trajectory is worth.")
    reward_model: RewardModelConfig | None = Field(default=None, description="A learned reward.")
    models: dict[str, ChatModelConfig] = Field(
        default={},
        description="Models that rewards ask by name. Two need no entry: anchor, the policy as it was "
        "before training, and judge, which is the anchor then.",
    )
    preference: PreferenceConfig = Field(default_factory=PreferenceConfig, description="What users weigh.")
    advantage: AdvantageConfig = Field(default_factory=AdvantageConfig, description="How rewards become advantages.")
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="How episodes are sampled.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="What samples tokens.")
    source: SourceConfig = Field(default_factory=SourceConfig, description="Where the batches come from.")
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig, description="Which tasks a step takes.")
    method: dict[str, Any] = Field(
        default={"name": "grpo"}, validate_default=True, description="name, and that method's settings."
    )
    learner: LearnerConfig = Field(default_factory=LearnerConfig, description="How a batch becomes an update.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="How long, and what is kept.")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig, description="Where it computes.")
    alarms: AlarmsConfig = Field(default_factory=AlarmsConfig, description="When learning goes wrong.")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="Evaluation while training.")

    @field_validator("method")
    @classmethod
    def _with_every_setting(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return {"name": settings.get("name", "grpo"), **make_method(settings).settings()}

    @property
    def samples(self) -> bool:
        """Whether training samples at all: for its batches, or to evaluate."""
        return self.source_kind in ("policy", "frozen") or self.eval.every is not None

    def evaluates(self, step: int) -> bool:
        """Whether training evaluates after that many steps: before the first, every so often and after the last."""
        every = self.eval.every
        return every is not None and (step % every == 0 or step == self.train.steps)

    @property
    def max_staleness(self) -> int:
        """How many steps older than those that learn the weights that sampled may be."""
        return self.cluster.max_staleness if self.cluster.kind == "ray" else int(self.train.overlap)

    @property
    def source_kind(self) -> SourceKind:
        """Where its batches come from."""
        return self.source.kind or self.chosen_method.sources[0]

    @property
    def chosen_method(self) -> Method:
        """The method with its settings."""
        return make_method(self.method)

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        method, backend = self.chosen_method, self.engine.backend
        if self.rollout.stop and backend in ("vllm", "server"):
            raise ValueError(f"rollout.stop: engine.backend {backend!r} ends turns at tokens, not at texts")
        if self.model.lora is not None and backend == "server":
            raise ValueError(
                "model.lora: engine.backend 'server' is sent whole models, not adapters. Use 'vllm', which takes them."
            )
        if self.train.overlap:
            self._check_overlap(method)
        if self.cluster.kind == "ray":
            self._check_cluster(method)
        for name, asked in self.models.items():
            if name in GIVEN_NAMES:
                raise ValueError(f"models.{name}: rewards are handed the run's own by that name. Choose another name")
            if asked.backend == "hosted" and (asked.server.url is None or asked.server.model is None):
                raise ValueError(f"models.{name}: backend 'hosted' needs server.url and server.model")
            if asked.backend == "hosted" and (asked.template is not None or asked.options):
                raise ValueError(
                    f"models.{name}: template and options are not for 'hosted', which has its own template"
                )
        kind = self.source_kind
        if kind not in method.sources:
            raise ValueError(
                f"source.kind is {kind!r}, and method {method.name!r} learns from {', '.join(method.sources)}"
            )
        if self.curriculum.chooses and kind != "policy":
            raise ValueError(
                f"curriculum chooses what is sampled while the policy learns, and a run on {kind} samples nothing "
                "then. Leave curriculum.sampler and curriculum.difficulty out."
            )
        if kind not in ("policy", "frozen"):
            if self.source.path is None:
                raise ValueError(f"method {method.name!r} learns from {kind} here: set source.path")
        elif self.source.path is not None:
            raise ValueError(
                f"source.path is set, and source.kind {kind!r} samples its batches: leave it out, or set source.kind = "
                "'stored' to learn from what is there"
            )
        if self.source.rescore and kind != "stored":
            raise ValueError(
                f"source.rescore computes stored rewards again, and source.kind is {kind!r}: leave it out, or set "
                "source.kind = 'stored'"
            )
        if self.source.other_preference and kind != "stored":
            raise ValueError(
                f"source.other_preference is for what is stored, and source.kind is {kind!r}: leave it out, or set "
                "source.kind = 'stored'"
            )
        if method.corrects_sampler and self.learner.old_logprobs != "recompute":
            raise ValueError(
                f"method {method.name!r} weighs tokens by π_old/π_sampler (method.tis), which is 1 where π_old is what "
                "the engine returned. Set learner.old_logprobs = 'recompute'."
            )
        if kind in ("policy", "frozen"):
            self._check_sampling(method)
        return self

    def _check_sampling(self, method: Method) -> None:
        """Refuses rollouts that nothing could be learned from."""
        if method.normalises_by_group and self.rollout.group_size < 2:
            raise ValueError(
                f"rollout.group_size is {self.rollout.group_size}: method {method.name!r} compares the rollouts of a "
                "group, and one alone has nothing to be compared with. Use at least 2."
            )
        if self.rollout.top_p < 1 and not self.rollout.top_k:
            raise ValueError(
                f"rollout.top_p is {self.rollout.top_p:g}: the learner's distributions are cut as the sampled ones "
                "were, so what is left of each is kept with its token, and top_p alone may leave the whole vocabulary. "
                "Set rollout.top_k as well, which bounds it (64, say), or train with top_p = 1."
            )
        if self.rollout.temperature == 0:
            raise ValueError("rollout.temperature is 0: rollouts of a group would all be the same. Use 1.0.")

    def _check_overlap(self, method: Method) -> None:
        if self.source_kind != "policy":
            raise ValueError(
                f"train.overlap: a run on {self.source_kind} samples nothing while it learns. Leave it out."
            )
        if self.engine.backend == "transformers":
            raise ValueError(
                "train.overlap samples while the learner moves its weights, and engine.backend 'transformers' samples "
                "with those very weights. Use 'vllm' or 'server', or leave overlap out."
            )
        if not method.corrects_sampler:
            raise ValueError(
                f"train.overlap learns from what weights one step old sampled, and method {method.name!r} does not "
                "correct for that. Set method.tis = 2.0 and learner.old_logprobs = 'recompute', or leave overlap out."
            )

    def _check_cluster(self, method: Method) -> None:
        if self.train.overlap:
            raise ValueError("train.overlap is of one process: on a cluster set cluster.max_staleness instead")
        if self.engine.backend in ("server", "hosted"):
            raise ValueError(
                f"cluster.kind is 'ray', whose workers have engines of their own, and engine.backend is "
                f"{self.engine.backend!r}. Use 'vllm' or 'transformers', or leave [cluster] out"
            )
        if self.learner.optimizer.name == "adamw8bit" and self.cluster.learner_ranks > 1:
            raise ValueError(
                "learner.optimizer.name is 'adamw8bit', which works in one process alone, and cluster.learner_ranks is "
                f"{self.cluster.learner_ranks}. Use 'adamw' or 'muon'."
            )
        if self.reward_model is not None and self.reward_model.retrain_every:
            raise ValueError(
                "reward_model.retrain_every: on a cluster rewards are computed by the workers, whose reward models "
                "stay what they were. Leave it out, or leave [cluster] out"
            )
        if self.source.rescore:
            raise ValueError(
                "source.rescore: on a cluster models and engines are the workers', and what is stored is scored here. "
                "Leave [cluster] out"
            )
        if self.cluster.max_staleness and self.source_kind == "policy" and not method.corrects_sampler:
            raise ValueError(
                f"cluster.max_staleness is {self.cluster.max_staleness}: older weights sample then, and method "
                f"{method.name!r} does not correct for that. Set method.tis = 2.0 and learner.old_logprobs = "
                "'recompute', or max_staleness = 0."
            )


def list_keys(section: str = "") -> list[Key]:
    """The keys of a config, or those of one section; the settings of every method are among those of ``method``.

    Raises:
        ValueError: No such section or key; names the nearest.
    """
    keys = list(keys_of(Config))
    for name, method in sorted(available().items()):
        own = [f"method.{field}" for field in method.__annotations__]
        described = keys_of(method, "method")
        keys += [replace(key, description=f"{name}: {key.description}") for key in described if key.name in own]
    found = [key for key in keys if not section or f"{key.name}.".startswith(f"{section}.")]
    if not found:
        raise ValueError(unknown_key(section, list(Config.model_fields)))
    return found


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a run's TOML file.

    Args:
        path: The file.
        overrides: ``section.key=value``, each value in TOML; text may go without quotes.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Everything that is wrong with it, a line each: the key, what was expected, the nearest key there is.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no config file {path.absolute()}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _override(data, override)
    return make_config(data, str(path))


def make_config(data: dict[str, Any], name: str = "config") -> Config:
    """Checks a config given as a dict; see :func:`load_config`."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{name}:\n" + "\n".join(f"  {line}" for line in problems(error, Config))) from None


def save_config(config: Config, path: Path) -> None:
    """Writes a config as TOML, with every key that is set; the others are named in a comment, as TOML has no null."""
    table = config.model_dump()
    unset = ", ".join(_take_unset(table))
    write_whole(path, f"# What every key came to. Not set: {unset}\n\n{tomli_w.dumps(table)}")


def flat(table: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Every key of a table and of those in it, as ``train.steps``, and its value."""
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{section}{key}.") if isinstance(value, Mapping) else {section + key: value}
    return found


def _take_unset(table: dict[str, Any], section: str = "") -> list[str]:
    """Takes the keys that are None out of a table and of those in it; gives their names."""
    taken = []
    for key, value in list(table.items()):
        if value is None:
            del table[key]
            taken.append(section + key)
        elif isinstance(value, dict):
            taken += _take_unset(value, f"{section}{key}.")
    return taken


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {override!r}: write section.key=value, as learner.optimizer.lr=1e-6")
    value = read_value(text)
    *sections, last = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ValueError(f"--set {override!r}: {section!r} is no section")
    data[last] = value


def read_value(text: str) -> Any:
    """A value in TOML; text may go without quotes.

    >>> read_value("[1, 2]"), read_value("train")
    ([1, 2], 'train')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
