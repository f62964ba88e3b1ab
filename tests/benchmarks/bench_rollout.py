"""The whole rollout path without a model: how many 3-turn tool episodes a second on one core, and where the time goes.

An instant scripted engine says what it was told to; everything else is the real thing: environments, threads, tools,
chat tokens of a Qwen3-style template, rewards, trajectory records. 512 episodes at once, in groups of 8 of different
tasks; every repeat has new tasks, so nothing that depends on a task is remembered from the one before.
"""

from __future__ import annotations

import cProfile
import gc
import os
import pstats
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import record
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grpo_agents.chat import Chat
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.envs.tool_math import ToolMathEnv
from grpo_agents.rewards import BUILT_IN, RewardVector
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call
from grpo_agents.trajectory import Message, Task

GROUPS, GROUP_SIZE, REPEATS = 64, 8, 7
TEMPLATE = Path(__file__).parents[1] / "chat_templates" / "qwen3.jinja"


def make_chat() -> Chat:
    """A byte-level BPE of 2,000 entries trained on such dialogues.

    With Qwen3's special tokens and the style of its template.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = TEMPLATE.read_text(encoding="utf-8")
    rng = np.random.default_rng(0)
    texts = [template] + [str(ToolMathEnv().task_source[int(rng.integers(1000))]) for _ in range(200)]
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"])
    tokenizer.chat_template = template
    return Chat(tokenizer)


def make_tasks(repeat: int) -> list[Task]:
    """Tasks that no other repeat has."""
    rng = np.random.default_rng([1, repeat])
    tasks = []
    for a, b, c in rng.integers(1000, 10_000_000, size=(GROUPS, 3)).tolist():
        tasks.append({"question": f"What is {a} * {b} - {c}?", "answer": str(a * b - c), "parts": [a, b, c]})
    return tasks


def dialogue(task: Task) -> list[Message]:
    """What the policy says: two calls of the calculator, then the answer."""
    a, b, c = task["parts"]
    calls = [tool_call("calculator", {"expression": text}, n) for n, text in enumerate((f"{a}*{b}", f"{a * b}-{c}"))]
    said = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in calls]
    return [*said, {"role": "assistant", "content": f"\\boxed{{{task['answer']}}}"}]


def main() -> None:
    """Runs both measurements on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    chat = make_chat()
    engine = ScriptedEngine(lambda session, turn: script[(session - 1) // GROUP_SIZE % GROUPS][turn])
    vector = RewardVector(["outcome", *(BUILT_IN[name] for name in ("cost", "latency", "format"))])
    rollout = Rollout(ToolMathEnv, chat, engine, vector, RolloutConfig(group_size=GROUP_SIZE), env_name="ToolMath")
    stop = chat.tokenizer.convert_ids_to_tokens(chat.stop_ids[0])
    script: list[list[list[int]]] = []

    def prepare(repeat: int) -> list[Task]:
        tasks = make_tasks(repeat)
        script[:] = [
            [
                chat.tokenizer.encode(chat.render_assistant(said) + stop, add_special_tokens=False)
                for said in dialogue(task)
            ]
            for task in tasks
        ]
        return tasks

    def whole(tasks: list[Task]) -> None:
        groups = rollout.sample(tasks, seed=0)
        assert all(t.rewards["outcome"] == 1 and len(t.steps) == 3 for group in groups for t in group.trajectories)

    gc.collect()
    gc.freeze()  # as grpo_agents.build does once the model is loaded
    env = ToolMathEnv()

    def alone(tasks: list[Task]) -> None:
        for task in tasks:
            said = dialogue(task)
            for _ in range(GROUP_SIZE):
                env.reset(seed=1, options={"task": task})
                for message in said:
                    _, _, terminated, _, _ = env.step(message)
                assert terminated

    rows = []
    for name, job in (("whole rollout path", whole), ("environment alone", alone)):
        seconds = measure(job, prepare)
        rows.append({"measured": name, "episodes a second": seconds[0], "CPU ms an episode": seconds[1]})
    record(
        "rollout",
        f"{GROUPS * GROUP_SIZE} three-turn tool episodes at once, one core",
        rows,
        ["tokenizers", "transformers"],
    )
    profile(whole, prepare(REPEATS))
    rollout.close()


def measure(job: Callable[[list[Task]], None], prepare: Callable[[int], list[Task]]) -> tuple[float, float]:
    """Median episodes a second, and CPU milliseconds an episode, over repeats after a warm-up."""
    job(prepare(REPEATS + 1))
    rates, costs = [], []
    for repeat in range(REPEATS):
        tasks = prepare(repeat)
        began, cpu = time.perf_counter(), time.process_time()
        job(tasks)
        rates.append(GROUPS * GROUP_SIZE / (time.perf_counter() - began))
        costs.append((time.process_time() - cpu) * 1e3 / (GROUPS * GROUP_SIZE))
    return statistics.median(rates), statistics.median(costs)


def profile(job: Callable[[list[Task]], None], tasks: list[Task]) -> None:
    """Where the time of the main thread goes, by function."""
    profiler = cProfile.Profile()
    profiler.runcall(job, tasks)
    stats: Any = pstats.Stats(profiler)
    print("where the time goes (main thread, profiled; tottime in ms):")
    entries = sorted(stats.stats.items(), key=lambda entry: -entry[1][2])[:14]
    for (file, line, function), (_, calls, own, *_) in entries:
        print(f"  {own * 1e3:7.1f} ms  {calls:6d} calls  {Path(file).name}:{line} {function}")


if __name__ == "__main__":
    main()
