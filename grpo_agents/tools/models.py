"""Language models as tools: any chat model, of an engine or behind an OpenAI-compatible URL, priced by its tokens.

A question is asked with a seed made of its text: an engine that keeps seeds answers the same question in the same way.
What the engine or its server fails of becomes a message that the policy reads.
"""

from __future__ import annotations

import atexit
import importlib.util
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from grpo_agents.tools.definition import Tool, ToolResult, tool
from grpo_agents.tools.price import FREE, Price
from grpo_agents.trajectory import Message

if TYPE_CHECKING:
    from grpo_agents.engines.chat_model import Answer, ChatModel
    from grpo_agents.engines.settings import ServerConfig


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A language model that a policy may ask, and what that costs.

    Attributes:
        model: A chat model; or where a hosted one is (``url``, ``model``, ``key_variable``), which is reached when it
            is first asked. Its key is read from the environment and kept nowhere.
        price: Of a question, and of the tokens read and written.
        latency: Declared seconds a question; measured where None.
        about: What the policy is told of it.
        system: What the model is told before each question.
        max_tokens: The most tokens of an answer; the model's own limit where None.
        temperature: Of its answers; the model's own where None.
    """

    model: ChatModel | ServerConfig
    price: Price = FREE
    latency: float | None = None
    about: str = ""
    system: str = ""
    max_tokens: int | None = None
    temperature: float | None = None

    def dialogue(self, question: str) -> list[Message]:
        """What the model is asked."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": question}]


def model_tool(
    name: str,
    description: str,
    model: ChatModel | ServerConfig,
    *,
    price: float | Price = 0.0,
    latency: float | None = None,
    system: str = "",
    max_tokens: int | None = None,
    temperature: float | None = None,
    timeout: float = 120.0,
) -> Tool:
    """A language model as a tool, which is asked a question.

    >>> from grpo_agents.engines.chat_model import ScriptedModel
    >>> from grpo_agents.tools import run_calls
    >>> price = Price(call=0.01, written=1e-3)
    >>> parrot = ScriptedModel(lambda said: said[-1]["content"])
    >>> echo = model_tool("echo", "Repeats what it is told.", parrot, price=price, max_tokens=9)
    >>> call = {"id": "0", "type": "function", "function": {"name": "echo", "arguments": {"question": "how are you"}}}
    >>> messages, runs = run_calls({"echo": echo}, [call])
    >>> messages[0]["content"], round(runs[0].dollars, 6), round(echo.most("how are you"), 6)
    ('how are you', 0.013, 0.019)

    Args:
        name: What the tool is called.
        description: What the policy is told of it.
        model: As of :class:`PricedModel`, with ``latency``, ``system``, ``max_tokens`` and ``temperature``.
        price: Dollars a question, or a :class:`Price`.
        latency: Declared seconds a question.
        system: What the model is told before each question.
        max_tokens: The most tokens of an answer.
        temperature: Of its answers.
        timeout: Seconds after which a question is given up.

    Raises:
        ValueError: A server without url or model; a price or latency that is negative or no number.
        ImportError: The client of hosted models is not installed.
    """
    prices = price if isinstance(price, Price) else Price(price)
    priced = PricedModel(model, prices, latency, "", system, max_tokens, temperature)
    ask = _asking(name, priced, timeout)

    async def answer(question: str) -> ToolResult:
        said = await ask(question)
        return ToolResult(said.text, said.read, said.written)

    answer.__doc__ = f"{description}\n\nArgs:\n    question: All that it needs to know; it sees nothing else."
    most = _most(priced)
    return tool(name=name, price=prices, latency=latency, timeout=timeout, most=most)(answer)


def choice_tool(name: str, description: str, models: Mapping[str, PricedModel], *, timeout: float = 120.0) -> Tool:
    """One tool that asks whichever of several language models the policy names, as ToolOrchestra's ``answer`` does.

    Each model's price and declared latency hold for the questions that it is asked (arXiv 2511.21689).

    Args:
        name: What the tool is called.
        description: What the policy is told of it; what it is told of each model follows.
        models: By what the policy calls them.
        timeout: Seconds after which a question is given up.

    Raises:
        ValueError: No models; else as :func:`model_tool`.
        ImportError: As :func:`model_tool`.
    """
    if not models:
        raise ValueError(f"tool {name!r} has no models to choose among")
    asking = {key: _asking(f"{name}: {key}", priced, timeout) for key, priced in models.items()}
    bounds = {key: _most(priced) for key, priced in models.items()}

    async def answer(model: str, question: str) -> ToolResult:
        said, priced = await asking[model](question), models[model]
        return ToolResult(said.text, dollars=priced.price.of(said.read, said.written), latency=priced.latency)

    told = [f"{key}: {priced.about}" for key, priced in models.items() if priced.about]
    answer.__doc__ = "\n".join([description, *told])
    answer.__annotations__["model"] = Literal[tuple(models)]

    def most(model: str, question: str) -> float | None:
        return bounds[model](question)

    def declared(model: str, question: str) -> tuple[float, float | None]:  # noqa: ARG001  as the tool
        return models[model].price.call, models[model].latency

    return replace(tool(name=name, price=None, timeout=timeout, most=most)(answer), _declared=declared)


def _asking(name: str, priced: PricedModel, timeout: float) -> Callable[[str], Any]:
    """What asks a model a question."""
    from grpo_agents.engines.settings import ServerConfig

    if isinstance(priced.model, ServerConfig):
        model: Any = _Hosted(name, priced.model, timeout)
    else:
        model = priced.model

    async def ask(question: str) -> Answer:
        return await model.complete(
            priced.dialogue(question),
            seed=zlib.crc32(question.encode("utf-8", "replace")),
            temperature=priced.temperature,
            max_tokens=priced.max_tokens,
        )

    return ask


def _most(priced: PricedModel) -> Callable[[str], float | None]:
    """The most that a question can cost: known where the model counts its prompt and an answer has a limit."""

    def most(question: str) -> float | None:
        price, count = priced.price, getattr(priced.model, "prompt_tokens", None)
        read = count(priced.dialogue(question)) if price.read and count is not None else None
        if (price.read and read is None) or (price.written and priced.max_tokens is None):
            return None
        return price.of(read, priced.max_tokens)

    return most


class _Hosted:
    """A hosted model that is reached when it is first asked, and left when the program ends."""

    def __init__(self, name: str, server: ServerConfig, timeout: float):
        if server.url is None or server.model is None:
            raise ValueError(f"tool {name!r}: a hosted model needs a url and a model: ServerConfig(url=…, model=…)")
        if importlib.util.find_spec("openai") is None:
            raise ImportError(f"tool {name!r}: hosted models need a client: pip install 'grpo-agents[hosted]'")
        self._server = server
        self._timeout = timeout
        self._model: ChatModel | None = None

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), **settings: Any
    ) -> Answer:
        """Asks for the next message; always on the event loop of async tools."""
        if self._model is None:
            from grpo_agents.engines.chat_model import EngineModel
            from grpo_agents.engines.hosted import HostedChat, HostedEngine

            engine = HostedEngine(self._server, patience=self._timeout)  # a question is given up by then
            atexit.register(engine.close)
            self._model = EngineModel(HostedChat(), engine)
        return await self._model.complete(messages, tools, **settings)
