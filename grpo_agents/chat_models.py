"""The models that rewards ask by name: those of ``[models]``, the anchor and the judge. Made only where they are asked.

The anchor is the policy as it was before training (Compute as Teacher, arXiv 2509.14234). With LoRA it is the policy
without its adapter, so that nothing is loaded twice; else its weights are loaded once more from ``model.path``, which
stay what they were, also where a run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_agents.backends import make_backend, make_chat
from grpo_agents.chat import Chat
from grpo_agents.config import ChatConfig, Config
from grpo_agents.engines.chat_model import ChatModel, EngineModel, SharedEngine
from grpo_agents.engines.remembering import RememberingModel
from grpo_agents.engines.settings import ChatModelConfig
from grpo_agents.learner import ranks
from grpo_agents.learner.model import computing_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grpo_agents.engines import TokenEngine

ANCHOR, JUDGE = "anchor", "judge"
"""Names that need no entry in the config."""


@dataclass
class ChatModels:
    """The models of a run by name.

    Attributes:
        by_name: What is asked.
        engines: Those that were made for them, and end with the run.
    """

    by_name: dict[str, ChatModel] = field(default_factory=dict)
    engines: list[TokenEngine] = field(default_factory=list)
    _shared: dict[str, SharedEngine] = field(default_factory=dict)

    def shared(self, name: str, make: Callable[[], TokenEngine]) -> SharedEngine:
        """An engine that several of them ask; made when the first does."""
        if name not in self._shared:
            self._shared[name] = SharedEngine(make())
        return self._shared[name]

    def close(self) -> None:
        """Ends what was started."""
        for engine in self.engines:
            engine.close()


def make_models(
    config: Config,
    asked: Iterable[str],
    model: PreTrainedModel | None,
    chat: Chat,
    engine: TokenEngine,
    say: Callable[[str], None],
) -> ChatModels:
    """Makes those of the models that are asked for.

    Args:
        config: The run's.
        asked: Names that reward components ask for; what is no model's is left out.
        model: The learner's; None where nothing learns.
        chat: The policy's.
        engine: What samples the policy.
        say: Told which weights are loaded beside the policy's, and which are not as nobody asks for them.

    Raises:
        ValueError: A model that does not exist or cannot be loaded; names its key.
    """
    made = ChatModels()
    asked = list(dict.fromkeys(asked))
    for name in config.models:
        if name not in asked and not (name == ANCHOR and JUDGE in asked and JUDGE not in config.models):
            say(f"models.{name}: no component of the rewards asks for a model of this name, and it is not loaded")

    def make(name: str) -> ChatModel:
        if name not in config.models and name == JUDGE:
            return made.by_name.get(ANCHOR) or make(ANCHOR)
        asker = _asker(config, name, model, chat, engine, made, say)
        made.by_name[name] = RememberingModel(asker, config.seed)
        return made.by_name[name]

    for name in asked:
        if name not in made.by_name and (name in config.models or name in (ANCHOR, JUDGE)):
            made.by_name[name] = make(name)
    return made


def _asker(
    config: Config,
    name: str,
    model: PreTrainedModel | None,
    chat: Chat,
    engine: TokenEngine,
    made: ChatModels,
    say: Callable[[str], None],
) -> EngineModel:
    settings = config.models.get(name) or ChatModelConfig()
    limits: dict[str, Any] = {"max_tokens": settings.max_tokens, "temperature": settings.temperature}
    own = _own_config(config, settings)
    if settings.path is None and settings.backend != "hosted":
        same = name not in config.models or settings.backend == config.engine.backend
        speaks = chat if own.chat == config.chat else make_chat(own)
        if model is None and same:  # nothing learns: what the engine samples from stays what it is
            return EngineModel(speaks, made.shared("engine", lambda: engine), **limits)
        if config.model.lora is not None and same and config.engine.backend == "vllm":
            return EngineModel(speaks, made.shared("engine", lambda: engine), adapter=False, **limits)
        # of several ranks each has but a shard of the learner's, and with overlap it moves while others sample
        idle = ranks.alone() and not config.train.overlap
        if config.model.lora is not None and model is not None and idle and settings.backend == "transformers":
            base = made.shared("base", lambda: _without_adapter(own, model, chat))
            return EngineModel(speaks, base, **limits)
    say(f"{name}: {settings.server.model or own.model.path} by {settings.backend}, beside the policy")
    try:
        pair = make_backend(own, None, say)
    except ValueError as error:
        raise ValueError(f"models.{name}: {error}") from error
    made.engines.append(pair[1])
    return EngineModel(*pair, **limits)


def _own_config(config: Config, settings: ChatModelConfig) -> Config:
    """The config of a run that samples with this model."""
    if settings.path is None:
        options = {**config.chat.options, **settings.options}
        chat = config.chat.model_copy(update={"template": settings.template or config.chat.template})
        chat = chat.model_copy(update={"options": options})
        model = config.model.model_copy(update={"lora": None})
    else:
        chat = ChatConfig(template=settings.template, options=settings.options)
        model = config.model.model_copy(update={"lora": None, "path": settings.path})
    engine = config.engine.model_copy(
        update={"backend": settings.backend, "vllm": settings.vllm, "server": settings.server}
    )
    return config.model_copy(update={"model": model, "chat": chat, "engine": engine})


def _without_adapter(config: Config, model: PreTrainedModel, chat: Chat) -> TokenEngine:
    """Samples from the learner's model as if it had no adapter."""
    from grpo_agents.engines.transformers import TransformersEngine

    @contextmanager
    def base() -> Iterator[None]:
        without: AbstractContextManager[Any] = model.disable_adapter()  # type: ignore[operator]  # a PeftModel has it
        with without, computing_in(config.model.dtype, model.device):
            yield

    return TransformersEngine(model, chat.pad_id, max_rows=config.engine.max_rows, computing=base)
