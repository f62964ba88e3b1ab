"""Evaluating any chat model behind an OpenAI-compatible endpoint: messages and tools in, messages and counts out.

A rollout takes the pair in place of a chat and an engine of tokens::

    rollout = Rollout(make_env, HostedChat(), HostedEngine(config.engine.server, patience=120), vector, config.rollout)

    # in the TOML; the key is in the environment variable, never in the file
    [engine]
    backend = "hosted"
    server.url = "https://api.openai.com/v1"
    server.model = "gpt-5-mini"
    server.key_variable = "OPENAI_API_KEY"
    server.concurrency = 16

What comes back has no token ids: its episodes can be evaluated and not trained (``Trajectory.trainable``). Seeds are
sent where the endpoint takes them; few endpoints repeat themselves even then.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo_agents.chat.probes import call_id
from grpo_agents.engines import EngineFailure, Sampling
from grpo_agents.engines.openai_client import Client, Refusal, Trouble
from grpo_agents.engines.request_loop import Job, RequestLoop
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.tool_formats import read_call
from grpo_agents.trajectory import Message, Sample, Step

CONTEXT_LENGTH = 1 << 31
"""Stands for a context that nobody knows: the endpoint says when it is full."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a request is tried again: doubled each time, and varied by half so that not all come back at once."""


@dataclass(slots=True)
class ChatRequest:
    """One turn to ask for.

    Attributes:
        session: Which episode it belongs to.
        messages: The dialogue so far.
        tools: Schemas of the tools on offer.
        seed: Of the draw.
        max_tokens: At most this many new tokens.
    """

    session: int
    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]]
    seed: int
    max_tokens: int


