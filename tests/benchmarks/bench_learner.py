"""The learner beside TRL's GRPO trainer on the same recorded token ids, and beside what the machine can do.

Four kinds of groups and a model of 5.2 million random weights, in float32 (learner_work.py). Each side runs in a
process of its own, so that peak memory is its own: the learner, TRL, and the learner once more. Both learn from all
groups in one step; the gradients of the first step are compared. The limit is the time that the operations of the
unique tokens, attention included, would take at the rate of this model's own matrix products, measured between steps.

    python tests/benchmarks/bench_learner.py

Then the learner alone: how its time grows, and its attention beside one with a mask, and beside padded rows. On a GPU
that is all, with half a billion weights in bfloat16:

    python tests/benchmarks/bench_learner.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learner_work import LARGE_WORKS, WORKS, Work, large_model, one_turn, small_model, trajectories
from record import record
from transformers import AttentionInterface, PreTrainedModel

from grpo_agents import cost
from grpo_agents.learner import attention
from grpo_agents.learner.batch import Batch, make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.settings import LearnerConfig
from grpo_agents.learner.shape import shape_of
from grpo_agents.methods.grpo import Grpo
from grpo_agents.workload import learned_work

PACK = 2048
"""Tokens of the products whose rate is measured."""

GROWTH = [(64, 1), (256, 1), (64, 4), (1024, 1), (2048, 1), (256, 4), (512, 4), (1024, 4), (2048, 4)]
"""Prompts and groups of 16 whose times should lie on a line."""


def prepared(model: PreTrainedModel, work: Work, **settings: Any) -> tuple[Learner, Batch]:
    """A learner, and its batch as an engine that agrees with it would have sampled it."""
    dtype = settings.pop("dtype", "float32")
    learner = Learner(model, LearnerConfig(**settings), Grpo(aggregation="token"), steps=100, dtype=dtype)
    if not learner.shares_prefixes:
        raise RuntimeError("the learner fell back to padding: what was to be measured is not there")
    batch = make_batch(trajectories(work))
    for row, logprobs in learner.score(batch.rows):
        row.sampler = row.old = logprobs
    return learner, batch


@dataclass(frozen=True)
class Setting:
    """Which model computes where, and in what."""

    model: Callable[[], PreTrainedModel]
    device: str
    dtype: str

    def prepared(self, work: Work, max_tokens: int) -> tuple[Learner, Batch]:
        """A learner of a new model, and its batch."""
        return prepared(self.model().to(self.device), work, dtype=self.dtype, max_tokens=max_tokens)


def timed(learner: Learner, batch: Batch) -> float:
    """Seconds of one step, the optimiser's included."""
    _wait(learner.model.device)
    began = time.perf_counter()
    learner.learn(batch, version=0, progress=0.0)
    _wait(learner.model.device)
    return time.perf_counter() - began


def operations(learner: Learner, batch: Batch) -> float:
    """Of the unique tokens: a forward pass and twice as much backward."""
    return 3 * cost.forward(shape_of(learner.model), learned_work(batch.rows, 1 << 40))


