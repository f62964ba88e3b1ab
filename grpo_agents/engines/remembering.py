"""A frozen chat model that is asked everything once: the same question has the same answer for a whole run.

>>> import asyncio
>>> from grpo_agents.engines.chat_model import ScriptedModel
>>> asked = []
>>> model = RememberingModel(ScriptedModel(lambda messages: str(len(asked.append(0) or asked))))
>>> question = [{"role": "user", "content": "How often were you asked?"}]
>>> [asyncio.run(model.complete(question)).text for _ in range(3)]
['1', '1', '1']
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from grpo_agents.engines import mix
from grpo_agents.engines.chat_model import Answer, ChatModel
from grpo_agents.trajectory import Message

REMEMBERED = 100_000
"""Answers that are kept; the one that was longest not asked for gives way."""


class RememberingModel:
    """A chat model in front of one whose weights do not change.

    The seed of a draw follows from the run's seed and from what is asked, and from nothing else: a run that was killed
    gets, as it goes on, the answers that it would have got. One that is remembered says what it took when it was given.

    Args:
        model: Who answers.
        seed: The run's.
    """

    def __init__(self, model: ChatModel, seed: int = 0):
        self.model = model
        self._seed = seed
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._under_way: dict[tuple[asyncio.AbstractEventLoop, bytes], asyncio.Task[Answer]] = {}

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        seed: int = 0,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """What it said the first time; see :meth:`~grpo_agents.engines.chat_model.ChatModel.complete`."""
        text = json.dumps([list(messages), list(tools), seed, temperature, max_tokens], sort_keys=True)
        key = hashlib.sha256(text.encode()).digest()  # prompts are long
        if key in self._answers:
            self._answers.move_to_end(key)
            return self._answers[key]
        loop = asyncio.get_running_loop()
        task = self._under_way.get((loop, key))
        if task is None:
            drawn = mix(self._seed, seed, zlib.crc32(text.encode()))
            asked = self.model.complete(messages, tools, seed=drawn, temperature=temperature, max_tokens=max_tokens)
            task = self._under_way[loop, key] = loop.create_task(self._keep(key, asked))
            task.add_done_callback(lambda _: self._under_way.pop((loop, key)))
        return await asyncio.shield(task)

    async def _keep(self, key: bytes, asked: Any) -> Answer:
        answer = await asked
        self._answers[key] = answer
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return answer