@dataclass(slots=True)
class ChatCompletion:
    """What came back.

    Attributes:
        session: The request's.
        message: The assistant's message; a call that is no JSON has ``invalid``, the reason, and its ``text``.
        finish_reason: ``stop`` or ``length``.
        counted: Its tokens, thinking included, as the endpoint counted them; None where it did not.
        read: The prompt's, likewise.
        full: True where the dialogue does not fit the model's context.
    """

    session: int
    message: Message
    finish_reason: str
    counted: int | None
    read: int | None = None
    full: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens a budget is charged with."""
        return self.counted or 0


class Transcript:
    """One episode as messages: what :class:`~grpo_agents.chat.Conversation` is as tokens.

    Attributes:
        messages: Everything said so far.
        length: 0, as nobody counts the prompt's tokens; :data:`CONTEXT_LENGTH` once the endpoint says that it is full.
    """

    def __init__(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]):
        self.messages = list(messages)
        self.length = 0
        self._tools = tools

    def request(self, session: int, seed: int, max_tokens: int) -> ChatRequest:
        """What asks for the next turn."""
        return ChatRequest(session, tuple(self.messages), self._tools, seed, max_tokens)

    def take(self, completion: ChatCompletion) -> Step:
        """Appends what came back; gives the turn."""
        self.messages.append(completion.message)
        if completion.full:
            self.length = CONTEXT_LENGTH
        return Step(
            completion.message,
            finish_reason=completion.finish_reason,
            tokens=completion.counted,
            read=completion.read,
        )

    def observe(self, messages: Sequence[Message]) -> None:
        """Appends what the environment said."""
        self.messages += messages

    def finished_samples(self) -> list[Sample]:
        """None: there are no token ids."""
        return []


class HostedChat:
    """Opens dialogues with a model that takes messages: what :class:`~grpo_agents.chat.Chat` is for tokens."""

    stop_ids: tuple[int, ...] = ()

    def start(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Transcript:
        """Opens a dialogue."""
        return Transcript(messages, tools)


class HostedEngine:
    """Asks a hosted chat model.

    Requests that meet a broken connection, no answer within ``patience``, status 408, 409, 429 or from 500 are sent
    again, after pauses that grow, or as long as the endpoint asks for.

    Args:
        config: Which endpoint and model.
        patience: Seconds without an answer to any request after which it is given up.

    Raises:
        ValueError: No endpoint or no model is named.
    """

    lockstep = False
    context_length = CONTEXT_LENGTH
    version = 0

    def __init__(self, config: ServerConfig, *, patience: float):
        if config.url is None or config.model is None:
            raise ValueError('the backend "hosted" needs engine.server.url and engine.server.model')
        self.model = config.model
        self._patience = patience
        self._answered = 0.0  # when it last did
        self._left_out: set[str] = set()
        self._client = Client(config.url, config.key_variable, config.concurrency)
        self._requests = RequestLoop(config.concurrency)

    def submit(
        self,
        requests: Sequence[ChatRequest],
        sampling: Sampling,
        deliver: Callable[[ChatCompletion | EngineFailure], None],
    ) -> None:
        """Sends requests; each is delivered as it is done, on the engine's thread."""
        self._requests.begin(
            [Job(request.session, partial(self._ask, request, sampling), deliver) for request in requests]
        )

    def release(self, sessions: Iterable[int]) -> None:
        """Gives up what is under way for episodes that have ended."""
        self._requests.drop(sessions)

    def close(self) -> None:
        """Gives up what is under way."""
        self._requests.close(self._client.close)

    async def _ask(self, request: ChatRequest, sampling: Sampling) -> ChatCompletion:
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            body = self._body(request, sampling)
            try:
                answer = await self._client.ask("chat/completions", body, seconds=self._patience)
            except Refusal as refusal:
                if _says_full(refusal):
                    return ChatCompletion(
                        request.session, {"role": "assistant", "content": ""}, "length", 0, 0, full=True
                    )
                self._leave_out(body, refusal)
            except Trouble as trouble:
                wait = trouble.pause if trouble.pause is not None else pause * random.uniform(0.5, 1.5)
                silent = time.monotonic() - max(began, self._answered)
                if silent + wait > self._patience:
                    raise EngineFailure(
                        f"{trouble}. No request was answered for {silent:.0f} s, and the next try would be in "
                        f"{wait:.0f} s (engine.patience is {self._patience:g}): try later, raise it, or lower "
                        "engine.server.concurrency"
                    ) from trouble
                await asyncio.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._answered = time.monotonic()
                return self._read(request, answer)

    def _body(self, request: ChatRequest, sampling: Sampling) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        body = {
            "model": self.model,
            "messages": [_on_the_wire(message) for message in request.messages],
            limit: request.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed % (1 << 31),  # some endpoints take no more bits
        }
        asked = {"tools": list(request.tools), "stop": list(sampling.stop), "top_k": sampling.top_k}
        body |= {name: value for name, value in asked.items() if value}
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _leave_out(self, body: Mapping[str, Any], refusal: Refusal) -> None:
        """Does from now on without what the endpoint does not take, where nothing that was asked for is lost by it.

        New models of OpenAI's want ``max_completion_tokens`` for ``max_tokens``, others know no ``seed``, some have a
        temperature of their own and refuse even 1.
        """
        dispensable = [("max_tokens", True), ("seed", True)]
        dispensable += [(name, body.get(name) == 1) for name in ("temperature", "top_p")]
        for name, lost_for_nothing in dispensable:
            named = refusal.parameter == name or f"'{name}'" in refusal.reason or f'"{name}"' in refusal.reason
            if named and lost_for_nothing and name in body:
                self._left_out.add(name)
                return
        raise refusal

    def _read(self, request: ChatRequest, answer: Any) -> ChatCompletion:
        try:
            choice = answer["choices"][0]
            said, cut = choice["message"], choice["finish_reason"] == "length"
            message: Message = {"role": "assistant", "content": said.get("content") or said.get("refusal") or ""}
            if thought := said.get("reasoning_content") or said.get("reasoning"):
                message["reasoning_content"] = thought
            if not cut and (calls := said.get("tool_calls")):
                first = sum(len(earlier.get("tool_calls") or ()) for earlier in request.messages)
                message["tool_calls"] = [
                    {
                        "id": call.get("id") or call_id(number),
                        **read_call(call["function"]["name"], call["function"].get("arguments") or ""),
                    }
                    for number, call in enumerate(calls, first)
                ]
            usage = answer.get("usage") or {}
            counted, read = usage.get("completion_tokens"), usage.get("prompt_tokens")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineFailure(
                f"{self._client.url} did not answer with a chat completion ({type(error).__name__}: {error}): "
                f"{answer!r:.300}"
            ) from error
        return ChatCompletion(request.session, message, "length" if cut else "stop", counted, read)


def _on_the_wire(message: Message) -> dict[str, Any]:
    """A message as endpoints take it: arguments as JSON text, and no keys that a strict one does not know."""
    kept = ("role", "content", "tool_call_id") if message["role"] == "tool" else ("role", "content", "name")
    wire = {name: message[name] for name in kept if name in message}
    if calls := message.get("tool_calls"):
        wire["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                },
            }
            for call in calls
        ]
    return wire


def _says_full(refusal: Refusal) -> bool:
    return refusal.code == "context_length_exceeded" or "context length" in refusal.reason.lower()
