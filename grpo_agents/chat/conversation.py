"""One episode as tokens: what was sampled stays as it came; a sample forks where the template rewrites history."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_agents.chat.reading import read
from grpo_agents.chat.suffix import Suffixes
from grpo_agents.chat.template import Template
from grpo_agents.engines import Completion, Request
from grpo_agents.support import Support
from grpo_agents.trajectory import Message, Sample, Step


@dataclass(slots=True)
class Turn:
    """An assistant turn: its message, and which sample holds its tokens, from ``start`` to ``stop``.

    ``mask`` says which of its tokens are trained, shape (tokens,); None is all of them. ``support`` is what could have
    been sampled in place of each, (tokens,); None where nothing was cut.
    """

    message: Message
    sample: int
    start: int
    stop: int
    text: str
    ids: np.ndarray
    logprobs: np.ndarray
    mask: np.ndarray | None
    support: Support | None


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

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate([piece.ids for piece in self.pieces])

    def append(self, piece: _Piece) -> None:
        self.pieces.append(piece)
        self.length += len(piece.ids)


class Conversation:
    """One episode as tokens; :meth:`grpo_agents.chat.Chat.start` makes it.

    Args:
        template: How the model writes.
        suffixes: Of that template.
        prompt: The opening messages.
        tools: Schemas of the tools on offer.
        text: The prompt as rendered.
        ids: The prompt's ids.

    Attributes:
        prompt: The opening messages.
        messages: Everything said so far.
        turns: The assistant's turns.
    """

    def __init__(
        self,
        template: Template,
        suffixes: Suffixes,
        prompt: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        text: str,
        ids: np.ndarray,
    ):
        self.prompt = tuple(prompt)
        self.messages = list(prompt)
        self.turns: list[Turn] = []
        self._template = template
        self._suffixes = suffixes
        self._tools = tools
        self._drafts = [_Draft([_Piece(text, ids)], len(ids))]
        self._calls = 0

    @property
    def ids(self) -> np.ndarray:
        """What the engine is to be prompted with now, shape (tokens,), int32."""
        return self._drafts[-1].ids

    @property
    def length(self) -> int:
        """How many tokens that is."""
        return self._drafts[-1].length

    def request(self, session: int, seed: int, max_tokens: int) -> Request:
        """What asks an engine for the next turn."""
        return Request(session, self.ids.tolist(), seed, max_tokens)

    def take(self, completion: Completion) -> Step:
        """Appends what an engine sampled for it, exactly as it came back; gives the turn.

        Raises:
            ValueError: Not one log-prob a token.
        """
        message = self.assistant(completion.ids, completion.logprobs, completion.finish_reason, completion.support)
        turn = self.turns[-1]
        return Step(
            message,
            finish_reason=completion.finish_reason,
            sample=turn.sample,
            span=(turn.start, turn.stop),
            version=completion.version,
        )

    def assistant(
        self,
        ids: Sequence[int] | np.ndarray,
        logprobs: Sequence[float] | np.ndarray,
        finish_reason: str,
        support: Support | None = None,
    ) -> Message:
        """Appends what was sampled, exactly as it came back.

        Args:
            ids: Sampled ids, shape (tokens,), the stop token included where there is one.
            logprobs: Their log-probs, shape (tokens,).
            finish_reason: ``stop`` or ``length``.
            support: What could have been sampled in place of each, (tokens,); None where nothing was cut.

        Returns:
            The message that they say; see :meth:`grpo_agents.chat.Chat.parse`.

        Raises:
            ValueError: Not one log-prob a token.
        """
        sampled, scores = np.asarray(ids, np.int32), np.asarray(logprobs, np.float32)
        if sampled.shape != scores.shape or sampled.ndim != 1:
            raise ValueError(f"the engine returned ids of shape {sampled.shape}, log-probs of shape {scores.shape}")
        message, text = read(self._template, ids, finish_reason, self._calls)
        self.add_turn(message, text, sampled, scores, support=support)
        return message

    def add_turn(
        self,
        message: Message,
        text: str,
        ids: np.ndarray,
        logprobs: np.ndarray,
        mask: np.ndarray | None = None,
        support: Support | None = None,
    ) -> None:
        """Appends a turn of which all is known; :class:`Turn` says what ``mask`` and ``support`` are."""
        draft = self._drafts[-1]
        start = draft.length
        draft.append(_Piece(text, ids, len(self.turns)))
        at = (len(self._drafts) - 1, start, draft.length)
        self.turns.append(Turn(message, *at, text, ids, logprobs, mask, support))
        self.messages.append(message)
        self._calls += len(message.get("tool_calls") or ())

    def observe(self, messages: Sequence[Message]) -> None:
        """Appends what the environment said and opens the next turn; forks where the template rewrites history.

        Raises:
            ValueError: No turn to answer, or the template refuses the messages.
        """
        if not self.turns or self.messages[-1] is not self.turns[-1].message:
            raise ValueError("observe() answers an assistant turn: call assistant() first")
        template, sampled, draft = self._template, self.turns[-1].ids, self._drafts[-1]
        text, follows = self._suffixes.after(self.messages, self._tools, messages)
        self.messages += messages
        if not follows:
            self._rewrite(text)
            return
        if template.end_id is not None and (len(sampled) == 0 or int(sampled[-1]) not in template.stops):
            draft.append(_Piece(template.end, np.array([template.end_id], np.int32)))
        draft.append(_Piece(text, template.encoding.encode(text, after=template.end)))

    def finished_samples(self) -> list[Sample]:
        """The samples; one that forked off and in which nothing was sampled any more is left out."""
        samples = []
        for number, draft in enumerate(self._drafts):
            turns = [turn for turn in self.turns if turn.sample == number]
            if number and not turns:
                continue
            mask = np.zeros(draft.length, bool)
            logprobs = np.zeros(draft.length, np.float32)
            parts: list[tuple[Support | None, int]] = []
            end = 0
            for turn in turns:
                mask[turn.start : turn.stop] = True if turn.mask is None else turn.mask
                logprobs[turn.start : turn.stop] = turn.logprobs
                parts += [(None, turn.start - end), (turn.support, turn.stop - turn.start)]
                end = turn.stop
            support = Support.join([*parts, (None, draft.length - end)])
            samples.append(Sample(draft.ids, mask, logprobs, draft.shared, support))
        return samples

    # Where the template rewrites history

    def _rewrite(self, text: str) -> None:
        """Goes on from another text: in a new sample, unless its tokens go on from the present ones after all."""
        old = self._drafts[-1]
        pieces = self._pieces_of(text)
        ids, new = old.ids, np.concatenate([piece.ids for piece in pieces])
        both = min(len(ids), len(new))
        differ = np.flatnonzero(ids[:both] != new[:both])
        shared = int(differ[0]) if len(differ) else both
        if shared == len(ids):
            self._drafts[-1] = _Draft(pieces, len(new), old.shared)
        else:
            self._drafts.append(_Draft(pieces, len(new), shared))

    def _pieces_of(self, text: str) -> list[_Piece]:
        """Cuts a rewritten dialogue into what is there already, what is kept of later turns, and new template text."""
        pieces: list[_Piece] = []
        at = 0
        for piece in self._drafts[-1].pieces:
            if not text.startswith(piece.text, at):
                break
            pieces.append(piece)
            at += len(piece.text)
        first = 1 + max((piece.turn for piece in pieces if piece.turn is not None), default=-1)
        for number, turn in enumerate(self.turns[first:], first):
            kept = self._surviving(turn, text, at)
            if kept is not None:
                start, kept_text, ids = kept
                pieces += [self._template_piece(pieces, text[at:start]), _Piece(kept_text, ids, number)]
                at = start + len(kept_text)
        return [*pieces, self._template_piece(pieces, text[at:])]

    def _template_piece(self, before: Sequence[_Piece], text: str) -> _Piece:
        """Template text that follows other pieces."""
        template = self._template
        after = template.end if before and before[-1].text.endswith(template.end) else ""
        return _Piece(text, template.encoding.encode(text, after))

    def _surviving(self, turn: Turn, text: str, at: int) -> tuple[int, str, np.ndarray] | None:
        """Finds what a rewritten dialogue keeps of a turn: all of it or what follows its thinking.

        Returns:
            Where it starts, its text and its ids as sampled; None where the text is gone or begins within a token.
        """
        template, said, ids = self._template, turn.text, turn.ids.tolist()
        if ids and ids[-1] in template.stops and ids[-1] != template.end_id:  # the template writes its own instead
            said = said.removesuffix(template.stops[ids.pop()])
        answer = said.rpartition("</think>")[2].lstrip("\n")
        decode = template.encoding.decode
        for lead in template.opening_and_header:
            for kept in (said, answer):
                found = text.find(lead + kept, max(0, at - len(lead))) if kept else -1
                if found < 0:
                    continue
                first = bisect_left(range(len(ids)), -len(kept), key=lambda cut: -len(decode(ids[cut:])))
                if decode(ids[first:]) == kept:
                    return found + len(lead), kept, turn.ids[first : len(ids)]
        return None
