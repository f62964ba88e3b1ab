"""A model's way to write a dialogue: what a rollout, a demonstration and a person at the terminal start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from grpo_agents.chat.conversation import Conversation
from grpo_agents.chat.reading import read
from grpo_agents.chat.suffix import Suffixes
from grpo_agents.chat.template import Template
from grpo_agents.tool_formats import TOOL_FORMATS
from grpo_agents.trajectory import Message


@dataclass(frozen=True, slots=True)
class _Opening:
    """A prompt to render, cached by its content."""

    key: str
    messages: Sequence[Message] = field(compare=False)
    tools: Sequence[dict[str, Any]] = field(compare=False)


class Chat:
    """A model's way to write a dialogue.

    Attributes:
        tokenizer: The model's tokenizer.
        name: What errors call the model.
        stop_ids: Ids that end an assistant turn.
        pad_id: The tokenizer's pad token, else a stop token.
        tool_format: Name of the tool-call format; None where the template speaks none.
    """

    def __init__(
        self, tokenizer: Any, *, tool_format: str | None = None, template_options: Mapping[str, Any] | None = None
    ):
        """Reads a tokenizer's chat template.

        Args:
            tokenizer: A fast Hugging Face tokenizer.
            tool_format: A name of :data:`TOOL_FORMATS`; None takes the one that the template speaks. Where the template
                knows no tools, naming one makes the chat write schemas, calls and results as plain text.
            template_options: Handed to every rendering, such as ``{"enable_thinking": False}``.

        Raises:
            ValueError: No chat template, an unknown tool format, or no token that ends a turn.
        """
        self._template = Template(tokenizer, tool_format, template_options or {})
        self._suffixes = Suffixes(self._template)
        self._prompt = lru_cache(1024)(self._render_prompt)
        self.tokenizer = tokenizer
        self.name = self._template.name
        self.tool_format = self._template.tool_format
        self.stop_ids = tuple(self._template.stops)
        self.pad_id = self.stop_ids[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    def start(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Conversation:
        """Opens a conversation: renders the prompt, or takes it from the rollouts that had the same.

        Raises:
            ValueError: Tools, but the template knows none and no format is named; or it refuses the messages.
        """
        if tools and self.tool_format is None:
            problem = "speaks no known tool-call format" if self._template.knows_tools else "has no place for tools"
            raise ValueError(
                f"the chat template of {self.name} {problem}: "
                f"choose one by name, chat.tool_format = {' | '.join(map(repr, TOOL_FORMATS))}"
            )
        text, ids = self._prompt(_Opening(repr((messages, tools)), messages, tools))
        return Conversation(self._template, self._suffixes, messages, tools, text, ids)

    def parse(self, ids: Sequence[int] | np.ndarray, finish_reason: str, first_call: int = 0) -> Message:
        """Reads sampled ids as an assistant message.

        Args:
            ids: What was sampled, with or without a stop token at the end.
            finish_reason: ``length`` marks a truncated message, which calls nothing.
            first_call: How many calls the conversation made before: their ids go on counting from there.

        Returns:
            ``role``, ``content``, and where they apply ``reasoning_content`` and ``tool_calls``; a call that could not
            be read has ``invalid``, the reason, and its ``text``.
        """
        return read(self._template, ids, finish_reason, first_call)[0]

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, generate: bool = False
    ) -> str:
        """The template's text of a whole dialogue; ``generate`` opens the next assistant turn.

        Raises:
            ValueError: The template refuses the messages.
        """
        return self._template.render(messages, tools, generate=generate)

    def render_assistant(self, message: Message) -> str:
        """The text that the policy would have to write for a message, without the stop token."""
        return self._template.render_assistant(message)

    def demonstration(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Conversation:
        """Builds the samples of a scripted dialogue on the path that sampling takes.

        Every assistant message is encoded with its stop token and masked. Its content may be a list of parts
        ``{"type": "text", "text": …, "loss": False}``: tokens with any character of a part without loss are not masked.

        Args:
            messages: The dialogue; what follows the last assistant message is left out.
            tools: Schemas of the tools on offer.

        Returns:
            The conversation, with log-probs 0; ``prompt`` and ``turns`` say which message is where.

        Raises:
            ValueError: No assistant message after the first, or a part that the template does not write.
        """
        roles = [message["role"] for message in messages]
        if "assistant" not in roles[1:]:
            raise ValueError(f"a demonstration needs a prompt and an assistant message after it; its roles are {roles}")
        first = roles.index("assistant", 1)
        conversation, answers = self.start(messages[:first], tools), []
        for message in messages[first:]:
            if message["role"] != "assistant":
                answers.append(message)
                continue
            if conversation.turns:
                conversation.observe(answers)
            answers = []
            self._demonstrate(conversation, message)
        return conversation

    def _demonstrate(self, conversation: Conversation, message: Message) -> None:
        """Appends a scripted message as if it had been sampled."""
        template, parts = self._template, message.get("content") or ""
        if not isinstance(parts, str):
            message = {**message, "content": "".join(part["text"] for part in parts)}
        text = template.render_assistant(message) + (template.end or template.stops[self.stop_ids[0]])
        ids, spans = template.encoding.encode_with_spans(text)
        trained = np.ones(len(text), bool)  # (characters,)
        if not isinstance(parts, str):
            _unmask_parts(trained, text, parts)
        mask = np.array([bool(trained[start:stop].all()) for start, stop in spans], bool)  # (tokens,)
        conversation.add_turn(message, text, ids, np.zeros(len(ids), np.float32), mask)

    def _render_prompt(self, opening: _Opening) -> tuple[str, np.ndarray]:
        text = self.render(opening.messages, opening.tools, generate=True)
        return text, self._template.encoding.encode(text)


def _unmask_parts(trained: np.ndarray, text: str, parts: Sequence[Mapping[str, Any]]) -> None:
    """Clears the characters of the parts that carry no loss."""
    at = 0
    for part in parts:
        wanted = part["text"] if part["text"] in text[at:] else part["text"].strip()  # templates trim
        start = text.find(wanted, at)
        if start < 0:
            raise ValueError(
                f"the template does not write the part {part['text']!r:.80} of an assistant message as it is"
            )
        at = start + len(wanted)
        if not part.get("loss", True):
            trained[start:at] = False
