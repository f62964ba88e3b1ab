"""A model's chat template: what it knows and refuses, messages put the way it understands, and their rendering."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

from grpo_agents.chat.encoding import Encoding
from grpo_agents.chat.probes import PROBE_TOOL, assistant, calls_of_probe, shaped, user
from grpo_agents.tool_formats import TOOL_FORMATS, ToolFormat, detect
from grpo_agents.trajectory import Message

_EMPTY_THINKING = re.compile(r"<think>\s*</think>\s*")


class Template:
    """Renders dialogues.

    Args and what it raises are those of :class:`grpo_agents.chat.Chat`.

    Attributes:
        name: The model, for messages to people.
        encoding: The tokenizer's.
        knows_tools: Whether it writes both the schemas of tools and their results.
        tool_format: Name of the tool-call format; None where it speaks none.
        format: That format.
        end_id: The token with which it ends an assistant turn; None where it is no token of its own.
        end: That token's text, or an empty one.
        stops: Text of every token that ends a turn, by id; the template's own comes first.
    """

    def __init__(self, tokenizer: Any, tool_format: str | None, options: Mapping[str, Any]):
        self.name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if not tokenizer.chat_template:
            raise ValueError(f"{self.name} has no chat template: set chat.template to the path of a Jinja file")
        if tool_format is not None and tool_format not in TOOL_FORMATS:
            raise ValueError(f"chat.tool_format {tool_format!r} is unknown; choose one of {', '.join(TOOL_FORMATS)}")
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ValueError(f"{self.name} has a slow tokenizer: save a fast one (tokenizer.json) beside the model")
        source = tokenizer.chat_template
        source = "".join(source.values()) if isinstance(source, dict) else source
        self._tokenizer = tokenizer
        self._options = dict(options)
        self._knows_thinking = "reasoning_content" in source
        self.encoding = Encoding(tokenizer)
        self.knows_tools = self._probe_tools()
        self.tool_format = tool_format or (detect(source) if self.knows_tools else None)
        self.format: ToolFormat | None = TOOL_FORMATS[self.tool_format] if self.tool_format else None
        self._written_format = None if self.knows_tools else self.format  # tools are then plain text
        self._refuses_system = not self._accepts([{"role": "system", "content": "a"}, user("b")])
        self.end_id, self.stops = self._find_stops()
        self.end = "" if self.end_id is None else self.stops[self.end_id]

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, generate: bool = False
    ) -> str:
        """The text of a whole dialogue; ``generate`` opens the next assistant turn.

        Raises:
            ValueError: The template refuses the messages.
        """
        try:
            return self._apply(*self._prepare(messages, tools), generate)
        except (TemplateError, TypeError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"the chat template of {self.name} refuses messages of the roles {roles}: {error}"
            ) from error

    def render_assistant(self, message: Message) -> str:
        """The text that the policy would have to write for a message, without the stop token."""
        tools = [PROBE_TOOL] if message.get("tool_calls") and self.knows_tools else []
        prompt = self.render([user("a")], tools, generate=True)
        closed = self.render([user("a"), message], tools)
        thinking = message.get("reasoning_content") or ""
        body = closed[len(prompt) :]
        if closed.startswith(prompt) and thinking in body:
            if self.end and self.end in body:
                body = body[: body.rindex(self.end)]
            if not thinking and body.startswith("<think>"):
                body = _EMPTY_THINKING.sub("", body, count=1)
            return body
        opened = "" if prompt.rstrip().endswith("<think>") else "<think>\n"
        thinking = f"{opened}{thinking}\n</think>\n\n" if thinking else ""
        return thinking + _joined(message.get("content"), message, self.format)

    @cached_property
    def opening_and_header(self) -> tuple[str, str]:
        """The generation prompt, and how much of it stands before an assistant's text anywhere in a dialogue."""
        opening = self.render([user("a")], generate=True).removeprefix(self.render([user("a")]))
        dialogue = self.render([user("a"), {"role": "assistant", "content": "answer7"}, user("b")])
        before = dialogue.partition("answer7")[0]
        return opening, next(opening[:end] for end in range(len(opening), -1, -1) if before.endswith(opening[:end]))

    @cached_property
    def takes_one_call(self) -> bool:
        """True where it refuses two calls in a message, as Llama 3's does."""
        if self._written_format is not None:
            return False
        one, two = ([user("a"), assistant(calls_of_probe(count))] for count in (1, 2))
        return self._accepts(one) and not self._accepts(two)

    @cached_property
    def _ties_results_to_calls(self) -> bool:
        """True where it refuses a tool's result after a message without calls."""
        result = shaped(("tool", "call00000", "probe"), "a")
        return not self._accepts([user("a"), assistant(), result, assistant(), user("a")])

    def _apply(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], generate: bool) -> str:
        return self._tokenizer.apply_chat_template(
            messages, tools=tools or None, add_generation_prompt=generate, tokenize=False, **self._options
        )

    def _accepts(self, messages: Sequence[Message]) -> bool:
        try:
            self._apply(messages, (), False)
        except (TemplateError, TypeError):
            return False
        return True

    def _probe_tools(self) -> bool:
        calls = calls_of_probe(1)
        result = shaped(("tool", *calls[0]), "result7")
        try:
            offered = self._apply([user("a")], [PROBE_TOOL], True)
            answered = self._apply([user("a"), assistant(calls), result], [PROBE_TOOL], True)
        except (TemplateError, TypeError):
            return False
        return "probe" in offered and "result7" in answered

    def _find_stops(self) -> tuple[int | None, dict[int, str]]:
        """The token with which the template ends an assistant turn, and all that do."""
        try:
            closed = self._apply([user("a"), {"role": "assistant", "content": "answer7"}], (), False)
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the chat template of {self.name} refuses a question with its answer: {error}") from error
        tail = self.encoding.encode(closed.rpartition("answer7")[2]).tolist()
        end = next((token for token in tail if token in self.encoding.added), None)
        eom = self.encoding.id_of("<|eom_id|>")  # Llama's end of a message that calls a built-in tool
        stops = [stop for stop in (end, self._tokenizer.eos_token_id, eom) if stop is not None]
        if not stops:
            raise ValueError(f"{self.name}: no token ends an assistant turn; set the tokenizer's eos_token")
        return end, {stop: self.encoding.decode([stop]) for stop in stops}

    def _prepare(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> tuple[list[Message], Sequence[dict[str, Any]]]:
        """Puts messages the way that the template understands.

        Messages that are made up as a user's are joined with what the user says next to them: templates that refuse
        other roles want user and assistant to alternate.
        """
        if tools and self._written_format is not None:
            messages = _with_instructions(messages, self._written_format.instructions(tools))
            tools = ()
        prepared: list[Message] = []
        unread = False  # the last assistant message held only broken calls, which it lacks now
        was_made_up = False
        for message in messages:
            role, made_up = message["role"], None
            if role == "assistant":
                message = self._prepare_assistant(message)
                unread = "tool_calls" not in message
            elif role == "tool" and (self._written_format or (unread and self._ties_results_to_calls)):
                made_up = f"<tool_response>\n{message['content']}\n</tool_response>"
            elif role == "system" and self._refuses_system:
                made_up = message["content"]
            if made_up is not None:
                message = user(made_up)
            follows = bool(prepared) and prepared[-1]["role"] == message["role"] == "user"
            if follows and (was_made_up or made_up is not None):
                prepared[-1] = user(f"{prepared[-1]['content']}\n\n{message['content']}")
            else:
                prepared.append(message)
            was_made_up = made_up is not None
        return prepared, tools

    def _prepare_assistant(self, message: Message) -> Message:
        content, thinking = message.get("content") or "", message.get("reasoning_content")
        prepared: Message = {"role": "assistant"}
        if thinking and self._knows_thinking:
            prepared["reasoning_content"] = thinking
        elif thinking:
            content = f"<think>\n{thinking}\n</think>\n\n{content}"
        if self._written_format is None and (calls := _good_calls(message)):
            prepared["tool_calls"] = calls
        prepared["content"] = _joined(content, message, self._written_format)
        return prepared


def _with_instructions(messages: Sequence[Message], instructions: str) -> list[Message]:
    """The messages with instructions at the end of the system's, which comes first."""
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{instructions}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _good_calls(message: Message) -> list[dict[str, Any]]:
    """The calls that could be read, with their arguments as objects: templates want no JSON text."""
    calls = []
    for call in message.get("tool_calls") or ():
        if "invalid" not in call:
            arguments = call["function"]["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return calls


def _joined(content: str | None, message: Message, tool_format: ToolFormat | None) -> str:
    """The content, what was written for broken calls, and in a format where one is given the other calls."""
    broken = [call["text"] for call in message.get("tool_calls") or () if "invalid" in call]
    calls = _good_calls(message) if tool_format else []
    written = tool_format.format(calls) if tool_format and calls else ""
    return "\n".join(filter(None, [content, *broken, written]))
