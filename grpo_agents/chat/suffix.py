"""What a template writes after an assistant turn: the answers to it, and the opening of the next.

Rendering a whole dialogue at every turn costs more than all else, and most templates write an answer in the same way
whatever went before. So :class:`Suffixes` finds out, by trying unlike histories and contents, where that is so, and
puts contents between the template's literal texts; everywhere else it renders the whole and compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from grpo_agents.chat.probes import PROBE_TOOL, Shape, assistant, calls_of_probe, shaped, user
from grpo_agents.chat.template import Template
from grpo_agents.trajectory import Message

_MARKUP = re.compile(r"think>|tool_|<\||\[/?[A-Z_]+\]")
"""Contents with such words are rendered in full: templates are known to look for them."""

_MARK = re.compile("mark[0-9]+content")
_PROBE_CONTENTS = ("7", "", ' \n {\'a\': "é\\n", "<b>": [0]} {{ x }}\t\n', '{"a": 1}')


class _Said(NamedTuple):
    """What a suffix may depend on besides the answers, where it is local."""

    calls: tuple[tuple[str, str], ...]  # ids and names of the calls that are answered
    thinks: bool
    thought_before: bool  # whether any message before has thinking
    tools: bool  # whether tools are on offer


class _Past(NamedTuple):
    """A dialogue that ends in an assistant message, and the texts that the template may make of it.

    Each text comes with what the template writes between the turn's stop token and the next message.
    """

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]]
    texts: list[tuple[str, str]]


class Suffixes:
    """The suffixes of one template."""

    def __init__(self, template: Template):
        self._template = template
        self._literals = lru_cache(4096)(self._render_literals)
        self._fills = lru_cache(256)(self._probe_fill)

    def after(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], new: Sequence[Message]
    ) -> tuple[str, bool]:
        """Goes on with a dialogue.

        Args:
            messages: The dialogue so far, an assistant message last.
            tools: Schemas of the tools on offer.
            new: The answers.

        Returns:
            What follows the assistant's stop token, and True; or the text of the whole dialogue, and False, where the
            template writes differently now what was said before.

        Raises:
            ValueError: The template refuses the messages.
        """
        suffix = self.local(messages, tools, new)
        if suffix is not None:
            return suffix, True
        full, suffix = self._rendered(self._past(messages, tools), new)
        return (full, False) if suffix is None else (suffix, True)

    def local(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], new: Sequence[Message]) -> str | None:
        """The suffix without rendering the dialogue; None where the template might look at more than roles and ids."""
        shapes, contents = [], []
        for answer in new:
            shapes.append((answer["role"], answer.get("tool_call_id"), answer.get("name")))
            contents.append(content := answer.get("content"))
            if len(answer) != 4 - shapes[-1].count(None) or type(content) is not str or _MARKUP.search(content):
                return None
        calls = messages[-1].get("tool_calls") or ()
        made = tuple([(call["id"], call["function"]["name"]) for call in calls if "invalid" not in call])
        if len(made) < len(calls):
            return None
        *before, thinks = ["reasoning_content" in message for message in messages]
        said = _Said(made, thinks, any(before), bool(tools))
        found = self._literals(tuple(shapes), said)
        if found is None:
            return None
        fill, (first, *rest) = found
        return first + "".join([fill(content) + literal for content, literal in zip(contents, rest, strict=True)])

    def _rendered(self, past: _Past, new: Sequence[Message]) -> tuple[str, str | None]:
        """The whole rendering after new messages, and what of it follows the stop token: None if history changed."""
        full = self._template.render([*past.messages, *new], past.tools, generate=True)
        for text, after in past.texts:
            if full.startswith(text):
                return full, after + full[len(text) :]
        return full, None

    def _past(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> _Past:
        template, message = self._template, messages[-1]
        prompt = template.render(messages[:-1], tools, generate=True)
        closed = template.render(messages, tools)
        texts = [(prompt + template.render_assistant(message) + template.end, "")]
        body = closed[len(prompt) :]
        if closed.startswith(prompt) and (message.get("reasoning_content") or "") in body:
            texts.append((closed, body.rpartition(template.end)[2] if template.end else ""))
        return _Past(messages, tools, texts)

    def _render_literals(
        self, shapes: tuple[Shape, ...], said: _Said
    ) -> tuple[Callable[[str], str], tuple[str, ...]] | None:
        """How contents are put in, and what the template writes around them; None where history matters."""
        roles = tuple([role for role, _, _ in shapes])
        fill = self._fills(roles, said._replace(calls=calls_of_probe(len(said.calls))))
        literals = self._cut(self._probe_past([user("a")], said), shapes) if fill else None
        return (fill, literals) if fill and literals else None

    def _probe_fill(self, roles: tuple[str, ...], said: _Said) -> Callable[[str], str] | None:
        """Finds out how contents of these roles are put in: as they are or trimmed; None where history matters.

        After unlike histories the template must append the same, whatever the contents.
        """
        unanswered = iter(said.calls)
        shapes: list[Shape] = []
        for role in roles:
            number, name = next(unanswered, (None, None)) if role == "tool" else (None, None)
            shapes.append((role, number, name))
        earlier = assistant(thinks=said.thought_before)
        histories = [[user("a")], [{"role": "system", "content": "b"}, user("c"), earlier, user("d")]]
        if said.tools:
            call = ("call00009", "probe")
            histories.append([user("f"), assistant([call], thinks=said.thought_before), shaped(("tool", *call), "e")])
        fills: list[Callable[[str], str]] = [str, str.strip]
        seen = set()
        try:
            for history in histories:
                past = self._probe_past(history, said)
                literals = self._cut(past, shapes)
                seen.add(literals)
                if literals is None or len(seen) > 1:
                    return None
                for content in _PROBE_CONTENTS:
                    suffix = self._rendered(past, [shaped(shape, content) for shape in shapes])[1]
                    fills = [fill for fill in fills if fill(content).join(literals) == suffix]
        except ValueError:
            return None
        return fills[0] if fills else None

    def _probe_past(self, history: list[Message], said: _Said) -> _Past:
        return self._past([*history, assistant(said.calls, thinks=said.thinks)], [PROBE_TOOL] if said.tools else [])

    def _cut(self, past: _Past, shapes: Sequence[Shape]) -> tuple[str, ...] | None:
        """The suffix around the contents of new messages; None where history changes or a content is not kept once."""
        marks = [f"mark{number}content" for number in range(len(shapes))]
        suffix = self._rendered(past, [shaped(shape, mark) for shape, mark in zip(shapes, marks, strict=True)])[1]
        return tuple(_MARK.split(suffix)) if suffix is not None and _MARK.findall(suffix) == marks else None
