"""Messages ⇄ token ids: a prompt is rendered once, sampled ids are appended as they are, and nothing is encoded twice.

A :class:`Chat` knows a model's template, stop tokens and tool-call format; a :class:`Conversation` is one episode::

    conversation = chat.start(messages, tools)
    while …:
        ids, logprobs, finish_reason = engine(conversation.ids)
        message = conversation.assistant(ids, logprobs, finish_reason)
        conversation.observe(environment(message))
    samples = conversation.finished_samples()

Where the template rewrites what was said (Qwen3 drops thinking when the user speaks again, Mistral moves the tools),
a new sample forks off the prefix that both share, and the old one keeps the sampled tokens that are trained.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError

from grpo_agents.tool_formats import TOOL_FORMATS, detect
from grpo_agents.trajectory import Message, Sample

_EMPTY_THINKING = re.compile(r"<think>\s*</think>\s*")
_MARKUP = re.compile(r"think>|tool_|<\||\[/?[A-Z_]+\]")
"""Contents with such words are rendered in full: templates are known to look for them."""

Shapes = tuple[tuple[str, str | None, str | None], ...]
"""Role, ``tool_call_id`` and ``name`` of each message."""

_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string", "description": "A text."}}},
    },
}


@dataclass(frozen=True, slots=True)
class _Opening:
    """A prompt to render, cached by its content."""

    key: str
    messages: Sequence[Message] = field(compare=False)
    tools: Sequence[dict[str, Any]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Past:
    """A dialogue up to an assistant message, and the texts that the template may make of it.

    Each text comes with what the template writes between the turn's stop token and the next message.
    """

    messages: list[Message]
    tools: Sequence[dict[str, Any]]
    texts: list[tuple[str, str]]


class Chat:
    """A model's way to write a dialogue.

    Attributes:
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
        self.tokenizer = tokenizer
        self.name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        template = tokenizer.chat_template
        if not template:
            raise ValueError(f"{self.name} has no chat template: set chat.template to the path of a Jinja file")
        source = "".join(template.values()) if isinstance(template, dict) else template
        if tool_format is not None and tool_format not in TOOL_FORMATS:
            raise ValueError(f"chat.tool_format {tool_format!r} is unknown; choose one of {', '.join(TOOL_FORMATS)}")
        self._options = dict(template_options or {})
        self._encoder: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._encoder is None:
            raise ValueError(f"{self.name} has a slow tokenizer: save a fast one (tokenizer.json) beside the model")
        self._knows_thinking = "reasoning_content" in source
        self._knows_tools = self._probe_tools()
        self._writes_tools = tool_format is not None and not self._knows_tools
        self.tool_format = tool_format or (detect(source) if self._knows_tools else None)
        self._format = TOOL_FORMATS[self.tool_format] if self.tool_format else None
        self._refuses_system = not self._accepts([{"role": "system", "content": "a"}, _user("b")])
        self._end_id, self.stop_ids = self._find_stops()
        self._stop_texts = {stop: self._decode([stop]) for stop in self.stop_ids}
        self._end_text = "" if self._end_id is None else self._stop_texts[self._end_id]
        self._specials = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self.pad_id = self.stop_ids[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self._prompt = lru_cache(1024)(self._render_prompt)
        self._encode_suffix = lru_cache(16384)(self._encode_after_stop)
        self._literals = lru_cache(4096)(self._render_literals)
        self._fills = lru_cache(256)(self._probe_fill)

    def start(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Conversation:
        """Opens a conversation: renders the prompt, or takes it from the rollouts that had the same.

        Raises:
            ValueError: Tools, but the template knows none and no format is named; or it refuses the messages.
        """
        if tools and self._format is None:
            problem = "speaks no known tool-call format" if self._knows_tools else "has no place for tools"
            raise ValueError(
                f"the chat template of {self.name} {problem}: "
                f"choose one by name, chat.tool_format = {' | '.join(map(repr, TOOL_FORMATS))}"
            )
        text, ids = self._prompt(_Opening(repr((messages, tools)), messages, tools))
        return Conversation(self, messages, tools, text, ids)

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
        conversation, said = self.start(messages[:first], tools), []
        for message in messages[first:]:
            if message["role"] != "assistant":
                said.append(message)
                continue
            if conversation.turns:
                conversation.observe(said)
            said = []
            parts = message.get("content") or ""
            if not isinstance(parts, str):
                message = {**message, "content": "".join(part["text"] for part in parts)}
            text = self.render_assistant(message) + (self._end_text or self._stop_texts[self.stop_ids[0]])
            encoded = self._encoder.encode(text, add_special_tokens=False)
            trained = np.ones(len(text), bool)  # (characters,)
            if not isinstance(parts, str):
                _unmask_parts(trained, text, parts)
            mask = np.array([bool(trained[start:stop].all()) for start, stop in encoded.offsets], bool)  # (tokens,)
            ids = np.array(encoded.ids, np.int32)
            conversation._append_turn(message, text, ids, np.zeros(len(ids), np.float32), mask)
        return conversation

    def render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, generate: bool = False
    ) -> str:
        """The template's text of a whole dialogue; ``generate`` opens the next assistant turn.

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
        tools = [_PROBE_TOOL] if message.get("tool_calls") and self._knows_tools else []
        prompt = self.render([_user("a")], tools, generate=True)
        closed = self.render([_user("a"), message], tools)
        thinking = message.get("reasoning_content") or ""
        body = closed[len(prompt) :]
        if closed.startswith(prompt) and thinking in body:
            end = body.rfind(self._end_text) if self._end_text else len(body)
            body = body[:end] if end >= 0 else body
            return body if thinking else _EMPTY_THINKING.sub("", body, count=1) if body.startswith("<think>") else body
        opened = "" if prompt.rstrip().endswith("<think>") else "<think>\n"
        thinking = f"{opened}{thinking}\n</think>\n\n" if thinking else ""
        calls = _good_calls(message)
        written = self._format.format(calls) if self._format and calls else ""
        broken = _broken_texts(message.get("tool_calls") or ())
        return thinking + "\n".join(filter(None, [message.get("content"), *broken, written]))

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
        return self._read(ids, finish_reason, first_call)[0]

    def _read(self, ids: Sequence[int] | np.ndarray, finish_reason: str, first_call: int) -> tuple[Message, str]:
        """The message, and the text of all its ids."""
        sampled = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        stop = self._stop_texts.get(sampled[-1], "") if sampled else ""
        if stop:
            sampled.pop()
        text = self._decode(sampled)
        before, closed, content = text.partition("</think>")
        message: Message = {"role": "assistant", "content": text}
        if closed:
            message["content"] = content = content.lstrip("\n")
            message["reasoning_content"] = before.strip().removeprefix("<think>").strip("\n")
        if self._format is not None and finish_reason != "length":
            content, calls = self._format.parse(message["content"])
            if len(calls) > 1 and self._takes_one_call:
                calls[1:] = [self._refused(call) for call in calls[1:]]
            if calls:
                message["content"] = content
                message["tool_calls"] = [{"id": f"call{first_call + n:05d}", **call} for n, call in enumerate(calls)]
        if not self._specials.isdisjoint(sampled):
            for special in self._specials.intersection(sampled):
                message["content"] = message["content"].replace(self._decode([special]), "")
        return message, text + stop

    def _apply(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], generate: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tools=tools or None, add_generation_prompt=generate, tokenize=False, **self._options
        )

    def _accepts(self, messages: Sequence[Message]) -> bool:
        try:
            self._apply(messages, (), False)
        except (TemplateError, TypeError):
            return False
        return True

    def _probe_tools(self) -> bool:
        """True where the template writes both the schemas of tools and their results."""
        call = _dummy_assistant((("call00000", "probe"),), False)
        result = {"role": "tool", "tool_call_id": "call00000", "name": "probe", "content": "result7"}
        try:
            offered = self._apply([_user("a")], [_PROBE_TOOL], True)
            answered = self._apply([_user("a"), call, result], [_PROBE_TOOL], True)
        except (TemplateError, TypeError):
            return False
        return "probe" in offered and "result7" in answered

    @cached_property
    def _takes_one_call(self) -> bool:
        """True where the template refuses two calls in a message, as Llama 3's does."""
        one, two = (_dummy_assistant((("call00000", "f"), ("call00001", "f"))[:count], False) for count in (1, 2))
        return not self._writes_tools and self._accepts([_user("a"), one]) and not self._accepts([_user("a"), two])

    def _refused(self, call: Mapping[str, Any]) -> dict[str, Any]:
        if "invalid" in call or self._format is None:
            return dict(call)
        function = {"name": call["function"]["name"], "arguments": {}}
        reason = "this model's chat template takes one call a message"
        return {"type": "function", "function": function, "invalid": reason, "text": self._format.format([call])}

    @cached_property
    def _ties_results_to_calls(self) -> bool:
        """True where the template refuses a tool's result after a message without calls."""
        result = {"role": "tool", "tool_call_id": "call00000", "name": "probe", "content": "a"}
        plain = {"role": "assistant", "content": "a"}
        return not self._accepts([_user("a"), plain, result, plain, _user("a")])

    def _find_stops(self) -> tuple[int | None, tuple[int, ...]]:
        """The token with which the template ends an assistant turn, and all that do."""
        closed = self._apply([_user("a"), {"role": "assistant", "content": "answer7"}], (), False)
        tail = self._encode(closed.rpartition("answer7")[2])
        added = self.tokenizer.added_tokens_decoder
        end = next((int(token) for token in tail if int(token) in added), None)
        eom = self.tokenizer.get_vocab().get("<|eom_id|>")  # Llama's end of a message that calls a built-in tool
        stops = [stop for stop in (end, self.tokenizer.eos_token_id, eom) if stop is not None]
        if not stops:
            raise ValueError(f"{self.name}: no token ends an assistant turn; set the tokenizer's eos_token")
        return end, tuple(dict.fromkeys(stops))

    def _prepare(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> tuple[list[Message], Sequence[dict[str, Any]]]:
        """Puts messages the way that the template understands."""
        if tools and self._writes_tools and self._format is not None:
            instructions = self._format.instructions(tools)
            if messages and messages[0]["role"] == "system":
                first = {**messages[0], "content": f"{messages[0]['content']}\n\n{instructions}"}
                messages = [first, *messages[1:]]
            else:
                messages = [{"role": "system", "content": instructions}, *messages]
            tools = ()
        prepared: list[Message] = []
        unread = merges = (
            False  # did the last assistant message hold only broken calls; is the last user message made up
        )
        for message in messages:
            role, made_up = message["role"], False
            if role == "assistant":
                message = self._prepare_assistant(message)
                unread = "tool_calls" not in message
            elif role == "tool" and (self._writes_tools or (unread and self._ties_results_to_calls)):
                made_up = True
                message = _user(f"<tool_response>\n{message['content']}\n</tool_response>")
            elif role == "system" and self._refuses_system:
                made_up = True
                message = _user(message["content"])
            follows = bool(prepared) and prepared[-1]["role"] == message["role"] == "user"
            if follows and (
                made_up or merges
            ):  # templates that refuse other roles want user and assistant to alternate
                prepared[-1] = _user(f"{prepared[-1]['content']}\n\n{message['content']}")
            else:
                prepared.append(message)
            merges = made_up
        return prepared, tools

    def _prepare_assistant(self, message: Message) -> Message:
        calls, good = message.get("tool_calls") or (), _good_calls(message)
        content, thinking = message.get("content") or "", message.get("reasoning_content")
        prepared: Message = {"role": "assistant"}
        if thinking and self._knows_thinking:
            prepared["reasoning_content"] = thinking
        elif thinking:
            content = f"<think>\n{thinking}\n</think>\n\n{content}"
        if good and not self._writes_tools:
            prepared["tool_calls"] = good
        written = [self._format.format(good)] if good and self._writes_tools and self._format else []
        prepared["content"] = "\n".join(filter(None, [content, *_broken_texts(calls), *written]))
        return prepared

    def _suffix(self, past: _Past, new: Sequence[Message]) -> tuple[str, str | None]:
        """The whole rendering after new messages, and what of it follows the stop token: None if history changed."""
        full = self.render([*past.messages, *new], past.tools, generate=True)
        for text, after in past.texts:
            if full.startswith(text):
                return full, after + full[len(text) :]
        return full, None

    def _past(self, history: Sequence[Message], message: Message, tools: Sequence[dict[str, Any]]) -> _Past:
        prompt = self.render(history, tools, generate=True)
        closed = self.render([*history, message], tools)
        texts = [(f"{prompt}{self.render_assistant(message)}{self._end_text}", "")]
        if closed.startswith(prompt) and (message.get("reasoning_content") or "") in closed[len(prompt) :]:
            after = closed[len(prompt) :].rpartition(self._end_text)[2] if self._end_text else ""
            texts.append((closed, after))
        return _Past([*history, message], tools, texts)

    def _render_prompt(self, opening: _Opening) -> tuple[str, np.ndarray]:
        text = self.render(opening.messages, opening.tools, generate=True)
        return text, self._encode(text)

    def _local_suffix(
        self, calls: Sequence[Mapping[str, Any]], thought: tuple[bool, bool], tools: bool, new: Sequence[Message]
    ) -> str | None:
        """The suffix without rendering the history; None where the template might look at more than roles and ids.

        Args:
            calls: The calls of the message that is answered.
            thought: Whether a message before it had thinking, and whether it has itself.
            tools: Whether tools are on offer.
            new: The answer.
        """
        shapes, contents = [], []
        for message in new:
            shapes.append((message["role"], message.get("tool_call_id"), message.get("name")))
            contents.append(content := message.get("content"))
            if len(message) != 4 - shapes[-1].count(None) or type(content) is not str or _MARKUP.search(content):
                return None
        if any("invalid" in call for call in calls):
            return None
        made = tuple([(call["id"], call["function"]["name"]) for call in calls])
        literals = self._literals(tuple(shapes), made, thought, tools)
        if literals is None:
            return None
        fill, (first, *rest) = literals
        return first + "".join([fill(content) + literal for content, literal in zip(contents, rest, strict=True)])

    def _render_literals(
        self, shapes: Shapes, calls: tuple[tuple[str, str], ...], thought: tuple[bool, bool], tools: bool
    ) -> tuple[Callable[[str], str], tuple[str, ...]] | None:
        """How contents are put in, and what the template writes around them."""
        fill = self._fills(tuple([shape[0] for shape in shapes]), len(calls), thought, tools)
        if fill is None:
            return None
        past = self._past([_user("a")], _dummy_assistant(calls, thought[1]), [_PROBE_TOOL] if tools else [])
        literals = self._cut(past, shapes)
        return None if literals is None else (fill, literals)

    def _probe_fill(
        self, roles: tuple[str, ...], calls: int, thought: tuple[bool, bool], tools: bool
    ) -> Callable[[str], str] | None:
        """Finds out how contents of these roles are put in: as they are or trimmed; None where history matters.

        After unlike histories the template must append the same, whatever the contents.
        """
        made = tuple((f"call{number:05d}", "probe") for number in range(calls))
        answered = iter(made)
        shapes: list[tuple[str, str | None, str | None]] = []
        for role in roles:
            call_id, name = next(answered, (None, None)) if role == "tool" else (None, None)
            shapes.append((role, call_id, name))
        earlier = _dummy_assistant((), thought[0])
        histories = [[_user("a")], [{"role": "system", "content": "b"}, _user("c"), earlier, _user("d")]]
        if tools:
            result = _shaped(("tool", "call00009", "probe"), "e")
            histories.append([_user("f"), _dummy_assistant((("call00009", "probe"),), thought[0]), result])
        fills: list[Callable[[str], str]] = [str, str.strip]
        seen = set()
        try:
            for history in histories:
                past = self._past(history, _dummy_assistant(made, thought[1]), [_PROBE_TOOL] if tools else [])
                literals = self._cut(past, tuple(shapes))
                seen.add(literals)
                if literals is None or len(seen) > 1:
                    return None
                for content in ("7", "", ' \n {\'a\': "é\\n", "<b>": [0]} {{ x }}\t\n', '{"a": 1}'):
                    suffix = self._suffix(past, [_shaped(shape, content) for shape in shapes])[1]
                    fills = [fill for fill in fills if fill(content).join(literals) == suffix]
        except ValueError:
            return None
        return fills[0] if fills else None

    def _cut(self, past: _Past, shapes: Shapes) -> tuple[str, ...] | None:
        """The suffix around the contents of new messages; None where history changes or a content is not kept once."""
        marks = [f"mark{number}content" for number in range(len(shapes))]
        suffix = self._suffix(past, [_shaped(shape, mark) for shape, mark in zip(shapes, marks, strict=True)])[1]
        if suffix is None or re.findall("mark[0-9]+content", suffix) != marks:
            return None
        return tuple(re.split("mark[0-9]+content", suffix))

    @cached_property
    def _opened_and_header(self) -> tuple[str, str]:
        """The generation prompt, and how much of it stands before an assistant's text anywhere in a dialogue."""
        opened = self.render([_user("a")], generate=True).removeprefix(self.render([_user("a")]))
        dialogue = self.render([_user("a"), {"role": "assistant", "content": "answer7"}, _user("b")])
        before = dialogue.partition("answer7")[0]
        return opened, next(opened[:end] for end in range(len(opened), -1, -1) if before.endswith(opened[:end]))

    def _decode(self, ids: Sequence[int]) -> str:
        return self._encoder.decode(ids, skip_special_tokens=False)

    def _encode(self, text: str) -> np.ndarray:
        if self._encoder.truncation or self._encoder.padding:  # left behind by someone's padded batch
            self._encoder.no_truncation()
            self._encoder.no_padding()
        return np.array(self._encoder.encode(text, add_special_tokens=False).ids, np.int32)

    def _piece(self, before: Sequence[_Piece], text: str) -> _Piece:
        """Template text that follows other pieces."""
        after_stop = bool(before and self._end_text) and before[-1].text.endswith(self._end_text)
        return _Piece(text, self._encode_after_stop(text) if after_stop else self._encode(text))

    def _surviving(self, turn: Turn, text: str, at: int) -> tuple[int, str, np.ndarray] | None:
        """Finds what a rewritten dialogue keeps of a turn: all of it or what follows its thinking.

        Returns:
            Where it starts, its text and its ids as sampled; None where the text is gone or begins within a token.
        """
        said, ids = turn.text, turn.ids.tolist()
        if ids and ids[-1] in self._stop_texts and ids[-1] != self._end_id:  # the template ends the turn in its own way
            said = said.removesuffix(self._stop_texts[ids.pop()])
        answer = said.rpartition("</think>")[2].lstrip("\n")
        opened, header = self._opened_and_header
        for lead in (opened, header):
            for kept in (said, answer):
                found = text.find(lead + kept, max(0, at - len(lead))) if kept else -1
                if found < 0:
                    continue
                first = bisect_left(range(len(ids)), -len(kept), key=lambda cut: -len(self._decode(ids[cut:])))
                if self._decode(ids[first:]) == kept:
                    return found + len(lead), kept, turn.ids[first : len(ids)]
        return None

    def _encode_after_stop(self, text: str) -> np.ndarray:
        """Encodes text that follows a stop token: some tokenizers treat the space there in a way of its own."""
        return self._encode(self._end_text + text)[1:] if self._end_text else self._encode(text)


@dataclass(slots=True)
class Turn:
    """An assistant turn: its message, and which sample holds its tokens, from ``start`` to ``stop``."""

    message: Message
    sample: int
    start: int
    stop: int
    text: str
    ids: np.ndarray
    logprobs: np.ndarray
    mask: np.ndarray | None


@dataclass(slots=True)
class _Piece:
    """A run of tokens that belongs together: template text, or what is left of the turn of that number."""

    text: str
    ids: np.ndarray
    turn: int | None = None


@dataclass(slots=True)
class _Draft:
    """A sample being built."""

    pieces: list[_Piece]
    length: int
    shared: int = 0


class Conversation:
    """One episode as tokens.

    Attributes:
        prompt: The opening messages.
        messages: Everything said so far.
        turns: The assistant's turns.
    """

    def __init__(
        self, chat: Chat, prompt: Sequence[Message], tools: Sequence[dict[str, Any]], text: str, ids: np.ndarray
    ):
        self.prompt = tuple(prompt)
        self.messages = list(prompt)
        self.turns: list[Turn] = []
        self._chat = chat
        self._tools = tools
        self._drafts = [_Draft([_Piece(text, ids)], len(ids))]
        self._calls = 0
        self._thought = any("reasoning_content" in message for message in prompt)

    @property
    def ids(self) -> np.ndarray:
        """What the engine is to be prompted with now, shape (tokens,), int32."""
        return np.concatenate([piece.ids for piece in self._drafts[-1].pieces])

    @property
    def length(self) -> int:
        """How many tokens that is."""
        return self._drafts[-1].length

    def assistant(
        self, ids: Sequence[int] | np.ndarray, logprobs: Sequence[float] | np.ndarray, finish_reason: str
    ) -> Message:
        """Appends what was sampled, exactly as it came back.

        Args:
            ids: Sampled ids, shape (tokens,), the stop token included where there is one.
            logprobs: Their log-probs, shape (tokens,).
            finish_reason: ``stop`` or ``length``.

        Returns:
            The message that they say; see :meth:`Chat.parse`.

        Raises:
            ValueError: Not one log-prob a token.
        """
        sampled, scores = np.asarray(ids, np.int32), np.asarray(logprobs, np.float32)
        if sampled.shape != scores.shape or sampled.ndim != 1:
            raise ValueError(f"the engine returned ids of shape {sampled.shape}, log-probs of shape {scores.shape}")
        message, text = self._chat._read(sampled, finish_reason, self._calls)
        self._append_turn(message, text, sampled, scores)
        return message

    def _append_turn(
        self, message: Message, text: str, ids: np.ndarray, logprobs: np.ndarray, mask: np.ndarray | None = None
    ) -> None:
        draft = self._drafts[-1]
        stop = draft.length + len(ids)
        self.turns.append(Turn(message, len(self._drafts) - 1, draft.length, stop, text, ids, logprobs, mask))
        draft.pieces.append(_Piece(text, ids, len(self.turns) - 1))
        draft.length = stop
        self.messages.append(message)
        self._calls += len(message.get("tool_calls") or ())

    def observe(self, messages: Sequence[Message]) -> None:
        """Appends what the environment said and opens the next turn; forks where the template rewrites history.

        Raises:
            ValueError: No turn to answer, or the template refuses the messages.
        """
        if not self.turns or self.messages[-1] is not self.turns[-1].message:
            raise ValueError("observe() answers an assistant turn: call assistant() first")
        chat, turn = self._chat, self.turns[-1]
        calls = turn.message.get("tool_calls") or ()
        thinks = "reasoning_content" in turn.message
        full, suffix = "", chat._local_suffix(calls, (self._thought, thinks), bool(self._tools), messages)
        if suffix is None:
            full, suffix = chat._suffix(chat._past(self.messages[:-1], turn.message, self._tools), messages)
        self.messages += messages
        self._thought |= thinks
        if suffix is None:
            self._rewrite(full)
            return
        draft = self._drafts[-1]
        if chat._end_id is not None and (len(turn.ids) == 0 or int(turn.ids[-1]) not in chat._stop_texts):
            draft.pieces.append(_Piece(chat._end_text, np.array([chat._end_id], np.int32)))
            draft.length += 1
        ids = chat._encode_suffix(suffix)
        draft.pieces.append(_Piece(suffix, ids))
        draft.length += len(ids)

    def _rewrite(self, text: str) -> None:
        """Goes on from another text: in a new sample, unless its tokens go on from the present ones after all."""
        chat, old = self._chat, self._drafts[-1]
        kept, at = [], 0
        for piece in old.pieces:
            if not text.startswith(piece.text, at):
                break
            kept.append(piece)
            at += len(piece.text)
        held = max((piece.turn for piece in kept if piece.turn is not None), default=-1)
        pieces = [*kept]
        for number, turn in enumerate(self.turns[held + 1 :], held + 1):
            run = chat._surviving(turn, text, at)
            if run is not None:
                start, run_text, run_ids = run
                pieces += [chat._piece(pieces, text[at:start]), _Piece(run_text, run_ids, number)]
                at = start + len(run_text)
        pieces.append(chat._piece(pieces, text[at:]))
        ids, new = self.ids, np.concatenate([piece.ids for piece in pieces])
        both = min(len(ids), len(new))
        differ = np.flatnonzero(ids[:both] != new[:both])
        shared = int(differ[0]) if len(differ) else both
        draft = _Draft(pieces, len(new), shared)
        if shared == len(ids):
            draft.shared = old.shared
            self._drafts[-1] = draft
        else:
            self._drafts.append(draft)

    def finished_samples(self) -> list[Sample]:
        """The samples; one that forked off and in which nothing was sampled any more is left out."""
        samples = []
        for number, draft in enumerate(self._drafts):
            turns = [turn for turn in self.turns if turn.sample == number]
            if number and not turns:
                continue
            mask = np.zeros(draft.length, bool)
            logprobs = np.zeros(draft.length, np.float32)
            for turn in turns:
                mask[turn.start : turn.stop] = True if turn.mask is None else turn.mask
                logprobs[turn.start : turn.stop] = turn.logprobs
            ids = np.concatenate([piece.ids for piece in draft.pieces])
            samples.append(Sample(ids, mask, logprobs, draft.shared))
        return samples


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _shaped(shape: tuple[str, str | None, str | None], content: str) -> Message:
    message = {"role": shape[0], "tool_call_id": shape[1], "name": shape[2], "content": content}
    return {key: value for key, value in message.items() if value is not None}


def _dummy_assistant(calls: Sequence[tuple[str, str]], thinks: bool) -> Message:
    message: Message = {"role": "assistant", "content": "" if calls else "x"}
    if thinks:
        message["reasoning_content"] = "y"
    if calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": {"text": "z"}}}
            for call_id, name in calls
        ]
    return message


def _good_calls(message: Message) -> list[dict[str, Any]]:
    """The calls that could be read, with their arguments as objects: templates want no JSON text."""
    calls = []
    for call in message.get("tool_calls") or ():
        if "invalid" not in call:
            arguments = call["function"]["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return calls


def _broken_texts(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    return [call["text"] for call in calls if "invalid" in call]


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
