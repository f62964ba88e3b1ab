"""The chat and the engine that a config names: what samples the policy, and each other model that is asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grpo_agents.chat import Chat
from grpo_agents.config import Config
from grpo_agents.learner import ranks
from grpo_agents.learner.model import adapter_config, computing_in, load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grpo_agents.engines import TokenEngine


def make_backend(config: Config, model: PreTrainedModel | None, say: Callable[[str], None]) -> tuple[Chat, TokenEngine]:
    """The chat and the engine of a config.

    Args:
        config: Whose ``[model]``, ``[chat]`` and ``[engine]``.
        model: The learner's; None where nothing learns.
        say: Told what the user should know of the engine while it works.

    Raises:
        ValueError: Something of the config does not exist or does not fit; says which key.
    """
    if config.engine.backend == "hosted":
        from grpo_agents.engines.hosted import HostedChat, HostedEngine

        hosted = HostedEngine(config.engine.server, patience=config.engine.patience)
        return cast(Any, (HostedChat(), hosted))  # what a rollout needs of such a pair, and no more
    chat = make_chat(config)
    if model is not None:
        check_tokens(chat, int(model.config.get_text_config().vocab_size))
    return chat, _make_engine(config, model, chat, say)


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
