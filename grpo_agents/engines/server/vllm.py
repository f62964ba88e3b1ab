"""A vLLM server from outside: what it serves, how it was started, its weights, its sleep, its end and its return."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from grpo_agents.engines import EngineFailure
from grpo_agents.engines.openai_client import Client, Refusal, Trouble
from grpo_agents.engines.server.process import ServerProcess
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.engines.weights import Weights

START_SECONDS = 1800.0
"""How long a server may take from its start to its first answer: a large model is loaded and compiled."""

ANSWER_SECONDS = 10.0
"""How long it may take to say what it serves."""

POLL_SECONDS = 0.5
"""How often one that is not there yet is asked."""


class VllmServer:
    """One server. Its coroutines raise :class:`~grpo_agents.engines.openai_client.Trouble` where it is away or ill.

    Args:
        config: Which.
        patience: How many seconds it may take for what it is told to do.

    Attributes:
        client: Asks it.
        model: What it calls the model.
        context_length: The most tokens that prompt and completion may have together.
        version: Of the weights that it was sent last.

    Raises:
        ValueError: A setting that is missing.
    """

    def __init__(self, config: ServerConfig, patience: float):
        if config.url is None:
            raise ValueError("engine.server.url is not set: the server's address up to /v1")
        self.client = Client(config.url, config.key_variable, config.concurrency)
        self.model = config.model or ""
        self.context_length = 0
        self._config = config
        self._patience = patience
        self._process = ServerProcess(config.command) if config.command else None
        self._can_sleep = False
        self._on_cpu = False
        self._asleep = False
        self._files: Path | None = None
        self._weights: Weights | None = None
        self.version = 0
        self._transfer: Any = None

    # What it serves

    async def open(self) -> None:
        """Starts it where that is asked for, and learns what it serves.

        Raises:
            EngineFailure: It is not vLLM, has not the model, or was started without a flag that is needed.
        """
        url = self.client.url
        if self._process is not None:
            if await self._answers():
                raise EngineFailure(
                    f"engine.server.command: a server that this run has not started answers at {url}. "
                    "End it, or leave the command out to use it"
                )
            await self._start(self._process)
        listed = await self.client.ask("models", seconds=ANSWER_SECONDS)
        try:
            lengths = {entry["id"]: int(entry["max_model_len"]) for entry in listed["data"]}
        except (TypeError, KeyError, ValueError) as error:
            raise EngineFailure(
                f'{url}/models gives no max_model_len: the backend "server" needs `vllm serve`. '
                'For others there is engine.backend = "hosted"'
            ) from error
        self.model = self.model or next(iter(lengths), "")
        if self.model not in lengths:
            raise EngineFailure(f"engine.server.model: there is no {self.model!r} at {url}, only {', '.join(lengths)}")
        self.context_length = lengths[self.model]
        await self._check_settings()
        if self._config.sync != "file":
            from grpo_agents.engines.server.weight_transfer import WeightTransfer

            self._transfer = WeightTransfer(self._config.sync, url.removesuffix("/v1"), self._patience)

    async def _check_settings(self) -> None:
        """Asks how it was started, which it says in development mode."""
        config, url = self._config, self.client.url
        try:
            settings = (await self.client.ask("/server_info?config_format=json", seconds=self._patience))["vllm_config"]
        except Refusal as refusal:
            if config.sync == "file" and config.sync_folder is None:
                return  # nobody means to change its weights
            raise EngineFailure(
                f"{url} takes no new weights: start it with VLLM_SERVER_DEV_MODE=1 in its environment"
            ) from refusal
        try:
            mode = settings["model_config"]["logprobs_mode"]
            self._can_sleep = settings["model_config"]["enable_sleep_mode"]
            self._on_cpu = settings["device_config"]["device"] == "cpu"
            backend = (settings["weight_transfer_config"] or {}).get("backend")
        except (KeyError, TypeError) as error:
            raise EngineFailure(f"{url} describes itself otherwise than vLLM 0.32 does: use that version") from error
        if mode != "processed_logprobs":
            raise EngineFailure(
                f"{url} gives {mode}, not the log-probs of the distribution that it draws from: "
                "start it with --logprobs-mode processed_logprobs"
            )
        if config.sync not in ("file", backend):
            raise EngineFailure(
                f"engine.server.sync is {config.sync!r}, but the server's is {backend!r}: start it with "
                f'--weight-transfer-config \'{{"backend": "{config.sync}"}}\''
            )

    # Its weights and its memory

    def keep(self, weights: Weights) -> None:
        """Takes note of the weights that it is to have, now and whenever it comes back.

        Raises:
            ValueError: No folder is named through which they could reach it; or they would reach half of it.
        """
        if self._on_cpu and not any("lm_head" in name for name in weights.named):
            raise ValueError(
                "on a CPU, vLLM's output layer is a copy of tied embeddings that new weights do not reach: "
                "serve a model with tie_word_embeddings = false, or serve on a GPU"
            )
        if self._config.sync == "file":
            if self._config.sync_folder is None:
                raise ValueError("engine.server.sync_folder is not set: a folder that server and trainer both see")
            from grpo_agents.engines.server.weight_files import write_weights

            with weights.reading() as (named, self.version):
                self._files = write_weights(Path(self._config.sync_folder).absolute(), named, self.version)
        self._weights = weights

    async def load(self) -> None:
        """Has it load the weights that were noted, and forget what it computed with others; wakes it."""
        await self.wake()
        if self._transfer is None:
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(self._files)}}
            await self.client.ask("/collective_rpc", reload, seconds=self._patience)
        else:
            assert self._weights is not None
            world = await self.client.ask("/get_world_size", seconds=ANSWER_SECONDS)
            with self._weights.reading() as (named, self.version):
                sending = asyncio.to_thread(self._transfer.send, named, world["world_size"])
                try:
                    await asyncio.wait_for(sending, self._patience)
                except TimeoutError as error:
                    raise Trouble(f"weights did not arrive within {self._patience:g} s (engine.patience)") from error
        deadline = time.monotonic() + self._patience
        while not (await self.client.ask("/reset_prefix_cache", {}, seconds=self._patience))["success"]:
            if time.monotonic() > deadline:  # an aborted request holds blocks for a moment, not for that long
                raise Trouble("the prefix cache, computed with the old weights, could not be emptied")
            await asyncio.sleep(POLL_SECONDS)
        await self.client.ask("/update_weight_version", {"new_version": str(self.version)}, seconds=ANSWER_SECONDS)

    async def sleep(self) -> None:
        """Has it give up GPU memory, where it was started with ``--enable-sleep-mode``."""
        if self._can_sleep and not self._asleep:
            await self.client.ask("/sleep?level=1", {}, seconds=self._patience)
            self._asleep = True

    async def wake(self) -> None:
        """Undoes :meth:`sleep`."""
        if self._asleep:
            await self.client.ask("/wake_up", {}, seconds=self._patience)
            self._asleep = False

    # Its end and its return

    @property
    def is_ours(self) -> bool:
        """Whether this run starts it."""
        return self._process is not None

    async def revive(self) -> None:
        """Starts it again, or waits until somebody else has; then gives it the weights that it is to have."""
        self._asleep = False
        if self._transfer is not None:
            self._transfer.disconnect()
        if self._process is not None:
            await self._start(self._process)
        else:
            await self._wait(self._patience)
        if self._weights is not None:
            await self.load()

    def kill(self) -> None:
        """Ends it, where this run has started it."""
        if self._process is not None:
            self._process.kill()

    async def _start(self, process: ServerProcess) -> None:
        process.start()
        await self._wait(START_SECONDS)

    async def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not await self._answers():
            if self._process is not None and (death := self._process.death()):
                raise Trouble(death)
            if time.monotonic() > deadline:
                raise Trouble(f"{self.client.url} did not answer within {seconds:g} s")
            await asyncio.sleep(POLL_SECONDS)

    async def _answers(self) -> bool:
        try:
            await self.client.ask("models", seconds=ANSWER_SECONDS)
        except Trouble:
            return False
        return True
