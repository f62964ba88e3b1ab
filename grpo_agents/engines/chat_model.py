"""Chat models: messages in, one message out. What judges, anchors, simulated users and tools that think are asked by.

A token engine with a chat is one, and so is a hosted model: any pair that a rollout takes. Whoever asks at the same
time is sampled together.

>>> import asyncio
>>> model = ScriptedModel(lambda messages: messages[-1]["content"].upper())
>>> asyncio.run(model.complete([{"role": "user", "content": "tree"}])).text
'TREE'
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from grpo_agents.engines import EngineFailure, Sampling
from grpo_agents.trajectory import Message


@dataclass(frozen=True, slots=True)
class Answer:
    """What a chat model said, and what that took.

    Attributes:
        message: The assistant's message.
        finish_reason: ``stop`` or ``length``.
        read: Tokens of the prompt; None where nobody counted them.
        written: Tokens that were sampled; None where nobody counted them.
        seconds: From asking to the answer, the wait for others included.
    """

    message: Message
    finish_reason: str = "stop"
    read: int | None = None
    written: int | None = None
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """What it said, without thoughts and calls."""
        return str(self.message.get("content") or "").strip()


class ChatModel(Protocol):
    """What takes messages and gives one."""

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        seed: int = 0,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """Asks for the next message.

        Args:
            messages: The dialogue so far.
            tools: Schemas of the tools that it may call.
            seed: Of the draw.
            temperature: Another one than the model's own setting.
            max_tokens: Another limit than the model's own setting.

        Raises:
            EngineFailure: It cannot be asked any more.
            ValueError: The dialogue does not fit its context.
        """
        ...


class ScriptedModel:
    """Says what a function of the messages returns: for tests, and for people who try something without a model.

    Args:
        script: The messages so far → the text of the answer.
    """

    def __init__(self, script: Callable[[Sequence[Message]], str]):
        self.script = script

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        seed: int = 0,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """What the script says; its tokens are words."""
        text = self.script(messages)
        return Answer(
            {"role": "assistant", "content": text}, read=self.prompt_tokens(messages), written=len(text.split())
        )

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """How many tokens a prompt has."""
        return sum(len(str(message.get("content") or "").split()) for message in messages)


@dataclass(slots=True, eq=False)
class _Asked:
    """One question that waits for its answer."""

    session: int
    request: Any
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    completion: asyncio.Future[Any]

    def deliver(self, completion: Any) -> None:
        """Takes what the engine sampled or failed of, on any thread."""
        self.loop.call_soon_threadsafe(self._settle, completion)

    def _settle(self, completion: Any) -> None:
        if self.completion.done():  # who asked waits no longer
            return
        if isinstance(completion, Exception):
            self.completion.set_exception(completion)
        else:
            self.completion.set_result(completion)


class SharedEngine:
    """An engine that chat models ask, one or several of them.

    Sessions are negative, so that a rollout on the same engine never meets them. An engine in lockstep must not be
    asked while a rollout uses it, and is asked for all that waits at once.

    Args:
        engine: Samples, tokens or hosted.
    """

    def __init__(self, engine: Any):
        self.engine = engine
        self._sessions = count(-1, -1)
        self._waiting: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._at_engine = threading.Lock()

    async def ask(self, conversation: Any, seed: int, max_tokens: int, sampling: Sampling, *, adapter: bool) -> Any:
        """The completion of a conversation's next turn.

        Raises:
            EngineFailure: The engine cannot be asked any more.
        """
        loop, session = asyncio.get_running_loop(), next(self._sessions)
        request = conversation.request(session, seed, max_tokens)
        if not adapter:
            request.adapter = False
        asked = _Asked(session, request, sampling, loop, loop.create_future())
        self._waiting.put(asked)
        loop.call_soon(loop.run_in_executor, None, self._hand_over)  # with all that others ask until then
        try:
            return await asked.completion
        finally:
            self.engine.release([session])

    def _hand_over(self) -> None:
        """Hands everything that waits to the engine, and returns when one in lockstep has sampled it."""
        with self._at_engine:
            waiting = [self._waiting.get() for _ in range(self._waiting.qsize())]
            for batch in self._batches([asked for asked in waiting if not asked.completion.done()]):
                by_session = {asked.session: asked for asked in batch}

                def deliver(done: Any, asked: dict[int, _Asked] = by_session) -> None:
                    failed = isinstance(done, EngineFailure)
                    for one in list(asked.values()) if failed else [asked[done.session]]:
                        one.deliver(done)

                try:
                    self.engine.submit([asked.request for asked in batch], batch[0].sampling, deliver)
                except Exception as error:  # raised where it is awaited
                    for asked in batch:
                        asked.deliver(error)

    def _batches(self, waiting: Sequence[_Asked]) -> list[list[_Asked]]:
        """What is handed over together: with an engine in lockstep all that is sampled alike, else each alone."""
        if not self.engine.lockstep:
            return [[asked] for asked in waiting]
        alike: dict[Sampling, list[_Asked]] = {}
        for asked in waiting:
            alike.setdefault(asked.sampling, []).append(asked)
        return list(alike.values())


class EngineModel:
    """A chat model made of what a rollout takes: a chat and an engine, of tokens or hosted.

    Args:
        chat: Between messages and token ids.
        engine: Samples the tokens; a :class:`SharedEngine` where several models are made of one.
        max_tokens: At most this many new tokens an answer.
        temperature: 0 takes the likeliest token.
        adapter: False asks for what the model says without the adapter that the engine samples with.
    """

    def __init__(
        self, chat: Any, engine: Any, *, max_tokens: int = 1024, temperature: float = 1.0, adapter: bool = True
    ):
        self._adapter = adapter
        self._chat = chat
        self._shared = engine if isinstance(engine, SharedEngine) else SharedEngine(engine)
        self._max_tokens = max_tokens
        self._temperature = temperature

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        seed: int = 0,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """Asks for the next message; see :meth:`ChatModel.complete`."""
        began = time.perf_counter()
        conversation = self._chat.start(messages, tools)
        read, context = conversation.length, self._shared.engine.context_length
        room = min(max_tokens or self._max_tokens, context - read)
        if room < 1:
            raise ValueError(f"{read} tokens of prompt fill the model's context of {context}")
        temperature = self._temperature if temperature is None else temperature
        sampling = Sampling(temperature, stop_ids=tuple(self._chat.stop_ids))
        completion = await self._shared.ask(conversation, seed, room, sampling, adapter=self._adapter)
        step = conversation.take(completion)
        if not read and conversation.length >= context:  # a server knows it first
            raise ValueError("the prompt fills the model's context")
        seconds = time.perf_counter() - began
        return Answer(step.message, step.finish_reason, read or step.read, completion.tokens or None, seconds)

    def prompt_tokens(self, messages: Sequence[Message]) -> int | None:
        """How many tokens a prompt has; None where only a server counts them."""
        return self._chat.start(messages, ()).length or None
