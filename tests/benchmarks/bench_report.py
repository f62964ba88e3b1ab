"""The page of 5,000 trajectories of several turns: writing it, its size, and how soon it can be used in Chromium.

Interactive is: the overview drawn, the list filled, and a trajectory named in the link open with its tokens coloured.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import record

sys.path.insert(0, str(Path(__file__).parents[1]))
from browser import chromium
from tiny import make_tokenizer

from grpo_agents import store
from grpo_agents.report.document import write_report
from grpo_agents.report.sources import find_source
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Group, Sample, Step, ToolRun, Trajectory

REPEATS = 5
STEPS, GROUPS, SIZE = 20, 25, 8  # 4,000 rollouts of training …
TASKS, EVALUATIONS = 500, 2  # … and 1,000 of evaluation
TURNS, TOKENS = 4, 100  # sampled tokens of each turn
TOOLS = ("search", "calculator", "expert")
SCORING = Scoring(
    RewardVector(
        [
            Component("outcome", None),
            Component("cost", None, "min", "dollars"),
            Component("latency", None, "min", "seconds"),
        ]
    ),
    {"cost": 12.0, "latency": 20.0},
    "outcome",
)


def make_run(folder: Path) -> None:
    """Writes the run: texts of common words, so that they compress as language does, and no better."""
    rng = np.random.default_rng(0)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    vocabulary = [
        f"{a}{b}{c}" for a in ("st", "br", "pl", "cr", "m") for b in "aeiou" for c in ("nd", "ter", "sh", "ll", "m")
    ]
    rows: list[dict[str, Any]] = []
    for evaluation in range(EVALUATIONS):
        step = evaluation * STEPS
        groups = [list(group(rng, number, 1, vocabulary, len(tokenizer))) for number in range(TASKS)]
        save(folder, "eval", step, groups)
        rows.append({"step": step, "eval/reward": 0.5, "eval/reward_low": 0.45, "eval/reward_high": 0.55})
    for step in range(STEPS):
        groups = [list(group(rng, number, SIZE, vocabulary, len(tokenizer))) for number in range(GROUPS)]
        save(folder, "train", step, groups)
        rows.append({"step": step, **{f"metric/{n}": rng.random() for n in range(20)}, "reward": rng.random()})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def save(folder: Path, phase: str, step: int, groups: list[list[Trajectory]]) -> None:
    """A file of a run."""
    path = folder / "trajectories" / f"{phase}-{step:06d}.parquet"
    store.write(
        path, [Group(one[0].task, one[0].preference, one) for one in groups], step=step, phase=phase, scoring=SCORING
    )


def words(rng: np.random.Generator, vocabulary: list[str], count: int) -> str:
    """So many words, common ones more often."""
    return " ".join(vocabulary[int(place)] for place in np.minimum(rng.zipf(1.3, count), len(vocabulary)) - 1)


def group(rng: np.random.Generator, number: int, size: int, vocabulary: list[str], ids: int) -> Iterator[Trajectory]:
    """The rollouts of a task: several turns, of which all but the last call a tool."""
    preference = dict(zip(SCORING.vector.names, (rng.multinomial(10, (0.5, 0.3, 0.2)) / 10).tolist(), strict=True))
    task = {"id": f"task {number}", "question": words(rng, vocabulary, 40)}
    system = {"role": "system", "content": words(rng, vocabulary, 80)}
    prompt = (system, {"role": "user", "content": task["question"]})
    for index in range(size):
        steps, length = [], 60
        for turn in range(TURNS):
            tool = TOOLS[int(rng.integers(len(TOOLS)))]
            call = {
                "id": f"c{turn}",
                "type": "function",
                "function": {"name": tool, "arguments": {"query": words(rng, vocabulary, 8)}},
            }
            message: dict[str, Any] = {"role": "assistant", "content": words(rng, vocabulary, 60)}
            step = Step(message, span=(length, length + TOKENS))
            if turn < TURNS - 1:
                message["tool_calls"] = [call]
                reply = {
                    "role": "tool",
                    "content": words(rng, vocabulary, 60),
                    "name": tool,
                    "tool_call_id": f"c{turn}",
                }
                step.observation = (reply,)
                step.tools = [
                    ToolRun(
                        tool, float(rng.random()), float(rng.random()), "timed out" if rng.random() < 0.02 else None
                    )
                ]
            steps.append(step)
            length += TOKENS + 80
        mask = np.zeros(length, bool)
        for step in steps:
            mask[slice(*step.span)] = True
        logprobs = np.where(mask, -rng.exponential(0.4, length), 0).astype(np.float32)
        outcome = float(rng.random() < 0.6)
        yield Trajectory(
            env="bench",
            task=task,
            preference=preference,
            prompt=prompt,
            tools=[{"type": "function", "function": {"name": name}} for name in TOOLS],
            steps=steps,
            samples=[Sample(rng.integers(0, ids, length).astype(np.int32), mask, logprobs)],
            rewards={"outcome": outcome, "cost": float(rng.random() * 12), "latency": float(rng.random() * 20)},
            advantage=float(rng.normal()),
            group=number,
            index=index,
        )


def main() -> None:
    """Writes the page once, and opens it several times."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        make_run(folder)
        source, page = find_source(folder), folder / "report.html"
        began = time.perf_counter()
        size = write_report(source, page)
        written = time.perf_counter() - began
        count = STEPS * GROUPS * SIZE + TASKS * EVALUATIONS
        rows = [
            {"measured": "trajectories", "median": float(count), "most": float(count)},
            {"measured": "writing, s", "median": written, "most": written},
            {"measured": "page, MB", "median": size / 1e6, "most": size / 1e6},
        ]
        with chromium() as browser:
            for name, link, ready in (
                ("overview drawn, s", "", "html[data-ready]"),
                (
                    "a trajectory open, s",
                    f"#step={STEPS - 1}&phase=train&trajectory={GROUPS - 1}.3",
                    ".rollout.current .token",
                ),
            ):
                taken = [opening(browser, page, link, ready) for _ in range(REPEATS)]
                rows.append({"measured": name, "median": statistics.median(taken), "most": max(taken)})
            tab = browser.new_page()
            tab.goto(f"{page.as_uri()}#step=0&phase=train&trajectory=0.0")
            tab.wait_for_selector(".rollout.current")
            for name, act in (("another group, s", "n"), ("another rollout, s", "j")):
                taken = [pressing(tab, act) for _ in range(REPEATS)]
                rows.append({"measured": name, "median": statistics.median(taken), "most": max(taken)})
    record(
        "report",
        f"The page of {count:,} trajectories of {TURNS} turns and {TURNS * TOKENS} sampled tokens",
        rows,
        ["pyarrow"],
    )


def opening(browser: Any, page: Path, link: str, ready: str) -> float:
    """Seconds from the navigation until an element is there, in a fresh context."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    tab = context.new_page()
    began = time.perf_counter()
    tab.goto(page.as_uri() + link, wait_until="commit")
    tab.wait_for_selector(ready)
    taken = time.perf_counter() - began
    context.close()
    return taken


def pressing(tab: Any, key: str) -> float:
    """Seconds from a key until another rollout is shown."""
    tab.wait_for_timeout(100)
    before = tab.inner_text(".rollout.current h3"), tab.inner_text(".group h2")
    began = time.perf_counter()
    tab.keyboard.press(key)
    while before == (tab.inner_text(".rollout.current h3"), tab.inner_text(".group h2")):
        if time.perf_counter() - began > 10:
            raise RuntimeError(f"the key {key} leads nowhere from rollout {before}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