def matmul_rate(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of the products of the model's MLP with a micro-batch, forward and backward."""
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    tokens, device = PACK, model.device
    wide, narrow = (torch.randn(tokens, size, device=device, dtype=dtype) for size in (inner, hidden))
    up, down = (torch.randn(shape, device=device, dtype=dtype) for shape in ((inner, hidden), (hidden, inner)))
    products: list[Callable[[], Any]] = [
        lambda: narrow @ up.T, lambda: wide @ up, lambda: wide.T @ narrow,
        lambda: wide @ down.T, lambda: narrow @ down, lambda: narrow.T @ wide,
    ]  # fmt: skip
    for product in products:
        product()
    _wait(device)
    began = time.perf_counter()
    for _ in range(10):
        for product in products:
            product()
    _wait(device)
    return 10 * len(products) * 2 * tokens * hidden * inner / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_ours(name: str, repeats: int, gradients: Path) -> dict[str, Any]:
    """Seconds, the rate between them, operations, peak memory; writes the gradient of the first step."""
    make, max_tokens = WORKS[name]
    learner, batch = prepared(small_model(), make(), max_tokens=max_tokens)
    step = learner.optimizer.step

    def keep(update: int) -> float:
        if update == 0:
            save(gradients, {key: value.grad for key, value in learner.optimizer.named.items()})
        return step(update)

    learner.optimizer.step = keep  # type: ignore[method-assign]
    timed(learner, batch)  # warms up
    rates, seconds = [matmul_rate(learner.model)], []
    for _ in range(repeats):
        seconds.append(timed(learner, batch))
        rates.append(matmul_rate(learner.model))
    return {"seconds": seconds, "rates": rates, "operations": operations(learner, batch)}


def measure_trl(name: str, repeats: int, gradients: Path) -> dict[str, Any]:
    """The same of TRL."""
    from trl_learner import run

    seconds, first = run(small_model(), WORKS[name][0](), repeats)
    save(gradients, first)
    return {"seconds": seconds}


def save(file: Path, gradients: dict[str, Any]) -> None:
    """Writes gradients by parameter."""
    np.savez(file, **{name: value.numpy() for name, value in gradients.items()})


def apart(one: Path, other: Path) -> float:
    """How far the gradient of one is from that of the other, relative to its norm."""
    ours, theirs = np.load(one), np.load(other)
    assert set(ours.files) == set(theirs.files)
    differ = sum(float(((ours[name] - theirs[name]) ** 2).sum()) for name in ours.files)
    return (differ / sum(float((theirs[name] ** 2).sum()) for name in ours.files)) ** 0.5


def compare(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each kind of work."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            files = Path(folder, "ours.npz"), Path(folder, "trl.npz")
            first = _process("ours", name, files[0])
            trl = _process("trl", name, files[1])
            second = _process("ours", name, files[0])
            ours = statistics.median(first["seconds"] + second["seconds"])
            theirs = statistics.median(trl["seconds"])
            rate = statistics.median(first["rates"] + second["rates"])
            memory = max(first["peak MiB"], second["peak MiB"])
            rows.append({
                "work": name,
                "TRL s": theirs,
                "ours s": ours,
                "faster": theirs / ours,
                "TRL MiB": trl["peak MiB"],
                "ours MiB": memory,
                "memory": memory / trl["peak MiB"],
                "limit s": first["operations"] / rate,
                "of limit": ours * rate / first["operations"],
                "gradients apart": apart(*files),
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _process(side: str, name: str, gradients: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--work", name, "--gradients", str(gradients)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def grow(setting: Setting) -> list[dict[str, Any]]:
    """Seconds of groups of many sizes, the least of six rounds, and how well a line through their operations fits."""
    sizes = [setting.prepared(one_turn(prompt, 64, groups, 16), 2 * PACK) for prompt, groups in GROWTH]
    rounds = [[timed(learner, batch) for learner, batch in sizes] for _ in range(6)]
    rows = [
        {"prompt": prompt, "groups": groups, "operations": operations(*size), "seconds": min(seconds)}
        for (prompt, groups), size, seconds in zip(GROWTH, sizes, zip(*rounds, strict=True), strict=True)
    ]
    work, seconds = (np.array([row[key] for row in rows]) for key in ("operations", "seconds"))
    return [{**row, "R² of all": float(np.corrcoef(work, seconds)[0, 1] ** 2)} for row in rows]


def vary(setting: Setting, works: dict[str, tuple[Callable[[], Work], int]], repeats: int) -> list[dict[str, Any]]:
    """A row for each kind of work and way to compute it; utilisation is against the rate of matrix products."""
    rows = []
    for name, (make, max_tokens) in works.items():
        for variant in ("tree", "tree, with a mask", "padded"):
            learner, batch = setting.prepared(make(), max_tokens)
            if variant == "padded":
                learner.why_padded, learner._policy_pass.shares = variant, False
            AttentionInterface.register(attention.NAME, _with_mask if "mask" in variant else attention.attend)
            if setting.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            timed(learner, batch)  # warms up
            measured = [
                (timed(learner, batch), matmul_rate(learner.model, getattr(torch, setting.dtype)))
                for _ in range(repeats)
            ]
            peak = {"GPU MiB": torch.cuda.max_memory_allocated() / 2**20} if setting.device == "cuda" else {}
            seconds, rate = (statistics.median(values) for values in zip(*measured, strict=True))
            utilisation = operations(learner, batch) / seconds / rate
            rows.append({"work": name, "as": variant, "s": seconds, "utilisation": utilisation, **peak})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _with_mask(*given: Any, ancestry: attention.Ancestry, scaling: float, **_: Any) -> tuple[torch.Tensor, None]:
    return attention.by_mask(*given[1:4], ancestry, None, scaling).transpose(1, 2), None


def main() -> None:
    """Runs all that the device is for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    for hidden in ("--side", "--work", "--gradients"):  # for the processes that this one starts
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        measure = measure_ours if given.side == "ours" else measure_trl
        found = measure(given.work, 3 if given.side == "ours" else 1, Path(given.gradients))
        print(json.dumps({**found, "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    packages = ["torch", "transformers"]
    if given.device == "cpu":
        record("learner", "A step of the learner and of TRL 1.16, 2 cores", compare(list(WORKS)), [*packages, "trl"])
        setting, works = Setting(small_model, "cpu", "float32"), dict(list(WORKS.items())[:2])
    else:
        setting, works = Setting(large_model, "cuda", "bfloat16"), LARGE_WORKS
        print(f"GPU: {torch.cuda.get_device_name()}")
    record(
        f"learner_growth_{given.device}", "How the time of a step grows with its operations", grow(setting), packages
    )
    record(f"learner_ways_{given.device}", "Ways to compute a step", vary(setting, works, 3), packages)


if __name__ == "__main__":
    main()
