"""The demo: a half-million-parameter model, made from scratch, learns to choose tools by its user's preference.

    python examples/demo/demo.py [--seed N] [--folder runs/demo] [--engine vllm]

Makes a tokenizer and a model, imitates scripted dialogues that choose at random (SFT), then trains with GRPO; writes
``summary.json`` with what it could do before and after, on held-out questions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import summary
import tiny_model
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from grpo_agents.config import load_config
from grpo_agents.report.run_pictures import draw_run
from grpo_agents.trainer import train

HERE = Path(__file__).parent


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="all randomness comes from it")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where everything is written")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="what samples")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    found = run(arguments.folder, arguments.seed, (f"engine.backend={arguments.engine}",))
    show(found, arguments.folder)


def run(folder: Path, seed: int, overrides: tuple[str, ...] = ()) -> dict[str, object]:
    """Makes the model, warms it up, trains it, and writes ``summary.json``.

    Args:
        folder: Where everything is written.
        seed: Of the model and of both runs.
        overrides: Further ``key=value`` for both configs.
    """
    began = time.perf_counter()
    say = Console(stderr=True, emoji=False).print
    say(f"[bold]1 of 3[/] making a tokenizer and a model from scratch in {folder / 'start'}")
    tiny_model.make(folder / "start", seed)
    say("[bold]2 of 3[/] warm start: imitating dialogues that choose a tool at random")
    both = (f"seed={seed}", *overrides)
    train(
        load_config(HERE / "sft.toml", [f"run={folder / 'sft'}", f"model.path={folder / 'start'}", *both]),
        overwrite=True,
    )
    say("[bold]3 of 3[/] GRPO: learning to choose as each user prefers")
    grpo = load_config(HERE / "grpo.toml", [f"run={folder / 'grpo'}", f"model.path={folder / 'sft' / 'model'}", *both])
    train(grpo, overwrite=True)
    draw_run(folder / "grpo")
    found = {"seed": seed, **summary.summarise(folder / "grpo"), "seconds": round(time.perf_counter() - began, 1)}
    (folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def show(found: dict[str, object], folder: Path) -> None:
    """Prints before and after, and where to look."""
    table = Table(
        title=f"{found['episodes']} episodes of {found['tasks']} held-out tasks, mean and 95 % interval",
        title_justify="left",
    )
    for column in ("", "before (SFT)", "after (GRPO)"):
        table.add_column(column)
    before, after = found["before"], found["after"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    for name in after:
        table.add_row(
            name,
            *(
                f"{part[name]['mean']:.3f}  ({part[name]['low']:.3f} … {part[name]['high']:.3f})"
                for part in (before, after)
            ),
        )
    console = Console(emoji=False)
    console.print(table)
    above = found["above_blind"]
    assert isinstance(above, dict)
    console.print(
        f"A policy that cannot see the preference reaches a share of {found['share_of_best_blind']:.3f} at best; "
        f"this one's reward is above it by {above['mean']:.3f} "
        f"({above['low']:.3f} … {above['high']:.3f}), paired by task."
    )
    uses = Table(title="tool calls an episode, by what the user weighs most", title_justify="left")
    tool_use = found["tool_use"]
    assert isinstance(tool_use, dict)
    names = list(next(iter(tool_use.values())))
    for column in ("user weighs", *names):
        uses.add_column(column)
    for user, calls in tool_use.items():
        uses.add_row(user, *(f"{calls[name]:.2f}" for name in names))
    console.print(uses)
    last = max((folder / "grpo" / "trajectories").glob("eval-*.parquet"))
    program = os.path.relpath(Path(sys.executable).with_name("grpo-agents"))  # that of this environment, active or not
    console.print(
        f"{found['seconds']:.0f} s. Look at {folder / 'grpo' / 'curves.png'}, {folder / 'grpo' / 'tool_use.png'} and "
        f"{folder / 'summary.json'}.\nThe last evaluation in full: {program} evaluate {last}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
